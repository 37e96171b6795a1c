"""The command as a user runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import assert_one_line

SMALL = ("--image-size", 28, "--stem-stride", 2, "--batch-size", 64)


class Command:
    """Runs `googlenet` without cache, mirror or apt: on Debian's data where they are installed, else the bundled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": str(folder),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "GOOGLENET_MIRROR": "http://127.0.0.1:9",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: object, module: tuple[str, ...] = ("googlenet",)) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", *module, *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            encoding="utf-8",
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it may be ignored
        )

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, (arguments, out, err)
        if code == 2:
            assert_one_line(err)
        return out, err


@pytest.fixture
def command(tmp_path: Path) -> Command:
    folder = tmp_path / "a folder with a space"
    folder.mkdir()
    return Command(folder)

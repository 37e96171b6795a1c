"""The command as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import assert_one_line

ROOT = Path(__file__).parents[2]
SMALL = ("--data-dir", "bundled", "--image-size", 16, "--stem-stride", 2, "--batch-size", 32)
_CACHE = tempfile.TemporaryDirectory(prefix="googlenet-tests-")
"""Of all commands: each would compile the max pool and list the fonts again, which takes longest."""


class Command:
    """Runs `googlenet` in a process of its own, without mirror or apt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": str(folder),
            "HOME": str(folder),
            "XDG_CACHE_HOME": _CACHE.name,
            "GOOGLENET_MIRROR": "http://127.0.0.1:9",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
        }

    def start(self, *arguments: object, module: tuple[object, ...] = ("googlenet",)) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, (*module, *arguments))],
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

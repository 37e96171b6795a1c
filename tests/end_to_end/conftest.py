"""The command as a user runs it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import assert_one_line

ROOT = Path(__file__).parents[2]
SMALL = ("--data-dir", "bundled", "--image-size", 16, "--stem-stride", 2, "--batch-size", 32)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
_CACHE = tempfile.TemporaryDirectory(prefix="googlenet-tests-")
"""Of all commands: each would compile the max pool again."""


class Command:
    """Runs `googlenet` in a process of its own, without mirror or apt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": str(folder),
            "HOME": str(folder),
            "XDG_CACHE_HOME": _CACHE.name,
            "MPLCONFIGDIR": os.environ["MPLCONFIGDIR"],
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


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """With a camera, for pages that are allowed to use one."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--use-fake-device-for-media-stream"]
        )
        yield browser
        browser.close()


def check_screens(page: Page, narrow: int) -> None:
    """A page needs no scrolling sideways on a screen of `narrow` pixels and on a wide one, and is light or dark."""
    backgrounds = set()
    for scheme in ("light", "dark"):
        for width in (narrow, 1400):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2

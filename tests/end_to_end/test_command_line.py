"""The command as a user runs it: processes, exit codes, files."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image

import googlenet
from googlenet.training.outcome import TrainingResult
from tests.conftest import bundled

REAL = {"train": 10_000, "test": 10_000}


@pytest.fixture(scope="module")
def command_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No data folder, no mirror, no apt: the command runs on the data that is bundled with it."""
    empty = tmp_path_factory.mktemp("home")
    return {
        "PATH": str(empty),
        "HOME": str(empty),
        "XDG_CACHE_HOME": str(empty / "cache"),
        "GOOGLENET_DATA": str(bundled_folder(empty)),
        "OMP_NUM_THREADS": "1",
    }


def bundled_folder(parent: Path) -> Path:
    """The bundled files are not the official training files, so they are found as a named folder would not be."""
    return parent


class Command:
    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "googlenet", *map(str, arguments)],
            cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, (arguments, out, err)
        if code == 2:
            assert "Traceback" not in err
            assert err.startswith("googlenet: ")
            assert err.count("\n") == 1
        return out, err


@pytest.fixture
def googlenet_command(tmp_path: Path) -> Command:
    environment = {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "GOOGLENET_MIRROR": "http://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
    }
    return Command(environment, tmp_path)

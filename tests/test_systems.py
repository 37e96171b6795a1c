"""What other systems do differently, as far as it can be tried on this one."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

import googlenet
from googlenet import TrainingResult


def test_worker_processes_that_are_spawned(small_data: Path) -> None:
    """As on macOS and Windows: nothing is inherited, everything is pickled."""
    _, test = googlenet.load_data(64, num_workers=1)
    test.multiprocessing_context = multiprocessing.get_context("spawn")
    (images, labels), (expected, expected_labels) = next(iter(test)), next(iter(googlenet.load_data(64)[1]))
    assert torch.equal(images, expected) and torch.equal(labels, expected_labels)


def test_names_that_the_locale_cannot_write(trained: TrainingResult, tmp_path: Path) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "Grüße 靴.png")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "googlenet", "predict", str(trained.folder), str(tmp_path), "--output", "a.csv"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Grüße 靴.png" in (tmp_path / "a.csv").read_text(encoding="utf-8")

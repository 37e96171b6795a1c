"""A folder of one's own, from the first look to a file that runs without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from googlenet.training.loop import TrainingResult
from tests.end_to_end.conftest import Command

STAMPS = Path("/usr/share/tuxpaint/stamps")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node and npm")
def test_the_example_for_node_says_what_the_one_for_python_says(
    command: Command, photos: Path, trained: TrainingResult
) -> None:
    folder = command.folder
    shutil.copy(ROOT / "examples" / "predict.mjs", folder)
    environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    install = ["npm", "install", "--silent", "onnxruntime-node", "sharp"]
    if subprocess.run(install, cwd=folder, env=environment).returncode != 0:
        pytest.skip("npm cannot fetch what the example needs")
    whole = ("--to", "onnx", "--with-preprocessing", "--calibration", photos)
    command("export", trained.model, *whole, "-o", "m.onnx")
    boot = next((photos / "boot").iterdir())
    with Image.open(boot) as picture:  # in colors, of which the network is to see the grays that it has learned
        ImageOps.colorize(picture, "darkred", "lightgreen", mid="blue").save(folder / "colored.png")

    def said(*program: object) -> list[str]:
        arguments = list(map(str, program))
        return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()

    for file in (boot, folder / "colored.png"):
        theirs = said("node", "predict.mjs", "m.onnx", file)
        assert theirs == said(sys.executable, ROOT / "examples" / "predict.py", "m.onnx", file)


@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Debian's package tuxpaint-stamps-default")
def test_a_real_messy_folder(command: Command) -> None:
    chosen = command.folder / "stamps"
    chosen.mkdir()
    for name in ("animals", "food", "vehicles"):
        (chosen / name).symlink_to(STAMPS / name)
    out, _ = command("train", "--data", "stamps", "--max-steps", 2, "--image-size", 32, "--output", "runs/stamps")
    assert "other files, left alone: " in out
    assert "test accuracy" in out

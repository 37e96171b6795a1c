"""The example for Node, and a real folder of images of all kinds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from googlenet import export, load_dataset
from tests.conftest import Call
from tests.networks import fitted, thin

STAMPS = Path("/usr/share/tuxpaint/stamps")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node and npm")
def test_the_examples_for_node_and_python_agree(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder with a space"
    folder.mkdir()
    shutil.copy(ROOT / "examples" / "predict.mjs", folder)
    environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    install = ["npm", "install", "--silent", "onnxruntime-node", "sharp"]
    if subprocess.run(install, cwd=folder, env=environment).returncode != 0:
        pytest.skip("npm cannot fetch what the example needs")
    data = load_dataset(photos, size=28, channels=1)
    net = fitted(data.train, data.classes, create=thin)
    export(net, "onnx", folder / "m.onnx", preprocessing=True, calibration_data=photos)
    boot = next((photos / "boot").iterdir())
    with Image.open(boot) as image:  # colors, which become the gray that the network has learned
        ImageOps.colorize(image, "darkred", "lightgreen", mid="blue").save(folder / "colored.png")

    def output_of(*program: object) -> list[str]:
        arguments = list(map(str, program))
        return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()

    for file in (boot, folder / "colored.png"):
        expected = output_of("node", "predict.mjs", "m.onnx", file)
        assert expected == output_of(sys.executable, ROOT / "examples" / "predict.py", "m.onnx", file)


@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Debian's package tuxpaint-stamps-default")
def test_a_real_messy_folder(call: Call) -> None:
    Path("stamps").mkdir()
    for name in ("food", "vehicles"):
        Path("stamps", name).symlink_to(STAMPS / name)
    options = ("--max-steps", 1, "--image-size", 32, "--no-plots", "--output", "runs/stamps")
    assert "test accuracy" in call("train", "--data", "stamps", *options)[0]

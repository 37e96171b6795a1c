"""googlenet export and demo, called in this process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from googlenet import TrainingResult
from tests.conftest import Call

pytestmark = pytest.mark.usefixtures("small_data")
ROOT = Path(__file__).parents[2]


def test_export(call: Call, images: Path, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    (images / "broken.png").unlink()
    arguments = ("export", trained.folder, "--to", "torch-export", "--output", "x.pt2")
    out, _ = call(*arguments, "--calibration-data", images)
    assert "x.pt2" in out and "5 images" in out
    # The file again: to make it takes seconds
    monkeypatch.setattr("googlenet.inference.export.write_graph", lambda model, to, path: shutil.copy("x.pt2", path))
    out, _ = call(*arguments, "--json")
    fields = json.loads(out)
    assert (fields["file"], fields["images_compared"], fields["agreement"]) == ("x.pt2", 64, 1)
    prediction = json.loads(call("predict", "x.pt2", images / "0.png", "--json")[0])[0]
    (expected,) = json.loads(call("predict", trained.folder, images / "0.png", "--json")[0])
    assert prediction["classes"] == expected["classes"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("--to", "tflite"), "--to"),
        (("--to", "torch-export", "--int8"), "int8"),
        (("--to", "onnx", "--output", "x.xml"), ".onnx"),
        (("--to", "onnx", "--calibration-data", "nowhere"), "nowhere"),
    ],
)
def test_export_usage_errors(arguments: tuple[object, ...], name: str, call: Call, trained: TrainingResult) -> None:
    assert name in call("export", trained.folder, *arguments, code=2)[1]
    assert list(Path().iterdir()) == []


def test_demo_usage_errors(call: Call, trained: TrainingResult) -> None:
    assert "port" in call("demo", trained.folder, "--port", 0, code=2)[1]
    assert "max_upload_mb" in call("demo", trained.folder, "--max-upload-mb", 0, code=2)[1]


@pytest.mark.parametrize("arguments", [(), ("model.onnx",)])
def test_the_python_example_prints_its_usage(arguments: tuple[str, ...]) -> None:
    program = [sys.executable, ROOT / "examples" / "predict.py", *arguments]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "predict.py" in ended.stderr and "Traceback" not in ended.stderr

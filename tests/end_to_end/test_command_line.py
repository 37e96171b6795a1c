"""The command as a user runs it: processes, exit codes, files, real data."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

import googlenet
from tests.end_to_end.conftest import SMALL, Command


def test_from_nothing_to_predictions(command: Command, images: Path) -> None:
    """Train, evaluate, predict, summarize, see inside: each from what the one before left."""
    out, _ = command("train", *SMALL, "--max-steps", 6, "--output", "runs/first")
    assert "next: " in out
    assert "predict 'runs/first/model.safetensors' PICTURE" in out
    run = command.folder / "runs" / "first"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["split"], last["step"]) == ("test", 6)

    out, _ = command("evaluate", "runs/first", "--json")
    figures = json.loads(out)
    assert figures["images"] == 10_000
    assert figures["accuracy"] == pytest.approx(last["accuracy"], abs=0.002)
    assert sum(map(sum, figures["confusion_matrix"])) == 10_000
    assert {path.name for path in (run / "evaluation").iterdir()} == {
        "evaluation.json",
        "confusion_matrix.png",
        "mistakes.png",
        "reliability.png",
        "coverage.png",
    }

    out, err = command("predict", run / "model.safetensors", images, "--top", 2, "--format", "csv", code=1)
    rows = list(csv.DictReader(StringIO(out)))
    answered = [row for row in rows if not row["error"]]
    assert len(answered) == 10
    assert {row["rank"] for row in answered} == {"1", "2"}
    assert [Path(row["file"]).name for row in rows if row["error"]] == ["broken.png"]
    assert "broken.png" in err
    out, _ = command("predict", run, "--top", 3, images / "1.png", images / "2.png", "--json")
    answer, second = json.loads(out)
    assert Path(second["file"]).name == "2.png"
    assert (len(answer["classes"]), answer["error"]) == (3, None)

    out, _ = command("summary", run, "--json")
    assert json.loads(out)["input_shape"] == [1, 1, 28, 28]

    out, _ = command("export", run, "--to", "onnx", "-o", "net.onnx", "--json")
    assert json.loads(out)["agreement"] == 1

    out, _ = command("explain", run, images / "1.png", "--class", "bag", "--block", "4a", "--json")
    explanation = json.loads(out)
    assert (explanation["explained"], explanation["block"]) == ("Bag", "4a")
    assert sum(explanation["shares"]["5b"].values()) == pytest.approx(1)
    out, _ = command("ablate", run, "--limit", 50, "-o", "ablation.png")
    assert "50 images" in out
    for name in (explanation["picture"], "ablation.png"):
        with Image.open(command.folder / name) as picture:
            assert min(picture.size) > 500


def test_help_and_version_do_not_wait_for_torch(command: Command) -> None:
    out, _ = command("--help")
    for name in ("train", "evaluate", "predict", "export", "summary", "explain", "ablate", "compare", "draw", "data"):
        assert name in out
    assert command("--version")[0].strip() == googlenet.__version__
    assert command()[0] == out
    out, _ = command("train", "--help")
    for option in ("--learning-rate", "--batch-size", "--resume", "--seed", "--precision", "--no-flip"):
        assert option in out
    code = "import sys, googlenet.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_wrong_call_ends_with_2_and_leaves_nothing(command: Command) -> None:
    _, err = command("train", "--optimizer", "sgd", code=2)
    assert "--optimizer" in err
    assert list(command.folder.iterdir()) == []

"""The command as a user runs it: processes, exit codes, files, real data."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image

import googlenet
from tests.conftest import bundled
from tests.end_to_end.conftest import SMALL, Command


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(bundled("t10k-images-idx3-ubyte")[:5]):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def test_from_nothing_to_predictions(command: Command, pictures: Path) -> None:
    """Train, evaluate, predict, summarise, see inside: each from what the one before left."""
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

    (pictures / "broken.png").write_bytes(b"")
    out, err = command("predict", run / "model.safetensors", pictures, "--top", 2, "--format", "csv", code=1)
    rows = list(csv.DictReader(StringIO(out)))
    answered = [row for row in rows if not row["error"]]
    assert len(answered) == 10
    assert {row["rank"] for row in answered} == {"1", "2"}
    assert [Path(row["file"]).name for row in rows if row["error"]] == ["broken.png"]
    assert "broken.png" in err
    out, _ = command("predict", run, "--top", 3, pictures / "1.png", pictures / "2.png", "--json")
    answer, second = json.loads(out)
    assert Path(second["file"]).name == "2.png"
    assert (len(answer["classes"]), answer["error"]) == (3, None)
    out, _ = command("predict", run, pictures / "1.png")
    assert out.startswith(str(pictures / "1.png"))

    out, _ = command("summary", run, "--json")
    assert json.loads(out)["input_shape"] == [1, 1, 28, 28]

    out, _ = command("explain", run, pictures / "1.png", "--class", "bag", "--block", "4a", "--json")
    explanation = json.loads(out)
    assert (explanation["explained"], explanation["block"]) == ("Bag", "4a")
    assert sum(explanation["shares"]["5b"].values()) == pytest.approx(1)
    out, _ = command("ablate", run, "--limit", 50, "-o", "ablation.png")
    assert "50 images" in out
    for name in (explanation["picture"], "ablation.png"):
        with Image.open(command.folder / name) as picture:
            assert min(picture.size) > 500


def test_an_answer_may_be_unsure(command: Command, pictures: Path) -> None:
    """The temperature fitted on held-out images reaches the report; a threshold parts the answers everywhere."""
    out, _ = command("train", *SMALL, "--max-steps", 12, "--validation", 0.1, "--output", "runs/v", "--json")
    temperature = json.loads(out)["temperature"]
    assert temperature != 1
    figures = json.loads(command("evaluate", "runs/v", "--confidence", 0.5, "--json")[0])
    assert figures["calibration"]["temperature"] == temperature
    before = figures["calibration"]["expected_calibration_error_before"]
    assert figures["expected_calibration_error"] < before
    curve, answers = figures["coverage_curve"], figures["answers"]
    assert (curve["confidence"][50], curve["coverage"][50], curve["accuracy"][50]) == (
        0.5,
        answers["coverage"],
        answers["accuracy"],
    )
    assert answers["images"] == round(answers["coverage"] * 10_000)
    words = " ".join(command("evaluate", "runs/v", "--confidence", 0.5)[0].split())  # however the caption is wrapped
    assert f"at confidence 0.5 and above: {answers['images']:,} answered" in words
    assert f"without it the calibration error is {before:.2%}" in words

    (pictures / "broken.png").write_bytes(b"")
    answers = json.loads(command("predict", "runs/v", pictures, "--json", code=1)[0])
    threshold = sorted(answer["probabilities"][0] for answer in answers if answer["error"] is None)[2]
    arguments = ("predict", "runs/v", pictures, "--confidence", threshold, "--top", 1)
    answers = json.loads(command(*arguments, "--json", code=1)[0])
    unsure = {answer["file"] for answer in answers if not answer["sure"] and answer["error"] is None}
    assert len(unsure) == 2
    rows = list(csv.DictReader(StringIO(command(*arguments, "--format", "csv", code=1)[0])))
    assert {row["file"] for row in rows if row["sure"] == "false" and not row["error"]} == unsure
    assert {row["sure"] for row in rows} == {"true", "false"}
    lines = command(*arguments, code=1)[0].splitlines()
    assert {line.partition("  ")[0] for line in lines if "  unsure: " in line} == unsure

    assert "from 0 to 1, not 80" in command("predict", "runs/v", pictures, "--confidence", 80, code=2)[1]
    assert "from 0 to 1, not 80" in command("evaluate", "runs/v", "--confidence", 80, code=2)[1]


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


def test_summary_of_a_variant(command: Command) -> None:
    out, _ = command("summary", "tutorial", "--input-size", "1,224,224", "--num-classes", 10)
    assert "5,977,530" in out
    assert "1x1024x7x7" in out


def test_compare_and_draw(command: Command) -> None:
    out, _ = command("compare", "paper", "alexnet", "vgg-16", "--plot", "bubbles.png")
    for words in ("6,998,552", "61,100,840", "138,357,544", "GoogLeNet paper"):
        assert words in out
    with Image.open(command.folder / "bubbles.png") as picture:
        assert picture.format == "PNG"
    command("draw", "paper", "-o", "drawings/net.svg")
    assert (command.folder / "drawings/net.svg").read_text(encoding="utf-8").startswith("<svg")


def test_import_then_evaluate(command: Command, tmp_path: Path) -> None:
    net = googlenet.create_model("tutorial", num_classes=10, in_channels=1)
    torch.save(net.state_dict(), tmp_path / "mine.pt")
    out, _ = command("import", tmp_path / "mine.pt", "-o", tmp_path / "mine.safetensors")
    assert "Trouser" in out
    assert googlenet.load(tmp_path / "mine.safetensors").info.classes[1] == "Trouser"


def test_a_wrong_call_ends_with_2_and_leaves_nothing(command: Command) -> None:
    _, err = command("train", "--optimiser", "sgd", code=2)
    assert "--optimiser" in err
    assert list(command.folder.iterdir()) == []


def test_data_commands(command: Command) -> None:
    assert "fashion-mnist" in command("data", "list")[0]
    out, _ = command("data", "show", "--count", 20)
    assert "Ankle boot" in out
    with Image.open(command.folder / "fashion-mnist.png") as sheet:
        assert sheet.size[0] > 500
    command("data", "show", "--augment", "strong", "--count", 16, "-o", "changed.png")
    with Image.open(command.folder / "changed.png") as sheet:
        assert sheet.size[0] > 500
    out, err = command("data", "fetch", code=1)
    assert err.startswith("googlenet: http://127.0.0.1:9/")


def test_json_of_a_run(command: Command) -> None:
    out, _ = command("train", *SMALL, "--max-steps", 2, "-o", "runs/x", "--json")
    result = json.loads(out)
    assert result["metrics"]["step"] == 2
    assert Path(result["folder"]) == Path("runs/x")

"""googlenet evaluate, and the commands that look inside a network: summary, explain, ablate, draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from googlenet import load_dataset, save
from tests.conftest import Call
from tests.networks import fitted

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a model file, as if trained on Fashion-MNIST."""
    dataset = load_dataset("fashion-mnist")
    net = fitted(dataset.train, dataset.classes, recipe={"data": "fashion-mnist", "precision": "fp32"}, temperature=0.7)
    save(net, net.info, tmp_path / "run" / "model.safetensors")
    return tmp_path / "run"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = load_dataset("fashion-mnist").test.images[0, 0].numpy()
    Image.fromarray(pixels).save(tmp_path / "boot.png")
    return tmp_path / "boot.png"


def plot_size(path: Path | str) -> tuple[int, int]:
    with Image.open(path) as plot:
        assert plot.format == "PNG"
        return plot.size


def test_evaluate_prints_and_writes_a_report(call: Call, run: Path) -> None:
    out, err = call("evaluate", run, "--confidence", 0.5, "--json")
    metrics = json.loads(out)
    assert "evaluation" in err
    assert metrics == {
        **json.loads((run / "evaluation" / "evaluation.json").read_text()),
        "images_per_second": metrics["images_per_second"],
    }
    assert metrics["accuracy"] > 0.4
    assert metrics["calibration"]["temperature"] == 0.7
    curve, coverage = metrics["coverage_curve"], metrics["coverage"]
    at_half = (curve["confidence"][50], curve["coverage"][50], curve["accuracy"][50])
    assert at_half == (0.5, coverage["coverage"], coverage["accuracy"])
    assert 0 < coverage["images"] == round(coverage["coverage"] * 160) < 160
    table = " ".join(call("evaluate", run, "--confidence", 0.5, "--output", "report")[0].split())
    for text in ("Ankle boot", f"{metrics['accuracy']:.2%}", f"confidence 0.5 or more: {coverage['images']} images"):
        assert text in table
    assert f"{metrics['calibration']['expected_calibration_error_before']:.2%}" in table
    assert {path.suffix for path in Path("report").iterdir()} == {".json", ".png"}


def test_evaluate_checks_the_output_before_the_work(call: Call, run: Path) -> None:
    Path("file").write_text("")
    out, err = call("evaluate", run, "--output", "file/report", code=1)
    assert "file" in err and not out


def test_summary(call: Call, run: Path) -> None:
    out, _ = call("summary", "tutorial", "--input-size", "1,224,224", "--num-classes", 10)
    assert "5,977,530" in out
    assert "1x1024x7x7" in out
    summary = json.loads(call("summary", run, "--json")[0])
    assert summary["input_shape"] == [1, 1, 28, 28]


def test_explain(call: Call, run: Path, image: Path) -> None:
    out, _ = call("explain", run, image, "--top", 2)
    assert "boot-explained.png" in out
    assert min(plot_size("boot-explained.png")) > 500
    arguments = ("--class", "sandal", "--block", "4a", "--output", "plots/why.png", "--json")
    explanation = json.loads(call("explain", run, image, *arguments)[0])
    assert (explanation["explained"], explanation["block"]) == ("Sandal", "4a")
    assert (explanation["file"], explanation["plot"]) == (str(image), "plots/why.png")
    assert plot_size("plots/why.png")


def test_ablate(call: Call, run: Path) -> None:
    out, err = call("ablate", run, "--max-images", 20, "--output", "branches.png", "--json")
    ablation = json.loads(out)
    assert (ablation["images"], ablation["plot"]) == (20, "branches.png")
    assert "branches.png" in err
    assert plot_size("branches.png")
    out, _ = call("ablate", run, "--max-images", 20)
    assert "5b" in out and f"{ablation['accuracy']:.2%}" in out


def test_draw(call: Call) -> None:
    out, _ = call("draw", "torchvision", "-o", "drawings/net.svg")
    assert out.strip() == "drawings/net.svg"
    drawing = Path("drawings/net.svg").read_text(encoding="utf-8")
    assert drawing.startswith("<svg") and "variant torchvision" in drawing
    assert json.loads(call("draw", "--json")[0]) == {"variant": "bn", "drawing": "googlenet-bn.svg"}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("evaluate", "missing"), "missing"),
        (("evaluate", "taken"), "taken"),
        (("evaluate", "taken", "--confidence", 80), "confidence"),
        (("summary", "v4"), "v4"),
        (("summary", "--input-size", "3,3"), "C,H,W"),
        (("summary", "torchvision", "--input-size", "3,2,2"), "2x2"),
        (("summary", "--batch-size", 0), "batch_size"),
        (("explain", "missing", "taken"), "missing"),
        (("explain", "missing", "taken", "-o", "taken"), "taken"),
        (("explain", "missing", "taken", "-o", "why.jpg"), ".png"),
        (("explain", "missing", "taken", "--top", 0), "top"),
        (("ablate", "missing", "--max-images", 10), "missing"),
        (("ablate", "missing", "--max-images", 0), "max_images"),
        (("ablate", "missing", "-o", "branches.svg"), ".png"),
        (("draw", "-o", "net.png"), ".svg"),
        (("draw", "v4"), "v4"),
        (("draw", "torchvision", "--input-size", "3,2,2"), "2x2"),
    ],
)
def test_a_wrong_call_is_one_clear_line_and_exit_code_2(arguments: tuple[object, ...], name: str, call: Call) -> None:
    Path("taken").write_text("neither a folder nor a model")
    _, err = call(*arguments, code=2)
    assert name in err
    assert [path.name for path in Path().iterdir()] == ["taken"]

"""googlenet evaluate, and the commands that look inside a network: summary, explain, ablate, draw."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from googlenet import evaluate, load, load_dataset, save
from googlenet.data import fashion_mnist
from tests.conftest import Call, bundled
from tests.networks import fitted

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture(scope="module")
def model(small_files: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file, as if trained on Fashion-MNIST."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "DIGESTS", small_files[1])
        dataset = load_dataset("fashion-mnist", data_dir=small_files[0])
    net = fitted(dataset.train, dataset.classes, recipe={"data": "fashion-mnist", "precision": "fp32"}, temperature=0.7)
    save(net, net.info, path := tmp_path_factory.mktemp("fitted") / "model.safetensors")
    return path


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Path:
    """A folder with that file."""
    (tmp_path / "run").mkdir()
    shutil.copy(model, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take most of the time of a report: one test draws them."""
    for name in ("confusion_matrix", "predictions", "reliability", "coverage"):
        monkeypatch.setattr(f"googlenet.evaluation.report.plot_{name}", lambda *_, **__: None)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = load_dataset("fashion-mnist").test.images[0, 0].numpy()
    Image.fromarray(pixels).save(tmp_path / "boot.png")
    return tmp_path / "boot.png"


def plot_size(path: Path | str) -> tuple[int, int]:
    with Image.open(path) as plot:
        assert plot.format == "PNG"
        return plot.size


def test_evaluate_prints_and_writes_a_report(call: Call, run: Path, request: pytest.FixtureRequest) -> None:
    out, err = call("evaluate", run, "--confidence", 0.5, "--json", "--output", "report")
    metrics = json.loads(out)
    assert "report" in err
    assert metrics == {
        **json.loads(Path("report/evaluation.json").read_text()),
        "images_per_second": metrics["images_per_second"],
    }
    assert metrics["accuracy"] > 0.4
    assert metrics["calibration"]["temperature"] == 0.7
    curve, coverage = metrics["coverage_curve"], metrics["coverage"]
    at_half = (curve["confidence"][50], curve["coverage"][50], curve["accuracy"][50])
    assert at_half == (0.5, coverage["coverage"], coverage["accuracy"])
    assert 0 < coverage["images"] == round(coverage["coverage"] * 160) < 160
    assert {path.suffix for path in Path("report").iterdir()} == {".json", ".csv", ".png"}
    request.getfixturevalue("no_plots")
    table = " ".join(call("evaluate", run, "--confidence", 0.5)[0].split())
    for text in ("Ankle boot", f"{metrics['accuracy']:.2%}", f"confidence 0.5 or more: {coverage['images']} images"):
        assert text in table
    assert f"{metrics['calibration']['expected_calibration_error_before']:.2%}" in table
    mistake, *_ = metrics["worst_mistakes"]
    assert f"{mistake['file']} {mistake['probability']:.1%}" in table.replace("│", "").replace("  ", " ")
    rows = list(csv.DictReader((run / "evaluation" / "predictions.csv").open(encoding="utf-8")))
    assert len(rows) == 160
    assert sum(row["rank"] == "1" for row in rows) / 160 == metrics["accuracy"]
    assert sum(row["confident"] == "true" for row in rows) == coverage["images"]


@pytest.mark.usefixtures("no_plots")
def test_evaluate_by_a_column(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = call("evaluate", run, "--by", "camera", code=2)
    assert "camera" in err
    split = load_dataset("fashion-mnist").test
    split.columns = {"camera": ("front",) * 100 + ("back",) * 60}
    monkeypatch.setattr("googlenet.evaluation.report.eval_split", lambda *_, **__: split)
    front, back = json.loads(call("evaluate", run, "--by", "camera", "--json")[0])["by"]["values"]
    assert (front["value"], front["images"], back["images"]) == ("front", 100, 60)
    assert json.loads((run / "evaluation" / "evaluation.json").read_text())["by"]["values"] == [front, back]
    assert (run / "evaluation" / "predictions.csv").read_text().splitlines()[-1].endswith(",back")
    assert f"{front['accuracy']:.2%}" in call("evaluate", run, "--by", "camera")[0]
    _, err = call("evaluate", run, "--by", "lens", code=2)
    assert "lens" in err and "camera" in err


@pytest.mark.usefixtures("no_plots")
def test_evaluate_with_the_mirror_image(call: Call, run: Path) -> None:
    result = json.loads(call("evaluate", run, "--crops", 2, "--json")[0])
    assert (result["crops"], result["images"]) == (2, 160)
    assert result["loss"] == evaluate(run, crops=2).loss != evaluate(run).loss


def test_evaluate_compares_two_models(call: Call, run: Path, tmp_path: Path) -> None:
    net = load(run)
    net.fc.bias.data[9] += 1
    save(net, net.info, tmp_path / "other" / "model.safetensors")
    result = json.loads(call("evaluate", run, tmp_path / "other", "--output", "compared", "--json")[0])
    assert result == json.loads(Path("compared/comparison.json").read_text())
    assert result["a"]["accuracy"] == evaluate(run).accuracy
    assert result["b"]["accuracy"] == evaluate(tmp_path / "other").accuracy
    lines = Path("compared/comparison.csv").read_text().splitlines()
    assert len(lines) - 1 == result["different_predictions"] > 0
    table = " ".join(call("evaluate", run, tmp_path / "other")[0].split())
    assert f"{result['b']['accuracy']:.2%}" in table and "McNemar" in table
    assert {path.name for path in (run / "evaluation").iterdir()} == {"comparison.csv", "comparison.json"}
    for option in (("--by", "camera"), ("--confidence", 0.5)):
        assert option[0] in call("evaluate", run, tmp_path / "other", *option, code=2)[1]
    letters = dataclasses.replace(net.info, classes=tuple("abcdefghij"))
    save(net, letters, tmp_path / "letters" / "model.safetensors")
    assert "classes" in call("evaluate", run, tmp_path / "letters", code=2)[1]


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
    assert "boot-explained.png" in out and "hiding" in out
    assert min(plot_size("boot-explained.png")) > 500
    arguments = ("--class", "sandal", "--method", "grad-cam", "--block", "4a", "--output", "plots/why.png", "--json")
    explanation = json.loads(call("explain", run, image, *arguments)[0])
    assert (explanation["explained"], explanation["block"]) == ("Sandal", "4a")
    assert -1 <= explanation["trust"]["lost"] <= 1 and 0 <= explanation["trust"]["without"] <= 1
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
        (("evaluate", "taken", "--crops", 3), "--crops"),
        (("summary", "v9"), "v9"),
        (("summary", "--input-size", "3,3"), "C,H,W"),
        (("summary", "torchvision", "--input-size", "3,2,2"), "2x2"),
        (("summary", "--batch-size", 0), "batch_size"),
        (("explain", "missing", "taken"), "missing"),
        (("explain", "missing", "taken", "-o", "taken"), "taken"),
        (("explain", "missing", "taken", "-o", "why.jpg"), ".png"),
        (("explain", "missing", "taken", "--top", 0), "top"),
        (("explain", "missing", "taken", "--method", "cam"), "--method"),
        (("ablate", "missing", "--max-images", 10), "missing"),
        (("ablate", "missing", "--max-images", 0), "max_images"),
        (("ablate", "missing", "-o", "branches.svg"), ".png"),
        (("draw", "-o", "net.png"), ".svg"),
        (("draw", "v9"), "v9"),
        (("draw", "torchvision", "--input-size", "3,2,2"), "2x2"),
    ],
)
def test_a_wrong_call_is_one_clear_line_and_exit_code_2(arguments: tuple[object, ...], name: str, call: Call) -> None:
    Path("taken").write_text("neither a folder nor a model")
    _, err = call(*arguments, code=2)
    assert name in err
    assert [path.name for path in Path().iterdir()] == ["taken"]


@pytest.mark.usefixtures("no_plots")
def test_unknown_images_from_the_rule_to_the_predictions(call: Call, run: Path, images: Path) -> None:
    for name in ("broken", "2", "3", "4"):
        (images / f"{name}.png").unlink()
    assert "known" not in json.loads(call("evaluate", run, "--json")[0])
    _, err = call("evaluate", run, run, "--fit-known", code=2)
    assert "--fit-known" in err
    assert "--crops" in call("evaluate", run, "--fit-known", "--crops", 10, code=2)[1]
    assert "missing" in call("evaluate", run, "--unknown", "missing", code=2)[1]
    Path("link.safetensors").symlink_to(run / "model.safetensors")
    options = ("--fit-known", "--unknown", images, "--json", "-o", run / "evaluation")
    known = json.loads(call("evaluate", "link.safetensors", *options)[0])["known"]
    assert Path("link.safetensors").is_symlink()
    assert 0.95 <= known["fraction"] < 1 and known["fitted_on_these_images"] and known["unknown"]["images"] == 2
    rule = load(run).info.known
    assert rule is not None and rule.threshold == known["threshold"]
    assert "these same images" in " ".join(call("evaluate", run)[0].split())
    rows = list(csv.DictReader((run / "evaluation" / "predictions.csv").open(encoding="utf-8")))
    assert sum(row["known"] == "true" for row in rows) / 160 == known["fraction"]
    by_file = {row["file"]: row["known"] for row in rows}
    rejected = next(name for name, known in by_file.items() if known == "false")
    Image.fromarray(bundled("t10k-images-idx3-ubyte")[int(rejected)]).save(images / f"{rejected}.png")
    printed = json.loads(call("predict", run, images, "--json")[0])
    assert {each["known"] for each in printed} == {True, False}
    # The same images, from files
    assert [each["known"] for each in printed] == [by_file[Path(each["file"]).stem] == "true" for each in printed]
    call("predict", run, images, "--output", "p.parquet")
    for name in ("p.csv", "p.jsonl"):
        call("predict", run, images / "0.png", "--output", name)
        call("predict", run, images, "--output", name, "--resume")
    assert Path("p.csv").read_text().splitlines()[0].endswith("error,known")
    assert [json.loads(line)["known"] for line in Path("p.jsonl").read_text().splitlines()] == [
        each["known"] for each in printed
    ]
    for each in (printed[0], next(each for each in printed if not each["known"])):
        explained = call("explain", run, each["file"], "-o", "explained.png")[0]
        assert explained.count("none of these") == (not each["known"])
    for text in (Path("p.csv").read_text(), call("predict", run, images, "--format", "csv")[0]):
        first = [row for row in csv.DictReader(text.splitlines()) if row["rank"] == "1"]
        assert [row["known"] == "true" for row in first] == [each["known"] for each in printed]

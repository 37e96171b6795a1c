"""What the commands print and write, each called in this process."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image

import googlenet
from benchmarks import limits, startup
from benchmarks.timing import alternate
from googlenet.training.loop import TrainingResult
from tests.conftest import Call

pytestmark = pytest.mark.usefixtures("small_data")


def test_a_threshold_parts_the_answers_in_every_form(call: Call, images: Path, trained: TrainingResult) -> None:
    run = trained.folder
    answers = json.loads(call("predict", run, images, "--json", code=1)[0])
    threshold = sorted(answer["probabilities"][0] for answer in answers if answer["error"] is None)[2]
    arguments = ("predict", run, images, "--confidence", threshold, "--top", 1)
    answers = json.loads(call(*arguments, "--json", code=1)[0])
    unsure = {answer["file"] for answer in answers if not answer["sure"] and answer["error"] is None}
    assert len(unsure) == 2
    rows = list(csv.DictReader(StringIO(call(*arguments, "--format", "csv", code=1)[0])))
    assert {row["file"] for row in rows if row["sure"] == "false" and not row["error"]} == unsure
    assert {row["sure"] for row in rows} == {"true", "false"}
    lines = call(*arguments, code=1)[0].splitlines()
    assert {line.partition("  ")[0] for line in lines if "  unsure: " in line} == unsure
    assert [line.partition("  ")[0] for line in lines] == [str(images / f"{number}.png") for number in range(5)]

    for wrong in (("predict", run, images),):
        assert "from 0 to 1, not 80" in call(*wrong, "--confidence", 80, code=2)[1]


def test_the_temperature_fitted_on_validation_images_is_in_the_report(call: Call) -> None:
    size = ("--image-size", 28, "--stem-stride", 2, "--batch-size", 32, "--epochs", 2)
    speed = ("--optimizer", "adamw", "--learning-rate", 0.004, "--precision", "fp32", "--no-plots")
    out, _ = call("train", *size, *speed, "--validation", 0.4, "--output", "runs/v", "--json")
    result = json.loads(out)
    assert Path(result["folder"]) == Path("runs/v")
    assert result["temperature"] != 1
    figures = json.loads(call("evaluate", "runs/v", "--json")[0])
    assert figures["calibration"]["temperature"] == result["temperature"]
    before = figures["calibration"]["expected_calibration_error_before"]
    assert figures["expected_calibration_error"] < before
    words = " ".join(call("evaluate", "runs/v")[0].split())  # however the caption is wrapped
    assert f"{before:.2%}" in words


def test_compare_counts(call: Call) -> None:
    out, _ = call("compare", "paper", "alexnet", "vgg-16", "--plot", "bubbles.png")
    for words in ("6,998,552", "61,100,840", "138,357,544", "GoogLeNet paper"):
        assert words in out
    with Image.open("bubbles.png") as picture:
        assert picture.format == "PNG"


def test_compare_measures(call: Call) -> None:
    size = ("--input-size", "3,64,64", "--num-classes", 10)
    out, _ = call("compare", "bn", "squeezenet-1.1", *size, "--latency", "--rounds", 1, "--json")
    bn, squeezenet = json.loads(out)
    assert (bn["network"], squeezenet["network"]) == ("bn", "squeezenet-1.1")
    assert squeezenet["parameters"] < bn["parameters"]
    assert bn["training"] is None
    for row in (bn, squeezenet):
        assert row["speed"]["latency_seconds"] > 0 and row["speed"]["images_per_second"] > 0
        assert row["speed"]["peak_bytes"] > row["file_bytes"] / 2


def test_import(call: Call) -> None:
    net = googlenet.create_model("tutorial", num_classes=10, in_channels=1)
    torch.save(net.state_dict(), "mine.pt")
    out, _ = call("import", "mine.pt", "-o", "mine.safetensors")
    assert "Trouser" in out
    assert googlenet.load("mine.safetensors").info.classes[1] == "Trouser"


def test_bench_writes_what_it_prints(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (limits, startup):  # or else the peaks take fifteen rounds, and each command two
        monkeypatch.setattr(module, "alternate", lambda calls, *_, **__: alternate(calls, 1, warmup=0))
    out, _ = call("bench", "startup", "--rounds", 1, "--json", "-o", "found.json")
    printed = json.loads(out)
    assert printed == json.loads(Path("found.json").read_text())
    (table,) = printed["measures"]["startup"]
    assert [row["command"] for row in table["rows"]][1] == "googlenet --help"
    assert all(row["seconds"] > 0 for row in table["rows"])
    assert printed["peaks"]["bf16"] > 0 and printed["machine"]["cores"] >= 1

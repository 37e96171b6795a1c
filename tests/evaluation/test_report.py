from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import googlenet
from googlenet import Evaluation, ImageDataset, ImageSplit, RunError, UserError, evaluate
from googlenet.evaluation.report import write_report
from googlenet.evaluation.tables import evaluation_table, mistakes_table, slices_table
from tests.evaluation.test_metrics import CLASSES, split_of
from tests.networks import fitted, with_info


def caption(evaluation: Evaluation) -> str:
    return " ".join(str(evaluation_table(evaluation).caption).split())


def random_split(count: int = 24, classes: int = 3) -> ImageSplit:
    images = torch.randint(0, 256, (count, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSplit(images, torch.arange(count) % classes)


def test_evaluate_agrees_with_a_forward_pass_and_leaves_the_network_as_it_was() -> None:
    split = random_split()
    net = fitted(split, CLASSES, temperature=1.5).train()
    net.inception3a.branch1.bn.eval()
    hook = net.fc.register_forward_hook(lambda *_: None)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    evaluation = evaluate(net, split, precision="fp32", device="cpu", batch_size=7, confidence=0.4)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert list(net.fc._forward_hooks) == [hook.id]
    with torch.no_grad():
        logits = net.eval()(net.info.input.prepare(split.images))
    torch.testing.assert_close(evaluation.logits, logits, rtol=1e-4, atol=1e-4)
    assert (evaluation.classes, evaluation.temperature, evaluation.confidence) == (CLASSES, 1.5, 0.4)
    assert torch.equal(evaluation.labels, split.labels)
    assert evaluation.accuracy > 0.5


def test_evaluate_takes_datasets_splits_and_paths(tmp_path: Path) -> None:
    test, empty = random_split(), random_split(0)
    net = fitted(test, CLASSES)
    expected = evaluate(net, test, precision="fp32").logits
    dataset = ImageDataset("noise", CLASSES, empty, test, source="", digest="")
    assert torch.equal(evaluate(net, dataset, precision="fp32").logits, expected)
    googlenet.save(net, net.info, tmp_path / "model.safetensors")
    for path in (tmp_path, str(tmp_path / "model.safetensors")):
        assert torch.equal(evaluate(path, test, precision="fp32").logits, expected)
    with pytest.raises(UserError, match="noise"):
        evaluate(net, dataclasses.replace(dataset, classes=("b", "a", "c")))
    numbered = with_info(net, ("0", "1", "2"), 28)  # imported without names
    assert len(evaluate(numbered, dataset, precision="fp32").labels) == len(test)


@pytest.mark.parametrize(("argument", "value"), [("batch_size", 0), ("confidence", 80), ("device", "tpu")])
def test_evaluate_checks_its_arguments(argument: str, value: object) -> None:
    split = random_split()
    with pytest.raises(UserError, match=argument):
        evaluate(fitted(split, CLASSES), split, **{argument: value})  # type: ignore[arg-type]


def test_evaluate_needs_a_description() -> None:
    with pytest.raises(UserError, match=r"googlenet\.load"):
        evaluate(googlenet.create_model("bn"), random_split())
    with pytest.raises(UserError, match="--data"):
        evaluate(fitted(random_split(), CLASSES))  # not trained on anything


def test_report_has_metrics_and_plots(tmp_path: Path) -> None:
    split = split_of([0, 1, 2, 1], [0, 1, 1, 1])
    logits = 5.0 * torch.nn.functional.one_hot(split.images[:, 0, 0, 0].long(), 3)
    evaluation = Evaluation(CLASSES, logits, split.labels, 1.0, temperature=2.5, confidence=0.8)
    write_report(evaluation, split, tmp_path / "deep" / "report")
    assert json.loads((tmp_path / "deep/report/evaluation.json").read_text())["accuracy"] == 0.75
    for name in ("confusion_matrix.png", "mistakes.png", "reliability.png", "coverage.png"):
        with Image.open(tmp_path / "deep/report" / name) as image:
            assert image.size[0] > 100
    with (tmp_path / "deep/report/predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "class", "predicted", "probability", "loss", "confident", "rank"]
    assert [row[:3] + row[5:] for row in rows] == [
        ["0", "a", "a", "false", "1"],
        ["1", "b", "b", "false", "1"],
        ["2", "b", "c", "false", "3"],
        ["3", "b", "b", "false", "1"],
    ]
    assert "accuracy 75.00%" in caption(evaluation)


def test_table_shows_temperature_and_coverage_if_there_are_any() -> None:
    logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
    plain = Evaluation(("a", "b"), logits, (torch.arange(100) % 10 >= 6).long(), 1.0)
    assert "temperature" not in caption(plain) and "confidence" not in caption(plain)
    calibrated = dataclasses.replace(plain, temperature=math.log(9) / math.log(1.5))
    assert "30.00%" in caption(calibrated)
    selective = dataclasses.replace(plain, confidence=0.65)
    assert "confidence 0.65" in caption(selective) and "100 images (100.00%), accuracy 60.00%" in caption(selective)
    none = dataclasses.replace(plain, confidence=0.95)
    assert "0 images (0.00%)" in caption(none)


def shown(table: Table) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_a_score_that_is_undefined_is_a_dash() -> None:
    """Class b is never predicted, class c has no images."""
    evaluation = Evaluation(CLASSES, torch.eye(3)[[0, 0, 2]], torch.tensor([0, 1, 0]), 1.0)
    text = shown(evaluation_table(evaluation))
    (of_b,), (of_c,) = ([line.split("│")[1:-1] for line in text.splitlines() if f"│ {name} " in line] for name in "bc")
    assert [cell.strip() for cell in of_c] == ["c", "0", *"-----"]
    assert [cell.strip() for cell in of_b[:3]] == ["b", "1", "-"] and "0.0%" in of_b[3]


def test_tables_by_file_and_by_value() -> None:
    count = 60
    labels, files = torch.zeros(count, dtype=torch.int64), tuple(f"[b]{number}.png" for number in range(count))
    columns = {"camera": [f"[{min(number, 55)}]" for number in range(count)]}
    logits = torch.stack((torch.zeros(count), torch.arange(count) / 2 - 10), dim=1)
    evaluation = Evaluation(("a", "b"), logits, labels, 1.0, files=files, columns=columns)
    mistakes = mistakes_table(evaluation)
    assert mistakes.row_count == 10 and "[b]59.png" in shown(mistakes) and "[b]49.png" not in shown(mistakes)
    slices = slices_table(evaluation, "camera")
    assert slices.row_count == 50
    lines = [line for line in shown(slices).splitlines() if "[" in line]
    assert "[55]" in lines[0] and "0.00%" in lines[0] and "5" in lines[0].split()  # the most frequent value
    assert "6 more" in shown(slices)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_computes_nan_is_an_error(value: float) -> None:
    split = random_split()
    net = fitted(split, CLASSES)
    net.fc.bias.data[1] = value
    with pytest.raises(RunError, match=split.files[0]):
        evaluate(net, split)


def test_class_names_are_shown_as_they_are(tmp_path: Path) -> None:
    names = ("dogs [old]", "[/b]", "$_$")
    evaluation = Evaluation(names, torch.eye(3), torch.tensor([0, 1, 0]), 1.0)
    text = shown(evaluation_table(evaluation))
    assert all(name in text for name in names)
    write_report(evaluation, ImageSplit(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), evaluation.labels), tmp_path)
    assert (tmp_path / "confusion_matrix.png").exists()

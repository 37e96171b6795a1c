from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

import googlenet
from googlenet import Evaluation, ImageDataset, ImageSplit, UserError, evaluate
from googlenet.evaluation.report import evaluation_table, write_report
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


def test_class_names_are_shown_as_they_are(tmp_path: Path) -> None:
    names = ("dogs [old]", "[/b]", "$_$")
    evaluation = Evaluation(names, torch.eye(3), torch.tensor([0, 1, 0]), 1.0)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(evaluation_table(evaluation))
    shown = console.export_text()
    assert all(name in shown for name in names)
    write_report(evaluation, ImageSplit(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), evaluation.labels), tmp_path)
    assert (tmp_path / "confusion_matrix.png").exists()

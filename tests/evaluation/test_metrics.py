from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from googlenet import Architecture, Evaluation, ImageSplit, InputSpec, ModelInfo, UserError
from googlenet.errors import check_confidence
from googlenet.evaluation.metrics import collect_logits, coverage_at, eval_mode, on_device
from googlenet.evaluation.report import eval_split

CLASSES = ("a", "b", "c")
SPEC = InputSpec(1, 2, (0.0,), (1.0,))
CPU = torch.device("cpu")


class FirstPixel(nn.Module):
    """Predicts the class given by the first pixel of an image, and records the batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batch_sizes.append(len(x))
        return nn.functional.one_hot((x[:, 0, 0, 0] * 255).round().long(), 3) * 5.0


def split_of(predicted: list[int], labels: list[int]) -> ImageSplit:
    images = torch.tensor(predicted, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return ImageSplit(images, torch.tensor(labels))


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40), batch=st.integers(1, 50)
)
def test_every_image_counts_once_for_any_batch_size(pairs: list[tuple[int, int]], batch: int) -> None:
    predicted, labels = ([pair[side] for pair in pairs] for side in (0, 1))
    net = FirstPixel().train()
    split = split_of(predicted, labels)
    advanced: list[int] = []
    logits = collect_logits(net, split, SPEC, device=CPU, precision="fp32", batch_size=batch, advance=advanced.append)
    assert sum(net.batch_sizes) == sum(advanced) == len(pairs)
    assert net.training
    evaluation = Evaluation(CLASSES, logits, split.labels, 1.0)
    correct = sum(one == other for one, other in pairs)
    assert evaluation.accuracy == pytest.approx(correct / len(pairs))
    matrix = evaluation.confusion_matrix
    assert int(matrix.sum()) == len(pairs)
    for label in range(3):
        for prediction in range(3):
            assert int(matrix[label, prediction]) == pairs.count((prediction, label))
    metrics = evaluation.to_dict()
    for label, name in enumerate(CLASSES):
        of_class, predictions, hits = labels.count(label), predicted.count(label), pairs.count((label, label))
        scores = metrics["per_class"][name]
        assert scores["images"] == of_class
        assert scores["recall"] == (pytest.approx(hits / of_class) if of_class else None)
        assert scores["precision"] == (pytest.approx(hits / predictions) if of_class and predictions else None)
        assert (scores["recall_interval"] is None) == (of_class == 0)
    assert metrics["top_3_accuracy"] == 1
    json.dumps(metrics, allow_nan=False)


def test_eval_mode_restores_every_module() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.MaxPool2d(2)).train()
    net[1].eval()  # frozen
    hook = net[0].register_forward_hook(lambda *_: None)
    with on_device(net, CPU), eval_mode(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net] == [True, False, True]
    assert type(net[2]) is nn.MaxPool2d
    assert hook.id in net[0]._forward_hooks
    with pytest.raises(ZeroDivisionError), eval_mode(net):
        raise ZeroDivisionError
    assert net.training and not net[1].training


def test_calibration_error_of_known_confidence() -> None:
    """Confidence is always 0.9, and half of the predictions are correct."""
    logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
    evaluation = Evaluation(("a", "b"), logits, torch.arange(100) % 2, 1.0)
    assert evaluation.to_dict()["expected_calibration_error"] == pytest.approx(0.4, abs=1e-4)


def test_temperature_changes_confidence_not_predictions() -> None:
    """Confidence 0.9 and 6 of 10 correct: no error at the temperature that turns 0.9 into 0.6."""
    logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
    labels = (torch.arange(100) % 10 >= 6).long()
    plain = Evaluation(("a", "b"), logits, labels, 1.0)
    calibrated = dataclasses.replace(plain, temperature=math.log(9) / math.log(1.5))
    assert calibrated.probabilities[0].tolist() == pytest.approx([0.6, 0.4])
    assert (calibrated.accuracy, calibrated.loss) == (plain.accuracy, plain.loss)
    metrics = calibrated.to_dict()
    assert metrics["expected_calibration_error"] == pytest.approx(0, abs=1e-6)
    assert metrics["calibration"]["expected_calibration_error_before"] == pytest.approx(0.3, abs=1e-6)
    assert metrics["calibration"]["loss"] < metrics["loss"]


def test_coverage_at_the_confidence_asked_for() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55]]).log()
    evaluation = Evaluation(("a", "b"), logits, torch.tensor([0, 1, 1, 1]), 1.0, confidence=0.65)
    expected = {"images": 3, "confidence": 0.65, "coverage": 0.75, "accuracy": 0.6667}
    assert evaluation.to_dict()["coverage"] == expected
    assert (int(evaluation.coverage.confident), int(evaluation.coverage.correct)) == (3, 2)
    none = dataclasses.replace(evaluation, confidence=0.95)
    assert none.to_dict()["coverage"]["accuracy"] is None


def test_balanced_accuracy_ignores_classes_without_images() -> None:
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])
    assert Evaluation(CLASSES, logits, torch.tensor([0, 0, 1, 1]), 1.0).to_dict()["balanced_accuracy"] == 0.75


def test_of_equally_likely_classes_every_metric_takes_the_first() -> None:
    logits = torch.randint(0, 2, (500, 3), generator=torch.Generator().manual_seed(0)).float()
    metrics = Evaluation(CLASSES, logits, torch.arange(500) % 3, 1.0).to_dict()
    hits = sum(row[number] for number, row in enumerate(metrics["confusion_matrix"]))
    assert metrics["accuracy"] == pytest.approx(hits / 500)


def test_worst_mistakes_are_mistakes_most_confident_first() -> None:
    logits = torch.tensor([[9.0, 0, 0], [3, 0, 0], [6, 0, 0], [0, 8, 0]])
    evaluation = Evaluation(CLASSES, logits, torch.tensor([0, 1, 1, 2]), 1.0)
    assert evaluation.worst_mistakes(2).tolist() == [3, 2]
    assert evaluation.worst_mistakes(9).tolist() == [3, 2, 1]


def predictions_by_hand() -> Evaluation:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.25, 0.25, 0.5]]).log()
    files = ("a/1.png", "b\n/\udcff.png", "c/3.png")
    columns = {"camera": ["x", "y", "x"], "rank": ["first", "second", "third"]}
    return Evaluation(CLASSES, logits, torch.tensor([0, 0, 1]), 1.0, 1.0, 0.5, files, columns)


def test_predictions_by_hand() -> None:
    assert predictions_by_hand().predictions() == {
        "file": ["a/1.png", "b\\x0a/\\xff.png", "c/3.png"],
        "class": ["a", "a", "b"],
        "predicted": ["a", "b", "c"],
        "probability": [0.7, 0.5, 0.5],
        "loss": pytest.approx([-math.log(0.7), -math.log(0.3), -math.log(0.25)], abs=1e-6),
        "confident": [True, True, True],
        "rank": [1, 2, 3],  # of the two classes that are equally likely, the first one is before the other
        "camera": ["x", "y", "x"],
        "rank (data)": ["first", "second", "third"],
    }


def test_predictions_of_an_evaluation_without_names_have_numbers() -> None:
    evaluation = Evaluation(CLASSES, torch.eye(3), torch.tensor([0, 1, 0]), 1.0, temperature=0.5, confidence=0.8)
    predictions = evaluation.predictions(torch.tensor([2, 1]))
    probability = 1 / (1 + 2 * math.exp(-2))  # at the temperature
    assert predictions["file"] == ["2", "1"]
    assert predictions["probability"] == pytest.approx([probability] * 2, abs=1e-6)
    assert predictions["confident"] == [probability >= 0.8] * 2
    assert predictions["loss"][1] == pytest.approx(math.log(1 + 2 * math.exp(-1)), abs=1e-6)  # at temperature 1


@settings(max_examples=50, deadline=None)
@given(images=st.integers(1, 40), classes=st.integers(2, 6), seed=st.integers(0, 999))
def test_ranks_agree_with_sorting(images: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(4, (images, classes), generator=generator).float()  # many are equal
    labels = torch.randint(classes, (images,), generator=generator)
    evaluation = Evaluation(tuple("abcdef"[:classes]), logits, labels, 1.0)
    for row, label, rank in zip(logits.tolist(), labels.tolist(), evaluation.ranks.tolist(), strict=True):
        order = sorted(range(classes), key=lambda number: -row[number])
        assert order.index(label) + 1 == rank
    assert torch.equal(evaluation.ranks == 1, evaluation.correct)
    assert evaluation.top_k(classes) == 1


def test_worst_mistakes_have_names() -> None:
    assert [row["file"] for row in predictions_by_hand().to_dict()["worst_mistakes"]] == ["b\\x0a/\\xff.png", "c/3.png"]


def test_by_a_column() -> None:
    evaluation = predictions_by_hand()
    (x, y) = evaluation.by("camera")
    assert (x["value"], x["images"], x["accuracy"]) == ("x", 2, 0.5)
    assert (y["value"], y["images"], y["accuracy"]) == ("y", 1, 0)
    assert y["accuracy_interval"] == pytest.approx([0, 0.7935], abs=1e-4)
    assert evaluation.to_dict("camera")["by"] == {"column": "camera", "values": [x, y]}
    with pytest.raises(UserError, match=r"lens.*camera, rank"):
        evaluation.by("lens")
    with pytest.raises(UserError, match="lens"):
        dataclasses.replace(evaluation, columns={}).by("lens")


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("images", [1, 30])
@pytest.mark.parametrize("classes", [2, 1000])
def test_all_correct_and_all_wrong(images: int, classes: int, right: bool) -> None:
    labels = torch.arange(images) % 2
    logits = 5.0 * torch.nn.functional.one_hot(labels if right else 1 - labels, classes)
    evaluation = Evaluation(tuple(map(str, range(classes))), logits, labels, 1.0)
    metrics = evaluation.to_dict()
    json.dumps(metrics, allow_nan=False)
    assert metrics["accuracy"] == metrics["balanced_accuracy"] == right
    low, high = metrics["accuracy_interval"]
    assert low < high and (high == 1 if right else low == 0)
    assert metrics["roc_auc"] == (None if images == 1 else right)
    assert len(metrics["worst_mistakes"]) == (0 if right else images)
    assert metrics["per_class"]["1"]["recall"] == (None if images == 1 else right)


def test_equal_probabilities_of_1_are_still_ranked() -> None:
    """Both probabilities of class a are 1 in single precision."""
    logits = torch.tensor([[40.0, 0], [30, 0]])
    evaluation = Evaluation(("a", "b"), logits, torch.tensor([0, 1]), 1.0)
    assert evaluation.probabilities[:, 0].tolist() == [1, 1]
    assert evaluation.class_scores["roc_auc"].tolist() == [1, 1]


PROBABILITIES = torch.tensor([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4], [0.75, 0.25]], dtype=torch.float64)


def test_coverage_by_hand() -> None:
    coverage = coverage_at(PROBABILITIES, torch.tensor([0, 0, 0, 0]), [0.0, 0.6, 0.61, 0.75, 0.9, 0.95])
    assert coverage.confident.tolist() == [4, 4, 3, 3, 1, 0]  # a confidence equal to the threshold counts
    assert coverage.correct.tolist() == [3, 3, 2, 2, 1, 0]
    lists = coverage.to_dict()
    assert lists["coverage"] == [1, 1, 0.75, 0.75, 0.25, 0]
    assert lists["accuracy"] == [0.75, 0.75, 0.6667, 0.6667, 1, None]
    json.dumps(lists, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(images=st.integers(1, 60), classes=st.integers(2, 5), seed=st.integers(0, 999), threshold=st.floats(0, 1))
def test_coverage_agrees_with_a_direct_count(images: int, classes: int, seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(images, classes, generator=generator)).softmax(dim=1)
    labels = torch.randint(classes, (images,), generator=generator)
    coverage = coverage_at(probabilities, labels, [threshold])
    confidence, predicted = probabilities.double().max(dim=1)
    confident = confidence >= threshold
    assert int(coverage.confident) == int(confident.sum())
    assert int(coverage.correct) == int((confident & (predicted == labels)).sum())


@settings(max_examples=30, deadline=None)
@given(images=st.integers(1, 60), seed=st.integers(0, 999))
def test_coverage_never_grows_with_the_threshold(images: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (images,), generator=generator)
    curve = Evaluation(CLASSES, 3 * torch.randn(images, 3, generator=generator), labels, 1.0).coverage_curve
    lists = curve.to_dict()
    assert lists["confidence"] == [round(percent / 100, 2) for percent in range(101)]
    assert (lists["coverage"][0], lists["coverage"][33]) == (1, 1)
    assert all(after <= before for before, after in zip(lists["coverage"], lists["coverage"][1:], strict=False))
    assert bool((curve.correct <= curve.confident).all())


@pytest.mark.parametrize("value", [-0.1, 1.01, 80, math.nan])
def test_confidence_must_be_a_probability(value: float) -> None:
    with pytest.raises(UserError, match="confidence"):
        check_confidence(value)


@pytest.mark.parametrize(
    ("split", "spec", "name"),
    [
        (split_of([0], [0]), InputSpec(3, 2, (0.0,) * 3, (1.0,) * 3), "channel"),
        (split_of([0], [4]), SPEC, "5"),
        (split_of([0], [0]).subset(torch.arange(0)), SPEC, "images"),
    ],
)
def test_data_that_does_not_fit_the_network(split: ImageSplit, spec: InputSpec, name: str) -> None:
    with pytest.raises(UserError, match=name):
        eval_split(ModelInfo(Architecture("bn", 3, spec.channels), CLASSES, spec), split)

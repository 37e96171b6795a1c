from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from googlenet.evaluation.scores import balanced_accuracy_interval, ranking_scores, scores_by_class, wilson


@pytest.fixture
def classification() -> Any:
    """Imported only where it is used, because that takes seconds, for which every test process would wait."""
    from torchmetrics.functional import classification

    return classification


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_a_published_table(correct: int, total: int, low: float, high: float) -> None:
    interval = wilson(torch.tensor(correct), torch.tensor(total)).tolist()
    assert interval == pytest.approx([low, high], abs=5e-5)
    opposite = wilson(torch.tensor(total - correct), torch.tensor(total)).tolist()
    assert opposite == pytest.approx([1 - high, 1 - low], abs=5e-5)


def test_wilson_of_several_counts() -> None:
    bounds = wilson(torch.tensor([[0, 3], [0, 1]]), torch.tensor([[3, 3], [0, 2]]))
    assert bounds.shape == (2, 2, 2)
    assert bounds[0, 0, 0] == 0 and bounds[0, 1, 1] == 1
    assert bounds[1, 0].isnan().all()


def _pairs(scores: list[float], is_positive: list[bool]) -> float:
    """ROC AUC by its definition: the fraction of pairs that are in the right order."""
    positive = [score for score, is_own in zip(scores, is_positive, strict=True) if is_own]
    negative = [score for score, is_own in zip(scores, is_positive, strict=True) if not is_own]
    won = sum((one > other) + (one == other) / 2 for one in positive for other in negative)
    return won / (len(positive) * len(negative)) if positive and negative else math.nan


def _average_precision(scores: list[float], is_positive: list[bool]) -> float:
    """The sum over the thresholds of precision times the recall that this threshold adds."""
    total, recall_before, area = sum(is_positive), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [is_own for score, is_own in zip(scores, is_positive, strict=True) if score >= threshold]
        if total:
            area += (sum(found) / total - recall_before) * sum(found) / len(found)
            recall_before = sum(found) / total
    return area if total else math.nan


@settings(max_examples=100, deadline=None)
@given(
    images=st.integers(1, 25),
    classes=st.integers(2, 4),
    levels=st.sampled_from([2, 5, 10**6]),
    seed=st.integers(0, 10**6),
)
def test_ranking_scores_agree_with_their_definitions(images: int, classes: int, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (images, classes), generator=generator).double()
    labels = torch.randint(classes, (images,), generator=generator)
    roc_auc, average_precision = ranking_scores(scores, labels)
    for number in range(classes):
        column, is_positive = scores[:, number].tolist(), (labels == number).tolist()
        assert roc_auc[number].item() == pytest.approx(_pairs(column, is_positive), nan_ok=True)
        assert average_precision[number].item() == pytest.approx(_average_precision(column, is_positive), nan_ok=True)


def test_ranking_scores_agree_with_torchmetrics(classification: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 5
    probabilities = (torch.randn(300, 5, generator=generator) + torch.eye(5)[labels]).softmax(dim=1)
    roc_auc, average_precision = ranking_scores(probabilities.double(), labels)
    expected = classification.multiclass_auroc(probabilities, labels, num_classes=5, average="none")
    assert roc_auc.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    expected = classification.multiclass_average_precision(probabilities, labels, num_classes=5, average="none")
    assert average_precision.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_scores_by_class_by_hand(classification: Any) -> None:
    """Class b is never predicted, class d has no images, and is predicted once."""
    labels, predicted = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 0, 2, 2, 2, 3])
    matrix = classification.multiclass_confusion_matrix(predicted, labels, num_classes=4)
    scores = scores_by_class(matrix, torch.eye(4, dtype=torch.float64)[predicted], labels)
    columns = {name: [round(value, 4) for value in scores[name].tolist()] for name in ("precision", "recall", "f1")}
    assert columns["precision"] == pytest.approx([1, math.nan, 0.3333, math.nan], nan_ok=True)
    assert columns["recall"] == pytest.approx([0.6667, 0, 0.5, math.nan], nan_ok=True)
    assert columns["f1"] == pytest.approx([0.8, 0, 0.4, math.nan], nan_ok=True)
    assert all(column[3].isnan().all() for column in scores.values())
    assert torch.equal(scores["recall_interval"][2], wilson(torch.tensor(1), torch.tensor(2)))
    assert torch.equal(scores["precision_interval"][0], wilson(torch.tensor(2), torch.tensor(2)))


def test_balanced_accuracy_interval_agrees_with_the_normal_approximation() -> None:
    correct, images = torch.tensor([900, 40, 0]), torch.tensor([1000, 50, 0])  # the third class has no images
    torch.manual_seed(1)
    state = torch.get_rng_state()
    low, high = balanced_accuracy_interval(correct, images)
    assert [low, high] == balanced_accuracy_interval(correct, images)
    assert torch.equal(torch.get_rng_state(), state)
    deviation = math.sqrt(0.9 * 0.1 / 1000 + 0.8 * 0.2 / 50) / 2
    assert (low, high) == pytest.approx((0.85 - 1.96 * deviation, 0.85 + 1.96 * deviation), abs=0.1 * deviation * 2)

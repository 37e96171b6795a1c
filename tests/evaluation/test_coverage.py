from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from googlenet import UserError
from googlenet.evaluation.metrics import check_confidence, coverage_at, coverage_curve

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4], [0.75, 0.25]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 0, 0])  # the second answer is wrong


def test_answers_by_hand() -> None:
    found = coverage_at(PROBABILITIES, LABELS, [0.0, 0.6, 0.61, 0.75, 0.9, 0.95])
    assert found.answered.tolist() == [4, 4, 3, 3, 1, 0]  # what just reaches the threshold is answered
    assert found.right.tolist() == [3, 3, 2, 2, 1, 0]
    figures = found.to_dict()
    assert figures["coverage"] == [1, 1, 0.75, 0.75, 0.25, 0]
    assert figures["accuracy"] == [0.75, 0.75, 0.6667, 0.6667, 1, None]
    json.dumps(figures, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(images=st.integers(1, 60), classes=st.integers(2, 5), seed=st.integers(0, 999), threshold=st.floats(0, 1))
def test_what_is_answered_is_what_reaches_the_threshold(images: int, classes: int, seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(images, classes, generator=generator)).softmax(dim=1)
    labels = torch.randint(classes, (images,), generator=generator)
    found = coverage_at(probabilities, labels, [threshold])
    confidence, said = probabilities.double().max(dim=1)
    answered = confidence >= threshold
    assert int(found.answered) == int(answered.sum())
    assert int(found.right) == int((answered & (said == labels)).sum())


@settings(max_examples=30, deadline=None)
@given(images=st.integers(1, 60), seed=st.integers(0, 999))
def test_a_higher_threshold_never_answers_more(images: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (3 * torch.randn(images, 3, generator=generator)).softmax(dim=1)
    curve = coverage_curve(probabilities, torch.randint(3, (images,), generator=generator))
    figures = curve.to_dict()
    assert figures["confidence"] == [round(number / 100, 2) for number in range(101)]
    assert (figures["coverage"][0], figures["coverage"][33]) == (1, 1)
    assert all(after <= before for before, after in zip(figures["coverage"], figures["coverage"][1:], strict=False))
    assert bool((curve.right <= curve.answered).all())


@pytest.mark.parametrize("value", [-0.1, 1.01, 80, math.nan])
def test_a_confidence_that_is_no_probability(value: float) -> None:
    with pytest.raises(UserError, match="confidence is a probability from 0 to 1"):
        check_confidence(value)

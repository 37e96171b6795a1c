from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from googlenet import UserError
from googlenet.evaluation.calibration import COLDEST, HOTTEST, fit_temperature, reliability


def honest(images: int, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and labels (N,) drawn with the very probabilities that the logits say."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5, 8.0])
def test_the_temperature_undoes_a_known_scaling(scale: float) -> None:
    logits, labels = honest(20_000)
    assert fit_temperature(logits * scale, labels) == pytest.approx(scale, rel=0.03)


def test_what_is_fitted_on_some_images_calibrates_others_and_keeps_every_rank() -> None:
    logits, labels = honest(20_000)
    logits = 3 * logits
    temperature = fit_temperature(logits[:5_000], labels[:5_000])
    others, right = logits[5_000:], labels[5_000:]
    before, after = (reliability((others / t).softmax(dim=1), right) for t in (1.0, temperature))
    assert before.expected_calibration_error > 0.15
    assert after.expected_calibration_error < 0.02
    assert torch.equal(others.argsort(dim=1), (others / temperature).argsort(dim=1))
    assert float((before.accuracy * before.images).sum()) == float((after.accuracy * after.images).sum())


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.3, 6), images=st.integers(200, 400), seed=st.integers(0, 99))
def test_no_other_temperature_has_a_lower_loss(scale: float, images: int, seed: int) -> None:
    logits, labels = honest(images, classes=4, seed=seed)
    logits = logits.double() * scale
    found = fit_temperature(logits, labels)
    target = (images * F.one_hot(labels, 4) + 0.25) / (images + 1)
    best = float(F.cross_entropy(logits / found, target))
    for factor in (0.5, 0.97, 1.03, 2):
        assert float(F.cross_entropy(logits / (found * factor), target)) > best


def test_a_few_images_that_are_all_right_do_not_make_certain() -> None:
    labels = torch.arange(12) % 3
    logits = 2.0 * F.one_hot(labels, 3)
    sure = float((logits / fit_temperature(logits, labels)).softmax(dim=1).max())
    assert 0.9 < sure < 0.99
    many = labels.repeat(100)
    surer = float((logits / fit_temperature(2.0 * F.one_hot(many, 3), many)).softmax(dim=1).max())
    assert sure < surer < 1


def test_the_temperature_stays_in_bounds() -> None:
    labels = torch.arange(300) % 3
    always_wrong = 50.0 * F.one_hot((labels + 1) % 3, 3)
    assert fit_temperature(always_wrong, labels) == pytest.approx(HOTTEST, rel=1e-6)
    hardly_apart = 1e-4 * F.one_hot(labels, 3)
    assert fit_temperature(hardly_apart, labels) == pytest.approx(COLDEST, rel=1e-6)
    assert fit_temperature(torch.zeros(5, 3), torch.arange(5) % 3) == pytest.approx(1)


def test_nothing_to_fit_to_is_told() -> None:
    with pytest.raises(UserError, match="1 image or more"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UserError, match="finite"):
        fit_temperature(torch.tensor([[math.nan, 1.0]]), torch.tensor([0]))


def test_bins_hold_every_image_once_and_agree_with_torchmetrics() -> None:
    logits, labels = honest(3_000)
    probabilities = (1.7 * logits).softmax(dim=1)
    found = reliability(probabilities, labels)
    assert int(found.images.sum()) == 3_000
    right = float((probabilities.argmax(dim=1) == labels).double().mean())
    assert float((found.accuracy * found.images).sum()) / 3_000 == pytest.approx(right)
    reference = float(multiclass_calibration_error(probabilities, labels, num_classes=10, n_bins=15))
    assert found.expected_calibration_error == pytest.approx(reference, abs=1e-5)


def test_bins_by_hand() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    found = reliability(probabilities, torch.tensor([0, 1, 1, 1]), bins=5)
    assert found.images.tolist() == [0, 0, 1, 1, 2]  # 0.8 is its bin's upper edge
    assert found.confidence.tolist() == pytest.approx([0, 0, 0.5, 0.8, 0.95])
    assert found.accuracy.tolist() == [0, 0, 0, 1, 0.5]
    assert found.expected_calibration_error == pytest.approx((0.5 + 0.2 + 2 * 0.45) / 4)

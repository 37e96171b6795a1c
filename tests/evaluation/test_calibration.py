from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn import functional as F

from googlenet import UserError
from googlenet.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature, reliability


def calibrated(images: int, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and labels (N,) drawn with the probabilities of these logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5, 8.0])
def test_temperature_recovers_a_known_scale(scale: float) -> None:
    logits, labels = calibrated(20_000)
    assert fit_temperature(logits * scale, labels) == pytest.approx(scale, rel=0.03)


def test_temperature_calibrates_other_images_and_keeps_every_rank() -> None:
    logits, labels = calibrated(20_000)
    logits = 3 * logits
    temperature = fit_temperature(logits[:5_000], labels[:5_000])
    test_logits, test_labels = logits[5_000:], labels[5_000:]
    before, after = (reliability((test_logits / t).softmax(dim=1), test_labels) for t in (1.0, temperature))
    assert before.expected_calibration_error > 0.15
    assert after.expected_calibration_error < 0.02
    assert torch.equal(test_logits.argsort(dim=1), (test_logits / temperature).argsort(dim=1))
    assert float((before.accuracy * before.images).sum()) == float((after.accuracy * after.images).sum())


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.3, 6), images=st.integers(200, 400), seed=st.integers(0, 99))
def test_no_other_temperature_has_a_lower_loss(scale: float, images: int, seed: int) -> None:
    logits, labels = calibrated(images, classes=4, seed=seed)
    logits = logits.double() * scale
    temperature = fit_temperature(logits, labels)
    targets = (images * F.one_hot(labels, 4) + 0.25) / (images + 1)
    lowest = float(F.cross_entropy(logits / temperature, targets))
    for factor in (0.5, 0.97, 1.03, 2):
        assert float(F.cross_entropy(logits / (temperature * factor), targets)) > lowest


def test_a_few_correct_images_do_not_give_full_confidence() -> None:
    labels = torch.arange(12) % 3
    logits = 2.0 * F.one_hot(labels, 3)
    few = float((logits / fit_temperature(logits, labels)).softmax(dim=1).max())
    assert 0.9 < few < 0.99
    labels = labels.repeat(100)
    many = float((logits / fit_temperature(2.0 * F.one_hot(labels, 3), labels)).softmax(dim=1).max())
    assert few < many < 1


def test_temperature_stays_in_bounds() -> None:
    labels = torch.arange(300) % 3
    always_wrong = 50.0 * F.one_hot((labels + 1) % 3, 3)
    assert fit_temperature(always_wrong, labels) == pytest.approx(MAX_TEMPERATURE, rel=1e-6)
    tiny_differences = 1e-4 * F.one_hot(labels, 3)
    assert fit_temperature(tiny_differences, labels) == pytest.approx(MIN_TEMPERATURE, rel=1e-6)
    assert fit_temperature(torch.zeros(5, 3), torch.arange(5) % 3) == pytest.approx(1)


@pytest.mark.parametrize("logits", [torch.zeros(0, 2), torch.tensor([[math.nan, 1.0]])])
def test_temperature_needs_images_and_finite_logits(logits: Tensor) -> None:
    with pytest.raises(UserError, match="temperature"):
        fit_temperature(logits, torch.zeros(len(logits), dtype=torch.int64))


def test_bins_hold_every_image_once_and_agree_with_torchmetrics() -> None:
    # Here, because it takes seconds, for which every test process would wait
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = calibrated(3_000)
    probabilities = (1.7 * logits).softmax(dim=1)
    bins = reliability(probabilities, labels)
    assert int(bins.images.sum()) == 3_000
    accuracy = float((probabilities.argmax(dim=1) == labels).double().mean())
    assert float((bins.accuracy * bins.images).sum()) / 3_000 == pytest.approx(accuracy)
    reference = float(multiclass_calibration_error(probabilities, labels, num_classes=10, n_bins=15))
    assert bins.expected_calibration_error == pytest.approx(reference, abs=1e-5)


def test_bins_by_hand() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    bins = reliability(probabilities, torch.tensor([0, 1, 1, 1]), bins=5)
    assert bins.images.tolist() == [0, 0, 1, 1, 2]  # 0.8 is the upper edge of its bin
    assert bins.confidence.tolist() == pytest.approx([0, 0, 0.5, 0.8, 0.95])
    assert bins.accuracy.tolist() == [0, 0, 0, 1, 0.5]
    assert bins.expected_calibration_error == pytest.approx((0.5 + 0.2 + 2 * 0.45) / 4)

"""Calibration: does a predicted probability of 80% mean that 80% of such predictions are correct?

Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from googlenet.errors import UserError

BINS = 15  # as in the paper's tables
FEWEST_IMAGES = 30  # to fit a temperature to: fitted to 6, it raised the calibration error from 17 to 30%
MIN_TEMPERATURE, MAX_TEMPERATURE = 1 / 20, 20.0  # the search interval; trained networks need 0.5 to 5


@dataclass(frozen=True)
class Reliability:
    """Images in bins of equal width by confidence, which is the probability of the predicted class."""

    images: Tensor  # int64, (bins,)
    confidence: Tensor  # float64, (bins,): mean; 0 for an empty bin
    accuracy: Tensor  # float64, (bins,): fraction of correct predictions; 0 for an empty bin

    @property
    def expected_calibration_error(self) -> float:
        """Mean absolute difference of confidence and accuracy, weighted by images (section 2 of the paper)."""
        weights = self.images / self.images.sum()
        return float((weights * (self.accuracy - self.confidence).abs()).sum())

    def to_dict(self) -> dict[str, list[Any]]:
        columns = {"images": self.images, "confidence": self.confidence, "accuracy": self.accuracy}
        return {name: [round(value, 4) for value in column.tolist()] for name, column in columns.items()}


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Bin probabilities (N, classes) of images with labels (N,). A bin includes its upper edge, not its lower one."""
    confidence, predicted = probabilities.double().max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = torch.bucketize(confidence, edges[1:-1])
    images = torch.bincount(index, minlength=bins)
    confidence_sums = torch.bincount(index, weights=confidence, minlength=bins)
    correct = torch.bincount(index, weights=(predicted == labels).double(), minlength=bins)
    return Reliability(images, confidence_sums / images.clamp(min=1), correct / images.clamp(min=1))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that minimizes the cross-entropy of softmax(logits / T) (section 4.2).

    The loss is convex in 1 / T, so bisection finds the zero of its slope. One virtual image with a uniform label is
    added: if all of a few held-out images are classified correctly, T would otherwise go to 0. For thousands of images
    its effect is negligible.

    `logits` (N, classes) and `labels` (N,) are those of held-out images, neither trained nor tested on.
    Raises `UserError` without images, or if a logit is not finite.
    """
    if not len(labels) or not torch.isfinite(logits).all():
        raise UserError("fitting a temperature needs the finite logits of at least 1 image")
    logits = logits.double()
    of_labels = logits.gather(1, labels[:, None]).squeeze(1)
    targets = (len(labels) * of_labels + logits.mean(dim=1)) / (len(labels) + 1)
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(30):
        middle = (low + high) / 2
        expected = ((logits / math.exp(middle)).softmax(dim=1) * logits).sum(dim=1)
        slope = float((expected - targets).mean())
        if slope == 0:
            break
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp(middle)

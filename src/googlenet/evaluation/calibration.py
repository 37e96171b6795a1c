"""Whether a network is right as often as it says: measured in bins of confidence, and mended by one number.

Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from googlenet.errors import UserError

BINS = 15
"""As in the paper's tables."""
COLDEST, HOTTEST = 1 / 20, 20.0
"""No temperature beyond these is looked for; what trained networks ask for is between 0.5 and 5."""


@dataclass(frozen=True)
class Reliability:
    """A split's images sorted into bins of equal width by the probability of the class that was said."""

    images: Tensor
    """int64, (bins,): how many fell into each."""
    confidence: Tensor
    """float64, (bins,): the mean probability of what was said; 0 for a bin without images."""
    accuracy: Tensor
    """float64, (bins,): the share that was right; 0 for a bin without images."""

    @property
    def expected_calibration_error(self) -> float:
        """How far confidence and accuracy lie apart, as a mean over the images (section 2 of the paper)."""
        share = self.images / self.images.sum()
        return float((share * (self.accuracy - self.confidence).abs()).sum())

    def to_dict(self) -> dict[str, list[Any]]:
        return {
            "images": self.images.tolist(),
            "confidence": [round(value, 4) for value in self.confidence.tolist()],
            "accuracy": [round(value, 4) for value in self.accuracy.tolist()],
        }


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Sort probabilities (N, number of classes) of images with labels (N,); a bin has its upper edge, not its lower."""
    confidence, said = probabilities.double().max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1])
    images = torch.bincount(place, minlength=bins)
    claimed = torch.bincount(place, weights=confidence, minlength=bins)
    right = torch.bincount(place, weights=(said == labels).double(), minlength=bins)
    return Reliability(images, claimed / images.clamp(min=1), right / images.clamp(min=1))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T whose softmax(logits / T) gives held-out labels the highest likelihood (section 4.2).

    The loss is convex in 1 / T, so its slope changes sign once, and halving an interval finds where. To the N images
    one more is added in thought, whose label is any class alike: where a few held-out images all happen to be right,
    it keeps the network from being declared certain. Among thousands it weighs nothing.

    Args:
        logits: (N, number of classes) of images that the network was not trained on, and is not tested on.
        labels: int64, (N,).

    Raises:
        UserError: where there is no image, or a logit is not finite.
    """
    if not len(labels) or not torch.isfinite(logits).all():
        raise UserError("a temperature is fitted to the finite logits of 1 image or more")
    logits = logits.double()
    seen = logits.gather(1, labels[:, None]).squeeze(1)
    wanted = (len(labels) * seen + logits.mean(dim=1)) / (len(labels) + 1)
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(30):
        middle = (low + high) / 2
        expected = ((logits / math.exp(middle)).softmax(dim=1) * logits).sum(dim=1)
        slope = float((expected - wanted).mean())
        if slope == 0:
            break
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp(middle)

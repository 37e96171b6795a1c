"""A network that may say "don't know": how much it answers, and how much of that is right.

It answers where the probability of its likeliest class reaches a threshold (Geifman and El-Yaniv 2017, "Selective
Classification for Deep Neural Networks").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from googlenet.errors import UserError


@dataclass(frozen=True)
class Coverage:
    """What is answered at each of some thresholds."""

    confidence: Tensor
    """float64, (thresholds,): the probability that an answer must reach."""
    answered: Tensor
    """int64, (thresholds,): images whose likeliest class reaches it."""
    right: Tensor
    """int64, (thresholds,): those among them whose likeliest class is the true one."""
    images: int

    @property
    def share(self) -> Tensor:
        """float64, (thresholds,): the share of all images that is answered."""
        return self.answered.double() / self.images

    @property
    def accuracy(self) -> Tensor:
        """float64, (thresholds,): the share of the answers that is right; not a number where nothing is answered."""
        return self.right.double() / self.answered

    def to_dict(self) -> dict[str, list[Any]]:
        """Lists of the same length; an accuracy without answers is None."""
        return {
            "confidence": [round(value, 4) for value in self.confidence.tolist()],
            "coverage": [round(value, 4) for value in self.share.tolist()],
            "accuracy": [
                round(value, 4) if count else None
                for value, count in zip(self.accuracy.tolist(), self.answered.tolist(), strict=True)
            ],
        }


def coverage_at(probabilities: Tensor, labels: Tensor, thresholds: Sequence[float]) -> Coverage:
    """Answer at each threshold: probabilities (N, number of classes) of images with labels (N,)."""
    confidence, said = probabilities.double().max(dim=1)
    confidence, order = confidence.sort(descending=True)
    right_among_first = torch.cat((torch.zeros(1, dtype=torch.int64), (said == labels)[order].cumsum(0)))
    needed = torch.tensor(thresholds, dtype=torch.float64)
    answered = torch.searchsorted(-confidence, -needed, right=True)
    return Coverage(needed, answered, right_among_first[answered], len(labels))


def coverage_curve(probabilities: Tensor, labels: Tensor) -> Coverage:
    """What is answered at the thresholds 0.00, 0.01, ..., 1.00."""
    return coverage_at(probabilities, labels, [number / 100 for number in range(101)])


def check_confidence(confidence: float) -> float:
    """A threshold as it was given. Raises `UserError` where it is no probability."""
    if not 0 <= confidence <= 1:
        raise UserError(f"confidence is a probability from 0 to 1, not {confidence}")
    return confidence

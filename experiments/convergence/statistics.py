"""Means over seeds with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom; beyond these, the normal one is near enough.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds."""

    value: float
    half_width: float
    """Of the 95% interval by Student's t; not a number for fewer than two values."""
    count: int

    @property
    def differs_from_zero(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.value) > self.half_width

    def text(self, digits: int) -> str:
        if math.isnan(self.half_width):
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} ± {self.half_width:.{digits}f}"


def mean(values: Sequence[float]) -> Mean:
    """The mean of one value or more."""
    count = len(values)
    middle = sum(values) / count
    if count < 2:
        return Mean(middle, math.nan, count)
    deviation = math.sqrt(sum((value - middle) ** 2 for value in values) / (count - 1))
    quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.960
    return Mean(middle, quantile * deviation / math.sqrt(count), count)


def geometric_mean(values: Sequence[float]) -> float:
    """Of one value or more; a 0 counts as 1e-30, so that a plot shows the others too."""
    return math.exp(sum(math.log(max(value, 1e-30)) for value in values) / len(values))

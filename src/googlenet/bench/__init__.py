"""Measurements of this machine, ours beside our peers'."""

from __future__ import annotations

from typing import Literal, get_args

Measure = Literal["training", "inference", "memory", "data", "startup", "accuracy"]
USUAL: tuple[Measure, ...] = tuple(measure for measure in get_args(Measure) if measure != "accuracy")
"""Those that take minutes; `accuracy` trains whole recipes."""

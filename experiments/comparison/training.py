"""The networks trained for an equal time, each by `googlenet.train`."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import googlenet
from benchmarks.measuring import synchronize
from experiments.comparison.networks import Baseline

_WARMUP = 2
"""Steps before the pace is measured."""
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Training:
    """What a network has learned in its time."""

    accuracy: float
    """Share of the test images classified correctly, 0 to 1."""
    seconds: float
    """Spent training: close to the time given, since the number of steps was fixed before the first one."""
    steps: int
    images: int
    """Seen in training, repetitions included."""
    learning_rate: float


def train_for(
    baseline: Baseline, seconds: float, *, image_size: int, learning_rate: float | None = None, **settings: Any
) -> Training:
    """Train a network on Fashion-MNIST with as many steps as fit into a time, and a schedule that fits them.

    All networks share everything but the learning rate: AdamW, a linear warm-up and decay, batches of 64, gradients
    clipped.

    Args:
        baseline: the network.
        seconds: of training, without evaluation.
        image_size: height and width that images are resized to, pixels.
        learning_rate: the schedule's highest; default: the baseline's own.
        settings: of `googlenet.train`: `data_dir`, `device`.

    Raises:
        UserError: for settings that are not usable.
        KeyboardInterrupt: if the training was interrupted.
    """
    rate = baseline.learning_rate if learning_rate is None else learning_rate
    settings |= {"image_size": image_size, "batch_size": _BATCH_SIZE, "learning_rate": rate, "gradient_clip": 1.0}
    settings |= {"checkpoint_every": 10**9, "plots": False}
    # Measuring the pace over a tenth of the time evens out what else the machine is doing
    steps = max(1, round(seconds / _seconds_per_step(_build(baseline), seconds / 10, settings)))
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"min_steps": steps, "max_steps": steps, "output": Path(folder) / "run"}
        result = googlenet.train(googlenet.Recipe(), model=_build(baseline), **settings)
    if result.interrupted:
        raise KeyboardInterrupt
    return Training(result.metrics["test"]["accuracy"], result.seconds, steps, steps * _BATCH_SIZE, rate)


def _build(baseline: Baseline) -> nn.Module:
    torch.manual_seed(0)
    return baseline.build(1, 10)


class _EnoughStepsError(Exception):
    pass


def _seconds_per_step(net: nn.Module, min_seconds: float, settings: dict[str, Any]) -> float:
    """Measured over `min_seconds` or more, and over one step or more, in a run that ends there."""
    started, pace = 0.0, 0.0

    def measure(trainer: googlenet.Trainer) -> None:
        nonlocal started, pace
        synchronize(trainer.device)
        if trainer.step == _WARMUP:
            started = time.perf_counter()
        elif trainer.step > _WARMUP and (elapsed := time.perf_counter() - started) >= min_seconds:
            pace = elapsed / (trainer.step - _WARMUP)
            raise _EnoughStepsError

    with tempfile.TemporaryDirectory() as folder:
        try:
            googlenet.train(
                googlenet.Recipe(),
                model=net,
                output=Path(folder) / "pace",
                on_step=measure,
                min_steps=10**6,
                **settings,
            )
        except _EnoughStepsError:
            return pace
    raise KeyboardInterrupt  # nothing else ends a run of a million steps

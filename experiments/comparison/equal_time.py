"""The networks trained for an equal time, each through the project's own training."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from torch import nn

from experiments.comparison.baselines import Baseline
from googlenet.data.dataset import ImageDataset
from googlenet.device import synchronize
from googlenet.errors import UserError
from googlenet.recipe import Recipe, load_recipe
from googlenet.training.loop import fit, train_step
from googlenet.training.setup import Build, prepare

_WARMUP = 2
"""Steps before the pace is taken."""
_ENDLESS = 10**6


@dataclass(frozen=True)
class Training:
    """What a network had learned when its time was over."""

    accuracy: float
    """Share of the test images classified rightly, 0 to 1."""
    seconds: float
    """Spent training: near the time given, since the steps that fit into it were fixed before the first one."""
    steps: int
    images: int
    """Seen in training, repetitions included."""
    learning_rate: float


def train_for(
    contender: Baseline,
    seconds: float,
    *,
    image_size: int,
    learning_rate: float | None = None,
    data_dir: str | None = None,
    device: str = "auto",
) -> Training:
    """Train a network on Fashion-MNIST with as many steps as fit into a time, the schedule fitted to them.

    All networks share everything but the learning rate: AdamW in one cycle, batches of 64, gradients clipped.

    Args:
        contender: which network.
        seconds: of training, without evaluation.
        image_size: height and width that images are resized to, pixels.
        learning_rate: the schedule's highest; left out: the contender's own.
        data_dir: folder with the data; left out: searched for.
        device: auto, cpu, cuda, ...

    Raises:
        UserError: for a time or size that will not do.
        KeyboardInterrupt: where the training was stopped by Ctrl-C.
    """
    if seconds <= 0:
        raise UserError(f"networks train for more than 0 seconds, not {seconds:g}")

    def build(_: Recipe, dataset: ImageDataset) -> nn.Module:
        return contender.build(dataset.channels, len(dataset.classes))

    recipe = load_recipe(
        Recipe(),
        image_size=image_size,
        batch_size=64,
        learning_rate=contender.learning_rate if learning_rate is None else learning_rate,
        gradient_clip=1.0,
        data_dir=data_dir,
        device=device,
        checkpoint_every=_ENDLESS,
    )
    with tempfile.TemporaryDirectory() as folder:
        # The pace over a tenth of the time evens out what else the machine is doing
        steps = max(1, round(seconds / _seconds_per_step(recipe, build, Path(folder) / "pace", seconds / 10)))
        recipe = recipe.model_copy(update={"min_steps": steps, "max_steps": steps})
        result = fit(prepare(recipe, Path(folder) / "run", build=build))
    if result.interrupted:
        raise KeyboardInterrupt
    return Training(
        result.metrics["test"]["accuracy"], result.seconds, steps, steps * recipe.batch_size, recipe.learning_rate
    )


def _seconds_per_step(recipe: Recipe, build: Build, folder: Path, least_seconds: float) -> float:
    """Over so many seconds at least, and over one step at least."""
    run = prepare(recipe, folder, build=build)
    batches = cycle(run.loader)
    for images, labels in islice(batches, _WARMUP):
        train_step(run, images, labels, ())
    steps, started = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - started < least_seconds:
        images, labels = next(batches)
        train_step(run, images, labels, ())
        synchronize(run.device)
        steps += 1
    return (time.perf_counter() - started) / steps

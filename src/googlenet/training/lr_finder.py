"""The learning rate to start with: a short run in which it grows until the loss no longer falls.

Source: Smith 2015, https://arxiv.org/abs/1506.01186.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from googlenet.console import progress
from googlenet.device import scoped_process_state
from googlenet.errors import UserError
from googlenet.evaluation.plots import plot_learning_rates
from googlenet.model.fuse import fused
from googlenet.recipe import Recipe
from googlenet.training.loop import explained_errors, make_step
from googlenet.training.optim import set_learning_rate
from googlenet.training.processes import make_accelerator
from googlenet.training.setup import Trainer

_LOWEST, _HIGHEST = 1e-5, 1.0
_WINDOW = 6  # Steps on either side that a smoothed loss averages over: a third of a power of ten
_MIN_STEPS = 20


@dataclass(frozen=True)
class LearningRateSearch:
    """The loss at each learning rate, and a suggestion."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]  # Smoothed, nats
    suggestion: float  # Where the loss is lowest: the highest rate that still works, from which a schedule decays

    def to_dict(self) -> dict[str, Any]:
        return {"suggestion": self.suggestion, "rates": list(self.rates), "losses": list(self.losses)}


def find_learning_rate(recipe: Recipe, output: Path, *, steps: int = 100) -> LearningRateSearch:
    """Train for some steps with a growing learning rate and plot the loss over it into `output`, a PNG.

    Raises:
        UserError: for a recipe that is not usable, or if the loss falls at no learning rate.
    """
    if steps < _MIN_STEPS:
        raise UserError(f"steps = {steps} is too few for a search; use {_MIN_STEPS} or more")
    recipe = recipe.model_copy(update={"tracker": "none", "freeze_fraction": 0.0})
    accelerator = make_accelerator(recipe)
    growth = (_HIGHEST / _LOWEST) ** (1 / (steps - 1))
    rates: list[float] = []
    losses: list[float] = []
    with scoped_process_state(accelerator.device):
        trainer = Trainer(recipe, accelerator)
        take_step = make_step(trainer)
        batches = (batch for epoch in itertools.count() for batch in trainer.batches(epoch))
        trainer.model.train()
        with fused(trainer.net, merge=trainer.precision == "bf16"), progress("searching", steps) as bar:
            for step, (inputs, targets, _) in enumerate(itertools.islice(batches, steps)):
                rates.append(_LOWEST * growth**step)
                set_learning_rate(trainer.optimizer, rates[-1], recipe)
                with explained_errors(recipe, len(inputs)):
                    loss, _ = take_step(inputs, targets)
                losses.append(float(loss))
                bar.advance()
                if not math.isfinite(losses[-1]):
                    break
                if step >= 10 and statistics.fmean(losses[-5:]) >= 4 * min(_smoothed(losses)):
                    break
    suggestion = suggest_learning_rate(rates, losses)
    finite = [loss for loss in losses if math.isfinite(loss)]
    search = LearningRateSearch(tuple(rates[: len(finite)]), tuple(_smoothed(finite)), suggestion)
    plot_learning_rates(search.rates, search.losses, search.suggestion, output)
    return search


def suggest_learning_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate with the lowest smoothed loss. Raises `UserError` if the loss falls by no more than its noise.

    If the last loss is NaN or infinite, the rates just before it are not suggested: their means do not show it yet.
    """
    finite = len(losses) if math.isfinite(losses[-1]) else len(losses) - 1
    if finite < _MIN_STEPS // 2:
        raise UserError(
            f"the loss is NaN or infinite from learning rate {rates[finite]:.1g} on: nothing to suggest; "
            "try --precision fp32 or --gradient-clip 1"
        )
    smooth = _smoothed(losses[:finite])
    lowest = smooth.index(min(smooth[: finite if finite == len(losses) else finite - _WINDOW]))
    fall = smooth[0] - smooth[lowest]
    near = range(min(max(lowest + 1, 2 * _WINDOW), finite))
    noise = statistics.stdev(losses[i] - smooth[i] for i in near)
    if fall <= noise:
        raise UserError(
            f"the loss falls by at most {fall:.2g}, but differs by {noise:.2g} between batches: nothing to suggest; "
            f"larger batches differ less: --batch-size"
        )
    return float(f"{rates[lowest]:.1e}")


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Means over the steps around each, so that the curve is as smooth at its ends as in the middle."""
    return [statistics.fmean(losses[max(i - _WINDOW, 0) : i + _WINDOW + 1]) for i in range(len(losses))]

"""Which learning rate to begin with: a short run in which it grows, until the loss no longer falls (Smith 2015,
https://arxiv.org/abs/1506.01186)."""

from __future__ import annotations

import itertools
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from googlenet.errors import UserError
from googlenet.evaluation.plots import plot_rates
from googlenet.recipe import Recipe
from googlenet.training.fit import train_step
from googlenet.training.preparation import prepare
from googlenet.training.tracking import Average

_LOWEST, _HIGHEST = 1e-5, 1.0
_SMOOTHING = 0.9


@dataclass(frozen=True)
class RateSearch:
    """The loss at each learning rate, and what to take of it."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Smoothed, nats."""
    suggestion: float
    """Where the loss falls most steeply."""

    def to_dict(self) -> dict[str, Any]:
        return {"suggestion": self.suggestion, "rates": list(self.rates), "losses": list(self.losses)}


def find_learning_rate(recipe: Recipe, output: Path, *, steps: int = 100) -> RateSearch:
    """Train for some steps with a growing learning rate, draw the loss over it into `output`, a PNG.

    Raises:
        UserError: for a recipe that will not do, or data that no rate learns from in so few steps.
    """
    growth = (_HIGHEST / _LOWEST) ** (1 / (steps - 1))
    rates, losses, smoothed, best = [], [], 0.0, math.inf
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(recipe.model_copy(update={"track": "none"}), Path(folder) / "run")
        run.model.train()
        average = Average(run.device)
        # The same steps whatever the recipe's own schedule would do
        run.recipe = run.recipe.model_copy(update={"schedule": "constant", "max_steps": None, "freeze": 0.0})
        for step, (images, labels) in enumerate(itertools.islice(_endlessly(run.loader), steps)):
            rate = _LOWEST * growth**step
            run.recipe = run.recipe.model_copy(update={"learning_rate": rate})
            average.reset()
            train_step(run, images, labels, (average,))
            run.progress.step += 1
            loss = float(average.sums()[0] / average.sums()[2])
            smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
            rates.append(rate)
            losses.append(smoothed / (1 - _SMOOTHING ** (step + 1)))
            if not math.isfinite(losses[-1]) or (step >= 10 and losses[-1] >= 4 * best):
                break
            best = min(best, losses[-1])
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < 10:
        left = rates[min(len(finite), len(rates) - 1)]
        raise UserError(f"the loss is no number from the learning rate {left:.1g} on: nothing to suggest")
    search = RateSearch(tuple(rates[: len(finite)]), tuple(finite), _steepest(rates, finite))
    plot_rates(search.rates, search.losses, search.suggestion, output)
    return search


def _steepest(rates: list[float], losses: list[float]) -> float:
    """Before the lowest loss, the rate at which it falls fastest."""
    end = max(losses.index(min(losses)), 5)
    slopes = [losses[i + 2] - losses[i - 2] for i in range(2, end - 2)]
    return float(f"{rates[2 + slopes.index(min(slopes))]:.1e}")


def _endlessly(loader: Any) -> Any:
    while True:
        yield from loader

"""Which learning rate to begin with: a short run in which it grows, until the loss no longer falls (Smith 2015,
https://arxiv.org/abs/1506.01186)."""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from googlenet.errors import UserError
from googlenet.evaluation.plots import plot_learning_rates
from googlenet.recipe import Recipe
from googlenet.training.loop import train_step
from googlenet.training.run_folder import Average
from googlenet.training.setup import prepare

_LOWEST, _HIGHEST = 1e-5, 1.0
_AROUND = 6
"""Steps to either side that a smoothed loss is a mean of: a third of a power of ten."""
_FEWEST = 20


@dataclass(frozen=True)
class LearningRateSearch:
    """The loss at each learning rate, and what to take of it."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Smoothed, nats."""
    suggestion: float
    """Where the loss is lowest: the highest rate that still serves, which is what a schedule begins to fall from."""

    def to_dict(self) -> dict[str, Any]:
        return {"suggestion": self.suggestion, "rates": list(self.rates), "losses": list(self.losses)}


def find_learning_rate(recipe: Recipe, output: Path, *, steps: int = 100) -> LearningRateSearch:
    """Train for some steps with a growing learning rate, draw the loss over it into `output`, a PNG.

    Raises:
        UserError: for a recipe that will not do, or data that no rate learns anything from in so few steps.
    """
    if steps < _FEWEST:
        raise UserError(f"a search of {steps} steps finds nothing; take {_FEWEST} or more")
    growth = (_HIGHEST / _LOWEST) ** (1 / (steps - 1))
    rates: list[float] = []
    losses: list[float] = []
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
            rates.append(rate)
            losses.append(float(average.sums()[0] / average.sums()[2]))
            if _is_lost(losses):
                break
    suggestion = suggested_rate(rates, losses)
    finite = [loss for loss in losses if math.isfinite(loss)]
    search = LearningRateSearch(tuple(rates[: len(finite)]), tuple(_smoothed(finite)), suggestion)
    plot_learning_rates(search.rates, search.losses, search.suggestion, output)
    return search


def suggested_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate with the lowest smoothed loss. The losses may end in one that is no number: the rates just before it,
    whose means do not show yet what is coming, are not suggested.

    Raises:
        UserError: where the loss falls by no more than chance moves it, or is no number from the beginning.
    """
    whole = len(losses) if math.isfinite(losses[-1]) else len(losses) - 1
    if whole < _FEWEST // 2:
        raise UserError(f"the loss is no number from the learning rate {rates[whole]:.1g} on: nothing to suggest")
    smooth = _smoothed(losses[:whole])
    lowest = smooth.index(min(smooth[: whole if whole == len(losses) else whole - _AROUND]))
    fall = smooth[0] - smooth[lowest]
    around = range(min(max(lowest + 1, 2 * _AROUND), whole))
    noise = statistics.stdev(losses[i] - smooth[i] for i in around)
    if fall <= noise:
        raise UserError(
            f"the loss falls by {fall:.2g} at the most, while it differs by {noise:.2g} from batch to batch: nothing "
            f"to suggest; larger batches differ less: --batch-size"
        )
    return float(f"{rates[lowest]:.1e}")


def _is_lost(losses: Sequence[float]) -> bool:
    if not math.isfinite(losses[-1]):
        return True
    return len(losses) > 10 and statistics.fmean(losses[-5:]) >= 4 * min(_smoothed(losses))


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Means over the steps around each, so that the curve is as smooth at its ends as in its middle."""
    return [statistics.fmean(losses[max(i - _AROUND, 0) : i + _AROUND + 1]) for i in range(len(losses))]


def _endlessly(loader: Any) -> Any:
    while True:
        yield from loader

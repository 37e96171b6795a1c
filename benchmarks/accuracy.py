"""Seconds of training to an accuracy: whole runs of recipes, over several seeds."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.phases import measure_phases
from benchmarks.tables import Table
from googlenet.recipe import load_recipe
from googlenet.training.loop import train


def measure_accuracy(recipes: Sequence[str], seeds: int, device: str) -> Iterator[Table]:
    """Each recipe with seeds 0, 1, ...: test accuracy of the last weights, the test images having chosen nothing; then
    the phases of its training steps.

    The seconds of training are without the evaluation after each epoch; those of the whole run are from the reading of
    the data to the last picture drawn.
    """
    for name in recipes:
        recipe = load_recipe(name, device=device)
        rows: list[dict[str, Any]] = []
        for seed in range(seeds):
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                result = train(recipe, output=Path(folder) / "run", seed=seed)
            if result.interrupted:
                raise KeyboardInterrupt
            rows.append(
                {
                    "seed": str(seed),
                    "test accuracy, %": 100 * result.metrics["test"]["accuracy"],
                    "training, s": result.seconds,
                    "whole run, s": time.perf_counter() - started,
                }
            )
        yield Table(f"recipe {name} on {recipe.data}", [*rows, _mean_of(rows)], _recipe_in_words(name))
        yield measure_phases(name, recipe)


def _mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    columns = [column for column in rows[0] if column != "seed"]
    mean = {column: statistics.mean(row[column] for row in rows) for column in columns}
    deviation = statistics.stdev(row[columns[0]] for row in rows) if len(rows) > 1 else 0.0
    return {"seed": f"mean (deviation of the accuracy {deviation:.2f})", **mean}


def _recipe_in_words(name: str) -> str:
    recipe = load_recipe(name)
    size = recipe.image_size
    return f"{recipe.epochs:g} epochs, batch {recipe.batch_size}, {size}x{size}, {recipe.optimizer}"

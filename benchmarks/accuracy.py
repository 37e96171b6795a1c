"""Seconds of training to an accuracy: whole runs of recipes with several seeds, and the phases of their steps."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

import googlenet
from benchmarks.measuring import Table, synchronize

Phase = Literal["batch", "forward", "backward", "update"]
_PHASES: dict[Phase, str] = {
    "batch": "batch taken from memory, augmented, normalized; progress shown",
    "forward": "forward pass",
    "backward": "loss, metrics, backward pass",
    "update": "update of the weights",
}
_WATCHED_STEPS, _WARMUP = 60, 10


def measure_accuracy(recipes: Sequence[str], seeds: int, device: str) -> Iterator[Table]:
    """Each recipe with seeds 0, 1, ...: the test accuracy of the last weights, which no test image selected; then the
    phases of its training steps.

    The seconds of training are those without evaluation; a whole run is from reading the data to the last plot.
    """
    for name in recipes:
        recipe = googlenet.load_recipe(name, device=device)
        rows: list[dict[str, Any]] = []
        for seed in range(seeds):
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                result = googlenet.train(recipe, output=Path(folder) / "run", seed=seed)
            if result.interrupted:
                raise KeyboardInterrupt
            accuracy, seconds = 100 * result.metrics["test"]["accuracy"], time.perf_counter() - started
            row = {"test accuracy, %": accuracy, "training, s": result.seconds, "whole run, s": seconds}
            rows.append({"seed": str(seed), **row})
        note = f"{recipe.epochs:g} epochs, batch {recipe.batch_size}, {recipe.image_size}x{recipe.image_size}, "
        yield Table(f"recipe {name} on {recipe.data}", [*rows, _mean(rows)], note + recipe.optimizer)
        yield measure_phases(name, recipe)


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    columns = [column for column in rows[0] if column != "seed"]
    mean = {column: statistics.mean(row[column] for row in rows) for column in columns}
    deviation = statistics.stdev(row[columns[0]] for row in rows) if len(rows) > 1 else 0.0
    return {"seed": f"mean (standard deviation of the accuracy {deviation:.2f})", **mean}


def measure_phases(name: str, recipe: googlenet.Recipe) -> Table:
    """From a separate short run: watching waits for the device between the phases, which a timed run must not do."""
    phases = Phases()
    settings: dict[str, Any] = {"max_steps": _WATCHED_STEPS, "max_test_images": 1, "plots": False}
    with tempfile.TemporaryDirectory() as folder:
        result = googlenet.train(recipe, output=Path(folder) / "run", on_step=phases, **settings)
    if result.interrupted:
        raise KeyboardInterrupt
    return Table(f"a training step of the recipe {name}", phases.rows(), f"the median of {len(phases.steps)} steps")


class Phases:
    """An `on_step` for `googlenet.train` that times the phases of every step after the first few."""

    def __init__(self, warmup: int = _WARMUP) -> None:
        self.warmup = warmup
        self.steps: list[dict[Phase, float]] = []
        """Seconds of each phase of each watched step."""
        self._trainer: googlenet.Trainer | None = None
        self._step: dict[Phase, float] = dict.fromkeys(_PHASES, 0.0)
        self._phase: Phase = "batch"
        self._since = 0.0

    def __call__(self, trainer: googlenet.Trainer) -> None:
        if self._trainer is None:
            self._watch(trainer)
        else:
            self._begin("batch")
        if trainer.step > self.warmup:
            self.steps.append(self._step)
        self._step = dict.fromkeys(_PHASES, 0.0)
        self._since = time.perf_counter()

    def rows(self) -> list[dict[str, Any]]:
        """The phases, their milliseconds in the median step and their shares of all four."""
        medians = {phase: statistics.median(step[phase] for step in self.steps) for phase in _PHASES}
        total = sum(medians.values())
        return [
            {"phase": text, "ms": 1000 * medians[phase], "%": 100 * medians[phase] / total}
            for phase, text in _PHASES.items()
        ]

    def _watch(self, trainer: googlenet.Trainer) -> None:
        self._trainer = trainer
        synchronize(trainer.device)

        def begin_in_training(phase: Phase, net: nn.Module) -> None:
            if net.training:  # not while an epoch is evaluated
                self._begin(phase)

        trainer.net.register_forward_pre_hook(lambda net, *_: begin_in_training("forward", net))
        trainer.net.register_forward_hook(lambda net, *_: begin_in_training("backward", net))
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # as accelerate wraps it
        optimizer.register_step_pre_hook(lambda *_: self._begin("update"))

    def _begin(self, phase: Phase) -> None:
        assert self._trainer is not None
        synchronize(self._trainer.device)
        now = time.perf_counter()
        self._step[self._phase] += now - self._since
        self._phase, self._since = phase, now

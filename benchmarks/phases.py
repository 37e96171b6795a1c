"""Where the time of a training step goes, watched from outside while a recipe trains."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from torch import nn

from benchmarks.tables import Table
from googlenet.device import synchronize
from googlenet.recipe import Recipe
from googlenet.training.loop import train
from googlenet.training.setup import Run

Phase = Literal["batch", "forward", "backward", "update"]
_WORDS: dict[Phase, str] = {
    "batch": "batch taken from memory, changed, normalized; progress shown",
    "forward": "forward pass",
    "backward": "loss, figures, backward pass",
    "update": "update of the weights",
}
_STEPS = 60
_WARMUP = 10


def measure_phases(name: str, recipe: Recipe) -> Table:
    """A short run of its own, since watching waits for the device at each turn, which a quoted time must not do."""
    phases = Phases()
    short: dict[str, Any] = {"max_steps": _STEPS, "log_every": _STEPS, "test_images": 1, "pictures": False}
    with tempfile.TemporaryDirectory() as folder:
        result = train(recipe, output=Path(folder) / "run", on_step=phases, **short)
    if result.interrupted:
        raise KeyboardInterrupt
    return Table(f"a training step of the recipe {name}", phases.rows(), f"the median of {len(phases.steps)} steps")


class Phases:
    """Called after each step, as `train(on_step=...)` does: every step after the first few is watched."""

    def __init__(self, warmup: int = _WARMUP) -> None:
        self.warmup = warmup
        self.steps: list[dict[Phase, float]] = []
        """Seconds of each phase of each watched step."""
        self._run: Run | None = None
        self._step: dict[Phase, float] = dict.fromkeys(_WORDS, 0.0)
        self._now: Phase = "batch"
        self._since = 0.0

    def __call__(self, run: Run) -> None:
        if self._run is None:
            self._watch(run)
        else:
            self._enter("batch")
        if run.progress.step > self.warmup:
            self.steps.append(self._step)
        self._step = dict.fromkeys(_WORDS, 0.0)
        self._since = time.perf_counter()

    def rows(self) -> list[dict[str, Any]]:
        """Each phase in words, its milliseconds in the median step and its share of all four."""
        medians = {phase: statistics.median(step[phase] for step in self.steps) for phase in _WORDS}
        whole = sum(medians.values())
        return [
            {"phase": words, "ms": 1000 * medians[phase], "%": 100 * medians[phase] / whole}
            for phase, words in _WORDS.items()
        ]

    def _watch(self, run: Run) -> None:
        self._run = run
        synchronize(run.device)

        def enter_in_training(phase: Phase, net: nn.Module) -> None:
            if net.training:  # not where an epoch is judged
                self._enter(phase)

        run.net.register_forward_pre_hook(lambda net, *_: enter_in_training("forward", net))
        run.net.register_forward_hook(lambda net, *_: enter_in_training("backward", net))
        optimizer = getattr(run.optimizer, "optimizer", run.optimizer)  # as accelerate wraps it
        optimizer.register_step_pre_hook(lambda *_: self._enter("update"))

    def _enter(self, phase: Phase) -> None:
        assert self._run is not None
        synchronize(self._run.device)
        moment = time.perf_counter()
        self._step[self._now] += moment - self._since
        self._now, self._since = phase, moment

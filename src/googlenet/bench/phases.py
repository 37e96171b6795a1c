"""Where the time of a training step goes, watched from outside while a recipe trains."""

from __future__ import annotations

import statistics
import time
from typing import Any, Literal

from torch import nn

from googlenet.machine import synchronize
from googlenet.training.run import Run

Phase = Literal["batch", "forward", "backward", "update"]
_WORDS: dict[Phase, str] = {
    "batch": "batch: taken from memory, changed, normalised",
    "forward": "forward pass",
    "backward": "loss and backward pass",
    "update": "update of the weights, figures",
}
_EVERY = 10  # watching waits for the device at each turn, which must not slow the steps between


class Phases:
    """Called after each step, as `train(on_step=...)` does; the second step is watched, and every tenth after it."""

    def __init__(self) -> None:
        self.steps: list[dict[Phase, float]] = []
        """Seconds of each phase of each watched step."""
        self._run: Run | None = None
        self._step = dict.fromkeys(_WORDS, 0.0)
        self._now: Phase | None = None
        self._since = 0.0

    def __call__(self, run: Run) -> None:
        if self._run is not run:
            self._watch(run)
        if self._now is not None:
            self._enter("batch")
            self.steps.append(self._step)
        self._now = None
        if run.progress.step % _EVERY == 1:
            synchronize(run.device)
            self._step, self._now, self._since = dict.fromkeys(_WORDS, 0.0), "batch", time.perf_counter()

    def rows(self) -> list[dict[str, Any]]:
        """Each phase in words, its milliseconds in the median step and its share of all four."""
        medians = {phase: statistics.median(step[phase] for step in self.steps) for phase in _WORDS}
        whole = sum(medians.values())
        return [
            {"phase": words, "ms": 1000 * medians[phase], "%": 100 * medians[phase] / whole}
            for phase, words in _WORDS.items()
        ]

    def _watch(self, run: Run) -> None:
        self._run, self._now = run, None

        def enter_in_training(phase: Phase, net: nn.Module) -> None:
            if net.training:  # not where an epoch is judged
                self._enter(phase)

        run.net.register_forward_pre_hook(lambda net, *_: enter_in_training("forward", net))
        run.net.register_forward_hook(lambda net, *_: enter_in_training("backward", net))
        optimizer = getattr(run.optimizer, "optimizer", run.optimizer)  # as accelerate wraps it
        optimizer.register_step_pre_hook(lambda *_: self._enter("update"))

    def _enter(self, phase: Phase) -> None:
        if self._now is None or self._run is None:
            return
        synchronize(self._run.device)
        moment = time.perf_counter()
        self._step[self._now] += moment - self._since
        self._now, self._since = phase, moment

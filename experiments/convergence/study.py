"""The study of convergence, run: probes, a sweep of learning rates for each configuration, more seeds at the best."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

import torch

from experiments.convergence.cell import CellTask, ProbeTask, Result, Task
from experiments.convergence.grid import Configuration, Scale, cell, choose, configurations, rates, sweep_steps
from googlenet.device import available_cores, describe
from googlenet.errors import RunError, UserError
from googlenet.files import atomic_write

SERIES = ("curve", "on_the_way")
"""Of a result: what is a list by step."""

Progress = Callable[[int, int, float | None, str], None]
"""Told after each task: tasks done, tasks in all, seconds left (None: not known yet), what was done."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Everything that was run."""

    scale: Scale
    configurations: list[Configuration]
    results: list[Result]
    """One for each cell."""
    probes: list[Result]
    """One for each configuration, seed and layer."""

    def to_dict(self) -> dict[str, Any]:
        """The runs at each configuration's best learning rate, without their curves."""
        runs = [run for configuration in self.configurations for run in self.chosen(configuration)]
        return {
            "scale": dataclasses.asdict(self.scale),
            "runs": [{name: run[name] for name in run if name not in SERIES} for run in runs],
        }

    def probed(self, configuration: Configuration) -> list[Result]:
        """Each layer before the first step and on the way, with every seed, at the best learning rate."""
        start = [{"step": 0, **found} for found in self.probes if found["configuration"] == configuration.name]
        # A study of an earlier version, gone on with, has runs without
        named = [(run["configuration"], run["seed"], run.get("on_the_way", [])) for run in self.chosen(configuration)]
        return start + [{"configuration": name, "seed": seed, **row} for name, seed, rows in named for row in rows]

    def sweep(self, configuration: Configuration) -> list[Result]:
        """The runs that choose the configuration's learning rate."""
        return sweep(self.results, configuration, self.scale)

    def chosen(self, configuration: Configuration) -> list[Result]:
        """The runs at the configuration's best learning rate, by seed."""
        best = best_rate(self.sweep(configuration))
        whole = [r for r in self.results if r["configuration"] == configuration.name and r["steps"] == self.scale.steps]
        return sorted((r for r in whole if r["learning_rate"] == best), key=lambda result: result["seed"])


def study(
    folder: Path,
    scale: Scale,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    workers: int | None = None,
    progress: Progress = lambda *_: None,
) -> Study:
    """Run the grid, or what is left of it, in `folder`.

    Each configuration is trained with every one of its learning rates at seed 0, for a few steps; the one with the
    lowest loss over the last fifth of them is then trained with every seed.

    Args:
        folder: where everything is kept; what it holds already is not run again.
        scale: how large.
        only: factors or configurations, with those that they are compared with; all where it is empty.
        quick: leave out what is not for the quick grid.
        workers: processes side by side; left out, one for each core.
        progress: told after each task.

    Raises:
        UserError: for a word in `only` that the grid has not, or a folder of another study.
        RunError: where a process was killed; the same call goes on from there.
    """
    chosen = choose(configurations(scale), only, quick=quick)
    if workers is not None and workers < 1:
        raise UserError(f"workers are 1 or more, not {workers}")
    _claim(folder, scale)
    cores = available_cores()
    workers = workers or cores
    context = multiprocessing.get_context("spawn")
    stop = context.Semaphore(0)
    arguments = (max(1, cores // workers), stop)
    try:
        with ProcessPoolExecutor(workers, context, _begin_worker, arguments) as pool:
            try:
                results, probes = _Work(pool, folder, scale, progress).run(chosen)
            except BaseException:
                for _ in range(workers):  # an event would wait for those that are no more
                    stop.release()
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise RunError(f"a process of the study was killed; the same command with --output {folder} goes on") from error
    return Study(scale, chosen, results, probes)


def sweep(results: Sequence[Result], configuration: Configuration, scale: Scale) -> list[Result]:
    """Of the results, those that choose the configuration's learning rate."""
    steps = sweep_steps(configuration, scale)
    mine = [result for result in results if result["configuration"] == configuration.name]
    return [result for result in mine if result["seed"] == 0 and result["steps"] == steps]


def best_rate(tried: Sequence[Result]) -> float:
    """The learning rate with the lowest final loss."""
    return min(tried, key=lambda result: math.inf if result["final_loss"] is None else result["final_loss"])[
        "learning_rate"
    ]


class _Work:
    """The tasks under way, and what came of those that are done."""

    def __init__(self, pool: ProcessPoolExecutor, folder: Path, scale: Scale, progress: Progress) -> None:
        self.pool, self.folder, self.scale, self.progress = pool, folder, scale, progress
        self.running: dict[Future[Any], Task] = {}
        self.results: list[Result] = []
        self.probes: list[Result] = []
        self.sweeps_open: list[Configuration] = []

    def run(self, chosen: Sequence[Configuration]) -> tuple[list[Result], list[Result]]:
        """Every task of these configurations: (results of the cells, probes)."""
        for configuration in chosen:
            first = rates(configuration, self.scale)[0]
            for seed in range(self.scale.seeds):
                self._submit(ProbeTask(cell(configuration, self.scale, learning_rate=first, seed=seed), self.folder))
        for configuration in chosen:
            steps = sweep_steps(configuration, self.scale)
            for rate in rates(configuration, self.scale):
                tried = cell(configuration, self.scale, learning_rate=rate, seed=0, steps=steps)
                self._submit(CellTask(tried, self.folder, probed=steps == self.scale.steps))
        self.sweeps_open = list(chosen)
        total = len(self.running) + sum(len(self._seeds_to_come(configuration)) for configuration in chosen)
        done, spent, started = 0, 0, time.monotonic()
        while self.running:
            for future in wait(self.running, return_when=FIRST_COMPLETED).done:
                task = self.running.pop(future)
                self._take(future.result(), task)
                done, spent = done + 1, spent + task.steps_left
                seconds = (time.monotonic() - started) / spent * self._steps_left() if spent else None
                self.progress(done, total, seconds, task.name)
        return self.results, self.probes

    def _submit(self, task: Task) -> None:
        with _interrupts_held():  # a worker that this starts inherits it, and has no handler yet
            self.running[self.pool.submit(task)] = task

    def _take(self, outcome: Any, task: Task) -> None:
        if outcome is None:
            raise KeyboardInterrupt
        if isinstance(task, ProbeTask):
            self.probes += outcome
            return
        self.results.append(outcome)
        configuration = task.cell.configuration
        tried = sweep(self.results, configuration, self.scale)
        if configuration in self.sweeps_open and len(tried) == len(rates(configuration, self.scale)):
            self.sweeps_open.remove(configuration)
            for seed in self._seeds_to_come(configuration):
                again = cell(configuration, self.scale, learning_rate=best_rate(tried), seed=seed)
                self._submit(CellTask(again, self.folder))

    def _seeds_to_come(self, configuration: Configuration) -> range:
        """Seeds to be run after the sweep, whose runs count as seed 0 where they were whole ones."""
        whole = sweep_steps(configuration, self.scale) == self.scale.steps
        return range(1 if whole else 0, self.scale.seeds)

    def _steps_left(self) -> int:
        to_come = sum(len(self._seeds_to_come(configuration)) for configuration in self.sweeps_open) * self.scale.steps
        return to_come + sum(task.steps_left for task in self.running.values())


def _begin_worker(threads: int, stop: Semaphore) -> None:
    """A worker leaves at once when the study is told to stop or is gone: it would train on, and then wait for ever."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the study, which tells its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    for end in (stop.acquire, parent.join):
        threading.Thread(target=_leave_after, args=(end,), daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_after(end: Callable[[], object]) -> None:
    end()
    os._exit(1)


def _claim(folder: Path, scale: Scale) -> None:
    """Note in `folder` what is studied there. Raises `UserError` where it holds something else."""
    note = folder / "study.json"
    # More seeds may be added to what is there; all else would mix what cannot be compared
    described = {name: value for name, value in dataclasses.asdict(scale).items() if name != "seeds"}
    described["rates"] = list(scale.rates) if scale.rates else None
    if note.exists():
        before = json.loads(note.read_text(encoding="utf-8"))["scale"]
        if before != described:
            differing = next(name for name in described if before.get(name) != described[name])
            raise UserError(
                f"{folder} holds a study with {differing} = {before.get(differing)}, not {described[differing]}; "
                f"name another --output"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something that is no study; name another --output")
    with atomic_write(note) as temporary:
        content = {"scale": described, "machine": describe(torch.device("cpu"))}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

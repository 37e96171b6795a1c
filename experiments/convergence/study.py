"""Runs the study: probes, a sweep of learning rates for each configuration, then more seeds at the best one."""

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

from benchmarks.machine import available_cores, describe
from experiments.convergence.grid import Configuration, Scale, cell, choose, configurations, rates, sweep_steps
from experiments.convergence.tasks import CellTask, ProbeTask, Result, Task, write_text
from googlenet import RunError, UserError

SERIES = ("curve", "on_the_way")
"""Of a result: what is a list by step."""

Progress = Callable[[int, int, float | None, str], None]
"""Called after each task: tasks done, tasks in all, seconds left (None: not known yet), the task's name."""


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
        """Each layer before the first step and during training, with every seed, at the best learning rate."""
        start = [{"step": 0, **probe} for probe in self.probes if probe["configuration"] == configuration.name]
        return start + [
            {"configuration": configuration.name, "seed": run["seed"], **probe}
            for run in self.chosen(configuration)
            for probe in run["on_the_way"]
        ]

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
    """Run the grid, or the rest of it, in `folder`.

    Each configuration is trained with every one of its learning rates at seed 0, for a few steps. The rate with the
    lowest loss over the last fifth of them is then trained with every seed.

    Args:
        folder: of all results; those it has already are not run again.
        scale: how large.
        only: factors or configurations, with those that they are compared with; empty: all.
        quick: the quick grid.
        workers: processes; default: one for each core.
        progress: called after each task.

    Raises:
        UserError: for a word in `only` that the grid does not have, or a folder of something else.
        RunError: if a process was killed; the same call continues from there.
    """
    chosen = choose(configurations(), only, quick=quick)
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be 1 or more, not {workers}")
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
                for _ in range(workers):  # an event would wait for processes that are gone
                    stop.release()
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise RunError(
            f"a process of the study was killed; the same command with --output {folder} continues"
        ) from error
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
    """The running tasks, and the results of those that are done."""

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
        total = len(self.running) + sum(len(self._seeds_left(configuration)) for configuration in chosen)
        done, spent, started = 0, 0, time.monotonic()
        while self.running:
            for future in wait(self.running, return_when=FIRST_COMPLETED).done:
                task = self.running.pop(future)
                self._collect(future.result(), task)
                done, spent = done + 1, spent + task.steps_left
                seconds = (time.monotonic() - started) / spent * self._steps_left() if spent else None
                self.progress(done, total, seconds, task.name)
        return self.results, self.probes

    def _submit(self, task: Task) -> None:
        with _interrupts_blocked():  # a worker that this starts inherits the mask, and has no handler yet
            self.running[self.pool.submit(task)] = task

    def _collect(self, result: Any, task: Task) -> None:
        if result is None:
            raise KeyboardInterrupt
        if isinstance(task, ProbeTask):
            self.probes += result
            return
        self.results.append(result)
        configuration = task.cell.configuration
        tried = sweep(self.results, configuration, self.scale)
        if configuration in self.sweeps_open and len(tried) == len(rates(configuration, self.scale)):
            self.sweeps_open.remove(configuration)
            for seed in self._seeds_left(configuration):
                again = cell(configuration, self.scale, learning_rate=best_rate(tried), seed=seed)
                self._submit(CellTask(again, self.folder))

    def _seeds_left(self, configuration: Configuration) -> range:
        """Seeds to run after the sweep, whose runs count as seed 0 if they have all steps."""
        whole = sweep_steps(configuration, self.scale) == self.scale.steps
        return range(1 if whole else 0, self.scale.seeds)

    def _steps_left(self) -> int:
        waiting = sum(len(self._seeds_left(configuration)) for configuration in self.sweeps_open) * self.scale.steps
        return waiting + sum(task.steps_left for task in self.running.values())


def _begin_worker(threads: int, stop: Semaphore) -> None:
    """A worker exits at once if the study stops or is killed: it would train on, and then wait forever."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which stops its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    for end in (stop.acquire, parent.join):
        threading.Thread(target=_exit_after, args=(end,), daemon=True).start()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_after(end: Callable[[], object]) -> None:
    end()
    os._exit(1)


def _claim(folder: Path, scale: Scale) -> None:
    """Note in `folder` what is studied there. Raises `UserError` if it holds something else."""
    note = folder / "study.json"
    # More seeds may be added; a change of anything else would mix what cannot be compared
    settings = {name: value for name, value in dataclasses.asdict(scale).items() if name != "seeds"}
    settings["rates"] = list(scale.rates) if scale.rates else None
    if note.exists():
        before = json.loads(note.read_text(encoding="utf-8"))["scale"]
        if before != settings:
            name = next(name for name in settings if before.get(name) != settings[name])
            raise UserError(
                f"{folder} holds a study with {name} = {before.get(name)}, not {settings[name]}; use another --output"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty and not a study; choose another --output")
    write_text(note, json.dumps({"scale": settings, "machine": describe(torch.device("cpu"))}, indent=2) + "\n")

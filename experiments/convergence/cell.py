"""One run of the study: trained by `googlenet.train`, read off its rows, and kept, so that it is never run twice."""

from __future__ import annotations

import json
import math
import shutil
import sys
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from experiments.convergence.grid import Cell
from experiments.convergence.probe import probe, probe_start
from googlenet.errors import DivergedError
from googlenet.files import atomic_write
from googlenet.recipe import load_recipe
from googlenet.training.loop import train
from googlenet.training.run_folder import Row, RunFolder
from googlenet.training.setup import Run

PLATEAU = 2.2
"""A loss clearly below ln 10 = 2.303, which is guessing."""
SHORT, LONG = 20, 100
"""Steps that a figure is averaged over: for the plateau, and for what is told apart less easily from noise."""

PROBED = (10, 30, 100, 300, 1000)
"""Steps after which a run's network is looked at."""

Result = dict[str, Any]


class Task:
    """Something to be done once in another process; calling it gives what was kept, if anything was."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell, self.folder = cell, folder
        self.steps_left = 0 if self.kept.exists() else self.steps

    @property
    def name(self) -> str:
        return self.cell.folder_name

    @property
    def kept(self) -> Path:
        """The file that holds the outcome."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """What it costs, in steps of training."""
        raise NotImplementedError

    def work(self) -> Any:
        """The outcome; None where it was told to stop."""
        raise NotImplementedError

    def __call__(self) -> Any:
        if self.kept.exists():
            return json.loads(self.kept.read_text(encoding="utf-8"))
        outcome = self.work()
        if outcome is not None:
            with atomic_write(self.kept) as temporary:
                temporary.write_text(json.dumps(outcome), encoding="utf-8")
        return outcome


class CellTask(Task):
    """Train a cell in `folder`/cells and read off its rows; `probed`: look at its layers on the way."""

    def __init__(self, cell: Cell, folder: Path, *, probed: bool = True) -> None:
        super().__init__(cell, folder)
        self.probed = probed

    @property
    def kept(self) -> Path:
        return self.folder / "cells" / self.name / "result.json"

    @property
    def steps(self) -> int:
        return self.cell.steps

    def work(self) -> Result | None:
        place = self.kept.parent
        shutil.rmtree(place, ignore_errors=True)  # a run that was killed left it
        place.mkdir(parents=True)
        test = None
        on_the_way: list[Result] = []

        def look(run: Run) -> None:
            if self.probed and (step := run.progress.step) in PROBED:
                layers = probe(run.net, run.input, run.dataset)
                found = [{"step": step, **layer.to_dict()} for layer in layers]
                if all(math.isfinite(layer.gradient) for layer in layers):  # else the run is about to diverge
                    on_the_way.extend(found)

        with (place / "log.txt").open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                outcome = train("tutorial", output=place / "run", on_step=look, **self.cell.settings)
                if outcome.interrupted:
                    return None
                test = outcome.metrics["test"]
            except DivergedError as error:
                print(error)
        rows = _main_rows(self.cell, RunFolder(place / "run").rows())
        # The weights of hundreds of runs would fill a disk, and nothing here asks for them
        shutil.rmtree(place / "run" / "checkpoints")
        (place / "run" / "model.safetensors").unlink(missing_ok=True)
        return {**_result(self.cell, rows, test), "on_the_way": on_the_way}


class ProbeTask(Task):
    """What the cell's network is like before its first step, kept in `folder`/probes."""

    @property
    def kept(self) -> Path:
        return self.folder / "probes" / f"{self.name}.json"

    @property
    def name(self) -> str:
        return f"{self.cell.folder_name.partition('_rate-')[0]}_probe-{self.cell.seed}"

    @property
    def steps(self) -> int:
        return 20

    def work(self) -> list[Result]:
        layers = probe_start(self.cell.settings)
        named = {"configuration": self.cell.configuration.name, "seed": self.cell.seed}
        return [{**named, **layer.to_dict()} for layer in layers]


def _main_rows(cell: Cell, rows: list[Row]) -> list[Row]:
    """The training rows; with auxiliary heads the loss is the three heads' weighted mean instead of their sum."""
    recipe = load_recipe("tutorial", **cell.settings)
    weights = 1 + 2 * recipe.auxiliary_weight if recipe.auxiliary else 1.0
    return [{**row, "loss": row["loss"] / weights} for row in rows if row["split"] == "train"]


def _result(cell: Cell, rows: list[Row], test: dict[str, float] | None) -> Result:
    return {
        "configuration": cell.configuration.name,
        "learning_rate": cell.learning_rate,
        "seed": cell.seed,
        "steps": cell.steps,
        "diverged": test is None,
        **milestones(rows, diverged=test is None),
        "test_loss": test and test["loss"],
        "test_accuracy": test and test["accuracy"],
        "curve": [[row["step"], round(row["loss"], 4)] for row in rows],
    }


def milestones(rows: list[Row], *, diverged: bool = False) -> Result:
    """When a run got where, in steps and seconds, from its training rows; None for what it did not reach.

    - `plateau`: from here to the end the loss over 20 steps stays below 2.2.
    - `loss_1`, `loss_0.5`, `accuracy_85`, `accuracy_90`: reached as an average over 100 steps. Within the first epoch
      these are images that the network has not learned from yet, so it is as good as a test.
    - `final_loss`: the average over the last fifth of the run; None where the loss became no number.
    """
    short, long = smoothed(rows, SHORT, "loss"), smoothed(rows, LONG, "loss")
    accuracy = smoothed(rows, LONG, "accuracy")
    last_above = max((index for index, loss in enumerate(short) if not loss < PLATEAU), default=-1)
    reached = {
        "plateau": len(rows) if diverged else last_above + 1,
        "loss_1": _first(loss <= 1.0 for loss in long),
        "loss_0.5": _first(loss <= 0.5 for loss in long),
        "accuracy_85": _first(share >= 0.85 for share in accuracy),
        "accuracy_90": _first(share >= 0.90 for share in accuracy),
    }
    found: Result = {}
    for name, index in reached.items():
        row = rows[index] if index < len(rows) else {"step": None, "seconds": None}
        found[f"{name}_steps"], found[f"{name}_seconds"] = row["step"], row["seconds"]
    last = [row["loss"] for row in rows if row["step"] > 0.8 * rows[-1]["step"]]
    found["final_loss"] = None if diverged else sum(last) / len(last)
    return found


def smoothed(rows: list[Row], window: int, figure: str) -> list[float]:
    """For each row the average over the `window` steps up to it; not a number where so many are not done yet."""
    steps, sums = [0], [0.0]
    averages = []
    for row in rows:
        sums.append(sums[-1] + row[figure] * (row["step"] - steps[-1]))
        steps.append(row["step"])
        start = bisect_right(steps, row["step"] - window) - 1
        enough = start >= 0
        averages.append((sums[-1] - sums[start]) / (steps[-1] - steps[start]) if enough else math.nan)
    return averages


def _first(hits: Iterable[bool]) -> int:
    """The index of the first hit; past every index where there is none."""
    return next((index for index, hit in enumerate(hits) if hit), sys.maxsize)

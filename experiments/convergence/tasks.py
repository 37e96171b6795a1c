"""One run of the study, trained by `googlenet.train`, and its results in a file, so that it never runs twice."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

import googlenet
from experiments.convergence.grid import Cell
from experiments.convergence.networks import IMAGES, probe

PLATEAU = 2.2
"""A loss clearly below ln 10 = 2.303, which is guessing."""
SHORT, LONG = 20, 100
"""Steps that a figure is averaged over: for the plateau, and for what is harder to tell from noise."""

PROBED = (10, 30, 100, 300, 1000)
"""Steps after which a run's network is probed."""

Result = dict[str, Any]


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing, also if the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


class Task:
    """Work to be done once, in another process. Calling it returns the result, from its file if that exists."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell, self.folder = cell, folder
        self.steps_left = 0 if self.file.exists() else self.steps

    @property
    def name(self) -> str:
        return self.cell.folder_name

    @property
    def file(self) -> Path:
        """Holds the result."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """What the task costs, in steps of training."""
        raise NotImplementedError

    def work(self) -> Any:
        """The result; None if interrupted."""
        raise NotImplementedError

    def __call__(self) -> Any:
        if self.file.exists():
            return json.loads(self.file.read_text(encoding="utf-8"))
        result = self.work()
        if result is not None:
            write_text(self.file, json.dumps(result))
        return result


class CellTask(Task):
    """Train a cell in `folder`/cells and read its rows; `probed`: also probe its layers during training."""

    def __init__(self, cell: Cell, folder: Path, *, probed: bool = True) -> None:
        super().__init__(cell, folder)
        self.probed = probed

    @property
    def file(self) -> Path:
        return self.folder / "cells" / self.name / "result.json"

    @property
    def steps(self) -> int:
        return self.cell.steps

    def work(self) -> Result | None:
        folder = self.file.parent
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        folder.mkdir(parents=True)
        net, test = self.cell.build(), None
        probes: list[Result] = []
        trainer: googlenet.Trainer | None = None

        def look(current: googlenet.Trainer) -> None:
            nonlocal trainer
            trainer = current
            if self.probed and current.step in PROBED:
                layers = probe(net, current.input_spec, current.dataset.train)
                if all(math.isfinite(layer.gradient) for layer in layers):  # else the run is about to diverge
                    probes.extend({"step": current.step, **layer.to_dict()} for layer in layers)

        with (folder / "log.txt").open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                trained = googlenet.train(
                    "tutorial", model=net, output=folder / "run", on_step=look, **self.cell.settings
                )
                if trained.interrupted:
                    return None
                test = trained.metrics["test"]
            except googlenet.RunError as error:
                if trainer is None or not _has_diverged(net, trainer):
                    raise
                print(error)
        rows = _training_rows(self.cell, folder / "run")
        # The weights of hundreds of runs would fill the disk, and nothing needs them
        shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
        (folder / "run" / "model.safetensors").unlink(missing_ok=True)
        return {**_result(self.cell, rows, test), "on_the_way": probes}


class ProbeTask(Task):
    """The layers of a cell's network before its first step, in `folder`/probes."""

    @property
    def file(self) -> Path:
        return self.folder / "probes" / f"{self.name}.json"

    @property
    def name(self) -> str:
        return f"{self.cell.folder_name.partition('_rate-')[0]}_probe-{self.cell.seed}"

    @property
    def steps(self) -> int:
        return 20

    def work(self) -> list[Result]:
        # As the recipe `tutorial` prepares images: pixels from 0 to 1
        spec = googlenet.InputSpec(1, self.cell.settings["image_size"], (0.0,), (1.0,))
        layers = probe(self.cell.build(), spec, googlenet.load_dataset("fashion-mnist").train)
        configuration = {"configuration": self.cell.configuration.name, "seed": self.cell.seed}
        return [{**configuration, **layer.to_dict()} for layer in layers]


@torch.no_grad()
def _has_diverged(net: nn.Module, trainer: googlenet.Trainer) -> bool:
    """Whether the network's logits are NaN or infinite: the reason why `train` failed, and not a full disk."""
    images, _ = trainer.dataset.train.__getitems__(range(IMAGES))
    output = net(trainer.input_spec.prepare(images).to(trainer.device))
    return not bool((output[0] if isinstance(output, tuple) else output).isfinite().all())


def _training_rows(cell: Cell, run: Path) -> list[Result]:
    """The training rows; with auxiliary heads, the loss is the three heads' weighted mean instead of their sum."""
    recipe = googlenet.load_recipe("tutorial", **cell.settings)
    weights = 1 + 2 * recipe.auxiliary_weight if cell.configuration.network.auxiliary else 1.0
    rows = googlenet.RunFolder(run).rows()
    return [{**row, "loss": row["loss"] / weights} for row in rows if row["split"] == "train"]


def _result(cell: Cell, rows: list[Result], test: dict[str, float] | None) -> Result:
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


def milestones(rows: list[Result], *, diverged: bool = False) -> Result:
    """When a run reached what, in steps and seconds, from its training rows; None for what it did not reach.

    - `plateau`: from here to the end the loss over 20 steps stays below 2.2.
    - `loss_1`, `loss_0.5`, `accuracy_85`, `accuracy_90`: reached as an average over 100 steps. Within the first epoch
      these are images that the network has not learned from yet, so it is as good as a test.
    - `final_loss`: the average over the last fifth of the run; None if the run diverged.
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
    marks: Result = {}
    for name, index in reached.items():
        row = rows[index] if index < len(rows) else {"step": None, "seconds": None}
        marks[f"{name}_steps"], marks[f"{name}_seconds"] = row["step"], row["seconds"]
    last = [row["loss"] for row in rows if row["step"] > 0.8 * rows[-1]["step"]]
    marks["final_loss"] = None if diverged else sum(last) / len(last)
    return marks


def smoothed(rows: list[Result], window: int, figure: str) -> list[float]:
    """For each row the average over the `window` steps up to it; NaN before that many are done."""
    steps, sums = [0], [0.0]
    averages = []
    for row in rows:
        sums.append(sums[-1] + row[figure] * (row["step"] - steps[-1]))
        steps.append(row["step"])
        start = bisect_right(steps, row["step"] - window) - 1
        is_enough = start >= 0
        averages.append((sums[-1] - sums[start]) / (steps[-1] - steps[start]) if is_enough else math.nan)
    return averages


def _first(hits: Iterable[bool]) -> int:
    """The index of the first hit; beyond every index if there is none."""
    return next((index for index, hit in enumerate(hits) if hit), sys.maxsize)

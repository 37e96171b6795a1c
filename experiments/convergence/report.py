"""The study's tables and its report, written from its results."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.convergence.grid import BASELINE, Configuration, rates, sweep_steps
from experiments.convergence.networks import IMAGES
from experiments.convergence.plots import geometric_mean, plot_losses, plot_on_the_way, plot_plateau, plot_probes
from experiments.convergence.study import SERIES, Study
from experiments.convergence.tasks import LONG, PLATEAU, PROBED, SHORT, Result, write_text

# Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom; beyond these, the normal one is close enough.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)

MILESTONES = {
    "plateau": "leave the plateau",
    "loss_1": "loss 1.0",
    "loss_0.5": "loss 0.5",
    "accuracy_85": "85%",
    "accuracy_90": "90%",
}


@dataclass(frozen=True)
class Mean:
    """A mean over seeds."""

    value: float
    half_width: float
    """Of the 95% interval by Student's t; NaN for fewer than two values."""
    count: int

    @property
    def differs_from_zero(self) -> bool:
        """Whether 0 is outside the interval."""
        return abs(self.value) > self.half_width

    def text(self, digits: int) -> str:
        if math.isnan(self.half_width):
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} ± {self.half_width:.{digits}f}"


def mean(values: Sequence[float]) -> Mean:
    """The mean of one value or more."""
    count = len(values)
    middle = sum(values) / count
    if count < 2:
        return Mean(middle, math.nan, count)
    deviation = math.sqrt(sum((value - middle) ** 2 for value in values) / (count - 1))
    quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.960
    return Mean(middle, quantile * deviation / math.sqrt(count), count)


def write_report(study: Study, folder: Path) -> Path:
    """`report.md`, `results.csv`, `probes.csv` and four plots; returns the report's path."""
    _write_csv(folder / "results.csv", [{k: v for k, v in r.items() if k not in SERIES} for r in study.results])
    _write_csv(folder / "probes.csv", [row for one in study.configurations for row in study.probed(one)])
    plot_losses(study, folder / "losses.png")
    plot_plateau(study, folder / "plateau.png")
    plot_probes(study, folder / "probes.png")
    plot_on_the_way(study, folder / "on_the_way.png")
    report = folder / "report.md"
    write_text(report, "\n".join(_lines(study)) + "\n")
    return report


def _lines(study: Study) -> Iterable[str]:
    scale, several = study.scale, "s" if study.scale.seeds > 1 else ""
    sweep = sweep_steps(study.configurations[0], scale)
    yield "# Why GoogLeNet converges slowly: the results"
    yield ""
    yield (
        f"The recipe `tutorial` at {scale.image_size}x{scale.image_size}, batch {scale.batch_size}, {scale.steps} "
        f"steps a run, {scale.seeds} seed{several}, with one thing changed. The learning rate of each configuration "
        f"is the one that did best over the last fifth of {sweep} steps at seed 0. Intervals are 95%, Student's t over "
        "the seeds. Accuracy and losses during training are of the training batches, which in the first epoch are "
        "images that the network has not learned from yet. With auxiliary heads, a loss is the weighted mean of the "
        "three."
    )
    yield from ("", "## Steps to each milestone", "", *_milestone_table(study), "", "![](plateau.png)", "")
    yield (
        f"The plateau is left at the step from which the loss over {SHORT} steps stays below {PLATEAU}; the other "
        f"marks are averages over {LONG} steps. In brackets: how many of the seeds got there, if not all; the "
        f"mean is of these."
    )
    yield from ("", "## At the end", "", *_final_table(study), "", "![](losses.png)", "")
    yield (
        "The difference is in the loss over the last fifth of the run, to the configuration named after it, paired by "
        "seed; below 0 is better. It is in bold if 0 is outside the interval."
    )
    yield from ("", "## Learning rates", "", *_rate_table(study), "")
    yield f"Loss over the last fifth of {sweep} steps at seed 0. In bold: the rate that was chosen."
    yield from ("", "## Before the first step", "", *_probe_table(study), "", "![](probes.png)", "")
    yield (
        f"Standard deviation over {IMAGES} training images of a layer's outputs (root mean square over its "
        "outputs), and root mean square of the loss's gradient with respect to its kernels; geometric means over the "
        "seeds. Adam divides by the gradient's size plus 1e-8, so gradients far below 1e-8 move nothing."
    )
    yield from ("", "## During training", "", *_way_table(study), "", "![](on_the_way.png)", "")
    yield "Standard deviation of the logits over the same images, at the chosen rate: geometric means over the seeds."


def _milestone_table(study: Study) -> list[str]:
    rows = []
    for configuration in study.configurations:
        runs = study.chosen(configuration)
        steps = [_steps([run[f"{name}_steps"] for run in runs]) for name in MILESTONES]
        seconds = [run["plateau_seconds"] for run in runs if run["plateau_seconds"] is not None]
        rows.append([configuration.name, *steps, mean(seconds).text(1) if seconds else "-"])
    return _table(["", *(f"steps to {text}" for text in MILESTONES.values()), "seconds to leave the plateau"], rows)


def _steps(values: Sequence[int | None]) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    return mean(there).text(0) + ("" if len(there) == len(values) else f" ({len(there)} of {len(values)})")


def _final_table(study: Study) -> list[str]:
    rows = []
    for configuration in study.configurations:
        runs = [run for run in study.chosen(configuration) if not run["diverged"]]
        if not runs:
            rows.append([configuration.name, f"{study.chosen(configuration)[0]['learning_rate']:g}", "diverged"])
            continue
        rows.append(
            [
                configuration.name,
                f"{runs[0]['learning_rate']:g}",
                mean([run["final_loss"] for run in runs]).text(3),
                _difference(study, configuration),
                mean([100 * run["test_accuracy"] for run in runs]).text(1),
            ]
        )
    return _table(["", "learning rate", "loss at the end", "difference", "test accuracy, %"], rows)


def _difference(study: Study, configuration: Configuration) -> str:
    if configuration.name == BASELINE:
        return ""
    (reference,) = (other for other in study.configurations if other.name == configuration.against)
    losses = {run["seed"]: run["final_loss"] for run in study.chosen(reference)}
    pairs = [(run["final_loss"], losses.get(run["seed"])) for run in study.chosen(configuration)]
    differences = [mine - other for mine, other in pairs if mine is not None and other is not None]
    if not differences:
        return ""
    difference = mean(differences)
    text = difference.text(3)
    return f"{f'**{text}**' if difference.differs_from_zero else text} to {reference.name}"


def _rate_table(study: Study) -> list[str]:
    tried = sorted({rate for configuration in study.configurations for rate in rates(configuration, study.scale)})
    rows = []
    for configuration in study.configurations:
        swept = {r["learning_rate"]: r for r in study.sweep(configuration)}
        best = study.chosen(configuration)[0]["learning_rate"]
        rows.append([configuration.name, *(_loss(swept.get(rate), bold=rate == best) for rate in tried)])
    return _table(["", *(f"{rate:g}" for rate in tried)], rows)


def _loss(result: Result | None, *, bold: bool) -> str:
    if result is None:
        return ""
    text = "diverged" if result["final_loss"] is None else f"{result['final_loss']:.3f}"
    return f"**{text}**" if bold else text


def _probe_table(study: Study) -> list[str]:
    shown = [("spread", "conv1"), ("spread", "fc"), ("gradient", "conv1"), ("gradient", "fc")]
    rows = []
    for configuration in study.configurations:
        mine = [probe for probe in study.probes if probe["configuration"] == configuration.name]
        values = [[probe[figure] for probe in mine if probe["layer"] == layer] for figure, layer in shown]
        rows.append([configuration.name, *(f"{geometric_mean(value):.1e}" for value in values)])
    headings = ["std after conv1", "std of the logits", "gradient of conv1", "gradient of fc"]
    return _table(["", *headings], rows)


def _way_table(study: Study) -> list[str]:
    steps = [step for step in (0, *PROBED) if step <= study.scale.steps]
    rows = []
    for configuration in study.configurations:
        logits = [row for row in study.probed(configuration) if row["layer"] == "fc"]
        at = [[row["spread"] for row in logits if row["step"] == step] for step in steps]
        rows.append([configuration.name, *(f"{geometric_mean(values):.1e}" if values else "" for values in at)])
    return _table(["", *(f"after {step} steps" for step in steps)], rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join([*line, *[""] * (len(headings) - len(line))]) + " |" for line in lines]


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())

"""The study's plots. Each function writes one PNG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.convergence.grid import BASELINE, Configuration
from experiments.convergence.study import Study
from experiments.convergence.tasks import PLATEAU, SHORT, smoothed

ADAM_EPSILON = 1e-8


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches, saved to `path` at the end."""
    figure = Figure((width, height), layout="constrained")
    yield figure
    figure.savefig(path, dpi=110)


def geometric_mean(values: Sequence[float]) -> float:
    """Of one value or more; a 0 counts as 1e-30, so that a plot shows the others too."""
    return math.exp(sum(math.log(max(value, 1e-30)) for value in values) / len(values))


def plot_losses(study: Study, path: Path) -> None:
    """The loss over the steps, a panel for each factor: the mean over the seeds, and from the lowest to the highest."""
    levels = [configuration for configuration in study.configurations if configuration.name != BASELINE]
    panels = [
        (factor, list(group)) for factor, group in groupby(levels, key=lambda configuration: configuration.factor)
    ]
    columns = min(3, max(1, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    with drawing(path, 4.6 * columns, 3.4 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (factor, group) in zip(grid.flat, panels, strict=False):
            names = {configuration.against for configuration in group}
            references = [configuration for configuration in study.configurations if configuration.name in names]
            for configuration in references:
                _loss(axes, study, configuration, color="black" if configuration.name == BASELINE else None)
            for configuration in group:
                _loss(axes, study, configuration)
            axes.axhline(math.log(10), color="gray", linestyle=":", linewidth=1)
            axes.set(title=factor.replace("_", " "), xlabel="step")
            axes.set_ylim(0, 2.6)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
        for axes in grid[:, 0]:
            axes.set_ylabel(f"loss, over {SHORT} steps")
        for axes in list(grid.flat)[len(panels) :]:
            axes.axis("off")


def _loss(axes: Axes, study: Study, configuration: Configuration, color: str | None = None) -> None:
    runs = [run for run in study.chosen(configuration) if not run["diverged"]]
    if not runs:
        return
    steps = [step for step, _ in runs[0]["curve"]]
    curves = np.array([_smooth(run["curve"]) for run in runs])
    (line,) = axes.plot(steps, curves.mean(axis=0), label=configuration.name, color=color, linewidth=1.5)
    axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=line.get_color(), alpha=0.15)


def _smooth(curve: Sequence[Sequence[float]]) -> list[float]:
    return smoothed([{"step": step, "loss": loss} for step, loss in curve], SHORT, "loss")


def plot_plateau(study: Study, path: Path) -> None:
    """Steps until the plateau is left, a dot for each seed; an arrow for a run that did not leave it."""
    shown = list(reversed(study.configurations))
    with drawing(path, 8, 1 + 0.3 * len(shown)) as figure:
        axes = figure.subplots()
        for height, configuration in enumerate(shown):
            for run in study.chosen(configuration):
                steps = run["plateau_steps"]
                offset = height + 0.12 * (run["seed"] - (study.scale.seeds - 1) / 2)
                axes.plot(
                    run["curve"][-1][0] if steps is None else steps,
                    offset,
                    marker=">" if steps is None else "o",
                    color="tab:red" if steps is None else "tab:blue",
                    markersize=5,
                )
        axes.set_yticks(range(len(shown)), [configuration.name for configuration in shown])
        axes.set(xlabel=f"steps until the loss stays below {PLATEAU} (red: not within the run)")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)


def plot_probes(study: Study, path: Path) -> None:
    """Before the first step, layer by layer: how much the outputs differ between images, and the gradient."""
    with drawing(path, 13, 4.6) as figure:
        spread, gradient = figure.subplots(1, 2, sharex=True)
        for configuration in study.configurations:
            if configuration.factor not in ("baseline", "initialization", "normalization"):
                continue
            mine = [probe for probe in study.probes if probe["configuration"] == configuration.name]
            layers = list(dict.fromkeys(probe["layer"] for probe in mine))
            for axes, figure_name in ((spread, "spread"), (gradient, "gradient")):
                values = [[probe[figure_name] for probe in mine if probe["layer"] == layer] for layer in layers]
                middle = [geometric_mean(value) for value in values]
                # Another may lie on the baseline to the width of a line
                drawn = {"color": "black", "linestyle": "--", "zorder": 3} if configuration.name == BASELINE else {}
                axes.plot(range(len(layers)), middle, marker="o", markersize=3, label=configuration.name, **drawn)
                axes.set_xticks(range(len(layers)), [layer.removeprefix("inception") for layer in layers], rotation=60)
        gradient.axhline(ADAM_EPSILON, color="gray", linestyle=":", label="Adam's epsilon")
        for axes, title in (
            (spread, "standard deviation of a layer's outputs over images"),
            (gradient, "root mean square of the gradient of a layer's kernels"),
        ):
            axes.set(title=title, yscale="log")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)


def plot_on_the_way(study: Study, path: Path) -> None:
    """How much the outputs differ between images, layer by layer, before the first step and during training; a panel
    for each initialization and normalization."""
    shown = [c for c in study.configurations if c.factor in ("baseline", "initialization", "normalization")]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    with drawing(path, 4.2 * columns, 3.6 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, configuration in zip(grid.flat, shown, strict=False):
            probed = study.probed(configuration)
            layers = list(dict.fromkeys(row["layer"] for row in probed))
            steps = sorted({row["step"] for row in probed})
            for place, step in enumerate(steps):
                now = [row for row in probed if row["step"] == step]
                middle = [geometric_mean([row["spread"] for row in now if row["layer"] == layer]) for layer in layers]
                color = colormaps["viridis"](place / max(1, len(steps) - 1))
                axes.plot(
                    range(len(layers)), middle, marker="o", markersize=3, color=color, label=f"after {step} steps"
                )
            axes.set_xticks(range(len(layers)), [layer.removeprefix("inception") for layer in layers], rotation=60)
            axes.set(title=configuration.name, yscale="log")
            axes.grid(alpha=0.3)
        for axes in grid[:, 0]:
            axes.set_ylabel("standard deviation over images")
        grid[0, 0].legend(fontsize=7)
        for axes in list(grid.flat)[len(shown) :]:
            axes.axis("off")

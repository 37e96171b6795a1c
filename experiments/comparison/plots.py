"""The comparison as one picture: accuracy over compute, the size of a bubble showing the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from experiments.comparison.compare import Entry
from googlenet.errors import UserError
from googlenet.evaluation.plots import drawing

_POINTS_PER_MILLION = 22
"""Area of a bubble, in square points, for a million parameters."""


def plot_bubbles(entries: Sequence[Entry], path: Path) -> None:
    """One PNG: the accuracy reached here where the networks were trained here, else the published one on ImageNet.

    Raises:
        UserError: where no accuracy is known.
    """
    trained = any(entry.training for entry in entries)
    placed = [(entry, 100 * accuracy) for entry in entries if (accuracy := _accuracy(entry, trained)) is not None]
    if not placed:
        raise UserError("none of these networks has a published accuracy to plot; add --train, or compare others")
    placed.sort(key=lambda pair: -pair[1])
    with drawing(path, 9, 5.6) as figure:
        axes = figure.subplots()
        labels = []
        for entry, accuracy in placed:
            giga, millions = entry.multiply_adds / 1e9, entry.parameters / 1e6
            area, ours = _POINTS_PER_MILLION * millions, entry.contender.label.startswith("GoogLeNet")
            color = "tab:orange" if ours else "tab:blue"
            axes.scatter(giga, accuracy, s=area, color=color, alpha=0.4, edgecolor=color, zorder=2 + 1 / millions)
            axes.scatter(giga, accuracy, s=5, color="black", zorder=4)
            labels.append(
                axes.annotate(
                    f"{entry.contender.label}  {millions:.1f} M",
                    (giga, accuracy),
                    ((area**0.5 / 2 + 6) * (-1 if ours else 1), 0),
                    textcoords="offset points",
                    ha="right" if ours else "left",
                    va="center",
                    fontsize=9,
                )
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.2, 0.1)
        axes.set_xlim(right=1.8 * axes.get_xlim()[1])  # room for the label of the costliest
        what = (
            "accuracy on Fashion-MNIST after equal time (%)" if trained else "published top-1 accuracy on ImageNet (%)"
        )
        axes.set(
            xlabel="multiply-adds of one image (10⁹)", ylabel=what, title="the area of a bubble shows the parameters"
        )
        axes.grid(alpha=0.3)
        _part(figure, labels)


def _part(figure: Figure, labels: Sequence[Annotation]) -> None:
    """Move labels down, from the highest on, until none lies on another."""
    figure.draw_without_rendering()  # says where they are
    boxes: list[Bbox] = []
    for label in labels:
        while any(label.get_window_extent().overlaps(box) for box in boxes):
            across, down = label.xyann
            label.xyann = across, down - 2
        boxes.append(label.get_window_extent())


def _accuracy(entry: Entry, trained: bool) -> float | None:
    if trained:
        return entry.training.accuracy if entry.training else None
    return entry.contender.imagenet_accuracy

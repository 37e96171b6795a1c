"""The comparison as one picture: accuracy over compute, the size of a bubble showing the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from googlenet.errors import UserError
from googlenet.files import writing
from googlenet.insight.compare import Entry

_POINTS_PER_MILLION = 22
"""Area of a bubble, in square points, for a million parameters."""


def plot_bubbles(entries: Sequence[Entry], path: Path) -> None:
    """One PNG: the accuracy reached here where the networks were trained here, else the published one on ImageNet.

    Raises:
        UserError: where no accuracy is known.
    """
    trained = any(entry.training for entry in entries)
    placed = [(entry, accuracy) for entry in entries if (accuracy := _accuracy(entry, trained)) is not None]
    if not placed:
        raise UserError("none of these networks has a published accuracy to plot; add --train, or compare others")
    figure, axes = plt.subplots(figsize=(9, 5.6), layout="constrained")
    # Large ones first, so that small ones lie on them
    for entry, accuracy in sorted(placed, key=lambda pair: -pair[0].parameters):
        giga, millions = entry.multiply_adds / 1e9, entry.parameters / 1e6
        colour = "tab:orange" if entry.contender.label.startswith("GoogLeNet") else "tab:blue"
        area = _POINTS_PER_MILLION * millions
        axes.scatter(giga, 100 * accuracy, s=area, color=colour, alpha=0.45, edgecolor=colour, linewidth=1)
        axes.scatter(giga, 100 * accuracy, s=6, color="black")
        axes.annotate(
            f"{entry.contender.label}\n{millions:.1f} M",
            (giga, 100 * accuracy),
            (0, -(area**0.5) / 2 - 3),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.margins(0.14)
    what = "Fashion-MNIST accuracy after equal time (%)" if trained else "published ImageNet top-1 accuracy (%)"
    axes.set(xlabel="multiply-adds of one image (10⁹)", ylabel=what, title="area: parameters")
    axes.grid(alpha=0.3, which="both")
    try:
        with writing(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png")
    finally:
        plt.close(figure)


def _accuracy(entry: Entry, trained: bool) -> float | None:
    if trained:
        return entry.training.accuracy if entry.training else None
    return entry.contender.imagenet_accuracy

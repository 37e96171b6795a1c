"""An explanation as one picture: what the network says, where it looked, what its branches had to do with it."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from googlenet.errors import check_counts
from googlenet.evaluation.drawing import drawing, shortened
from googlenet.insight.explain import Explanation

# Told apart by the colour-blind too (Okabe and Ito 2008)
BRANCH_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#B8B8B8")
_QUIET = "#555555"


def draw_explanation(explanation: Explanation, path: Path, *, top: int = 5, name: str = "") -> None:
    """One PNG: the picture, Grad-CAM over it, the `top` likeliest classes, and each block's branches.

    Args:
        explanation: what `explain` found.
        path: the file to write.
        top: how many classes get a bar; the class explained gets one in any case.
        name: what to call the picture.

    Raises:
        UserError: for a `top` below 1.
        RunError: where the file cannot be written.
    """
    check_counts(top=top)
    with drawing(path, 12, 7.4) as figure:
        grid = figure.add_gridspec(2, 3, height_ratios=(1.25, 1), width_ratios=(1, 1, 1.1))
        _draw_picture(figure.add_subplot(grid[0, 0]), explanation, name)
        _draw_heat(figure.add_subplot(grid[0, 1]), explanation)
        _draw_classes(figure.add_subplot(grid[0, 2]), explanation, top)
        _draw_shares(figure.add_subplot(grid[1, :]), explanation)
        best, probability = shortened(explanation.classes[0], 40), explanation.probabilities[0]
        figure.suptitle(f"The network says: {best} ({probability:.1%} sure)", fontsize=16, fontweight="bold")


def _draw_picture(axes: Axes, explanation: Explanation, name: str) -> None:
    axes.imshow(_pixels(explanation.image))
    axes.set_title("The picture")
    axes.set_xlabel(shortened(name, 40), color=_QUIET)
    axes.set(xticks=[], yticks=[], anchor="N")


def heat_picture(explanation: Explanation) -> NDArray[np.uint8]:
    """The picture in pale grey, warm where something speaks for the class explained; what the network did not see is
    darkened. (H, W, 3), 0 to 255."""
    grey = 0.25 + 0.6 * _pixels(explanation.image).mean(axis=2, keepdims=True)
    heat = explanation.heat.numpy()
    warmth = np.clip(1.4 * heat, 0, 0.75)[:, :, None]
    picture = grey * (1 - warmth) + matplotlib.colormaps["inferno"](heat)[:, :, :3] * warmth
    picture[~_seen(explanation)] *= 0.3
    return (255 * picture).round().astype(np.uint8)


def _draw_heat(axes: Axes, explanation: Explanation) -> None:
    axes.imshow(heat_picture(explanation))
    axes.set_title(f"What speaks for {shortened(explanation.explained, 28)}")
    rows, columns = explanation.grad_cam.shape
    found = "the warmer, the more" if explanation.grad_cam.any() else "nothing that Grad-CAM finds"
    cut = "" if _seen(explanation).all() else "; dark: never seen"
    axes.set_xlabel(f"{found}{cut}\n(Grad-CAM, block {explanation.block}, {rows}x{columns} cells)", color=_QUIET)
    axes.set(xticks=[], yticks=[], anchor="N")


def _draw_classes(axes: Axes, explanation: Explanation, top: int) -> None:
    ranked = list(zip(explanation.classes, explanation.probabilities, strict=True))
    shown = ranked[:top]
    if explanation.explained not in explanation.classes[:top]:
        shown.append((explanation.explained, explanation.probability))
    for place, (name, probability) in enumerate(shown):
        explained = name == explanation.explained
        axes.barh(place, probability, height=0.5, color="#C2410C" if explained else "#9CA3AF")
        weight = "bold" if explained else "normal"
        axes.text(0, place - 0.32, shortened(name, 40), va="bottom", fontweight=weight)
        axes.text(1, place - 0.32, f"{probability:.1%}", va="bottom", ha="right", fontweight=weight)
    axes.set(xlim=(0, 1), ylim=(max(len(shown), 3) - 0.4, -0.8), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title("How sure it is")


def _draw_shares(axes: Axes, explanation: Explanation) -> None:
    blocks = list(explanation.shares)
    names = list(explanation.shares[blocks[0]])
    bottom = np.zeros(len(blocks))
    for name, colour in zip(names, BRANCH_COLOURS, strict=True):
        shares = np.array([explanation.shares[block][name] for block in blocks])
        axes.bar(blocks, shares, bottom=bottom, width=0.72, color=colour, label=name, edgecolor="white")
        for place, (share, base) in enumerate(zip(shares, bottom, strict=True)):
            if share >= 0.08:
                ink = "white" if colour == BRANCH_COLOURS[0] else "black"
                axes.text(place, base + share / 2, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=9)
        bottom += shares
    axes.set(ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    explained = shortened(explanation.explained, 40)
    axes.set_title(
        f"How much each branch has to do with {explained}, in each Inception block from the first to the last"
    )
    axes.set_xlabel(
        "evidence for and against, taken together: each branch's share of |activation x gradient|", color=_QUIET
    )
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], title="branch", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _seen(explanation: Explanation) -> NDArray[np.bool_]:
    """(H, W): what of the picture the network saw."""
    top, left, height, width = explanation.window
    seen = np.zeros(explanation.image.shape[1:], dtype=bool)
    seen[round(top) : round(top + height), round(left) : round(left + width)] = True
    return seen


def _pixels(image: Tensor) -> NDArray[np.float64]:
    """uint8 (C, H, W) as matplotlib takes it: (H, W, 3), 0 to 1; grey where there are not three channels."""
    pixels = image.permute(1, 2, 0).numpy() / 255
    return pixels if pixels.shape[2] == 3 else pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)

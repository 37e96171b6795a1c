"""How much accuracy depends on each branch: set the output of one branch at a time to zero, and evaluate again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from googlenet.errors import check_counts, plural
from googlenet.evaluation.plots import drawing
from googlenet.evaluation.report import EvalData, eval_split, run_on_split
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load_or_check


@dataclass(frozen=True)
class Ablation:
    """Which images a network classifies correctly, intact and without each branch."""

    blocks: tuple[str, ...]  # names of the blocks, in version 1 nine, 3a to 5b
    branches: tuple[str, ...]  # names of the four branches of a block
    intact: Tensor  # bool, (N,): correct with all branches
    ablated: Tensor  # bool, (blocks, 4 branches, N): correct without that branch
    missing: frozenset[tuple[str, str]] = frozenset()  # blocks without some branch; `ablated` equals `intact` for them

    @property
    def accuracy(self) -> float:
        """Of the intact network."""
        return float(self.intact.double().mean())

    @property
    def accuracy_drop(self) -> Tensor:
        """float64, (blocks, 4): the accuracy lost, 0 to 1; negative if accuracy is higher without the branch."""
        return self.accuracy - self.ablated.double().mean(dim=2)

    @property
    def margin(self) -> Tensor:
        """float64, (blocks, 4): a drop up to this, in either direction, is not significant (95%).

        From McNemar's test of two classifiers on the same images: 1.96 standard deviations of
        (newly wrong - newly correct) / N, if both are equally likely.
        """
        changed = (self.ablated != self.intact).sum(dim=2)
        return 1.96 * changed.double().sqrt() / len(self.intact)

    def to_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""

        def by_branch(values: Tensor) -> dict[str, dict[str, float]]:
            return {
                block: {
                    branch: value
                    for branch, value in zip(self.branches, row, strict=True)
                    if (block, branch) not in self.missing
                }
                for block, row in zip(self.blocks, values.tolist(), strict=True)
            }

        return {
            "images": len(self.intact),
            "accuracy": self.accuracy,
            "accuracy_drop": by_branch(self.accuracy_drop),
            "margin": by_branch(self.margin),
        }

    def to_table(self) -> Table:
        """One row per block, one column per branch: percentage points lost, dimmed if not significant."""
        caption = f"{plural(len(self.intact), 'image')}, intact network: {self.accuracy:.2%}\n~ not significant"
        table = Table("block", title="accuracy lost without each branch (percentage points)", caption=caption)
        table.title_justify = table.caption_justify = "left"
        for name in self.branches:
            table.add_column(name, justify="right")
        for block, drops, margins in zip(self.blocks, self.accuracy_drop.tolist(), self.margin.tolist(), strict=True):
            cells = (
                "" if (block, branch) in self.missing
                else f"{100 * drop:.2f}" if abs(drop) > margin
                else f"[dim]{100 * drop:.2f} ~[/dim]"
                for branch, drop, margin in zip(self.branches, drops, margins, strict=True)
            )  # fmt: skip
            table.add_row(block, *cells)
        return table


def ablate(
    net: GoogLeNet | str | Path, data: EvalData = None, *, data_dir: str | Path | None = None,
    skip_unreadable: bool = False, max_images: int | None = None, device: str = "auto", precision: str | None = None,
    batch_size: int = 256,
) -> Ablation:  # fmt: skip
    """Evaluate a network with each branch of each Inception block set to zero in turn.

    The output of the branch is zero, as if all parameters of its last convolution were. The rest is as it was trained,
    with the branch: the result tells what the trained network relies on, not how well one trained without the branch
    would do.

    Each batch passes through the layers below a block once, and through the layers above it once per branch.

    Args:
        net, data, data_dir, skip_unreadable, device, precision, batch_size: as in `googlenet.evaluate`.
        max_images: evaluate at most this many images, spread evenly over the split. Default: all.

    Raises:
        UserError: if the data does not fit the network, or an argument is invalid.
    """
    check_counts(max_images=max_images, batch_size=batch_size)
    net, info = load_or_check(net)
    split = eval_split(info, data, data_dir, skip_unreadable=skip_unreadable)
    if max_images is not None:
        split = split.spread(max_images)
    forward = partial(_predict_ablated, net)
    predicted = run_on_split(
        net, info, split, device=device, precision=precision, batch_size=batch_size, forward=forward
    )
    correct = (predicted == split.labels[:, None]).T
    blocks, branches = net.architecture.blocks, net.architecture.branch_names
    without, rows = iter(correct[1:]), []
    for block in blocks:
        row = {branch: next(without) for branch in block.branches}
        rows.append(torch.stack([row.get(branch, correct[0]) for branch in branches]))
    missing = frozenset((block.name, branch) for block in blocks for branch in set(branches) - set(block.branches))
    names = tuple(block.name for block in blocks)
    return Ablation(names, branches, correct[0], torch.stack(rows), missing)


def _predict_ablated(net: GoogLeNet, x: Tensor) -> Tensor:
    """Predicted classes, int64 (N, 1 + branches of all blocks): of the intact network, then without each in turn."""
    children = dict(net.named_children())
    names = list(children)[: list(children).index("fc") + 1]  # in the order of computation; auxiliary heads follow
    channels = {f"inception{block.name}": block.branch_channels for block in net.architecture.blocks}
    ablated: list[Tensor] = []
    for number, name in enumerate(names):
        x = children[name](x)
        start, rest = 0, nn.Sequential(*(children[above] for above in names[number + 1 :]))
        for count in channels.get(name, ()):
            maps = x.clone()
            maps[:, start : start + count] = 0
            ablated.append(rest(maps).argmax(dim=1))
            start += count
    return torch.stack([x.argmax(dim=1), *ablated], dim=1)


def draw_ablation(ablation: Ablation, path: Path) -> None:
    """Write one PNG: a heat map of percentage points lost, blocks down, branches across. Raises `RunError`."""
    drop = ablation.accuracy_drop.numpy()
    not_significant = abs(drop) <= ablation.margin.numpy()
    # The square root makes a drop of 1 point visible next to one of 30
    color = np.sqrt(drop.clip(0) / max(drop.max(), 0.01))
    with drawing(path, 7, 7) as figure:
        axes = figure.subplots()
        axes.imshow(color, cmap="Reds", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(ablation.branches)), ablation.branches)
        axes.set_yticks(range(len(ablation.blocks)), ablation.blocks)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.set(xlabel="branch set to zero", ylabel="Inception block")
        axes.xaxis.set_label_position("top")
        for (row, column), value in np.ndenumerate(drop):
            if (ablation.blocks[row], ablation.branches[column]) in ablation.missing:
                continue
            text, style = (" ~", "italic") if not_significant[row, column] else ("", "normal")
            ink = "white" if color[row, column] > 0.6 else "black"
            axes.text(column, row, f"{100 * value:.2f}{text}", ha="center", va="center", color=ink, style=style)
        figure.suptitle("Accuracy lost without each branch (percentage points)", fontsize=13, fontweight="bold")
        caption = (
            f"{plural(len(ablation.intact), 'image')}, intact network: {ablation.accuracy:.2%}.   ~ not significant"
        )
        figure.supxlabel(caption, fontsize=10)

"""What each branch is worth: every branch of every Inception block silenced in turn, the accuracy measured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from googlenet.data.dataset import ImageSplit
from googlenet.device import autocast, resolve_device, resolve_precision
from googlenet.errors import UserError
from googlenet.evaluation.metrics import BATCH_SIZE, check_fits, progress_bar
from googlenet.evaluation.plots import drawing
from googlenet.model.googlenet import GoogLeNet, Inception
from googlenet.weights.model_file import model_info


@dataclass(frozen=True)
class Ablation:
    """Which images of a split a network gets right, whole and with each branch silenced."""

    blocks: tuple[str, ...]
    """The names of the network's blocks: 3a to 5b, where it has all nine."""
    branches: tuple[str, ...]
    """The names of a block's four branches."""
    whole: Tensor
    """bool, (N,): right with every branch."""
    silenced: Tensor
    """bool, (blocks, 4 branches, N): right without that branch."""

    @property
    def accuracy(self) -> float:
        return float(self.whole.double().mean())

    @property
    def lost(self) -> Tensor:
        """float64, (blocks, 4): the accuracy lost, 0 to 1; below 0 where the network is better without the branch."""
        return self.accuracy - self.silenced.double().mean(dim=2)

    @property
    def chance(self) -> Tensor:
        """float64, (blocks, 4): a loss up to this, either way, may be chance.

        The 95% interval of McNemar's test of two classifiers on the same images: 1.96 standard deviations of
        (newly wrong - newly right) / N, of which each is as likely where the branch is worth nothing.
        """
        changed = (self.silenced != self.whole).sum(dim=2)
        return 1.96 * changed.double().sqrt() / len(self.whole)

    def to_dict(self) -> dict[str, Any]:
        """Every figure, as JSON takes it."""

        def by_branch(values: Tensor) -> dict[str, dict[str, float]]:
            rows = zip(self.blocks, values.tolist(), strict=True)
            return {block: dict(zip(self.branches, figures, strict=True)) for block, figures in rows}

        return {
            "images": len(self.whole),
            "accuracy": self.accuracy,
            "accuracy_lost": by_branch(self.lost),
            "chance": by_branch(self.chance),
        }

    def to_table(self) -> Table:
        """A row a block, a column a branch: percentage points lost, gray where it may be chance."""
        table = Table(title="points of accuracy lost without:", title_justify="left")
        table.add_column("block")
        for name in self.branches:
            table.add_column(name, justify="right")
        for block, lost, chance in zip(self.blocks, self.lost.tolist(), self.chance.tolist(), strict=True):
            cells = (
                _points(loss) if abs(loss) > limit else f"[dim]{_points(loss)} ~[/dim]"
                for loss, limit in zip(lost, chance, strict=True)
            )
            table.add_row(block, *cells)
        table.caption = f"{len(self.whole):,} images, whole network: {self.accuracy:.2%}\n~ may be chance"
        table.caption_justify = "left"
        return table


def ablate(
    net: GoogLeNet,
    split: ImageSplit,
    *,
    limit: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> Ablation:
    """Silence each branch of each block in turn over a split, with a progress bar where there is a terminal.

    A branch is silenced by an output of zero, after its ReLU: what zero weights, biases and normalization in its last
    convolution give. The other branches and the layers above are as they were trained, with the branch there; so this
    says what the trained network leans on, not what a network trained without the branch would lack.

    Each batch goes through the layers below a block once, and only the layers above it once more for every branch.

    Args:
        net: a network that `googlenet.load` or `googlenet.import_weights` returned; it is moved to the device.
        split: the images and their labels.
        limit: of how many images, spread evenly over the split; left out: of all. Each of n images is 100 / n points.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto, fp32, bf16, fp16; of the computation.
        batch_size: images a batch.

    Raises:
        UserError: for a network that does not say what its input and classes are, or a split that is not for it.
    """
    info = model_info(net)
    if batch_size < 1 or (limit is not None and limit < 1):
        raise UserError(f"batch_size and limit are 1 or more, not {batch_size} and {limit}")
    check_fits(split, info.input, info.classes)
    if limit is not None and limit < len(split):
        split = split.subset(torch.arange(limit) * len(split) // limit)
    where = resolve_device(device)
    how = resolve_precision(precision, where)
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with progress_bar("silencing branches", len(split)) as advance:
        right = _collect(net, split, where, how, batch_size, advance)
    names = tuple(row.name for row in net.architecture.rows)
    silenced = right[:, 1:].T.reshape(len(names), -1, len(split))
    return Ablation(names, net.architecture.branch_names, right[:, 0], silenced)


@torch.inference_mode()
def _collect(
    net: GoogLeNet,
    split: ImageSplit,
    device: torch.device,
    precision: str,
    batch_size: int,
    done: Callable[[int], None],
) -> Tensor:
    """Whether each image is classified rightly: bool (N, 1 + blocks x 4), first by the whole network."""
    was_training = net.training
    net.eval()
    collected = []
    try:
        for start in range(0, len(split), batch_size):
            images, labels = split.__getitems__(torch.arange(start, min(start + batch_size, len(split))))
            batch = net.info.input.prepare(images.to(device)).contiguous(memory_format=torch.channels_last)
            with autocast(device, precision):
                answers = _answers(net, batch).cpu()
            collected.append(answers == labels[:, None])
            done(len(images))
    finally:
        net.train(was_training)
    return torch.cat(collected)


def _answers(net: GoogLeNet, x: Tensor) -> Tensor:
    """The class said of each image, int64 (N, 1 + blocks x 4): of the whole, then without each branch in turn."""
    children = dict(net.named_children())
    layers = list(children.values())[: list(children).index("fc") + 1]  # behind it come the auxiliary heads
    without: list[Tensor] = []
    for place, layer in enumerate(layers):
        x = layer(x)
        if isinstance(layer, Inception):
            channels = net.architecture.rows[len(without) // 4].branch_channels
            without += [_through(layers[place + 1 :], maps).argmax(dim=1) for maps in _silenced(x, channels)]
    return torch.stack([x.argmax(dim=1), *without], dim=1)


def _silenced(maps: Tensor, channels: Sequence[int]) -> list[Tensor]:
    """A block's output (N, C, H, W) four times, each time with another branch at zero."""
    copies = []
    for place, width in enumerate(channels):
        first = sum(channels[:place])
        copy = maps.clone()
        copy[:, first : first + width] = 0
        copies.append(copy)
    return copies


def _through(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def draw_ablation(ablation: Ablation, path: Path) -> None:
    """One PNG: blocks down, branches across, each cell the percentage points lost and as red as they are many.

    Raises:
        RunError: where the file cannot be written.
    """
    lost = ablation.lost.numpy()
    may_be_chance = abs(lost) <= ablation.chance.numpy()
    # The root, so that a loss of one point shows beside one of thirty; pale where nobody loses a point
    redness = np.sqrt(lost.clip(0) / max(lost.max(), 0.01))
    with drawing(path, 7, 7) as figure:
        axes = figure.subplots()
        axes.imshow(redness, cmap="Reds", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(ablation.branches)), ablation.branches)
        axes.set_yticks(range(len(ablation.blocks)), ablation.blocks)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.set(xlabel="branch silenced", ylabel="Inception block")
        axes.xaxis.set_label_position("top")
        for (row, column), loss in np.ndenumerate(lost):
            chance = bool(may_be_chance[row, column])
            ink, style = "white" if redness[row, column] > 0.6 else "black", "italic" if chance else "normal"
            axes.text(column, row, _points(loss) + " ~" * chance, ha="center", va="center", color=ink, style=style)
        figure.suptitle("Accuracy lost without each branch (percentage points)", fontsize=13, fontweight="bold")
        figure.supxlabel(
            f"{len(ablation.whole):,} images; the whole network: {ablation.accuracy:.2%}.   ~ may be chance",
            fontsize=10,
        )


def _points(share: float) -> str:
    return f"{100 * share:.2f}"

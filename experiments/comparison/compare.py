"""GoogLeNet beside its rivals: what each costs, counted; how fast and how good it is here, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.table import Table

from experiments.comparison.baselines import Baseline
from experiments.comparison.equal_time import Training, train_for
from experiments.comparison.speed import Speed, measure_speed
from googlenet.data import fashion_mnist
from googlenet.device import resolve_device
from googlenet.errors import UserError, reason_of
from googlenet.explanation.summary import summarize


@dataclass(frozen=True)
class Entry:
    """One network of a comparison. Costs are those of one image, in float32."""

    contender: Baseline
    parameters: int
    multiply_adds: int
    """Of convolutions and fully connected layers: half of what `torch.utils.flop_counter` counts."""
    activation_bytes: int
    """Of every output inside the network, as `googlenet summary` counts them."""
    file_bytes: int
    """Weights and batch normalization's statistics; a file adds its header, some kilobytes."""
    speed: Speed | None = None
    training: Training | None = None

    def to_dict(self) -> dict[str, Any]:
        """Bytes, seconds and shares (0 to 1), as JSON takes them."""
        return {
            "network": self.contender.name,
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "activation_bytes": self.activation_bytes,
            "file_bytes": self.file_bytes,
            "imagenet_accuracy": self.contender.imagenet_accuracy,
            "speed": asdict(self.speed) if self.speed else None,
            "training": asdict(self.training) if self.training else None,
        }


def count(contender: Baseline, input_size: tuple[int, int, int], num_classes: int) -> Entry:
    """What a network costs, without computing anything.

    Args:
        contender: which one.
        input_size: (C, H, W).
        num_classes: classes.

    Raises:
        UserError: for images that it cannot take, or a number of classes below 1.
    """
    if num_classes < 1:
        raise UserError(f"networks are compared with 1 class or more, not {num_classes}")
    try:
        with torch.device("meta"):
            net = contender.build(input_size[0], num_classes)
        summary = summarize(net, input_size)
    except RuntimeError as error:  # what torch makes of maps with nothing left
        size = "x".join(map(str, input_size))
        raise UserError(f"{contender.name} cannot take images of {size}: {reason_of(error)}") from error
    file_bytes = sum(tensor.nbytes for tensor in net.state_dict().values())
    return Entry(contender, summary.parameters, summary.multiply_adds, summary.activation_bytes, file_bytes)


def measured(
    entries: Sequence[Entry], input_size: tuple[int, int, int], num_classes: int, device: str, *, rounds: int
) -> list[Entry]:
    """The same with the speed and memory of each on this machine. Raises `UserError` for fewer rounds than 1."""
    if rounds < 1:
        raise UserError(f"rounds are 1 or more, not {rounds}")
    chosen = [entry.contender for entry in entries]
    speeds = measure_speed(chosen, input_size, num_classes, resolve_device(device), rounds=rounds)
    return [replace(entry, speed=speed) for entry, speed in zip(entries, speeds, strict=True)]


def trained(entries: Sequence[Entry], seconds: float, **settings: Any) -> list[Entry]:
    """The same with what each learns in so many seconds. `settings` and errors are those of `train_for`."""
    size = settings["image_size"]
    for entry in entries if size > 0 else ():  # before any has trained; of a size that is none `train_for` tells
        count(entry.contender, (1, size, size), len(fashion_mnist.CLASSES))
    return [replace(entry, training=train_for(entry.contender, seconds, **settings)) for entry in entries]


def to_table(entries: Sequence[Entry], input_size: tuple[int, int, int], num_classes: int) -> Table:
    """A row a network; columns that nothing was measured for are left out."""
    size = "x".join(map(str, input_size))
    table = Table(title=f"one image of {size}, {num_classes:,} classes", title_justify="left")
    table.caption = "GoogLeNet without auxiliary heads, which work in training only"
    table.caption_justify = "left"
    rows = [_in_words(entry) for entry in entries]
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for row in rows:
        table.add_row(*row.values())
    return table


def _in_words(entry: Entry) -> dict[str, str]:
    published = entry.contender.imagenet_accuracy
    row = {
        "network": entry.contender.label,
        "parameters": f"{entry.parameters:,}",
        "multiply-adds": f"{entry.multiply_adds / 1e9:.3f} G",
        "activations": f"{entry.activation_bytes / 2**20:.1f} MiB",
        "file": f"{entry.file_bytes / 2**20:.1f} MiB",
        "ImageNet top-1": f"{published:.1%}" if published else "",
    }
    if entry.speed:
        row |= {
            "batch 1": f"{1000 * entry.speed.latency_seconds:.1f} ms",
            f"batch {entry.speed.batch_size}": f"{entry.speed.images_per_second:.1f} images/s",
            "peak memory": f"{entry.speed.peak_bytes / 2**20:,.0f} MiB" if entry.speed.peak_bytes else "",
        }
    if entry.training:
        row |= {
            "trained on": f"{entry.training.images:,} images",
            "in": f"{entry.training.seconds:.0f} s",
            "Fashion-MNIST": f"{entry.training.accuracy:.2%}",
        }
    return row

"""What each network costs, counted; its speed and memory here, measured; the results as a table and a plot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from rich.table import Table
from torch import Tensor, nn

import googlenet
from benchmarks.machine import DTYPES, best_precision
from benchmarks.measuring import CALLS_OF_ONE, alternate, can_measure_memory, in_own_process, peak_memory
from experiments.comparison.networks import BASELINES, Baseline
from experiments.comparison.training import Training

_BATCH_SIZE = 16
_POINTS_PER_MILLION = 22
"""Area of a bubble, in square points, for a million parameters."""


@dataclass(frozen=True)
class Speed:
    """Inference in PyTorch, with weights and images in the device's best precision, channels-last."""

    precision: str
    latency_seconds: float
    """Of one image, median."""
    batch_size: int
    images_per_second: float
    """In batches of that size, median."""
    peak_bytes: int | None
    """In such batches: resident memory above the imports on a CPU, the allocator's on a GPU. None if not measurable."""


@dataclass(frozen=True)
class Entry:
    """One network of the comparison. Costs are those of one image, in float32."""

    baseline: Baseline
    parameters: int
    multiply_adds: int
    """Of convolutions and fully connected layers: half of what `torch.utils.flop_counter` counts."""
    activation_bytes: int
    """Of every output inside the network, as `googlenet summary` counts them."""
    file_bytes: int
    """Weights and batch norm's statistics; a file adds a header of some kilobytes."""
    speed: Speed | None = None
    training: Training | None = None

    def to_dict(self) -> dict[str, Any]:
        """Bytes, seconds and shares (0 to 1), as JSON takes them."""
        values = asdict(self)
        values.pop("baseline")
        return {"network": self.baseline.name, "imagenet_accuracy": self.baseline.imagenet_accuracy, **values}


def count(baseline: Baseline, input_size: tuple[int, int, int], num_classes: int) -> Entry:
    """What a network costs for one image of `input_size` (C, H, W), without computing anything.

    Raises:
        UserError: for images that it cannot take.
    """
    try:
        with torch.device("meta"):
            net = baseline.build(input_size[0], num_classes)
        summary = googlenet.summarize(net, input_size)
    except RuntimeError as error:  # PyTorch's, if a layer has no input left
        size = "x".join(map(str, input_size))
        raise googlenet.UserError(f"{baseline.name} cannot take images of {size}: {error}") from error
    file_bytes = sum(tensor.nbytes for tensor in net.state_dict().values())
    return Entry(baseline, summary.parameters, summary.multiply_adds, summary.activation_bytes, file_bytes)


def measure_speed(
    baselines: Sequence[Baseline],
    input_size: tuple[int, int, int],
    num_classes: int,
    device: torch.device,
    *,
    rounds: int,
) -> list[Speed]:
    """Time all of them in this process, in turn, and measure the memory of each in its own process.

    Args:
        baselines: the networks; memory must hold all of them.
        input_size: (C, H, W).
        num_classes: classes.
        device: where.
        rounds: rounds that count.

    Raises:
        RunError: if a network's own process fails.
    """
    nets = {baseline.name: _network(baseline, input_size[0], num_classes, device) for baseline in baselines}
    seconds = {}
    for batch_size in (1, _BATCH_SIZE):
        images = _images(batch_size, input_size, device)
        runs = {name: partial(_infer, net, images) for name, net in nets.items()}
        timings = alternate(runs, rounds, device, calls=CALLS_OF_ONE if batch_size == 1 else 1)
        seconds[batch_size] = {name: timing.median for name, timing in timings.items()}
    size = ",".join(map(str, input_size))
    arguments = (size, str(num_classes), str(device))
    return [
        Speed(
            best_precision(device),
            seconds[1][name],
            _BATCH_SIZE,
            _BATCH_SIZE / seconds[_BATCH_SIZE][name],
            in_own_process("experiments.comparison.compare", name, *arguments) if can_measure_memory(device) else None,
        )
        for name in nets
    ]


def _network(baseline: Baseline, in_channels: int, num_classes: int, device: torch.device) -> nn.Module:
    before = torch.get_default_dtype()
    # Made in the precision that it computes in: weights converted later would be in memory twice
    torch.set_default_dtype(DTYPES[best_precision(device)])
    try:
        with device:
            net = baseline.build(in_channels, num_classes).eval()
    finally:
        torch.set_default_dtype(before)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _images(count: int, input_size: tuple[int, int, int], device: torch.device) -> Tensor:
    images = torch.rand(count, *input_size, device=device, dtype=DTYPES[best_precision(device)])
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _infer(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return net(images)


def to_table(entries: Sequence[Entry], input_size: tuple[int, int, int], num_classes: int) -> Table:
    """A row for each network, with the columns that were measured."""
    size = "x".join(map(str, input_size))
    table = Table(title=f"one image of {size}, {num_classes:,} classes", title_justify="left")
    table.caption = "GoogLeNet without auxiliary heads, which are used in training only"
    table.caption_justify = "left"
    rows = [_cells(entry) for entry in entries]
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for row in rows:
        table.add_row(*row.values())
    return table


def _cells(entry: Entry) -> dict[str, str]:
    published = entry.baseline.imagenet_accuracy
    row = {
        "network": entry.baseline.label,
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


def plot(entries: Sequence[Entry], path: Path) -> None:
    """Accuracy over compute as a PNG, the size of a bubble showing the parameters: the accuracy reached here if the
    networks were trained here, else the published one on ImageNet.

    Raises:
        UserError: if no accuracy is known.
    """
    trained = any(entry.training for entry in entries)
    points = [(entry, 100 * accuracy) for entry in entries if (accuracy := _accuracy(entry, trained)) is not None]
    if not points:
        raise googlenet.UserError("--plot: none of these networks has a published accuracy; add --train, or others")
    points.sort(key=lambda point: -point[1])
    figure = Figure((9, 5.6), layout="constrained")
    axes = figure.subplots()
    labels = []
    for entry, accuracy in points:
        giga, millions = entry.multiply_adds / 1e9, entry.parameters / 1e6
        area, is_ours = _POINTS_PER_MILLION * millions, entry.baseline.label.startswith("GoogLeNet")
        color = "tab:orange" if is_ours else "tab:blue"
        axes.scatter(giga, accuracy, s=area, color=color, alpha=0.4, edgecolor=color, zorder=2 + 1 / millions)
        axes.scatter(giga, accuracy, s=5, color="black", zorder=4)
        labels.append(
            axes.annotate(
                f"{entry.baseline.label}  {millions:.1f} M",
                (giga, accuracy),
                ((area**0.5 / 2 + 6) * (-1 if is_ours else 1), 0),
                textcoords="offset points",
                ha="right" if is_ours else "left",
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
    what = "accuracy on Fashion-MNIST after equal time (%)" if trained else "published top-1 accuracy on ImageNet (%)"
    axes.set(xlabel="multiply-adds of one image (10⁹)", ylabel=what, title="the area of a bubble shows the parameters")
    axes.grid(alpha=0.3)
    _separate(figure, labels)
    figure.savefig(path, dpi=110)


def _separate(figure: Figure, labels: Sequence[Annotation]) -> None:
    """Move labels down, from the highest on, until none covers another."""
    figure.draw_without_rendering()  # computes their positions
    boxes: list[Bbox] = []
    for label in labels:
        while any(label.get_window_extent().overlaps(box) for box in boxes):
            across, down = label.xyann
            label.xyann = across, down - 2
        boxes.append(label.get_window_extent())


def _accuracy(entry: Entry, trained: bool) -> float | None:
    if trained:
        return entry.training.accuracy if entry.training else None
    return entry.baseline.imagenet_accuracy


def _measure_memory(name: str, size: str, num_classes: str, device_name: str) -> int:
    device, (channels, height, width) = torch.device(device_name), map(int, size.split(","))

    def prepare() -> Callable[[], Tensor]:
        net = _network(BASELINES[name], channels, int(num_classes), device)
        return partial(_infer, net, _images(_BATCH_SIZE, (channels, height, width), device))

    return peak_memory(prepare, device)


if __name__ == "__main__":
    print(_measure_memory(*sys.argv[1:]))

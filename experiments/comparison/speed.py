"""How fast the networks answer on this machine, and in how much memory: one beside the other, in turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.peak_memory import in_own_process, measurable, peak_of
from benchmarks.timing import CALLS_OF_ONE, alternate
from experiments.comparison.baselines import BASELINES, Baseline
from googlenet.device import DTYPES, keep_freed_memory, resolve_precision
from googlenet.explanation.summary import parse_input_size

_BATCH_SIZE = 16


@dataclass(frozen=True)
class Speed:
    """Inference in PyTorch, with weights and images in the device's best precision, channels-last."""

    precision: str
    latency_seconds: float
    """For one image: the median of its turns."""
    batch_size: int
    images_per_second: float
    """In batches of that size: the median of their turns."""
    peak_bytes: int | None
    """In such batches, at the most: resident above the imports on a CPU, the allocator's on a GPU. None where it cannot
    be known."""


def measure_speed(
    chosen: Sequence[Baseline],
    input_size: tuple[int, int, int],
    num_classes: int,
    device: torch.device,
    *,
    rounds: int,
) -> list[Speed]:
    """Time all of them in this process, turn by turn, and measure the memory of each in a process of its own.

    Args:
        chosen: the networks; there must be memory for all at once.
        input_size: (C, H, W).
        num_classes: classes.
        device: where.
        rounds: turns that count.

    Raises:
        RunError: where a network's own process fails.
    """
    if device.type == "cpu":
        keep_freed_memory()  # which serves all of them
    precision = resolve_precision("auto", device)
    size = ",".join(map(str, input_size))
    nets = {contender.name: _network(contender, input_size[0], num_classes, device) for contender in chosen}
    seconds = {}
    for batch_size in (1, _BATCH_SIZE):
        images = _images(batch_size, input_size, device)
        candidates = {name: partial(_infer, net, images) for name, net in nets.items()}
        timings = alternate(candidates, rounds, device, calls=CALLS_OF_ONE if batch_size == 1 else 1)
        seconds[batch_size] = {name: timing.median for name, timing in timings.items()}
    return [
        Speed(
            precision,
            seconds[1][name],
            _BATCH_SIZE,
            _BATCH_SIZE / seconds[_BATCH_SIZE][name],
            in_own_process("experiments.comparison.speed", name, size, str(num_classes), str(device))
            if measurable(device)
            else None,
        )
        for name in nets
    ]


def _network(contender: Baseline, in_channels: int, num_classes: int, device: torch.device) -> nn.Module:
    before = torch.get_default_dtype()
    # Made in the precision that it works in, since weights converted later would be there twice
    torch.set_default_dtype(DTYPES[resolve_precision("auto", device)])
    try:
        with device:
            net = contender.build(in_channels, num_classes).eval()
    finally:
        torch.set_default_dtype(before)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _images(count: int, input_size: tuple[int, int, int], device: torch.device) -> Tensor:
    images = torch.rand(count, *input_size, device=device, dtype=DTYPES[resolve_precision("auto", device)])
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _infer(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return net(images)


def _prepared(
    name: str, input_size: tuple[int, int, int], num_classes: int, device: torch.device
) -> Callable[[], Tensor]:
    net = _network(BASELINES[name], input_size[0], num_classes, device)
    return partial(_infer, net, _images(_BATCH_SIZE, input_size, device))


if __name__ == "__main__":
    where = torch.device(sys.argv[4])
    print(peak_of(partial(_prepared, sys.argv[1], parse_input_size(sys.argv[2]), int(sys.argv[3]), where), where))

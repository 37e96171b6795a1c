"""A training step of `googlenet train` compared with hand-written training loops in PyTorch."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import googlenet
from benchmarks.machine import DTYPES, Peaks, best_precision, flops_per_image
from benchmarks.measuring import Table, Timing, synchronize, time_call

OURS = "googlenet"
WARMUP = 2

# Network, image size, batch sizes: the tutorial's task at 224x224, and that of the recipe `fast`
_CASES: tuple[tuple[str, dict[str, Any], int, tuple[int, ...]], ...] = (
    ("tutorial", {}, 224, (16, 64, 128)),
    ("bn", {"stem_stride": 1}, 28, (128, 256)),
)


class Baseline(NamedTuple):
    """One training step of a hand-written loop."""

    step: Callable[[], object]
    precision: str
    flops: float
    """Floating-point operations for each image."""


def measure_training(device: torch.device, peaks: Peaks, rounds: int) -> Iterator[Table]:
    """Forward, loss, backward and update with Adam; one table for each batch size."""
    for variant, changes, size, batch_sizes in _CASES:
        torch.manual_seed(0)
        net = googlenet.create_model(variant, num_classes=10, in_channels=1, initialization="he", **changes)
        flops = flops_per_image(net, (1, size, size), training=True)
        for batch_size in batch_sizes:
            images = torch.rand(batch_size, 1, size, size, device=device)
            baselines = baseline_steps(net, images, compiled=batch_size == batch_sizes[0])
            timings = alternate_with_train(net, baselines, batch_size, size, device, rounds)
            computed = {OURS: (best_precision(device), flops)}
            computed |= {name: (baseline.precision, baseline.flops) for name, baseline in baselines.items()}
            rows = []
            for name, timing in timings.items():
                rates, (precision, flops_of_image) = timing.rates(batch_size), computed[name]
                ratio = timings["plain"].median / timing.median
                share = peaks.share(flops_of_image * rates["images/s"], precision)
                rows.append({"step": name, **rates, "times plain": ratio, "% of the peak": share})
            note = f"{flops / 1e9:.2f} GFLOP per image; the peak is that of each row's own precision"
            yield Table(f"training step: {variant}, {size}x{size}, batch {batch_size}", rows, note)


def baseline_steps(net: nn.Module, images: Tensor, *, compiled: bool = False) -> dict[str, Baseline]:
    """Hand-written steps on copies of the network: plain as in the tutorial, with channels-last and half precision,
    and, if asked for, with torch.compile on top; then torchvision's network, if torchvision can be imported."""
    device, precision = images.device, best_precision(images.device)
    labels = torch.arange(len(images), device=device) % 10
    flops = flops_per_image(net, tuple(images.shape[1:]), training=True)  # type: ignore[arg-type]
    packed = images.contiguous(memory_format=torch.channels_last)

    def channels_last(net: nn.Module) -> nn.Module:
        return copy.deepcopy(net).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    plain = training_step(copy.deepcopy(net).to(device), images, labels, "fp32")
    fast = f"channels-last, {precision}"
    baselines = {
        "plain": Baseline(plain, "fp32", flops),
        fast: Baseline(training_step(channels_last(net), packed, labels, precision), precision, flops),
    }
    if compiled:
        module = channels_last(net)
        module.compile()
        step = training_step(module, packed, labels, precision)
        try:
            step()
            baselines[f"{fast}, torch.compile"] = Baseline(step, precision, flops)
        except Exception as error:  # whatever the compiler's back end raises if it cannot work here
            print(f"torch.compile skipped: {str(error).strip().partition(chr(10))[0]}")
    if find_spec("torchvision"):
        theirs = _torchvision_network(net)
        step = training_step(channels_last(theirs), packed, labels, precision)
        flops = flops_per_image(theirs, tuple(images.shape[1:]), training=True)  # type: ignore[arg-type]
        baselines[f"torchvision, {fast}"] = Baseline(step, precision, flops)
    return baselines


def training_step(net: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Callable[[], None]:
    """A function that takes one step with Adam on this batch."""
    half = precision != "fp32"
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=half)
    net.train()

    def step() -> None:
        with torch.autocast(images.device.type, dtype=DTYPES[precision] if half else None, enabled=half):
            output = net(images)
        logits = output[0] if isinstance(output, tuple) else output
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def alternate_with_train(
    net: nn.Module,
    baselines: Mapping[str, Baseline],
    batch_size: int,
    image_size: int,
    device: torch.device,
    rounds: int,
) -> dict[str, Timing]:
    """One run of `googlenet.train`, with a step of each baseline after each of its steps.

    Its steps are timed from one `on_step` to the next: they include taking the batch, resizing it and the run's log,
    which the baselines, whose batch is ready, do not.
    """
    seconds: dict[str, list[float]] = {"plain": [], OURS: []}
    resumed = 0.0

    def take_turns(trainer: googlenet.Trainer) -> None:
        nonlocal resumed
        synchronize(device)
        elapsed = {OURS: time.perf_counter() - resumed}
        elapsed |= {name: time_call(baseline.step, device) for name, baseline in baselines.items()}
        if trainer.step > WARMUP:
            for name, value in elapsed.items():
                seconds.setdefault(name, []).append(value)
        resumed = time.perf_counter()

    run_short(copy.deepcopy(net), WARMUP + rounds, take_turns, batch_size, image_size, device)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def run_short(
    net: nn.Module,
    steps: int,
    on_step: Callable[[googlenet.Trainer], None] | None,
    batch_size: int,
    image_size: int,
    device: torch.device,
) -> None:
    """`googlenet.train` for a few steps with Adam, as `googlenet train` runs, without plots at the end."""
    settings: dict[str, Any] = {"data_dir": "bundled", "optimizer": "adam", "learning_rate": 1e-3}
    settings |= {"batch_size": batch_size, "image_size": image_size, "device": str(device)}
    settings |= {"max_steps": steps, "min_steps": steps, "max_test_images": 1, "plots": False}
    with tempfile.TemporaryDirectory() as folder:
        result = googlenet.train("fast", model=net, output=Path(folder) / "run", on_step=on_step, **settings)
    if result.interrupted:
        raise KeyboardInterrupt


def _torchvision_network(net: Any) -> nn.Module:
    """torchvision's GoogLeNet with the same input channels and stride; it always has batch normalization."""
    from torchvision.models import googlenet as torchvision_googlenet

    theirs: Any = torchvision_googlenet(weights=None, init_weights=False, aux_logits=False, num_classes=10)
    theirs.conv1.conv = nn.Conv2d(net.architecture.in_channels, 64, 7, net.architecture.stem_stride, 3, bias=False)
    return theirs

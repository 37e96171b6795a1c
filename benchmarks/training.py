"""A training step as the tutorial's code does it beside one as `googlenet train` does it, and what lies between."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.limits import Peaks, flops_per_image
from benchmarks.tables import Table
from benchmarks.timing import alternate
from googlenet.device import autocast, compile_error, keep_freed_memory, resolve_precision
from googlenet.model.googlenet import GoogLeNet, create_model
from googlenet.network import fused

Step = Callable[[], object]

# Network, size, batch sizes: the tutorial's task at 224, and that of the fast recipe
_CASES: tuple[tuple[str, dict[str, Any], int, tuple[int, ...]], ...] = (
    ("tutorial", {}, 224, (16, 64, 128)),
    ("bn", {"stem_stride": 1}, 28, (128, 256)),
)


def measure_training(device: torch.device, peaks: Peaks, rounds: int) -> Iterator[Table]:
    """Forward, loss, backward and update. Each batch size is one table."""
    if device.type == "cpu":
        keep_freed_memory()  # which serves whoever trains in this process, the peers as well
    for variant, changes, size, batches in _CASES:
        torch.manual_seed(0)
        net = create_model(variant, num_classes=10, in_channels=1, initialization="he", **changes).to(device)
        flops = flops_per_image(net, size, training=True)
        theirs = create_model("torchvision", num_classes=10, in_channels=1, auxiliary=False, **changes)
        theirs_flops = flops_per_image(theirs, size, training=True)
        for batch in batches:
            images, labels = torch.rand(batch, 1, size, size, device=device), torch.arange(batch, device=device) % 10
            steps = training_steps(net, images, labels, compiled=batch == batches[0])
            timings = alternate({name: step for name, (step, _) in steps.items()}, rounds, device)
            rows = []
            for name, timing in timings.items():
                rates = timing.rates(batch)
                spent = theirs_flops if name.startswith("torchvision") else flops
                share = peaks.share(spent * rates["images/s"], steps[name][1])
                ratio = timings["plain"].median / timing.median
                rows.append({"step": name, **rates, "times plain": ratio, "% of the peak": share})
            note = f"{flops / 1e9:.2f} GFLOP an image; the peak is that of the contender's own precision"
            yield Table(f"training step: {variant}, {size}x{size}, batch {batch}", rows, note)


def training_steps(
    net: GoogLeNet, images: Tensor, labels: Tensor, *, compiled: bool = False
) -> dict[str, tuple[Step, str]]:
    """One whole training step of each contender, by name, with the precision that it computes in."""
    precision = resolve_precision("auto", images.device)
    channels_last = copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    packed = images.contiguous(memory_format=torch.channels_last)
    by_hand = f"channels-last, {precision}"
    steps = {
        "plain": (_in_plain_form(training_step(copy.deepcopy(net), images, labels, "fp32")), "fp32"),
        by_hand: (
            _in_plain_form(training_step(copy.deepcopy(channels_last), packed, labels, precision)),
            precision,
        ),
        "googlenet": (training_step(copy.deepcopy(channels_last), packed, labels, precision), precision),
    }
    if compiled and not compile_error(images.device):
        module = copy.deepcopy(channels_last)
        module.compile()
        steps[f"{by_hand}, torch.compile"] = (
            _in_plain_form(training_step(module, packed, labels, precision)),
            precision,
        )
    if find_spec("torchvision"):
        theirs = _torchvision_net(net).to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps[f"torchvision, {by_hand}"] = (training_step(theirs, packed, labels, precision), precision)
    return steps


def training_step(net: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Step:
    """A function that takes one step with Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=precision != "fp32")
    net.train()

    def step() -> None:
        with autocast(images.device, precision):
            output = net(images)
        logits = output[0] if isinstance(output, tuple) else output
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _in_plain_form(step: Step) -> Step:
    def plain_step() -> None:
        with fused.plain():
            step()

    return plain_step


def _torchvision_net(net: GoogLeNet) -> nn.Module:
    """torchvision's network with the same input channels; it always normalizes its batches."""
    from torchvision.models import googlenet

    theirs: nn.Module = googlenet(weights=None, init_weights=False, aux_logits=False, num_classes=10)
    first: Any = theirs.conv1
    first.conv = nn.Conv2d(net.architecture.in_channels, 64, 7, net.architecture.stem_stride, 3, bias=False)
    return theirs

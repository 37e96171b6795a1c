"""What a machine could reach at most, to hold what was reached against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import alternate
from googlenet.model.googlenet import GoogLeNet

_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Peaks:
    """The most that this machine was seen to do, in operations a second and bytes a second."""

    bf16: float
    fp32: float
    copy: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def share(self, flops_per_second: float, precision: str) -> float:
        """The share of the peak for that precision, in percent."""
        return 100 * flops_per_second / (self.fp32 if precision == "fp32" else self.bf16)


def measure_peaks(device: torch.device) -> Peaks:
    """The better of a large matrix product and a large convolution in each precision, and a large copy.

    The two come from different libraries on a CPU, and on some processors one of them is far behind the other. Of a
    copy, reading and writing both count.
    """
    side = _SIDE.get(device.type, 2048)
    convolved = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False, device=device).requires_grad_(False)
    maps = torch.randn(32, 256, 32, 32, device=device)
    convolution_flops = 2 * maps.numel() * 256 * 9
    candidates: dict[str, Callable[[], object]] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        candidates[name] = partial(torch.matmul, a, b)
        kernel, inputs = (
            tensor.to(dtype).contiguous(memory_format=torch.channels_last) for tensor in (convolved.weight, maps)
        )
        candidates[f"{name} convolution"] = partial(F.conv2d, inputs, kernel, padding=1)
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    candidates["copy"] = lambda: target.copy_(source)
    fastest = {name: min(timing.seconds) for name, timing in alternate(candidates, rounds=15, device=device).items()}
    rates = {
        name: max(2 * side**3 / fastest[name], convolution_flops / fastest[f"{name} convolution"])
        for name in ("bf16", "fp32")
    }
    return Peaks(rates["bf16"], rates["fp32"], 2 * _COPIED_BYTES / fastest["copy"])


def flops_per_image(net: GoogLeNet, size: int, *, training: bool) -> float:
    """Floating-point operations of the convolutions and products for one image, backward pass included in training."""
    shadow = GoogLeNet(net.architecture).to("meta").train(training)
    batch = torch.empty(2, net.architecture.in_channels, size, size, device="meta")
    with FlopCounterMode(display=False) as counter:
        output = shadow(batch)
        if training:
            logits = output[0] if isinstance(output, tuple) else output
            F.mse_loss(logits, torch.empty_like(logits)).backward()
    return counter.get_total_flops() / len(batch)

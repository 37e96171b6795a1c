"""The machine that is measured: its device, its description, and the peaks that every result is compared with."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import alternate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = 256 * 2**20


def resolve_device(device: str) -> torch.device:
    """`auto`: the first GPU if there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(device)


def best_precision(device: torch.device) -> str:
    """The precision that `googlenet train` picks: bf16 if the device computes in it natively, else fp16 or fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    return any(present for name, present in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, processor, memory and device, as JSON takes them."""
    packages = ("googlenet", "torch", "accelerate", "numpy", "safetensors", "pillow")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "system": platform.platform(),
        "processor": _processor_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "native_bf16": _cpu_has_bf16(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Peaks:
    """The highest rates measured on this machine: operations per second, and bytes per second."""

    bf16: float
    fp32: float
    copy: float

    def share(self, flops_per_second: float, precision: str) -> float:
        """Percent of the peak of that precision; half precisions and int8 are compared with bf16."""
        return 100 * flops_per_second / (self.fp32 if precision == "fp32" else self.bf16)


def measure_peaks(device: torch.device) -> Peaks:
    """The faster of a large matrix product and a large convolution in each precision, and a large copy.

    On a CPU these two come from different libraries, and on some processors one is far slower than the other. A copy
    counts the bytes read and the bytes written. If the device does not compute in bf16 natively, which would take
    minutes, `bf16` is the peak of the best precision instead.
    """
    side = _MATRIX_SIDE.get(device.type, 2048)
    kernel = torch.randn(256, 256, 3, 3, device=device)
    maps = torch.randn(32, 256, 32, 32, device=device)
    convolution_flops = 2 * maps.numel() * kernel[0].numel()
    runs: dict[str, Callable[[], object]] = {}
    half = best_precision(device)
    for name in {half, "fp32"}:
        a, b = (torch.randn(side, side, device=device).to(DTYPES[name]) for _ in range(2))
        runs[name] = partial(torch.matmul, a, b)
        x, weight = (t.to(DTYPES[name]).contiguous(memory_format=torch.channels_last) for t in (maps, kernel))
        runs[f"{name} convolution"] = partial(F.conv2d, x, weight, padding=1)
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    runs["copy"] = lambda: target.copy_(source)
    fastest = {name: min(timing.seconds) for name, timing in alternate(runs, rounds=15, device=device).items()}
    rates = {
        name: max(2 * side**3 / fastest[name], convolution_flops / fastest[f"{name} convolution"])
        for name in {half, "fp32"}
    }
    return Peaks(rates[half], rates["fp32"], 2 * _COPIED_BYTES / fastest["copy"])


def flops_per_image(net: nn.Module, input_size: tuple[int, int, int], *, training: bool) -> float:
    """Floating-point operations of convolutions and matrix products for one image (C, H, W); the backward pass too if
    `training`."""
    net = copy.deepcopy(net).to("meta").train(training)
    images = torch.empty(2, *input_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        output = net(images)
        if training:
            logits = output[0] if isinstance(output, tuple) else output
            F.mse_loss(logits, torch.empty_like(logits)).backward()
    return counter.get_total_flops() / len(images)

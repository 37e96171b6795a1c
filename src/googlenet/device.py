"""What the machine at hand can do: which device, which precision, and how to describe it in a report."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from googlenet.errors import UserError, reason_of

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the precisions stand for."""


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU, else Apple's, else the CPU.

    Raises:
        UserError: for a name that PyTorch does not know, or a device that this machine lacks.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"there is no device {device!r}; say auto, cpu, cuda, cuda:0 or mps") from error
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(resolved.type, 0)
    if (resolved.index or 0) >= available:
        raise UserError(f"this machine has no device {device!r} that PyTorch can use; say auto or cpu")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` is bf16 where the device computes in it natively, fp16 on older GPUs, else fp32.

    Raises:
        UserError: for fp16 on a device that is no GPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; on a CPU say auto, fp32 or bf16")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    # x86 says avx512_bf16 or amx_bf16; ARM says bf16 (or sve_bf16).
    capabilities = torch.cpu.get_capabilities()
    return any(bool(there) for name, there in capabilities.items() if name.endswith("bf16"))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a forward pass runs in `precision` (fp32, bf16 or fp16)."""
    return torch.autocast(
        device.type, dtype=DTYPES[precision] if precision != "fp32" else None, enabled=precision != "fp32"
    )


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told; a CPU has done it when the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_freed_memory() -> None:
    """Have freed memory kept for the next step instead of given back to the system, for the rest of the process.

    Each step of training frees and asks again for the same few hundred megabytes, and every page of them that comes
    from the system anew costs a fault: a quarter of the time of a step with batches of 64 at 224x224. Where the C
    library is not glibc, nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@functools.cache
def compile_obstacle(device: torch.device) -> str | None:
    """Why `torch.compile` does not work here, if so: on a CPU it needs a compiler of C++, on a GPU Triton."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
    except Exception as error:  # whatever its back end fails with
        return reason_of(error)
    return None


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, processor, memory and device, for `environment.json` and for benchmarks."""
    packages = ("googlenet", "torch", "accelerate", "numpy", "safetensors", "pillow")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "system": platform.platform(),
        "processor": _processor_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
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
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Of this machine; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return 0

"""Devices, precisions and the machine's description."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from googlenet.errors import UserError, reason_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def resolve_device(device: str | torch.device) -> torch.device:
    """`auto` is the first GPU, else Apple's GPU, else the CPU. Raises `UserError` if this machine lacks the device."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}; use auto, cpu, cuda, cuda:0 or mps") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (resolved.index or 0) >= counts.get(resolved.type, 0):
        raise UserError(f"this machine has no device {str(device)!r} that PyTorch can use; use auto or cpu")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` is bf16 if it is native, fp16 on older GPUs, else fp32. Raises `UserError` for fp16 on a CPU."""
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; on a CPU use auto, fp32 or bf16")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def cpu_capabilities() -> dict[str, Any]:
    """What this processor can do, by name. bf16 is avx512_bf16 or amx_bf16 (x86), bf16 or sve_bf16 (ARM)."""
    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    with contextlib.suppress(OSError):  # PyTorch before 2.11, on Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
        return dict.fromkeys(flags.split(), True)
    return {}


def _cpu_has_bf16() -> bool:
    return any(bool(has) for name, has in cpu_capabilities().items() if name.endswith("bf16"))


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let the C library keep freed memory for the next training step instead of returning it to the system.

    Each step frees and allocates the same few hundred MiB, and every page that comes fresh from the system costs a page
    fault: a quarter of a step at 224x224 and batch 64. Does nothing if the C library is not glibc.
    """
    libc: Any = None
    with contextlib.suppress(OSError):
        libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # glibc's defaults; the thresholds are those that it comes to by itself, which mallopt has stopped
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)
        libc.malloc_trim(0)


@contextlib.contextmanager
def scoped_process_state(device: torch.device) -> Iterator[None]:
    """For training: settings of the whole process and random generators, all restored at the end."""
    with contextlib.ExitStack() as stack:
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        stack.enter_context(warnings.catch_warnings())
        # 1x1 kernels have the same memory order under either layout's strides, so nothing is lost
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")  # on purpose
        if device.type == "cpu":
            stack.enter_context(keep_freed_memory())
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
            # In cuDNN's benchmark mode, kernels race: results differ from run to run, and the races take 21 s (H100)
            cudnn = torch.backends.cudnn
            for flag, value in (("benchmark", False), ("deterministic", True)):
                stack.callback(setattr, cudnn, flag, getattr(cudnn, flag))
                setattr(cudnn, flag, value)
        yield


@functools.cache
def compile_error(device: torch.device) -> str | None:
    """Why `torch.compile` fails here, or None: on a CPU it needs a C++ compiler, on a GPU Triton."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(8, device=device))
    except Exception as error:  # whatever its back end fails with
        return reason_of(error)
    return None


def require(package: str, purpose: str) -> None:
    """Raises `UserError` with the command to type if a package is not installed. `purpose`: what needs it."""
    if find_spec(package) is None:
        raise UserError(f"{purpose} needs {package}, which is not installed: pip install {package}")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, processor, memory and device, for `environment.json`."""
    packages = ("googlenet", "torch", "accelerate", "numpy", "safetensors", "pillow")
    return {
        "python": platform.python_version(), "packages": {name: version(name) for name in packages},
        "system": platform.platform(), "processor": _processor_name(),
        "cores": available_cores(), "threads": torch.get_num_threads(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "capability": torch.backends.cpu.get_cpu_capability(), "native_bf16": _cpu_has_bf16(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }  # fmt: skip


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of this machine."""
    return int(psutil.virtual_memory().total)


def _processor_name() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()

"""The most memory that some work takes, above that of the imports; measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from googlenet.errors import RunError


def measurable(device: torch.device) -> bool:
    """Whether the peak can be known: on a GPU of NVIDIA's or AMD's, and on Linux."""
    return device.type == "cuda" or Path("/proc/self/status").exists()


def in_own_process(module: str, *arguments: str) -> int:
    """Bytes that `python -m module arguments` prints: it calls `peak_of`.

    Raises:
        RunError: where it fails.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        what = " ".join(arguments)
        raise RunError(f"measuring the memory of {what} failed: {reason or f'exit code {done.returncode}'}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_of(prepare: Callable[[], Callable[[], object]], device: torch.device) -> int:
    """Bytes that preparing a step and taking it three times took at the most: resident on a CPU, the allocator's on a
    GPU. Where it is not `measurable`, it fails."""
    on_gpu = device.type == "cuda"
    before = 0 if on_gpu else _status("VmRSS")
    step = prepare()
    for _ in range(3):
        step()
    return torch.cuda.max_memory_allocated(device) if on_gpu else _status("VmHWM") - before


def _status(field: str) -> int:
    """Bytes of this process: resident now (VmRSS), or at the most since it began (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024

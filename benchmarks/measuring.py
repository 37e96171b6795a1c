"""Time and memory, measured so that results can be compared, and the tables they are shown in."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import table as rich_table

from googlenet import RunError

CALLS_OF_ONE = 16
"""Calls in a row in each turn if a call takes milliseconds, as for a single image."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Timing:
    """The seconds that each call took."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def percentile(self, share: float) -> float:
        """The time within which this share (0 to 1) of the calls finished."""
        ordered = sorted(self.seconds)
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

    def rates(self, images: int) -> dict[str, float]:
        """Images per second at the median, the slowest and the fastest call."""
        return {
            "images/s": images / self.median,
            "slowest": images / max(self.seconds),
            "fastest": images / min(self.seconds),
        }


def alternate(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device = _CPU, warmup: int = 2, calls: int = 1
) -> dict[str, Timing]:
    """Time everything in every round, in turn, so that whatever slows the machine down slows all of them.

    Args:
        runs: what to time, by name.
        rounds: rounds that count.
        device: where it runs; each call is waited for.
        warmup: rounds before those.
        calls: calls in a row in each turn. Of several, the first does not count: it finds the caches full of another
            run's data.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + rounds):
        for name, run in runs.items():
            for call in range(calls):
                elapsed = time_call(run, device)
                if turn >= warmup and (call > 0 or calls == 1):
                    seconds[name].append(elapsed)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def time_call(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def can_measure_memory(device: torch.device) -> bool:
    """Whether `peak_memory` works: for CUDA devices, and for CPUs on Linux."""
    return device.type == "cuda" or (device.type == "cpu" and Path("/proc/self/status").exists())


def peak_memory(prepare: Callable[[], Callable[[], object]], device: torch.device) -> int:
    """The most bytes used while `prepare()` and three calls of its result run, above what was used before: resident
    memory on a CPU, the allocator's on a GPU."""
    if device.type == "cpu":
        with suppress(OSError):  # without permission the peak counts from the start of the process
            Path("/proc/self/clear_refs").write_text("5")
    before = 0 if device.type == "cuda" else _memory_status("VmRSS")
    run = prepare()
    for _ in range(3):
        run()
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _memory_status("VmHWM") - before


def _memory_status(field: str) -> int:
    """Bytes of this process: resident now (VmRSS), or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def in_own_process(module: str, *arguments: str) -> int:
    """The number that `python -m module arguments` prints last. Raises `RunError` if it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise RunError(f"python -m {module} {' '.join(arguments)} failed: {reason}")
    return int(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Table:
    """The results of one comparison. All rows have the same columns, whose names include the units."""

    title: str
    rows: list[dict[str, Any]]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_rich(self) -> rich_table.Table:
        table = rich_table.Table(title=self.title, title_justify="left", caption=self.note, caption_justify="left")
        for column, value in self.rows[0].items():
            table.add_column(column, justify="left" if isinstance(value, str) else "right")
        for row in self.rows:
            table.add_row(*map(format_value, row.values()))
        return table

    def to_markdown(self) -> str:
        columns = list(self.rows[0])
        lines = [f"**{self.title}**", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(map(format_value, row.values()))} |" for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])


def format_value(value: Any) -> str:
    """A number with as many digits as are of use."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 20 else 2
    return f"{value:,.{digits}f}"

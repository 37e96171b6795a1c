"""Seconds, measured so that they can be compared: the candidates take turns, and the median of their turns counts."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from googlenet.device import synchronize

CALLS_OF_ONE = 16
"""In a row, each turn, where single images are timed, which take milliseconds."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Timing:
    """How long each call of one candidate took, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def percentile(self, share: float) -> float:
        """The time that this share of the calls, 0 to 1, stayed within."""
        ordered = sorted(self.seconds)
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

    def rates(self, images: int) -> dict[str, float]:
        """Images a second at the median, and at the slowest and the fastest call."""
        return {
            "images/s": images / self.median,
            "slowest": images / max(self.seconds),
            "fastest": images / min(self.seconds),
        }


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device = _CPU,
    warmup: int = 2,
    calls: int = 1,
) -> dict[str, Timing]:
    """Time every candidate in each round, in turn, so that whatever slows the machine down slows each of them.

    Args:
        candidates: what to time.
        rounds: turns that count.
        device: where they work; each is waited for.
        warmup: turns before those.
        calls: in a row, each turn; of several all but the first count. What takes milliseconds needs them: the first
            finds the caches full of what the others left there, and their threads still awake.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, candidate in candidates.items():
            for call in range(calls):
                started = time.perf_counter()
                candidate()
                synchronize(device)
                if turn >= warmup and (call > 0 or calls == 1):
                    seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}

"""The measures of `googlenet bench`, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks import Measure
from benchmarks.limits import Peaks, measure_peaks
from benchmarks.tables import Table
from googlenet.device import describe


def measure(
    names: Sequence[Measure],
    device: torch.device,
    *,
    rounds: int,
    recipes: Sequence[str] = ("fast",),
    seeds: int = 3,
    show: Callable[[Table], None] = lambda _table: None,
    save: Callable[[dict[str, Any]], None] = lambda _found: None,
) -> dict[str, Any]:
    """Take the measures named, one after the other; `show` gets each table as soon as it is there, `save` all so far.

    Returns:
        The machine, its peaks and the tables, as JSON takes them.
    """
    peaks = measure_peaks(device)
    tables: dict[str, list[dict[str, Any]]] = {}
    found = {"machine": describe(device), "peaks": peaks.to_dict(), "measures": tables}
    for name in names:
        tables[name] = []
        for table in _tables(name, device, peaks, rounds, recipes, seeds):
            tables[name].append(table.to_dict())
            show(table)
            save(found)
    return found


def _tables(
    name: Measure, device: torch.device, peaks: Peaks, rounds: int, recipes: Sequence[str], seeds: int
) -> Iterator[Table]:
    match name:
        case "training":
            from benchmarks.training import measure_training

            return measure_training(device, peaks, rounds)
        case "inference":
            from benchmarks.inference import measure_inference

            return measure_inference(device, peaks, rounds)
        case "memory":
            from benchmarks.memory import measure_memory

            return measure_memory(device)
        case "data":
            from benchmarks.data_path import measure_data_path

            return measure_data_path(device, rounds)
        case "startup":
            from benchmarks.startup import measure_startup

            return measure_startup(rounds)
        case "accuracy":
            from benchmarks.accuracy import measure_accuracy

            return measure_accuracy(recipes, seeds, str(device))

"""Measures this machine: this package next to plain PyTorch and other baselines, in turn, each next to the machine's
peak. Ratios carry over to other machines, absolute figures do not."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

MEASURES = ("training", "inference", "memory", "data", "startup", "accuracy")


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("measures", nargs="*", metavar="MEASURE", help=f"{', '.join(MEASURES)} (default: all but accuracy)")
    add("--rounds", type=int, default=9, help="rounds that count; tables show the median (default: 9)")
    add("--recipes", default="fast", help="what accuracy trains: names or files, separated by commas (default: fast)")
    add("--seeds", type=int, default=3, help="runs of each recipe (default: 3)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add("--output", type=Path, metavar="FILE.json", help="write the results here too, after each table")
    add("--json", action="store_true", help="print the results as JSON; tables go to standard error")
    arguments = parser.parse_args(words)
    if unknown := [measure for measure in arguments.measures if measure not in MEASURES]:
        parser.error(f"unknown measure {unknown[0]!r}; choose from {', '.join(MEASURES)}")
    if min(arguments.rounds, arguments.seeds) < 1:
        parser.error("--rounds and --seeds must be 1 or more")
    if arguments.output is not None and not arguments.output.parent.is_dir():
        parser.error(f"--output: there is no folder {arguments.output.parent}")
    return arguments


def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    import googlenet

    try:
        with redirect_stdout(sys.stderr) if arguments.json else nullcontext():
            results = measure(arguments)
    except (googlenet.UserError, googlenet.RunError) as error:
        sys.exit(f"benchmarks: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if arguments.json:
        print(json.dumps(results, indent=2))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Take the measures one after the other; each table is printed, and the file written, as soon as it is known.

    Returns:
        The machine, its peaks and the tables by measure, as JSON takes them.
    """
    from rich.console import Console

    from benchmarks import accuracy, data, inference, memory, startup, training
    from benchmarks.machine import describe, measure_peaks, resolve_device
    from benchmarks.measuring import Table

    device, rounds = resolve_device(arguments.device), arguments.rounds
    peaks = measure_peaks(device)

    def tables_of(name: str) -> Iterator[Table]:
        match name:
            case "training":
                return training.measure_training(device, peaks, rounds)
            case "inference":
                return inference.measure_inference(device, peaks, rounds)
            case "memory":
                return memory.measure_memory(device)
            case "data":
                return data.measure_data(device, rounds)
            case "startup":
                return startup.measure_startup(rounds)
            case _:
                return accuracy.measure_accuracy(arguments.recipes.split(","), arguments.seeds, str(device))

    tables: dict[str, list[dict[str, Any]]] = {}
    results = {"machine": describe(device), "peaks": asdict(peaks), "measures": tables}
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140)
    for name in arguments.measures or MEASURES[:-1]:
        tables[name] = []
        for table in tables_of(name):
            tables[name].append(table.to_dict())
            console.print(table.to_rich(), "")
            sys.stdout.flush()
            if arguments.output is not None:
                arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    main()

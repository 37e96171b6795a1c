"""This machine measured."""

from __future__ import annotations

import json as json_format
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from googlenet.bench import USUAL, Measure
from googlenet.cli.app import (
    Device,
    Json,
    Output,
    app,
    print_json,
)
from googlenet.errors import check_counts


@app.command
def bench(
    *measures: Annotated[Measure, Parameter(help="What to measure; left out: all but accuracy, which trains.")],
    rounds: Annotated[int, Parameter(help="Turns of each contender that count; the median is given.")] = 9,
    recipes: Annotated[str, Parameter(help="What accuracy trains: names or files, separated by commas.")] = "fast",
    seeds: Annotated[int, Parameter(help="How often accuracy trains each.")] = 3,
    output: Annotated[Path | None, Output, Parameter(help="JSON file to write.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Measure this machine: ours beside its peers, in turn in one process, each beside the machine's limit."""
    from googlenet.bench.measures import measure
    from googlenet.files import check_output, writing
    from googlenet.machine import resolve_device

    check_counts(rounds=rounds, seeds=seeds)
    if output is not None:
        check_output(output, ".json")
    console = Console(stderr=json)

    def save(found: dict[str, Any]) -> None:
        if output is not None:
            with writing(output) as temporary:
                temporary.write_text(json_format.dumps(found, indent=2) + "\n", encoding="utf-8")

    with redirect_stdout(sys.stderr) if json else nullcontext():
        found = measure(
            measures or USUAL,
            resolve_device(device),
            rounds=rounds,
            recipes=recipes.split(","),
            seeds=seeds,
            show=lambda table: console.print(table.to_rich(), ""),
            save=save,
        )
    if json:
        print_json(found)
    return 0

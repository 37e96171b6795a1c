"""A recipe's test accuracy and training time over several seeds.

usage: python benchmarks/accuracy.py [--recipe fast] [--seeds 3] [--data-dir FOLDER|bundled] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from googlenet import train
from googlenet.machine import describe, resolve_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", help="folder with the data, or bundled")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    runs = []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            where = {"data_dir": given.data_dir} if given.data_dir else {}
            result = train(given.recipe, output=Path(folder) / "run", seed=seed, device=given.device, **where)
            runs.append({"seed": seed, "accuracy": result.metrics["test"]["accuracy"], "seconds": result.seconds})
    table = Table("seed", "test accuracy", "seconds of training")
    for run in runs:
        table.add_row(str(run["seed"]), f"{run['accuracy']:.2%}", f"{run['seconds']:.1f}")
    mean = {key: statistics.mean(run[key] for run in runs) for key in ("accuracy", "seconds")}
    table.add_row("mean", f"{mean['accuracy']:.2%}", f"{mean['seconds']:.1f}", style="bold")
    Console().print(table)
    if given.output:
        machine = describe(resolve_device(given.device))
        given.output.write_text(
            json.dumps({"recipe": given.recipe, "runs": runs, **mean, "machine": machine}, indent=2)
        )


if __name__ == "__main__":
    main()

"""The same batches on 1, 2 and 4 processes: the loss of each step, and how far the curves are apart.

Starts every run with torchrun on this machine. Prints a table: the largest difference of a step's loss from the run
with one process, the mean difference, and what the test images say at the end. How far apart may rounding alone bring
two runs? One more run with one process shows it: another memory layout, in which sums are rounded differently.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from googlenet import RunFolder

CASES = {
    "no batch norm": "--variant tutorial --initialization he --no-whiten",
    "the same, batches in 3 parts": "--variant tutorial --initialization he --no-whiten --gradient-accumulation 3",
    "batch norm, `--sync-batch-norm`": "--sync-batch-norm",
    "batch norm of each process": "",
}
"""The recipe draws nothing at random but the order of the images; else each process would draw for its own."""
COMMON = "--recipe fast --data-dir bundled --image-size 16 --stem-stride 2 --optimizer sgd --learning-rate 0.01"


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.processes", description=__doc__)
    add = parser.add_argument
    add("--processes", type=int, nargs="+", default=[1, 2, 4], help="the first is compared with (default: 1 2 4)")
    add("--steps", type=int, default=40, help="of each run (default: 40)")
    add("--batch-size", type=int, default=62, help="over all processes (default: 62, which 4 does not divide)")
    add("--cases", type=int, nargs="+", default=list(range(len(CASES))), help="numbers of cases (default: all)")
    add("--work", type=Path, help="folder to keep the runs in (default: a temporary one)")
    return parser.parse_args(words)


def train(folder: Path, processes: int, settings: str, arguments: argparse.Namespace) -> RunFolder:
    """A run with one row of metrics for each step, unless an earlier call has finished it."""
    if (folder / "evaluation.json").exists():
        return RunFolder(folder)
    size = f"--max-steps {arguments.steps} --epochs 100 --batch-size {arguments.batch_size} --log-every 1"
    words = f"--standalone --nproc-per-node {processes} -m googlenet train {COMMON} {size} {settings}"
    words += " --precision fp32 --max-test-images 1000 --no-plots"
    command = [sys.executable, "-m", "torch.distributed.run", *words.split(), "--output", str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
    return RunFolder(folder)


def compare(run: RunFolder, other: RunFolder) -> str:
    """Cells of the table for `run`, next to `other`."""
    losses, expected = ([row["loss"] for row in each.rows() if row["split"] == "train"] for each in (run, other))
    apart = [abs(a - b) for a, b in zip(losses, expected, strict=True)]
    last = run.rows()[-1]
    figures = f"{losses[0]:.4f} | {losses[-1]:.4f} | {last['loss']:.4f} | {last['accuracy']:.1%}"
    return f"{figures} | {max(apart):.1g} | {sum(apart) / len(apart):.1g}"


def main(words: list[str] | None = None) -> int:
    arguments = parse_arguments(words)
    columns = ["settings", "processes", "loss of the first step", "of the last", "test loss", "test accuracy"]
    print(f"| {' | '.join(columns)} | largest difference | mean difference |\n|{'---|' * 8}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for number in arguments.cases:
            name, settings = list(CASES.items())[number]
            first, *others = arguments.processes
            wanted = {str(first): (first, ""), f"{first}, other layout": (first, " --no-channels-last")}
            wanted |= {str(n): (n, "") for n in others}
            runs: list[RunFolder] = []
            for label, (processes, more) in wanted.items():
                folder = work / f"{number}-{label.replace(', ', '-').replace(' ', '-')}"
                runs.append(train(folder, processes, settings + more, arguments))
                print(f"| {name} | {label} | {compare(runs[-1], runs[0])} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

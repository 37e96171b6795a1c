"""Why GoogLeNet converges slowly: trains the tutorial's network with one thing changed at a time, and writes a report.
The same command continues where it was stopped. docs/convergence.md explains the results."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from experiments.convergence.grid import FULL, QUICK, Scale
from experiments.convergence.report import write_report
from experiments.convergence.study import study
from googlenet import RunError, UserError


def parse_arguments(words: list[str] | None = None) -> tuple[argparse.Namespace, Scale]:
    """The options, and the scale that they ask for."""
    parser = argparse.ArgumentParser(prog="python -m experiments.convergence", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a grid of ten minutes on two cores")
    add("-o", "--output", type=Path, help="folder (default: runs/convergence, or runs/convergence-quick)")
    add("--only", default="", help="factors (head) or configurations (pair=he+alexnet), separated by commas")
    add("--steps", type=_count, help="steps of each run")
    add("--seeds", type=_count, help="runs of each configuration at its best learning rate")
    add("--image-size", type=_count, help="height and width of the images, pixels")
    add("--learning-rates", dest="rates", type=_rates, metavar="RATES", help="to try, separated by commas")
    add("--workers", type=_count, help="runs at the same time (default: one for each core)")
    add("--json", action="store_true", help="print the results as JSON; progress goes to standard error")
    arguments = parser.parse_args(words)
    names = ("steps", "seeds", "image_size", "rates")
    changes = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return arguments, dataclasses.replace(QUICK if arguments.quick else FULL, **changes)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _rates(text: str) -> tuple[float, ...]:
    rates = tuple(dict.fromkeys(float(rate) for rate in text.split(",")))
    if min(rates) <= 0:
        raise argparse.ArgumentTypeError("learning rates must be above 0")
    return rates


def main(words: list[str] | None = None) -> None:
    arguments, scale = parse_arguments(words)
    folder = arguments.output or Path("runs") / ("convergence-quick" if arguments.quick else "convergence")
    only = arguments.only.split(",") if arguments.only else ()

    def progress(done: int, total: int, seconds_left: float | None, name: str) -> None:
        left = "" if seconds_left is None else f"  about {seconds_left / 60:.0f} minutes left"
        print(f"{done}/{total}  {name}{left}", flush=True)

    try:
        with redirect_stdout(sys.stderr) if arguments.json else nullcontext():
            result = study(
                folder, scale, only=only, quick=arguments.quick, workers=arguments.workers, progress=progress
            )
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, RunError) as error:
        print(f"convergence: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    report = write_report(result, folder)
    print(json.dumps({"report": str(report), **result.to_dict()}, indent=2) if arguments.json else f"report: {report}")


if __name__ == "__main__":
    main()

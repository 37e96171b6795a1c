"""Compares GoogLeNet with AlexNet, NiN, VGG, ResNet-18, SqueezeNet and MobileNetV2: what each costs, and, if asked for,
how fast it is on this machine and what it learns in equal time. docs/comparison.md discusses the results."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.machine import resolve_device
from experiments.comparison.compare import Entry, count, measure_speed, plot, to_table
from experiments.comparison.networks import BASELINES, choose
from experiments.comparison.training import train_for
from googlenet import RunError, UserError


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.comparison", description=__doc__)
    add = parser.add_argument
    add("networks", nargs="*", metavar="NETWORK", help=f"{', '.join(BASELINES)} (default: all)")
    add("--latency", action="store_true", help="also measure speed and memory")
    add("--train", action="store_true", help="also train each on Fashion-MNIST, all for the same time")
    add("--input-size", type=_size, default=(3, 224, 224), metavar="C,H,W", help="of what is counted and timed")
    add("--num-classes", type=int, default=1000, help="of what is counted and timed (default: 1000)")
    add("--rounds", type=int, default=9, help="rounds with --latency; the table shows the median (default: 9)")
    add("--seconds", type=float, default=60, help="that each network trains with --train (default: 60)")
    add("--image-size", type=int, default=64, help="height and width to train on, pixels (default: 64)")
    add("--learning-rate", type=float, help="highest of the schedule (default: each network's best)")
    add("--plot", type=Path, metavar="FILE.png", help="draw accuracy, compute and parameters")
    add("--data-dir", type=Path, help="folder with the data set's files, or bundled")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add("--json", action="store_true", help="print JSON; progress goes to standard error")
    arguments = parser.parse_args(words)
    for name in ("num_classes", "rounds", "seconds", "image_size"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if arguments.plot is not None and not arguments.plot.absolute().parent.is_dir():
        parser.error(f"--plot: there is no folder {arguments.plot.parent}")
    return arguments


def _size(text: str) -> tuple[int, int, int]:
    channels, height, width = map(int, text.split(","))
    return channels, height, width


def compare(arguments: argparse.Namespace) -> list[Entry]:
    baselines, size, classes = choose(arguments.networks), arguments.input_size, arguments.num_classes
    entries = [count(baseline, size, classes) for baseline in baselines]
    if arguments.latency:
        device = resolve_device(arguments.device)
        speeds = measure_speed(baselines, size, classes, device, rounds=arguments.rounds)
        entries = [replace(entry, speed=speed) for entry, speed in zip(entries, speeds, strict=True)]
    if arguments.train:
        side = arguments.image_size
        for baseline in baselines:  # an error now, and not after others have trained
            count(baseline, (1, side, side), 10)
        settings = {"learning_rate": arguments.learning_rate, "device": arguments.device}
        if arguments.data_dir is not None:
            settings["data_dir"] = str(arguments.data_dir)
        entries = [
            replace(entry, training=train_for(entry.baseline, arguments.seconds, image_size=side, **settings))
            for entry in entries
        ]
    return entries


def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    try:
        with redirect_stdout(sys.stderr) if arguments.json else nullcontext():
            entries = compare(arguments)
        if arguments.json:
            print(json.dumps([entry.to_dict() for entry in entries], indent=2))
        else:
            table = to_table(entries, arguments.input_size, arguments.num_classes)
            Console(width=None if sys.stdout.isatty() else 200).print(table)
        if arguments.plot is not None:  # last: what took so long to measure is printed whatever happens here
            plot(entries, arguments.plot)
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, RunError) as error:
        print(f"comparison: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()

"""Compares the speed of two checkouts of this project on this machine, in alternating rounds.

usage: python benchmarks/before_after.py BEFORE AFTER [--rounds N] [--evaluations N] [--seeds N] [--output FILE.md]

BEFORE and AFTER are checkouts. Each is imported in its own process, with PYTHONPATH=CHECKOUT/src; while one works, the
other waits. The worker below uses nothing but what both versions know.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

# name, recipe, settings, steps timed in a round
_TRAININGS: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    ("train-224", "tutorial", {"image_size": 224, "batch_size": 16, "precision": "auto", "channels_last": True}, 3),
    ("train-28", "fast", {"image_size": 28, "batch_size": 128}, 5),
)
_WARMUP = 2
_TITLES = {
    "train-224": "training step, tutorial, 224x224, batch 16",
    "train-28": "training step, recipe fast, 28x28, batch 128",
    "predict-1": "Predictor, one PNG, tutorial, 224x224",
    "predict-16": "Predictor, 16 PNGs, tutorial, 224x224",
    "help": "googlenet --help",
    "summary": "googlenet summary",
    "predict": "googlenet predict, one PNG",
    "evaluate": "googlenet evaluate, 10,000 images, 28x28",
}


class Worker:
    """One checkout in its own process, which answers a line of JSON with a line of JSON."""

    def __init__(self, checkout: Path) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
        # -P: no folder of scripts comes before the checkout
        command = [sys.executable, "-P", str(Path(__file__).absolute()), "--worker"]
        self.process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        file = Path(self.call("where"))
        if not file.is_relative_to(checkout.resolve()):
            sys.exit(f"{checkout} was asked for, but {file} was imported")

    def call(self, function: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([function, *arguments]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{function} failed, see above")
        return json.loads(answer)

    def time_command(self, *words: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-m", "googlenet", *words], env=self.environment, check=True, stdout=-3)
        return time.perf_counter() - started

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# The functions of the worker


def where() -> str:
    import googlenet

    return str(Path(googlenet.__file__).resolve())


def write_images(folder: str, count: int) -> list[str]:
    """PNG files of the data set's first images, as they are."""
    from PIL import Image

    import googlenet

    images, _ = next(iter(googlenet.load_data(batch_size=count)[0]))
    files = [str(Path(folder) / f"{number}.png") for number in range(count)]
    for image, file in zip(images, files, strict=True):
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(file)
    return files


def train(folder: str, recipe: str, settings: dict[str, Any], steps: int) -> list[float]:
    """Seconds of each step after the first few."""
    import googlenet

    moments: list[float] = []
    settings = {**_quiet(), **settings, "max_steps": _WARMUP + steps, "data_dir": "bundled"}
    googlenet.train(recipe, output=folder, on_step=lambda _: moments.append(time.perf_counter()), **settings)
    return [after - before for before, after in pairwise(moments[_WARMUP - 1 :])]


def accuracy(folder: str, recipe: str, seed: int) -> tuple[float, float]:
    """Seconds of training and the test accuracy of a whole run, on the data in the package."""
    import googlenet

    result = googlenet.train(recipe, output=folder, seed=seed, data_dir="bundled")
    return result.seconds, result.metrics["test"]["accuracy"]


def _quiet() -> dict[str, Any]:
    """No plots, and one test image: by the names of either version."""
    import googlenet

    if hasattr(googlenet, "load_recipe"):
        return {"plots": False, "max_test_images": 1}
    return {"pictures": False, "test_images": 1, "num_workers": 0}  # version 0.1


def predict(model: str, files: Sequence[str], calls: int) -> list[float]:
    """Seconds of each call with these files, after two that do not count."""
    import googlenet

    predictor = googlenet.Predictor(model)
    seconds = []
    for _ in range(2 + calls):
        started = time.perf_counter()
        predictions = list(predictor.predict(files, batch_size=len(files)))
        seconds.append(time.perf_counter() - started)
        assert all(prediction.error is None for prediction in predictions)
    return seconds[2:]


def peak_memory() -> float:
    """MiB resident at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _work() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever the package prints
    for line in sys.stdin:
        function, *arguments = json.loads(line)
        print(json.dumps(globals()[function](*arguments)), file=answers, flush=True)


# The comparison


def compare(before: Path, after: Path, rounds: int, evaluations: int, seeds: int, recipe: str) -> list[str]:
    """The tables, as lines of Markdown."""
    with contextlib.ExitStack() as stack:
        workers = {"before": Worker(before), "after": Worker(after)}
        for worker in workers.values():
            stack.callback(worker.close)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images = workers["before"].call("write_images", str(scratch), 16)
        seconds: dict[str, dict[str, list[list[float]]]] = {name: defaultdict(list) for name in workers}
        for round_ in range(rounds):
            order = list(workers) if round_ % 2 == 0 else list(reversed(workers))
            for name in order:
                models = {}
                for training, base, settings, steps in _TRAININGS:
                    folder = scratch / f"{name}-{round_}-{training}"
                    seconds[name][training].append(workers[name].call("train", str(folder), base, settings, steps))
                    models[training] = str(folder / "model.safetensors")
                for count, calls in ((1, 20), (16, 3)):
                    timed = workers[name].call("predict", models["train-224"], images[:count], calls)
                    seconds[name][f"predict-{count}"].append(timed)
                commands = {"help": ["--help"], "summary": ["summary"]}
                commands["predict"] = ["predict", models["train-224"], images[0]]
                if round_ < evaluations:
                    commands["evaluate"] = ["evaluate", models["train-28"], "--data-dir", "bundled"]
                for command, words in commands.items():
                    seconds[name][command].append([workers[name].time_command(*words)])
                print(f"round {round_ + 1} of {rounds}, {name}", file=sys.stderr)
        lines = _speed_table(seconds["before"], seconds["after"])
        memory = {name: worker.call("peak_memory") for name, worker in workers.items()}
        ratio = memory["after"] / memory["before"]
        lines.append(
            f"| peak memory of all that, MiB | {memory['before']:,.0f} | {memory['after']:,.0f} | {ratio:.3f} | |"
        )
        if seeds:
            lines += ["", *_accuracy_table(workers, scratch, seeds, recipe)]
    cores = len(os.sched_getaffinity(0))
    return [
        f"{rounds} rounds on {platform.processor() or platform.machine()}, {cores} cores: {before} and {after}",
        "",
        *lines,
    ]


def _speed_table(before: dict[str, list[list[float]]], after: dict[str, list[list[float]]]) -> list[str]:
    lines = ["| milliseconds, medians | before | after | after / before | of single rounds |", "|---|---|---|---|---|"]
    for name, title in _TITLES.items():
        if name not in before:
            continue
        medians = [1000 * statistics.median(chain.from_iterable(runs[name])) for runs in (before, after)]
        ratios = [
            statistics.median(second) / statistics.median(first)
            for first, second in zip(before[name], after[name], strict=True)
        ]
        figures = f"{medians[0]:,.1f} | {medians[1]:,.1f} | {medians[1] / medians[0]:.3f}"
        lines.append(f"| {title} | {figures} | {min(ratios):.2f} to {max(ratios):.2f} |")
    return lines


def _accuracy_table(workers: dict[str, Worker], scratch: Path, seeds: int, recipe: str) -> list[str]:
    lines = [f"| recipe {recipe}, bundled data | seed | accuracy, % | training, s |", "|---|---|---|---|"]
    accuracies = defaultdict(list)
    for seed in range(seeds):
        for name, worker in workers.items():
            seconds, found = worker.call("accuracy", str(scratch / f"{name}-seed-{seed}"), recipe, seed)
            accuracies[name].append(100 * found)
            lines.append(f"| {name} | {seed} | {100 * found:.2f} | {seconds:.1f} |")
    lines += [f"| {name} | mean | {statistics.mean(values):.2f} | |" for name, values in accuracies.items()]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the earlier version")
    parser.add_argument("after", type=Path, help="checkout of the later version")
    parser.add_argument("--rounds", type=int, default=10, help="about a minute each on two cores (default: 10)")
    parser.add_argument("--evaluations", type=int, default=1, help="rounds that also evaluate (default: 1)")
    parser.add_argument("--seeds", type=int, default=0, help="also train the recipe with this many seeds (default: 0)")
    parser.add_argument("--recipe", default="fast", help="recipe that --seeds trains (default: fast)")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write the tables here too")
    arguments = parser.parse_args()
    lines = compare(
        arguments.before.resolve(),
        arguments.after.resolve(),
        arguments.rounds,
        arguments.evaluations,
        arguments.seeds,
        arguments.recipe,
    )
    print("\n".join(lines))
    if arguments.output is not None:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _work() if sys.argv[1:] == ["--worker"] else main()

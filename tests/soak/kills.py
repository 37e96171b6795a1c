"""Kills runs with SIGKILL at random points, resumes them, and compares them with a run that nobody killed.

python -m tests.soak.kills --kills 100

A point is a moment after the first step, or a file operation (open, rename, delete, ...) in the run folder or the
cache, before which the process kills itself. Every killed run is started again by the same call, and killed again,
until it has finished: its weights, rows, predictions and evaluation must be those of the whole run, to the bit.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file

import googlenet
from googlenet import RunFolder
from googlenet.kernels.max_pool import library
from googlenet.training.folds import cross_validate
from tests.conftest import write_photos
from tests.training.helpers import small_net

SMALL: dict[str, Any] = {
    "recipe": "fast", "image_size": 28, "whiten": False, "batch_size": 8, "epochs": 3, "log_every": 2,
    "precision": "fp32", "plots": False, "crop_padding": 1,
}  # fmt: skip
GOOGLENET = {**SMALL, "image_size": 16, "stem_stride": 2, "epochs": 1, "checkpoint_every": 2}
CASES: dict[str, dict[str, Any]] = {
    "checkpoint every 3 steps": {**SMALL, "checkpoint_every": 3},
    "accumulation, EMA, mixup": {
        **SMALL, "checkpoint_every": 2, "gradient_accumulation": 2, "ema_decay": 0.9, "mixup": 0.2
    },
    "validation, early stopping": {**SMALL, "checkpoint_every": 4, "validation": 0.25, "patience": 1, "epochs": 6},
    "balance sampling, on demand saves": {**SMALL, "balance": "sampling", "optimizer": "sgd", "random_erasing": 0.5},
    "GoogLeNet in bf16, Muon": {**GOOGLENET, "precision": "bf16", "optimizer": "muon"},
    "2 folds": {**GOOGLENET, "max_steps": 2, "folds": 2},
}  # fmt: skip
_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.rmdir", "os.utime", "shutil.rmtree"}
_STAGES = {  # functions by what they do; the innermost that is on the stack counts
    "train_step": "a step", "train_epoch": "between steps", "evaluate": "an evaluation", "finish": "the end",
    "RunFolder.save_checkpoint": "saving a checkpoint", "RunFolder.load_checkpoint": "reading a checkpoint",
    "save_model": "saving a model", "RunFolder.append": "writing a row", "RunFolder.rewind": "beginning to resume",
    "RunFolder.describe": "describing the run", "open_store": "building the image store",
    "load_joined": "reading the images", "Trainer.__init__": "building network and optimizer",
    "make_accelerator": "building network and optimizer", "cross_validate": "between two folds",
}  # fmt: skip


@dataclass
class Case:
    """One kind of run: how it goes undisturbed, and what became of those that were killed."""

    settings: dict[str, Any]
    whole: Path
    seconds: float = 0.0
    operations: int = 0
    kills: int = 0
    runs: int = 0
    failures: list[str] = field(default_factory=list)


def train(settings: dict[str, Any], photos: Path, folder: Path) -> None:
    """The run of a case, as often as it is called; in the folder `run`, with its own image store."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    settings = {**settings, "data": photos, "output": folder / "run"}
    if "folds" in settings:
        cross_validate(**settings)
    else:
        model = None if "stem_stride" in settings else small_net(channels=1, classes=2)
        googlenet.train(**settings, resume=True, model=model)


def in_child(work: Callable[[], None], moment: float | None, operation: int | None) -> tuple[int, str, int]:
    """Run `work` in a process that kills itself some seconds after its first step, or before its n-th file operation.

    Returns its exit status, where it was when it died or what it raised, and how many operations there were.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        count, status = 0, 0
        main = threading.get_ident()

        def die(what: str = "") -> None:
            frame, stage = sys._current_frames().get(main), "elsewhere"
            while frame is not None and stage == "elsewhere":
                stage, frame = _STAGES.get(frame.f_code.co_qualname, stage), frame.f_back
            os.write(writer, json.dumps([f"{stage}{what}", count]).encode())
            os.kill(os.getpid(), signal.SIGKILL)

        def die_in_training(moment: float) -> None:
            """Most of a short run's time is its beginning, so the moments count from the first step."""
            while not _is_training(sys._current_frames().get(main)):
                time.sleep(0.001)
            time.sleep(moment)
            die()

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in _OPERATIONS and "googlenet-soak" in str(arguments[0]):
                count += 1
                if count == operation:
                    die(f", before {event}")

        try:
            with open(os.devnull, "w") as null:  # noqa: PTH123
                os.dup2(null.fileno(), 1)
                os.dup2(null.fileno(), 2)
            sys.addaudithook(watch)
            if moment is not None:
                threading.Thread(target=die_in_training, args=(moment,), daemon=True).start()
            work()
            os.write(writer, json.dumps(["finished", count]).encode())
        except BaseException:
            os.write(writer, json.dumps([traceback.format_exc()[-3000:], count]).encode())
            status = 3
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    stage, count = json.loads(said) if said else ("?", 0)
    return os.waitstatus_to_exitcode(status), stage, count


def _is_training(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_qualname != "train_epoch":
        frame = frame.f_back
    return frame is not None


def differences(whole: Path, other: Path) -> list[str]:
    """The files of two runs, or of the runs of two cross-validations, that are not the same."""
    found = []
    for path in sorted(whole.rglob("model.safetensors")):
        mine, theirs = path.parent, other / path.parent.relative_to(whole)
        expected, weights = load_file(path), load_file(theirs / path.name)
        if expected.keys() != weights.keys() or not all(torch.equal(expected[name], weights[name]) for name in weights):
            found.append(str(path))
        for name in ("predictions.csv", "split.csv", "recipe.toml"):
            if not (mine / name).exists():  # the split of data without files
                continue
            contents = (
                (run / name).read_bytes().replace(os.fsencode(top), b"")
                for run, top in ((mine, whole), (theirs, other))
            )
            if len(set(contents)) > 1:
                found.append(str(mine / name))
        if _evaluation(mine) != _evaluation(theirs):
            found.append(str(mine / "evaluation.json"))
        if _rows(mine) != _rows(theirs):
            found.append(str(mine / "metrics.jsonl"))
        if leftovers := list(theirs.rglob(".*")):
            found.append(f"left: {leftovers}")
    return found


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [_without_times(row) for row in RunFolder(folder).rows()]


def _evaluation(folder: Path) -> dict[str, Any]:
    return _without_times(json.loads((folder / "evaluation.json").read_text(encoding="utf-8")))


def _without_times(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("seconds", "images_per_second")}


def soak(kills: int, seed: int, scratch: Path, names: list[str], report: Callable[[str], None] = print) -> bool:
    """Kill runs of these cases in turn until there were `kills`; prints tables. Returns whether all survived."""
    draw = random.Random(seed)
    photos = scratch / "photos"
    write_photos(photos, of_each=20)
    for dtype in {"BFLOAT16" if CASES[name]["precision"] == "bf16" else "FLOAT32" for name in names}:
        library(dtype)  # compiled once, not in every process
    cases: dict[str, Case] = {}
    for number, name in enumerate(names):
        folder = scratch / f"whole-{number}"
        case = cases[name] = Case(CASES[name], folder)
        work = functools.partial(train, case.settings, photos, folder)
        started = time.perf_counter()
        status, stage, case.operations = in_child(work, None, None)
        case.seconds = time.perf_counter() - started
        if status != 0:
            raise SystemExit(f"{name}: {stage}")
    stages: Counter[str] = Counter()
    while (total := sum(case.kills for case in cases.values())) < kills:
        name = min(cases, key=lambda each: cases[each].kills * cases[each].seconds)
        case, folder = cases[name], scratch / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        work = functools.partial(train, case.settings, photos, folder)
        limit = draw.randint(1, 6)  # kills of this run
        while True:
            by_time = draw.random() < 0.5
            may_kill = limit > 0 and total < kills
            moment = draw.uniform(0, case.seconds / 8) if may_kill and by_time else None
            operation = draw.randint(1, case.operations) if may_kill and not by_time else None
            status, stage, _ = in_child(work, moment, operation)
            if status != -signal.SIGKILL:
                break
            stages[stage.partition(",")[0] + (" (before a file operation)" if "," in stage else "")] += 1
            case.kills, limit, total = case.kills + 1, limit - 1, total + 1
        case.runs += 1
        problems = [stage] if status != 0 else differences(case.whole / "run", folder / "run")
        if problems:
            case.failures.append("; ".join(problems))
        print(f"{total}/{kills} kills, {name}: {'; '.join(problems) or 'identical'}", file=sys.stderr, flush=True)
    report("| run | kills | runs | identical to the whole run |\n|---|---|---|---|")
    for name, case in cases.items():
        report(f"| {name} | {case.kills} | {case.runs} | {case.runs - len(case.failures)} |")
    report("\n| killed in | times |\n|---|---|")
    for stage, times in stages.most_common():
        report(f"| {stage} | {times} |")
    for name, case in cases.items():
        for failure in case.failures:
            report(f"\nFAILED, {name}: {failure}")
    return not any(case.failures for case in cases.values())


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.kills", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the points (default: 0)")
    parser.add_argument("--cases", default="", help="numbers of cases, separated by commas (default: all)")
    arguments = parser.parse_args(words)
    names = list(CASES)
    if arguments.cases:
        names = [names[int(number)] for number in arguments.cases.split(",")]
    torch.set_num_threads(1)  # before a fork, and the machine may be busy
    with tempfile.TemporaryDirectory(prefix="googlenet-soak-") as scratch:
        return 0 if soak(arguments.kills, arguments.seed, Path(scratch), names) else 1


if __name__ == "__main__":
    sys.exit(main())

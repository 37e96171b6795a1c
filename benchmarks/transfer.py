"""Transfer, measured: a network trained on half of Fashion-MNIST's classes learns the other half from few images,
compared with the same network from scratch in as many steps.

usage: python -m benchmarks.transfer [FOLDER]      writes transfer.json and transfer.png there
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import googlenet
from benchmarks.machine import describe

KNOWN, NEW = (0, 2, 3, 5, 7), (1, 4, 6, 8, 9)
"""T-shirt, pullover, dress, sandal and sneaker; then trouser, coat, shirt, bag and ankle boot."""
PER_CLASS = 20
EPOCHS, SEEDS = 24, 5
COMMON: dict[str, Any] = {
    "recipe": "fast",
    "batch_size": 32,
    "learning_rate": 0.003,
    "hflip": True,
    "label_smoothing": 0.1,
    "weight_decay": 0.05,
    "epochs": EPOCHS,
    "plots": False,
}
STARTS: dict[str, dict[str, Any]] = {
    "from scratch": {},
    "from the other classes": {},
    "from the other classes, held back": {"freeze_fraction": 0.2, "backbone_lr_scale": 0.3},
}


def main(folder: Path) -> None:
    data = googlenet.load_dataset("fashion-mnist")
    curves: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as scratch:
        known, new = Path(scratch) / "known", Path(scratch) / "new"
        write_classes(known, data.classes, KNOWN, data.train, data.test, per_class=6000)
        write_classes(new, data.classes, NEW, data.train, data.test, per_class=PER_CLASS)
        teacher = googlenet.train("fast", output=Path(scratch) / "teacher", data=known, epochs=1.5, plots=False)
        for seed in range(SEEDS):
            for name, settings in STARTS.items():
                run = Path(scratch) / f"{name} {seed}"
                weights: dict[str, Any] = {"weights": teacher.model} if "other" in name else {}
                googlenet.train(output=run, data=new, seed=seed, **COMMON, **settings, **weights)
                rows = [row for row in googlenet.RunFolder(run).rows() if row["split"] == "test"]
                curves[name].append([(row["seconds"], row["accuracy"]) for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": describe(torch.device("cpu")),
        "images": len(NEW) * PER_CLASS,
        "teacher": teacher.metrics["test"]["accuracy"],
        "curves": curves,
    }
    (folder / "transfer.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot(curves, folder / "transfer.png")
    for name, runs in curves.items():
        ends = [100 * run[-1][1] for run in runs]
        seconds = statistics.mean(run[-1][0] for run in runs)
        print(f"{name}: {statistics.mean(ends):.1f}% ± {statistics.stdev(ends):.1f} after {seconds:.0f} s")


def write_classes(
    folder: Path,
    names: Sequence[str],
    labels: Sequence[int],
    training: googlenet.ImageSplit,
    test: googlenet.ImageSplit,
    *,
    per_class: int,
) -> None:
    """FOLDER/train/CLASS/*.png, the first `per_class` images of each, and FOLDER/test/CLASS/*.png, the first 200."""
    for name, split, count in (("train", training, per_class), ("test", test, 200)):
        for label in labels:
            target = folder / name / names[label].replace("/", " ")
            target.mkdir(parents=True)
            for number in members(split, label, count).tolist():
                Image.fromarray(split.images[number, 0].numpy()).save(target / f"{number}.png", compress_level=1)


def members(split: googlenet.ImageSplit, label: int, count: int) -> Tensor:
    return torch.nonzero(split.labels == label).squeeze(1)[:count]


def plot(curves: dict[str, list[list[tuple[float, float]]]], path: Path) -> None:
    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    for color, (name, runs) in zip(("tab:gray", "tab:blue", "tab:orange"), curves.items(), strict=True):
        for number, run in enumerate(runs):
            seconds, accuracy = zip(*run, strict=True)
            axes.plot(seconds, [100 * share for share in accuracy], color=color, label=None if number else name)
    axes.set(
        xlabel="seconds of training",
        ylabel="test accuracy (%)",
        title=f"{len(NEW)} classes, {PER_CLASS} images of each, {SEEDS} seeds",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("benchmarks/results"))

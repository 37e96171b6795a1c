"""Transfer, measured: one half of Fashion-MNIST's classes teaches a network, which then learns the other half from few
pictures, beside the same network from scratch in as many steps.

usage: python benchmarks/transfer.py [FOLDER]      writes transfer.json and transfer.png there
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
from PIL import Image
from torch import Tensor

from googlenet import train
from googlenet.data.dataset import ImageSplit
from googlenet.data.loader import load_dataset
from googlenet.device import describe
from googlenet.evaluation.plots import drawing
from googlenet.training.run_folder import RunFolder

KNOWN, NEW = (0, 2, 3, 5, 7), (1, 4, 6, 8, 9)
"""T-shirt, pullover, dress, sandal and sneaker; then trouser, coat, shirt, bag and ankle boot."""
PER_CLASS = 20
EPOCHS, SEEDS = 24, 5
COMMON: dict[str, Any] = {
    "recipe": "fast",
    "batch_size": 32,
    "learning_rate": 0.003,
    "flip": True,
    "label_smoothing": 0.1,
    "weight_decay": 0.05,
    "epochs": EPOCHS,
    "pictures": False,
}
STARTS: dict[str, dict[str, Any]] = {
    "from scratch": {},
    "from the other classes": {},
    "from the other classes, held back": {"freeze": 0.2, "backbone_lr_scale": 0.3},
}


def main(folder: Path) -> None:
    data = load_dataset("fashion-mnist")
    curves: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as scratch:
        known, new = Path(scratch) / "known", Path(scratch) / "new"
        write_classes(known, data.classes, KNOWN, data.train, data.test, per_class=6000)
        write_classes(new, data.classes, NEW, data.train, data.test, per_class=PER_CLASS)
        teacher = train("fast", output=Path(scratch) / "teacher", data=str(known), epochs=1.5, pictures=False)
        for seed in range(SEEDS):
            for name, settings in STARTS.items():
                run = Path(scratch) / f"{name} {seed}"
                given = {"weights": str(teacher.model)} if "other" in name else {}
                train(output=run, data=str(new), seed=seed, **{**COMMON, **settings, **given})
                rows = [row for row in RunFolder(run).rows() if row["split"] == "test"]
                curves[name].append([(row["seconds"], row["accuracy"]) for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": describe(torch.device("cpu")),
        "pictures": len(NEW) * PER_CLASS,
        "teacher": teacher.metrics["test"]["accuracy"],
        "curves": curves,
    }
    (folder / "transfer.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    plot(curves, folder / "transfer.png")
    for name, runs in curves.items():
        ends = [100 * run[-1][1] for run in runs]
        seconds = statistics.mean(run[-1][0] for run in runs)
        print(f"{name}: {statistics.mean(ends):.1f}% ± {statistics.stdev(ends):.1f} after {seconds:.0f} s")


def write_classes(
    folder: Path,
    names: Sequence[str],
    labels: Sequence[int],
    training: ImageSplit,
    test: ImageSplit,
    *,
    per_class: int,
) -> None:
    """FOLDER/train/CLASS/*.png, the first so many pictures of each, and FOLDER/test/CLASS/*.png, the first 200."""
    for name, split, count in (("train", training, per_class), ("test", test, 200)):
        for label in labels:
            place = folder / name / names[label].replace("/", " ")
            place.mkdir(parents=True)
            for number in members(split, label, count).tolist():
                Image.fromarray(split.images[number, 0].numpy()).save(place / f"{number}.png", compress_level=1)


def members(split: ImageSplit, label: int, count: int) -> Tensor:
    return torch.nonzero(split.labels == label).squeeze(1)[:count]


def plot(curves: dict[str, list[list[tuple[float, float]]]], path: Path) -> None:
    with drawing(path, 7, 4) as figure:
        axes = figure.subplots()
        for color, (name, runs) in zip(("tab:gray", "tab:blue", "tab:orange"), curves.items(), strict=True):
            for number, run in enumerate(runs):
                seconds, accuracy = zip(*run, strict=True)
                axes.plot(seconds, [100 * share for share in accuracy], color=color, label=None if number else name)
        axes.set(
            xlabel="seconds of training",
            ylabel="test accuracy (%)",
            title=f"{len(NEW)} classes, {PER_CLASS} pictures of each, {SEEDS} seeds",
        )
        axes.grid(alpha=0.3)
        axes.legend()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("benchmarks/results"))

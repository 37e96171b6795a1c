"""Adding classes to a trained network, on Fashion-MNIST: eight classes first, then the ninth and the tenth.

Trains a network on eight classes, adds two with `--also`, and trains another one on all ten from scratch. Prints what
the old classes lost, the accuracy on the new ones, and the training time next to the one from scratch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import googlenet

QUICK: dict[str, Any] = {"recipe": "minute", "image_size": 28, "stem_stride": 2, "batch_size": 64}


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.grow", description=__doc__)
    add = parser.add_argument
    add("--old", type=int, default=8, help="classes of the first run (default: 8)")
    add("--train-images", type=int, default=60_000, help="of all ten classes (default: all)")
    add("--test-images", type=int, default=10_000, help="of all ten classes (default: all)")
    add("--data-dir", help="folder of Fashion-MNIST, or bundled (default: search for it)")
    add("--recipe", default="fast", help="of the first run and of the one from scratch (default: fast)")
    add("--steps", type=int, help="quick instead: the recipe minute with stem stride 2 and batch 64, for so many steps")
    add("--seed", type=int, default=0, help="(default: 0)")
    add("--work", type=Path, help="folder to keep the images and runs in (default: a temporary one)")
    arguments = parser.parse_args(words)
    if not 2 <= arguments.old <= 9:
        parser.error("--old must be from 2 to 9")
    return arguments


def write_images(folder: Path, arguments: argparse.Namespace) -> None:
    """Real images as `old/SPLIT/CLASS/*.png` and `new/SPLIT/CLASS/*.png`."""
    data = googlenet.load_dataset("fashion-mnist", arguments.data_dir)
    for name, split, count in (
        ("train", data.train, arguments.train_images),
        ("test", data.test, arguments.test_images),
    ):
        chosen = split.spread(count)
        for number, (image, label) in enumerate(zip(chosen.images, chosen.labels.tolist(), strict=True)):
            part = "old" if label < arguments.old else "new"
            path = folder / part / name / data.classes[label].replace("/", "-") / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)


def accuracy_by_class(run: googlenet.TrainingResult, old: set[str]) -> dict[str, float]:
    """Of the old, the new and all classes, whose test images are as many for each."""
    rows = json.loads((run.folder / "evaluation.json").read_text())["per_class"]
    correct = {name: row["recall"] * row["images"] for name, row in rows.items()}

    def accuracy(names: set[str]) -> float:
        return float(sum(correct[name] for name in names) / sum(rows[name]["images"] for name in names))

    return {"old": accuracy(old & rows.keys()), "new": accuracy(rows.keys() - old), "all": accuracy(set(rows))}


def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    settings: dict[str, Any] = {"recipe": arguments.recipe}
    if arguments.steps is not None:
        settings = {**QUICK, "epochs": 1000.0, "max_steps": arguments.steps}
    settings |= {"seed": arguments.seed}
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        if work.exists() and any(work.iterdir()):
            sys.exit(f"{work} is not empty; use another --work")
        write_images(work, arguments)
        old_images, new_images = work / "old", work / "new"
        first = googlenet.train(data=old_images, output=work / "first", plots=False, **settings)
        grown = googlenet.train(
            data=new_images, also=old_images, weights=first.folder, output=work / "grown", plots=False
        )
        scratch = googlenet.train(
            data=new_images, also=old_images, output=work / "scratch", plots=False, **settings
        )  # fmt: skip
        lost = grown.old_classes
        assert lost is not None  # it is there, because the network learned more classes
        old = set(lost["per_class"])
        report = {
            "old_classes": {name: value for name, value in lost.items() if name != "per_class"},
            "accuracy": {"grown": accuracy_by_class(grown, old), "scratch": accuracy_by_class(scratch, old)},
            "seconds": {"first": first.seconds, "grown": grown.seconds, "scratch": scratch.seconds},
            "steps": {
                "first": first.metrics["step"],
                "grown": grown.metrics["step"],
                "scratch": scratch.metrics["step"],
            },
            "time_relative_to_scratch": grown.seconds / scratch.seconds,
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Other trainers on one split of a folder of images, from scratch: fastai's resnet18 and Ultralytics' yolo11n-cls.

Runs in an environment of its own, without googlenet: pip install fastai ultralytics.
usage: python benchmarks/peers.py {fastai,ultralytics} FOLD.csv --epochs N --size PIXELS
FOLD.csv is a table of files (file, class, split), as `googlenet train --folds` writes.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any


def link_images(table: Path, folder: Path) -> None:
    """`FOLDER/{train,test}/CLASS/*` as both trainers read it."""
    with table.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            source = (table.parent / row["file"]).resolve()
            link = folder / row["split"] / row["class"] / f"{number:05}{source.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)


def train_fastai(folder: Path, epochs: int, size: int) -> float:
    from fastai.vision import all as fastai  # type: ignore[import-not-found, unused-ignore]

    loaders = fastai.ImageDataLoaders.from_folder(
        folder, valid="test", item_tfms=fastai.Resize(size, method="squish"), batch_tfms=fastai.aug_transforms(),
        bs=32, num_workers=2, seed=0, drop_last=True,
    )  # fmt: skip
    learner = fastai.vision_learner(loaders, fastai.resnet18, pretrained=False, metrics=fastai.accuracy)
    learner.unfreeze()  # it freezes the body, pretrained or not
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, 3e-3)
    return float(learner.validate()[1])


def train_ultralytics(folder: Path, epochs: int, size: int) -> float:
    from ultralytics import YOLO  # type: ignore[import-not-found, unused-ignore]

    model = YOLO("yolo11n-cls.yaml")  # not the .pt file, which is pretrained
    model.train(
        data=str(folder), epochs=epochs, imgsz=size, batch=32, workers=2, project=str(folder / "runs"), seed=0,
        plots=False, pretrained=False, amp=False, verbose=False,
    )  # fmt: skip
    # The weights of the last epoch: the best ones would be selected on the test images
    return float(YOLO(next(folder.rglob("last.pt"))).val(data=str(folder), split="test", imgsz=size, plots=False).top1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=["fastai", "ultralytics"])
    parser.add_argument("table", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    arguments = parser.parse_args()
    trainers: dict[str, Any] = {"fastai": train_fastai, "ultralytics": train_ultralytics}
    with tempfile.TemporaryDirectory() as temporary:
        link_images(arguments.table, Path(temporary))
        started = time.perf_counter()
        accuracy = trainers[arguments.peer](Path(temporary), arguments.epochs, arguments.size)
        seconds = time.perf_counter() - started
    settings = {"peer": arguments.peer, "table": arguments.table.name, "epochs": arguments.epochs}
    print(json.dumps({**settings, "accuracy": accuracy, "seconds": seconds}))


if __name__ == "__main__":
    main()

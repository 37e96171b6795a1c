"""How well a score tells images of known classes from others: each class of a data set is left out of training in turn,
and its test images should be recognized as unknown."""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import googlenet

OPENCLIPART = Path("/usr/share/openclipart/png")  # Debian package openclipart-png
MIXED = ("special", "unsorted")  # categories of it that are not of one kind
MAX_BYTES = 200_000  # a few of its images have 100 million pixels
BLOCKS = ("3b", "4a", "4c", "4e", "5a", "5b")
TRAIN_IMAGES = 5000  # to take statistics from
SETTINGS: dict[str, Any] = {"plots": False, "max_test_images": 100, "validation": 0.0}
QUICK = {"recipe": "minute", "image_size": 28, "stem_stride": 2, "max_steps": 160}
FOLDER = {"recipe": "images", "image_size": 48, "batch_size": 32, "epochs": 15}


def write_fashion_mnist(folder: Path) -> None:
    dataset = googlenet.load_dataset("fashion-mnist")
    for name, split, most in (("train", dataset.train, 20_000), ("test", dataset.test, 5_000)):
        for number, (image, label) in enumerate(zip(split.images[:most], split.labels.tolist()[:most], strict=True)):
            path = folder / name / dataset.classes[label].replace("/", "-") / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(path)


def link_openclipart(folder: Path, least: int = 100, most: int = 100) -> None:
    """The categories with at least `least` images, and `most` images of each, evenly spaced by name."""
    for category in sorted(OPENCLIPART.iterdir()):
        files = [path for path in sorted(category.rglob("*.png")) if path.stat().st_size <= MAX_BYTES]
        if category.name in MIXED or len(files) < least:
            continue
        for number in range(most):
            path = files[number * len(files) // most]
            link = folder / category.name / f"{number:03}-{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


def write_table(dataset: googlenet.ImageDataset, left_out: int, path: Path) -> None:
    """A table of the data without one class. A tenth of the training images is for validation."""
    counts: dict[int, int] = defaultdict(int)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "split"])
        for name, split in (("train", dataset.train), ("test", dataset.test)):
            for image, label in zip(split.files, split.labels.tolist(), strict=True):
                counts[label] += 1
                part = "validation" if name == "train" and counts[label] % 10 == 0 else name
                if label != left_out:
                    writer.writerow([(dataset.folder / image).absolute(), dataset.classes[label], part])


@torch.inference_mode()
def collect(net: googlenet.GoogLeNet, split: googlenet.ImageSplit) -> dict[str, Tensor]:
    """Logits, and the pooled features of `BLOCKS`, for all images of a split."""
    collected: dict[str, list[Tensor]] = defaultdict(list)

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: collected[name].append(output.mean(dim=(2, 3)).half())

    hooks = [getattr(net, f"inception{name}").register_forward_hook(keep(name)) for name in BLOCKS]
    for indices in torch.arange(len(split)).split(256):
        images, labels = split.__getitems__(indices)
        inputs = net.info.input.prepare(images).contiguous(memory_format=torch.channels_last)
        collected["logits"].append(net(inputs))
        collected["labels"].append(labels)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in collected.items()}


def run(folder: Path, work: Path, settings: dict[str, Any]) -> None:
    size = settings["image_size"]
    dataset = googlenet.load_dataset(folder, size=size)
    for left_out, name in enumerate(dataset.classes):
        target = work / f"{left_out}.npz"
        if target.exists():
            continue
        table = work / f"{left_out}.csv"
        write_table(dataset, left_out, table)
        result = googlenet.train(**settings, data=table, output=work / f"run-{left_out}", **SETTINGS)
        net = googlenet.load(result.folder)
        known = googlenet.load_dataset(table, size=size, channels=dataset.channels)
        splits = {
            "train": known.train.spread(TRAIN_IMAGES),
            "validation": known.validation,
            "test": known.test,
            "unknown": dataset.test.subset((dataset.test.labels == left_out).nonzero().squeeze(1)),
        }
        arrays = {}
        for part, split in splits.items():
            arrays |= {f"{part}_{key}": value.numpy() for key, value in collect(net, split).items()}
        np.savez(target, name=name, fc=net.fc.weight.detach().numpy(), bias=net.fc.bias.detach().numpy(), **arrays)
        accuracy = (arrays["test_logits"].argmax(1) == arrays["test_labels"]).mean()
        print(f"{folder.name} without {name}: accuracy {accuracy:.2%}, {result.seconds:.0f} s", flush=True)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.open_set", description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args(words)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(arguments.data)
    if arguments.data == "fashion-mnist" and not (folder := work / "images").exists():
        write_fashion_mnist(folder)
    if arguments.data == "openclipart" and not (folder := work / "images").exists():
        link_openclipart(folder)
    run(folder, work, QUICK if arguments.data == "fashion-mnist" else FOLDER)


if __name__ == "__main__":
    main()

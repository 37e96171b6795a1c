"""How well a score tells images of known classes from others: each class of a data set is left out of training in turn,
and its test images should be recognized as unknown."""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import googlenet

OPENCLIPART = Path("/usr/share/openclipart/png")  # Debian package openclipart-png
MIXED = ("special", "unsorted")  # categories of it that are not of one kind
MAX_BYTES = 200_000  # a few of its images have 100 million pixels
BLOCKS = ("4a", "4e", "5b")
PARTS = ("validation", "test", "unknown")
TRAIN_IMAGES = 5000  # to take statistics from
SHRINKAGE = 0.01
Score = Callable[[Tensor], Tensor]
SETTINGS: dict[str, Any] = {"plots": False, "max_test_images": 100, "validation": 0.0}
FASHION = {"recipe": "minute", "image_size": 28, "stem_stride": 2, "max_steps": 160}
OPENCLIPART_SETTINGS = {"recipe": "images", "image_size": 32, "batch_size": 32, "epochs": 12}
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
    assert dataset.folder is not None  # it was loaded from one
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


def run(folder: Path, work: Path, settings: dict[str, Any], held_out: list[int] | None) -> None:
    """Train without each class in turn, and write what `score` needs. Finished classes are skipped."""
    size = settings["image_size"]
    dataset = googlenet.load_dataset(folder, size=size)
    for left_out in range(len(dataset.classes)) if held_out is None else held_out:
        name = dataset.classes[left_out]
        target = work / f"{left_out}.npz"
        if target.exists():
            continue
        table = work / f"{left_out}.csv"
        write_table(dataset, left_out, table)
        result = googlenet.train(**settings, data=table, output=work / f"run-{left_out}", **SETTINGS)
        net = googlenet.load(result.folder)
        known = googlenet.load_dataset(table, size=size, channels=dataset.channels)
        assert known.validation is not None
        splits = {
            "train": known.train.spread(TRAIN_IMAGES),
            "validation": known.validation,
            "test": known.test,
            "unknown": dataset.test.subset((dataset.test.labels == left_out).nonzero().squeeze(1)),
        }
        arrays = {
            f"{part}_{key}": values.numpy()
            for part, split in splits.items()
            for key, values in collect(net, split).items()
        }
        np.savez(target, **arrays, name=np.array(name))  # type: ignore[arg-type]


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)


def mahalanobis(train: Tensor, labels: Tensor, *, relative: bool) -> Score:
    """Minus the squared distance to the nearest class mean (Lee et al. 2018, https://arxiv.org/abs/1807.03888), with
    a covariance shrunk by 1%; `relative`: plus that to the mean of all (Ren et al. 2021,
    https://arxiv.org/abs/2106.09022). Features (N, D)."""
    means = torch.stack([train[labels == label].mean(0) for label in labels.unique()])

    def distances(centered: Tensor, x: Tensor, centers: Tensor) -> Tensor:
        covariance = centered.T @ centered / len(centered)
        covariance += SHRINKAGE * covariance.trace() / len(covariance) * torch.eye(len(covariance))
        root = torch.linalg.cholesky(covariance)
        white, white_centers = (torch.linalg.solve_triangular(root, each.T, upper=False).T for each in (x, centers))
        return torch.cdist(white, white_centers).square().amin(1)

    def score(x: Tensor) -> Tensor:
        nearest = -distances(train - means[labels], x, means)
        overall = train.mean(0, keepdim=True)
        return nearest + distances(train - overall, x, overall) if relative else nearest

    return score


def nearest_neighbor(train: Tensor, k: int = 10) -> Score:
    """Minus the distance to the k-th nearest training image, of features (N, D) of length 1 (Sun et al. 2022,
    https://arxiv.org/abs/2204.06507)."""
    return lambda x: -torch.cdist(x, train).topk(min(k, len(train)), largest=False).values[:, -1]


def scores(arrays: Any) -> dict[str, dict[str, Tensor]]:
    """By score and part (validation, test, unknown): (N,), higher for images that look known."""

    def part(name: str, key: str) -> Tensor:
        return torch.from_numpy(arrays[f"{name}_{key}"]).float()

    labels = torch.from_numpy(arrays["train_labels"])
    joined = lambda name: unit(torch.cat([unit(part(name, block)) for block in ("4e", "5b")], dim=1))  # noqa: E731
    result = {
        "maximum softmax": {name: part(name, "logits").double().log_softmax(1).amax(1) for name in PARTS},
        "energy": {name: part(name, "logits").logsumexp(1) for name in PARTS},
        "nearest neighbor, 4e and 5b": {name: nearest_neighbor(joined("train"))(joined(name)) for name in PARTS},
        "nearest neighbor, 5b": {
            name: nearest_neighbor(unit(part("train", "5b")))(unit(part(name, "5b"))) for name in PARTS
        },
    }
    for block in ("4a", "5b"):
        for relative in (False, True):
            score = mahalanobis(unit(part("train", block)), labels, relative=relative)
            kind = "relative Mahalanobis" if relative else "Mahalanobis"
            result[f"{kind}, {block}"] = {name: score(unit(part(name, block))) for name in PARTS}

    def standard(name: str, key: str) -> Tensor:
        reference = result[name]["validation"]
        return (result[name][key] - reference.mean()) / reference.std()

    best = "relative Mahalanobis, 4a"
    result[f"energy + {best}"] = {name: standard("energy", name) + standard(best, name) for name in PARTS}
    return result


def roc_auc(known: Tensor, unknown: Tensor) -> float:
    below = torch.searchsorted(unknown.sort().values, known).double().mean()
    equal_or_below = torch.searchsorted(unknown.sort().values, known, right=True).double().mean()
    return float((below + equal_or_below) / 2 / len(unknown))


def report(work: Path, resamples: int = 2000) -> list[dict[str, Any]]:
    """By score: mean over the classes left out of the ROC AUC, its interval (a bootstrap over these classes), and of
    the unknown images that are rejected where 95% of the validation images pass."""
    files = sorted(work.glob("*.npz"))
    areas: dict[str, list[float]] = defaultdict(list)
    rejected: dict[str, list[float]] = defaultdict(list)
    passed: dict[str, list[float]] = defaultdict(list)
    for file in files:
        for name, by_part in scores(np.load(file)).items():
            threshold = by_part["validation"].quantile(0.05)
            areas[name].append(roc_auc(by_part["test"], by_part["unknown"]))
            rejected[name].append(float((by_part["unknown"] < threshold).double().mean()))
            passed[name].append(float((by_part["test"] >= threshold).double().mean()))
    drawn = torch.randint(len(files), (resamples, len(files)), generator=torch.Generator().manual_seed(0))
    names = [str(np.load(file)["name"]) for file in files]
    rows = []
    for name, values in areas.items():
        means = torch.tensor(values)[drawn].mean(1)
        rows.append(
            {
                "score": name,
                "roc_auc": float(np.mean(values)),
                "roc_auc_interval": means.quantile(torch.tensor([0.025, 0.975])).tolist(),
                "rejected": float(np.mean(rejected[name])),
                "passed": float(np.mean(passed[name])),
                "by_class": dict(zip(names, values, strict=True)),
            }
        )
    return rows


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.open_set", description=__doc__)
    add = parser.add_argument
    add("--data", default="fashion-mnist", help="fashion-mnist, openclipart, or a folder (default: fashion-mnist)")
    add("--work", type=Path, required=True, help="folder for the runs; classes that are finished there are skipped")
    add("--held-out", type=int, nargs="+", help="numbers of the classes to leave out, from 0 (default: each in turn)")
    add("--recipe", help="of the networks, as it is (default: a short run for each data set)")
    add("--epochs", type=float, help="of that recipe (default: its own)")
    arguments = parser.parse_args(words)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(arguments.data)
    if arguments.data in ("fashion-mnist", "openclipart"):
        folder = work / "images"
        if not folder.exists():
            (write_fashion_mnist if arguments.data == "fashion-mnist" else link_openclipart)(folder)
    settings = {"fashion-mnist": FASHION, "openclipart": OPENCLIPART_SETTINGS}.get(arguments.data, FOLDER)
    if arguments.recipe is not None:
        settings = {"recipe": arguments.recipe, "image_size": settings["image_size"]}
        settings |= {} if arguments.epochs is None else {"epochs": arguments.epochs}
    run(folder, work, settings, arguments.held_out)
    print(json.dumps(report(work), indent=2))


if __name__ == "__main__":
    main()

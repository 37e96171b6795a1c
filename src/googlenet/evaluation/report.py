"""`googlenet.evaluate`: from a network and data to an evaluation and its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet.choices import Crops
from googlenet.console import log, progress
from googlenet.data.crops import check_crops
from googlenet.data.dataset import (
    ImageDataset,
    ImageSplit,
    check_unreadable,
    has_files,
    has_shards,
    list_files,
    load_dataset,
)
from googlenet.data.decode import decode_images, image_files
from googlenet.data.folder import scan
from googlenet.data.joined import load_joined, relabeled
from googlenet.data.store import Decoding, PixelsOnDemand
from googlenet.device import resolve_device, resolve_precision
from googlenet.errors import RunError, UserError, check_confidence, check_counts, plural
from googlenet.evaluation.metrics import WORST, Evaluation, collect_logits, on_device
from googlenet.evaluation.plots import plot_confusion_matrix, plot_coverage, plot_predictions, plot_reliability
from googlenet.files import expand, printable, write_columns, write_json
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load_or_check
from googlenet.weights.model_file import ModelInfo, unnamed_classes

EvalData = str | Path | ImageDataset | ImageSplit | None


def evaluate(
    net: GoogLeNet | str | Path, data: EvalData = None, *, data_dir: str | Path | None = None,
    skip_unreadable: bool = False, device: str = "auto", precision: str | None = None, batch_size: int = 256,
    confidence: float = 0.0, unknown: str | Path | ImageSplit | None = None, crops: Crops = 1,
) -> Evaluation:  # fmt: skip
    """Evaluate a network on test images.

    Args:
        net: a network from `googlenet.load` or `googlenet.import_weights`, or the path of a model file or run folder.
            Its mode, device and hooks are left as they were.
        data: a dataset name, a folder of images, an `ImageDataset` (its test split is used) or an `ImageSplit`.
            Default: the data that the network was trained on. See `load_eval_data` for which images are used.
        data_dir: the folder with the files of a named dataset.
        skip_unreadable: skip image files that cannot be read.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16. Default: as in training.
        batch_size: images per batch; affects speed and memory only.
        confidence: the threshold for `Evaluation.coverage`, a probability from 0 to 1.
        unknown: images of none of the classes, a folder (its folders do not matter) or an `ImageSplit`, to see how many
            of them are recognized as such.
        crops: of each image, whose predictions are averaged: 1; 2 with its mirror image; 10 with corners; 144 as in the
            paper (`googlenet.data.crops`). They are cut from the files, or from the images of a given `ImageSplit` or
            `ImageDataset` if it has them in memory.

    Raises:
        UserError: if the data does not fit the network, or an argument is invalid.
        RunError: if a logit is NaN or infinite.
    """
    check_confidence(confidence)
    check_counts(batch_size=batch_size)
    check_crops(crops)
    net, info = load_or_check(net)
    split = eval_split(info, data, data_dir, skip_unreadable=skip_unreadable, crops=crops)
    others = None if unknown is None else unknown_split(info, unknown, skip_unreadable=skip_unreadable, crops=crops)

    def finite_logits(images: ImageSplit) -> Tensor:
        logits = run_on_split(net, info, images, device=device, precision=precision, batch_size=batch_size, crops=crops)
        if not (is_finite := torch.isfinite(logits).all(dim=1)).all():
            file = printable(images.files[int(is_finite.int().argmin())])
            raise RunError(f"the output for {file} is NaN or infinite; try --precision fp32, or train the model again")
        return logits

    start = time.perf_counter()
    logits = finite_logits(split)
    rate = len(split) / (time.perf_counter() - start)
    return Evaluation(
        info.classes, logits, split.labels, rate, info.temperature, confidence, split.files, split.columns,
        rule=info.known, unknown_logits=None if others is None else finite_logits(others), crops=crops,
    )  # fmt: skip


def unknown_split(
    info: ModelInfo, images: str | Path | ImageSplit, *, skip_unreadable: bool = False, crops: int = 1
) -> ImageSplit:
    """All images in a folder, or a split, for a model that knows none of their classes; the labels are 0.

    Raises `UserError` if there are none, they cannot be read, or have another number of channels.
    """
    if isinstance(images, ImageSplit):
        split = images
    elif not expand(images).exists():
        raise UserError(f"{images} does not exist: name a folder of images of none of the classes")
    else:
        spec, files = info.input, list(image_files([expand(images)]))
        decoded = decode_images(files, spec.channels, spec.decoded_size, spec.resize)
        check_unreadable({files[number]: error for number, error in decoded.errors.items()}, skip_unreadable)
        readable = [number for number in range(len(files)) if number not in decoded.errors]
        labels = torch.zeros(len(files), dtype=torch.int64)
        on_demand = PixelsOnDemand(tuple(files), Decoding(spec.channels, spec.decoded_size, spec.resize))
        split = ImageSplit(on_demand if crops > 1 else decoded.images, labels, list(map(str, files))).subset(
            torch.tensor(readable, dtype=torch.int64)
        )
    if not len(split):
        raise UserError(f"no image in {images} can be read: name another folder")
    if split.channels != info.input.channels:
        raise UserError(
            f"the images of none of the classes have {plural(split.channels, 'channel')}; the model needs "
            f"{info.input.channels}"
        )
    return split


def run_on_split(
    net: GoogLeNet, info: ModelInfo, split: ImageSplit, *, device: str, precision: str | None, batch_size: int,
    forward: Callable[[Tensor], Tensor] | None = None, crops: int = 1,
) -> Tensor:  # fmt: skip
    """`collect_logits` with a progress bar, for the arguments of `evaluate`."""
    resolved = resolve_device(device)
    precision = resolve_precision(precision or info.recipe.get("precision", "auto"), resolved)
    with on_device(net, resolved), progress("evaluating", len(split)) as bar:
        return collect_logits(
            net, split, info.input, device=resolved, precision=precision, batch_size=batch_size, advance=bar.advance,
            forward=forward, crops=crops,
        )  # fmt: skip


def eval_split(
    info: ModelInfo, data: EvalData = None, data_dir: str | Path | None = None, *, skip_unreadable: bool = False,
    crops: int = 1,
) -> ImageSplit:  # fmt: skip
    """The images to evaluate on; arguments as in `evaluate`. Raises `UserError` if they do not fit the network."""
    if isinstance(data, ImageDataset):
        _check_classes(data.name, data.classes, info)
        data = data.test
    if not isinstance(data, ImageSplit):
        whole = crops > 1
        data = load_eval_data(
            info, data, data_dir, skip_unreadable=skip_unreadable, on_demand=whole, use_store=not whole
        ).test
    if not len(data):
        raise UserError("the data has no test images: name other data (--data)")
    if data.channels != info.input.channels:
        raise UserError(
            f"the model takes images with {plural(info.input.channels, 'channel')}, the data has {data.channels}: "
            "name other data (--data)"
        )
    if (last := int(data.labels.max())) >= len(info.classes):
        raise UserError(
            f"the model has {plural(len(info.classes), 'class')}, the data has {last + 1}: name other data (--data)"
        )
    return data


def load_eval_data(
    info: ModelInfo, data: str | Path | None = None, data_dir: str | Path | None = None, *,
    skip_unreadable: bool = False, splits: tuple[str, ...] = ("test",), on_demand: bool = False, use_store: bool = True,
) -> ImageDataset:  # fmt: skip
    """A dataset whose labels are the classes of a model. `data` and `data_dir` are as in `evaluate`, the others as in
    `load_dataset`.

    For the folder that the model was trained on, even if it was moved, the test split is the one of training. Without
    `data`, this includes the old images that were mixed in (`also`). For another folder without a test split, it is
    every image. Files that cannot be read are skipped if the training did. Raises `UserError` if the data is unknown,
    missing, or has other classes.
    """
    recipe = info.recipe
    sources = [source for source in (recipe.get("data"), recipe.get("also")) if source is not None]
    if data is None and not sources:
        raise UserError("the model file does not name its training data: name a dataset or folder (--data)")
    name = str(sources[0] if data is None else data)
    for source in sources if data is None else ():
        if Path(source).is_absolute() and not (has_files(source) or has_shards(source)):
            raise UserError(f"the training data {source} no longer exists: name its folder (--data), or another one")
    options: dict[str, Any] = {
        "size": info.input.decoded_size, "resize": info.input.resize, "seed": recipe.get("seed", 0),
        "skip_unreadable": skip_unreadable or recipe.get("skip_unreadable", False), "channels": info.input.channels,
        "classes": info.classes, "splits": splits, "on_demand": on_demand, "use_store": use_store,
    }  # fmt: skip
    digests = info.data_digest.split("+")
    if data is None and len(sources) > 1:
        own = data_dir or recipe.get("data_dir")
        dataset = load_joined(sources[0], sources[1], own, **{**options, "classes": None})
        if info.data_digest not in ("", dataset.digest):
            log.warning("the images have changed since training: training images may be in the test split")
        dataset = relabeled(dataset, info.classes)
    elif has_shards(name):
        dataset = load_dataset(name, **options)
        if name not in sources and dataset.digest not in digests:
            # Other shards without a test split: every image
            dataset = load_dataset(name, test_fraction=1.0, **options)
        if name in sources and info.data_digest and dataset.digest not in digests:
            log.warning("the shards have changed since training: training images may be in the test split")
    elif not has_files(name):
        dataset = load_dataset(name, data_dir or (recipe.get("data_dir") if name in sources else None), **options)
        if info.classes != unnamed_classes(len(dataset.classes)) and set(dataset.classes) <= set(info.classes):
            dataset = relabeled(dataset, info.classes)
        _check_classes(name, dataset.classes, info)
    elif Path(name).resolve() in [Path(source).resolve() for source in sources if has_files(source)]:
        dataset = load_dataset(name, **options)
        if info.data_digest and dataset.digest not in digests:
            log.warning("the folder has changed since training: training images may be in the test split")
    else:
        is_known = scan(list_files(name, info.classes)).digest in digests
        if is_known:
            log.info("the folder has the images of the training: its test split is the one of training")
        dataset = load_dataset(name, test_fraction=0.2 if is_known else 1.0, **options)
    if dataset.note:
        log.info("note: %s", dataset.note)
    return dataset


def _check_classes(name: str, classes: tuple[str, ...], info: ModelInfo) -> None:
    if info.classes not in (classes, unnamed_classes(len(classes))):
        raise UserError(f"{name} has other classes than the model, or in another order: name other data (--data)")


def write_report(evaluation: Evaluation, split: ImageSplit, folder: Path, *, by: str | None = None) -> None:
    """Write `evaluation.json` (`Evaluation.to_dict`), `predictions.csv` and the plots to `folder`, which is created if
    needed. Raises `RunError` if it cannot."""
    write_json(folder / "evaluation.json", evaluation.to_dict(by))
    write_columns(folder / "predictions.csv", evaluation.predictions())
    plot_confusion_matrix(evaluation.confusion_matrix, evaluation.classes, folder / "confusion_matrix.png")
    mistakes, path = evaluation.worst_mistakes(WORST), folder / "mistakes.png"
    plot_predictions(split, evaluation.captions, path, mistakes=mistakes)
    plot_reliability(evaluation, folder / "reliability.png")
    plot_coverage(evaluation, folder / "coverage.png")

"""Two sources of images as one dataset: new images, and the old ones that are mixed in (`--also`)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.console import log
from googlenet.data.dataset import (
    ImageDataset,
    ImageSplit,
    catalog_entry,
    check_trained_on,
    has_files,
    has_shards,
    list_files,
    load_dataset,
    split_validation,
)
from googlenet.data.decode import anonymous_memmap
from googlenet.data.folder import SPLITS, scan
from googlenet.errors import UserError
from googlenet.files import expand

_CHUNK = 128  # images that are resized at a time


@dataclass(frozen=True)
class JoinedPixels:
    """The pixels of several splits, one after the other, which stay where they are."""

    parts: tuple[ImageSplit, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return sum(map(len, self.parts)), *self.parts[0].image_shape

    @property
    def is_decoded(self) -> bool:
        return all(part.is_decoded for part in self.parts)

    def __getitem__(self, index: Tensor) -> Tensor:
        """uint8: one image (C, H, W) for a 0-d index, else a batch."""
        if index.ndim == 0:
            return self[index[None]][0]
        index = torch.arange(self.shape[0])[index]  # counts negative ones from the end, and refuses those out of range
        images, start = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8), 0
        for part in self.parts:
            chosen = torch.nonzero((index >= start) & (index < start + len(part))).squeeze(1)
            if len(chosen):
                images[chosen] = part.__getitems__(index[chosen] - start)[0]
            start += len(part)
        return images

    def original(self, number: int, min_side: int) -> Tensor:
        """See `ImageSplit.original`."""
        for part in self.parts:
            if number < len(part):
                return part.original(number, min_side)
            number -= len(part)
        raise IndexError(number)


def load_joined(
    data: str | Path, also: str | Path | None, data_dir: str | Path | None = None, *,
    splits: Collection[str] = SPLITS, validation: float = 0.0, **options: Any,
) -> ImageDataset:  # fmt: skip
    """`load_dataset` of `data`, or of it and the old images of `also` together; `options` are those of `load_dataset`.

    The classes are those of `also`, then those that only `data` has. Each of the two is split as if it were alone, so
    the test and validation images of `also` are those of an earlier run on it. Gray images become RGB if the others are
    in color; those of a known dataset are resized to the size of the others.

    Args:
        validation: of two datasets, the fraction of each class that is held out of one without a validation split.

    Raises:
        UserError: as `load_dataset` for either; if both are the same, only one of them has a validation split without
            `validation`, both have one with it, or a class has no training images.
    """
    if also is None:
        return load_dataset(data, data_dir, splits=splits, **options)
    if shards := [source for source in (data, also) if has_shards(source)]:
        raise UserError(f"--also cannot mix in or add to shards ({shards[0]}): pack the images of both together")
    if _identity(data) == _identity(also):
        raise UserError(f"the old images to mix in are the new ones, {also}: omit --also, or name others")
    reports = [scan(list_files(source, min_classes=1)) for source in (data, also) if has_files(source)]
    contents = [{file.digest for file in report.files} for report in reports]
    if len(contents) == 2 and (both := len(contents[0] & contents[1])):
        log.warning(f"{both:,} images are in {data} and in {also}: if one is tested on, the accuracy is too high")
    channels = options.get("channels") or max((report.channels for report in reports), default=None)
    options = {**options, "channels": channels, "splits": splits, "is_part": True}
    new, old = (load_dataset(source, data_dir, **options) for source in (data, also))
    if validation > 0 and "train" in splits:
        if new.validation is not None and old.validation is not None:
            raise UserError(f"{data} and {also} have validation splits: set validation to 0")
        new, old = (_with_validation(dataset, validation, options.get("seed", 0)) for dataset in (new, old))
    joined = join(new, old, options.get("size", 224), options.get("train_size"))
    if joined.validation is not None and not len(joined.validation):
        raise UserError(
            f"validation = {validation} of the images in {data} and {also} holds out none of them: set more"
        )
    if "train" in splits:
        check_trained_on(joined.classes, set(joined.train.labels.tolist()), f"{data} and {also}")
    return joined


def _identity(source: str | Path) -> Path | str:
    """What is the same for two spellings of a source. Raises `UserError` if there is none."""
    return expand(source).resolve() if has_files(source) else catalog_entry(str(source)).__name__


def _with_validation(dataset: ImageDataset, fraction: float, seed: int) -> ImageDataset:
    """With a fraction of the training images held out, unless it has a validation split."""
    if dataset.validation is not None:
        return dataset
    train, validation = split_validation(dataset.train, fraction, seed, may_be_empty=True)
    return dataclasses.replace(dataset, train=train, validation=validation)


def join(new: ImageDataset, old: ImageDataset, size: int, train_size: int | None = None) -> ImageDataset:
    """Both datasets as one, whose classes are those of `old`, then those that only `new` has."""
    classes = (*old.classes, *(name for name in new.classes if name not in old.classes))
    if len(classes) < 2:
        raise UserError(f"{new.source} and {old.source} have one class only: at least two are needed, in either")
    if (new.validation is None) != (old.validation is None):
        one, other = (old, new) if new.validation is None else (new, old)
        raise UserError(
            f"only {one.source} has a validation split: give {other.source} one too, or set validation to hold one out"
        )
    datasets = [relabeled(dataset, classes) for dataset in (new, old)]
    channels = max(dataset.channels for dataset in datasets)
    folders = [dataset.folder.absolute() for dataset in datasets if dataset.folder is not None]
    top = Path(os.path.commonpath(folders)) if folders else None

    def joined(name: str, side: int) -> ImageSplit | None:
        """With names of files that are relative to `top`, or start with the name of a known dataset."""
        parts = []
        for dataset in datasets:
            if (split := getattr(dataset, name)) is None:
                return None
            if dataset.folder is None:
                files = [f"{dataset.name}:{file}" for file in split.files]
                parts.append(_view(_fitted(split, channels, side if folders else None), files=files))
            else:
                start = dataset.folder.absolute()
                parts.append(_view(split, files=[os.path.relpath(start / file, top) for file in split.files]))
        return concatenate(parts)

    train, test = joined("train", train_size or size), joined("test", size)
    assert train is not None and test is not None
    return ImageDataset(
        f"{new.name} and {old.name}", classes, train, test, f"{new.source} and {old.source}",
        f"{new.digest}+{old.digest}", "; ".join(note for note in (new.note, old.note) if note),
        joined("validation", size), (*new.skipped, *old.skipped), top, old,
    )  # fmt: skip


def relabeled(dataset: ImageDataset, classes: Sequence[str]) -> ImageDataset:
    """The same images with the numbers of their classes among `classes`. Raises `UserError` for another class."""
    if unknown := [name for name in dataset.classes if name not in classes]:
        raise UserError(
            f"{dataset.source} has a class {unknown[0]!r}, which the model does not have; it has {', '.join(classes)}"
        )
    numbers = torch.tensor([classes.index(name) for name in dataset.classes])

    train, test = (_view(split, labels=numbers[split.labels]) for split in (dataset.train, dataset.test))
    validation = dataset.validation
    if validation is not None:
        validation = _view(validation, labels=numbers[validation.labels])
    return dataclasses.replace(dataset, classes=tuple(classes), train=train, test=test, validation=validation)


def concatenate(splits: Sequence[ImageSplit]) -> ImageSplit:
    """The images of several splits of one size, one after the other. Their pixels are not copied."""
    splits = [split for split in splits if len(split)] or splits[:1]
    if len(splits) == 1:
        return splits[0]
    if len(shapes := {split.image_shape for split in splits}) > 1:
        raise UserError(f"images of different shapes cannot be mixed: {' and '.join(map(str, sorted(shapes)))}")
    units, offset = [], 0
    for split in splits:
        units.append(split.content_units() + offset)
        offset = int(units[-1].max()) + 1
    names = dict.fromkeys(name for split in splits for name in split.columns)
    return ImageSplit(
        JoinedPixels(tuple(splits)),
        torch.cat([split.labels for split in splits]),
        [file for split in splits for file in split.files],
        {name: [value for split in splits for value in split.columns.get(name, ("",) * len(split))] for name in names},
        units=torch.cat(units),
    )


def _fitted(split: ImageSplit, channels: int, size: int | None) -> ImageSplit:
    """The images of a known dataset with more equal channels and, unless it is None, another size."""
    side = size or split.image_shape[1]
    if not len(split) or split.image_shape == (channels, side, side):
        return split
    pixels = torch.from_numpy(anonymous_memmap((len(split), channels, side, side)))
    for target, part in zip(pixels.split(_CHUNK), split.images.split(_CHUNK), strict=True):
        resized = F.interpolate(part.float(), size=(side, side), mode="bilinear", antialias=side < part.shape[2])
        target.copy_(resized.round())
    return ImageSplit(pixels, split.labels, split.files, split.columns, units=split.units)


def _view(split: ImageSplit, *, labels: Tensor | None = None, files: Sequence[str] | None = None) -> ImageSplit:
    """The same images with other labels or names."""
    view = split.subset(torch.arange(len(split)))
    view.labels = view.labels if labels is None else labels
    view.files = view.files if files is None else tuple(files)
    return view

"""Labeled images, a dataset of several splits, and how a dataset is loaded, by name or from a folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from googlenet.console import log
from googlenet.data import fashion_mnist
from googlenet.data.decode import Resize, anonymous_memmap, decode_images
from googlenet.data.folder import SPLITS, ImageFile, SplitName, list_folder, scan
from googlenet.errors import UserError, check_counts
from googlenet.files import expand, printable

_CHUNK = 128  # images that are processed at a time


class ImageSplit(data.Dataset[tuple[Tensor, Tensor]]):
    """Images of one size with their labels, in memory or in a file mapped into memory.

    `split[i]` is an image (C, H, W) and its label. A subset is a view: it shares the pixels of its split.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        files: Sequence[str] = (),
        columns: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`images` are uint8, (N, C, H, W); `labels` are int64, (N,); `files` names each image; `columns` are what else
        a table of files says about each of them (`group`, `camera`, ...)."""
        self.labels = labels
        self.files = tuple(files) or tuple(map(str, range(len(labels))))
        self.columns = {name: tuple(values) for name, values in (columns or {}).items()}
        self._pixels = images
        self._index: Tensor | None = None  # of each image of a view in `_pixels`

    @property
    def images(self) -> Tensor:
        """uint8, (N, C, H, W). The first use copies a view's images into a file; `RunError` if the disk is full."""
        if self._index is not None:
            pixels = torch.from_numpy(anonymous_memmap((len(self), *self._pixels.shape[1:])))
            for part, images in zip(pixels.split(_CHUNK), self._chunks(), strict=True):
                part.copy_(images)
            self._pixels, self._index = pixels, None
        return self._pixels

    @property
    def channels(self) -> int:
        return int(self._pixels.shape[1])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._pixels[index if self._index is None else self._index[index]], self.labels[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """A batch: (N, C, H, W) and (N,). PyTorch's data loaders call this."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self._pixels[chosen if self._index is None else self._index[chosen]], self.labels[chosen]

    def subset(self, indices: Tensor) -> ImageSplit:
        """A view of these images, in this order."""
        chosen = indices.tolist()
        columns = {name: [values[i] for i in chosen] for name, values in self.columns.items()}
        view = ImageSplit(self._pixels, self.labels[indices], [self.files[i] for i in chosen], columns)
        view._index = indices if self._index is None else self._index[indices]
        return view

    def spread(self, count: int) -> ImageSplit:
        """A view of (at most) `count` images: the same share of every class, and at least one of each if possible.

        They are always the same, in their order in the split. Raises `UserError` for a count below 1.
        """
        check_counts(count=count)
        if count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        labels = self.labels[order]
        position = torch.empty(len(self))  # among the images of the same class, from 0 to almost 1
        for label in labels.unique():
            members = labels == label
            position[members] = torch.arange(int(members.sum())) / members.sum()
        return self.subset(order[position.argsort(stable=True)[:count]].sort().values)

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, for pixels in 0..1. Exact: computed from a histogram."""
        counts = np.zeros((self.channels, 256), np.int64)
        for images in self._chunks():
            counts += [torch.bincount(channel.flatten(), minlength=256).numpy() for channel in images.unbind(dim=1)]
        values, share = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
        mean = share @ values
        std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
        return tuple(mean.round(4).tolist()), tuple(float(value) or 1.0 for value in std.round(4))

    def _chunks(self) -> Iterator[Tensor]:
        if self._index is None:
            return iter(self._pixels.split(_CHUNK))
        return (self._pixels[indices] for indices in self._index.split(_CHUNK))


@dataclass(frozen=True)
class ImageDataset:
    """Images to train and to test on, and where they came from."""

    name: str
    classes: tuple[str, ...]
    train: ImageSplit
    test: ImageSplit
    source: str  # The folder that the files were read from
    digest: str  # SHA-256 over the digests of the files
    note: str = ""  # What a user should know about this copy, in one line
    validation: ImageSplit | None = None
    skipped: tuple[str, ...] = ()  # Files that cannot be read, and why

    @property
    def channels(self) -> int:
        return self.train.channels

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Number of images of each class in the training and the test split."""
        splits = (self.train, self.test)
        counts = (torch.bincount(split.labels, minlength=len(self.classes)).tolist() for split in splits)
        return {name: {"train": train, "test": test} for name, train, test in zip(self.classes, *counts, strict=True)}

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.name, "source": self.source, "sha256": self.digest,
            "train_images": len(self.train), "test_images": len(self.test),
            "validation_images": 0 if self.validation is None else len(self.validation),
            "note": self.note, "skipped": list(self.skipped),
        }  # fmt: skip


def split_validation(split: ImageSplit, fraction: float, seed: int) -> tuple[ImageSplit, ImageSplit]:
    """Hold out a fraction of every class, chosen by `seed`: (the rest, the held-out images), both views.

    Identical images stay on one side. Raises `UserError` if a side would be empty.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(split), dtype=torch.bool)
    for label in split.labels.unique():
        members = torch.nonzero(split.labels == label).squeeze(1)
        chosen = torch.randperm(len(members), generator=generator)[: round(fraction * len(members))]
        held_out[members[chosen]] = True
    firsts: dict[bytes, int] = {}
    digests = (sha256(image.tobytes()).digest() for images in split._chunks() for image in images.numpy())
    held_out = held_out[torch.tensor([firsts.setdefault(digest, number) for number, digest in enumerate(digests)])]
    if not held_out.any() or held_out.all():
        raise UserError(f"validation = {fraction} of {len(split)} images leaves one of the two sides empty")
    return split.subset(torch.nonzero(~held_out).squeeze(1)), split.subset(torch.nonzero(held_out).squeeze(1))


CATALOG = {"fashion-mnist": fashion_mnist}
"""Datasets known by name. Each is a module with DESCRIPTION, CLASSES and the functions read, fetch and find."""


def catalog_entry(name: str) -> ModuleType:
    """The module of a dataset. Raises `UserError` for an unknown name."""
    if name not in CATALOG:
        raise UserError(f"no dataset or folder {name!r}; datasets: {', '.join(CATALOG)}")
    return CATALOG[name]


def is_folder(name: str | Path) -> bool:
    """Whether this is a folder on this machine. A name in the catalog is not one; a `Path` is never a name."""
    return (isinstance(name, Path) or name not in CATALOG) and os.path.isdir(expand(name))  # noqa: PTH112


def load_dataset(
    name_or_folder: str | Path = "fashion-mnist", data_dir: str | Path | None = None, *, size: int = 224,
    resize: Resize = "stretch", seed: int = 0, skip_unreadable: bool = False, channels: int | None = None,
    classes: Sequence[str] | None = None, test_fraction: float = 0.2, splits: Collection[str] = SPLITS,
) -> ImageDataset:  # fmt: skip
    """Load a dataset: a known one by its name, or your own images from a folder.

        dataset = googlenet.load_dataset("photos/", size=96)           # photos/CLASS/*.jpg
        images, labels = dataset.train.images, dataset.train.labels    # uint8 (N, C, 96, 96), int64 (N,)

    Args:
        name_or_folder: `fashion-mnist`, or a folder that has a folder for each class, or train, validation and test
            folders with those. What it contains is logged.
        data_dir: folder with the files of a known dataset, or `bundled` (the part that comes with this package);
            default: search for them, then download them.
        size: height and width in pixels. For folders only, like the following arguments.
        resize: how an image of another shape is made square: `stretch`, or `crop` (its middle).
        seed: decides which images are for the test if the folder has no test or validation split.
        skip_unreadable: skip files that cannot be read.
        channels: 1 or 3; default: 1 if every image is gray, else 3.
        classes: their names in the order wanted; default: those found, sorted.
        test_fraction: of each class, for the test if the folder has no test or validation split.
        splits: the splits to decode, for known datasets too; the others are empty.

    Raises:
        UserError: for an unknown name, files that are missing or damaged, or a folder that cannot be used.
        RunError: if the disk has no room for the pixels.
    """
    if unknown := set(splits) - set(SPLITS):
        raise UserError(f"splits are {', '.join(SPLITS)}, not {min(unknown)!r}")
    if not is_folder(name_or_folder):
        known = catalog_entry(name := str(name_or_folder))
        train, test, *origin = known.read(data_dir, splits)
        return ImageDataset(name, known.CLASSES, ImageSplit(*train), ImageSplit(*test), *origin)
    if size < 1 or channels not in (None, 1, 3) or resize not in get_args(Resize) or not 0 <= test_fraction <= 1:
        given = f"size={size}, channels={channels}, resize={resize!r}, test_fraction={test_fraction}"
        needed = "size must be 1 or more, channels 1 or 3, resize stretch or crop, test_fraction 0 to 1"
        raise UserError(f"{needed}, not {given}")
    report = scan(list_folder(name_or_folder, classes))
    listing, lines, unreadable, digest = report.listing, report.lines(), dict(report.unreadable), report.digest
    channels = channels or report.channels
    for line in lines:
        log.info(line)
    _check_unreadable(unreadable, skip_unreadable)
    members = _split(report.files, seed, test_fraction)
    decoded = {}
    for split in SPLITS:
        files = members[split] if split in splits else []
        images, errors = decode_images([file.path for file in files], channels, size, resize)
        unreadable |= {files[number].path: printable(error) for number, error in errors.items()}
        _check_unreadable(unreadable, skip_unreadable)
        labels = torch.tensor([file.label for file in files], dtype=torch.int64)
        names = [str(file.path.relative_to(listing.folder)) for file in files]
        decoded[split] = ImageSplit(images, labels, names)
        if errors:
            readable = torch.tensor([file.path not in unreadable for file in files])
            decoded[split] = decoded[split].subset(readable.nonzero().squeeze(1))
        members[split] = [file for file in members[split] if file.path not in unreadable]
        if not members[split] and (split == "test" or (split == "train" and test_fraction < 1)):
            raise UserError(f"{listing.folder} has no image for the {split} split")
    missing = set(range(len(listing.classes))) - {file.label for file in members["train"]}
    if classes is None and members["train"] and missing:
        problem = f"has no training image of the class {listing.classes[min(missing)]!r}"
        raise UserError(f"{listing.folder} {problem}; a class must have the same name in every split")
    return ImageDataset(
        name=listing.folder.resolve().name, classes=listing.classes, source=str(listing.folder), digest=digest,
        train=decoded["train"], test=decoded["test"],
        validation=decoded["validation"] if len(decoded["validation"]) else None,
        note=f"skipped {len(unreadable):,} files that cannot be read" if unreadable else "",
        skipped=tuple(unreadable.values()),
    )  # fmt: skip


def _check_unreadable(unreadable: dict[Path, str], skip: bool) -> None:
    if unreadable and not skip:
        first = f"cannot read {next(iter(unreadable.values()))}" + (" and others" if len(unreadable) > 1 else "")
        raise UserError(f"{first}; googlenet data check lists unreadable files, --skip-unreadable skips them")


def _split(files: Sequence[ImageFile], seed: int, test_fraction: float) -> dict[SplitName, list[ImageFile]]:
    """The files of each split. Files with the same content stay together."""
    splits: dict[SplitName, list[ImageFile]] = {name: [] for name in SPLITS}
    digests: dict[int, set[bytes]] = defaultdict(set)
    for file in files:
        if file.split is None:
            digests[file.label].add(file.digest)
    test: set[bytes] = set()
    for label, members in digests.items():
        # Ordered by a hash, so that adding or removing an image does not move the others to another split
        order = sorted(members, key=lambda digest: sha256(f"{seed} {label} ".encode() + digest).digest())
        test.update(order[: round(test_fraction * len(order))])
    for file in files:
        splits[file.split or ("test" if file.digest in test else "train")].append(file)
    if not splits["test"] and splits["validation"]:  # train and validation only: validation is the test split
        splits["test"], splits["validation"] = splits["validation"], []
    return splits

"""A dataset of several splits, and how a dataset is loaded, by name or from a folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch

from googlenet.choices import Resize
from googlenet.console import log
from googlenet.data import fashion_mnist
from googlenet.data.folder import SPLITS, ImageFile, Listing, list_folder, scan
from googlenet.data.image_split import ImageSplit
from googlenet.data.sharded import is_sharded, load_shards
from googlenet.data.splits import choose_held_out, find_units, split_files
from googlenet.data.store import Content, Decoding, PixelStore, open_store
from googlenet.data.table import is_table, list_table
from googlenet.errors import UserError, plural
from googlenet.files import expand, printable


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
    folder: Path | None = None  # That the names of files are relative to; None for a known dataset
    also: ImageDataset | None = None  # The old images that are mixed in, which the splits above contain

    @property
    def channels(self) -> int:
        return self.train.channels

    def path_of(self, name: str) -> Path | None:
        """The file of an image by its name in a split; None if it comes from a known dataset."""
        dataset, _, number = name.rpartition(":")
        is_known = self.also is not None and dataset in CATALOG and number.isdecimal()
        return None if self.folder is None or is_known else self.folder.absolute() / name

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
            **({} if self.also is None else {"also": self.also.provenance()}),
        }  # fmt: skip


def split_validation(
    split: ImageSplit, fraction: float, seed: int, *, may_be_empty: bool = False
) -> tuple[ImageSplit, ImageSplit]:
    """Hold out a fraction of every class, chosen by `seed`: (the rest, the held-out images), both views.

    Identical images and those of one group stay on one side. Raises `UserError` if a side would be empty,
    unless it `may_be_empty`.
    """
    grouped = split.units is not None and "group" in split.columns
    held_out = choose_held_out(split.labels, split.content_units(), fraction, seed, grouped=grouped)
    if not may_be_empty and (not held_out.any() or held_out.all()):
        raise UserError(f"validation = {fraction} of {plural(len(split), 'image')} leaves one side empty: set another")
    return split.subset(torch.nonzero(~held_out).squeeze(1)), split.subset(torch.nonzero(held_out).squeeze(1))


CATALOG = {"fashion-mnist": fashion_mnist}
"""Datasets known by name. Each is a module with DESCRIPTION, CLASSES and the functions read, fetch and find."""


def catalog_entry(name: str) -> ModuleType:
    """The module of a dataset. Raises `UserError` for an unknown name."""
    if name not in CATALOG:
        raise UserError(f"{name!r} is not a folder, a table of files or a dataset; datasets: {', '.join(CATALOG)}")
    return CATALOG[name]


def has_files(name: str | Path) -> bool:
    """Whether this is a folder of images or a table of image files on this machine; not one of shards."""
    return (is_folder(name) and not has_shards(name)) or (
        (isinstance(name, Path) or name not in CATALOG) and is_table(name)
    )


def has_shards(name: str | Path) -> bool:
    """Whether this is a folder of shards, an address, or a name on the Hugging Face Hub."""
    return name not in CATALOG and is_sharded(name)


def list_files(source: str | Path, classes: Sequence[str] | None = None, *, min_classes: int = 2) -> Listing:
    """The image files of a folder or of a table, and their classes. Raises as `list_folder` and `list_table`."""
    list_source = list_table if is_table(source) else list_folder
    return list_source(source, classes, min_classes=min_classes)


def is_folder(name: str | Path) -> bool:
    """Whether this is a folder on this machine. A name in the catalog is not one; a `Path` is never a name."""
    return (isinstance(name, Path) or name not in CATALOG) and os.path.isdir(expand(name))  # noqa: PTH112


def load_dataset(
    name_or_folder: str | Path = "fashion-mnist", data_dir: str | Path | None = None, *, size: int = 224,
    resize: Resize = "stretch", seed: int = 0, skip_unreadable: bool = False, channels: int | None = None,
    classes: Sequence[str] | None = None, test_fraction: float = 0.2, splits: Collection[str] = SPLITS,
    train_size: int | None = None, on_demand: bool = False, use_store: bool = True, is_part: bool = False,
) -> ImageDataset:  # fmt: skip
    """Load a dataset: a known one by its name, or your own images from a folder.

        dataset = googlenet.load_dataset("photos/", size=96)           # photos/CLASS/*.jpg
        images, labels = dataset.train.images, dataset.train.labels    # uint8 (N, C, 96, 96), int64 (N,)

    Args:
        name_or_folder: `fashion-mnist`; or a folder that has a folder for each class, or train, validation and test
            folders with those; or a table of files (.csv or .parquet) with the columns file and class. What it
            contains is logged.
        data_dir: folder with the files of a known dataset, or `bundled` (the part that comes with this package);
            default: search for them, then download them.
        size: height and width in pixels. For folders and tables only, like the following arguments.
        resize: how an image of another shape is made square: `stretch`, `crop` (its middle) or `pad` (gray borders).
        seed: decides which images are for the test if the folder has no test or validation split.
        skip_unreadable: skip files that cannot be read.
        channels: 1 or 3; default: 1 if every image is gray, else 3.
        classes: their names in the order wanted; default: those found, sorted. They do not change which images are
            for the test.
        test_fraction: of each class, for the test if the folder has no test or validation split.
        splits: the splits to decode, for known datasets too; the others are empty.
        train_size: height and width of the training images, if not `size`: random crops of larger ones are sharper.
        on_demand: decode an image when it is used, instead of all of them now.
        use_store: use the pixels that an earlier run has decoded and stored. With `on_demand` and without these, the
            splits have the images as they are in their files (`ImageSplit.original`).
        is_part: other images will be added: one class is enough, and a class may have test images only.

    Raises:
        UserError: for an unknown name, files that are missing or damaged, or a folder that cannot be used.
        RunError: if the disk has no room for the pixels.
    """
    if unknown := set(splits) - set(SPLITS):
        raise UserError(f"splits are {', '.join(SPLITS)}, not {min(unknown)!r}")
    if has_shards(name_or_folder):
        if skip_unreadable:
            raise UserError("--skip-unreadable is for folders and tables: googlenet data pack can leave such files out")
        name, found_classes, place, digest, sides = load_shards(
            name_or_folder, size=size, resize=resize, seed=seed, channels=channels, classes=classes,
            test_fraction=test_fraction, splits=splits, train_size=train_size,
        )  # fmt: skip
        validation = sides["validation"] if len(sides["validation"]) else None
        return ImageDataset(name, found_classes, sides["train"], sides["test"], place, digest, validation=validation)
    if not has_files(name_or_folder):
        known = catalog_entry(name := str(name_or_folder))
        train, test, *origin = known.read(data_dir, splits)
        return ImageDataset(name, known.CLASSES, ImageSplit(*train), ImageSplit(*test), *origin)
    if size < 1 or channels not in (None, 1, 3) or resize not in get_args(Resize) or not 0 <= test_fraction <= 1:
        given = f"size={size}, channels={channels}, resize={resize!r}, test_fraction={test_fraction}"
        needed = f"size must be 1 or more, channels 1 or 3, resize {', '.join(get_args(Resize))}, test_fraction 0 to 1"
        raise UserError(f"{needed}, not {given}")
    report = scan(list_files(name_or_folder, classes, min_classes=1 if is_part else 2))
    listing, unreadable = report.listing, dict(report.unreadable)
    channels = channels or report.channels
    for line in report.lines():
        log.info(line)
    check_unreadable(unreadable, skip_unreadable)
    units = find_units(report.files, listing.columns.get("group"))
    ranks = {number: rank for rank, number in enumerate(sorted(listing.labels, key=listing.classes.__getitem__))}
    grouped = "group" in listing.columns
    members = split_files(report.files, units, seed, test_fraction, grouped=grouped, ranks=ranks)
    everything = [Content(file.digest, file.path) for file in report.files]
    sizes = {split: train_size or size if split == "train" else size for split in SPLITS}
    stores = {}
    for side in sorted(set(sizes.values())):
        files = [file for split in SPLITS if split in splits and sizes[split] == side for file in members[split]]
        wanted = [Content(file.digest, file.path) for file in files]
        decoding = Decoding(channels, side, resize)
        stores[side] = store = open_store(
            everything, wanted, decoding, on_demand=on_demand, use_store=use_store, find_errors=skip_unreadable
        )
        for file in files:
            if (reason := store.errors.get(file.digest)) is not None:
                unreadable[file.path] = printable(f"{file.path}: {reason}")
    check_unreadable(unreadable, skip_unreadable)
    decoded = {}
    for split in SPLITS:
        members[split] = [file for file in members[split] if file.path not in unreadable]
        store = stores[sizes[split]]
        decoded[split] = _image_split(members[split] if split in splits else [], listing, units, store)
        if not members[split] and (split == "test" or (split == "train" and test_fraction < 1)):
            raise UserError(f"{listing.folder} has no image for the {split} split; add some")
    if classes is None and members["train"] and not is_part:
        check_trained_on(listing.classes, {file.label for file in members["train"]}, str(listing.folder))
    source = expand(name_or_folder)
    return ImageDataset(
        name=source.resolve().name, classes=listing.classes, source=str(source), digest=report.digest,
        train=decoded["train"], test=decoded["test"],
        validation=decoded["validation"] if len(decoded["validation"]) else None,
        note=f"skipped {plural(len(unreadable), 'file')} that cannot be read" if unreadable else "",
        skipped=tuple(unreadable.values()), folder=listing.folder,
    )  # fmt: skip


def _image_split(files: Sequence[ImageFile], listing: Listing, units: dict[Path, int], store: PixelStore) -> ImageSplit:
    return ImageSplit(
        store.pixels,
        torch.tensor([file.label for file in files], dtype=torch.int64),
        [str(file.path.relative_to(listing.folder)) for file in files],
        {name: [values[file.number] for file in files] for name, values in listing.columns.items()},
        units=torch.tensor([units[file.path] for file in files], dtype=torch.int64),
        index=torch.tensor([store.rows[file.digest] for file in files], dtype=torch.int64),
        sums=store.sums,
    )


def check_trained_on(classes: Sequence[str], labels: Collection[int], source: str) -> None:
    """Raises `UserError` if there is a class without training images."""
    if missing := [name for label, name in enumerate(classes) if label not in labels]:
        raise UserError(
            f"no training image of the class {missing[0]!r} in {source}; a class needs training images, under the "
            "same name as in the other splits"
        )


def check_unreadable(unreadable: Mapping[Path, str], skip: bool) -> None:
    """Raises `UserError` with the first file that cannot be read, unless those are to be skipped."""
    if unreadable and not skip:
        first = f"cannot read {next(iter(unreadable.values()))}" + (" and others" if len(unreadable) > 1 else "")
        raise UserError(f"{first}; googlenet data check lists unreadable files, --skip-unreadable skips them")

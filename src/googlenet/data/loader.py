"""Datasets by name or from a folder, and the tutorial's data loaders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import get_args

from torch import Tensor
from torch.utils.data import DataLoader

from googlenet.console import log
from googlenet.data import fashion_mnist
from googlenet.data.dataset import ImageDataset
from googlenet.data.decode import Resize, is_dir
from googlenet.data.folder import SPLITS, TEST_FRACTION, load_folder
from googlenet.data.transforms import InputSpec
from googlenet.device import available_cores
from googlenet.errors import UserError, check_counts
from googlenet.files import expand

Batch = tuple[Tensor, Tensor]


CATALOG = {"fashion-mnist": fashion_mnist}
"""Datasets known by name. Each is a module with a DESCRIPTION and the functions load, fetch and find."""


def catalog_entry(name: str) -> ModuleType:
    """The module of a dataset. Raises `UserError` for an unknown name."""
    if name not in CATALOG:
        raise UserError(f"no dataset or folder {name!r}; datasets: {', '.join(CATALOG)}")
    return CATALOG[name]


def is_folder(name: str | Path) -> bool:
    """Whether this is a folder on this machine. A name in the catalog is not one; a `Path` is never a name."""
    return (isinstance(name, Path) or name not in CATALOG) and is_dir(expand(name))


def load_dataset(
    name_or_folder: str | Path = "fashion-mnist", data_dir: str | Path | None = None, *, size: int = 224,
    resize: Resize = "stretch", seed: int = 0, skip_unreadable: bool = False, channels: int | None = None,
    classes: Sequence[str] | None = None, test_fraction: float = TEST_FRACTION, splits: Collection[str] = SPLITS,
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
        return catalog_entry(str(name_or_folder)).load(data_dir, splits=splits)
    check_counts(size=size)
    if channels not in (None, 1, 3) or resize not in get_args(Resize) or not 0 <= test_fraction <= 1:
        given = f"channels={channels}, resize={resize!r} and test_fraction={test_fraction}"
        raise UserError(
            f"load_dataset takes channels 1 or 3, resize stretch or crop, test_fraction 0 to 1, not {given}"
        )
    return load_folder(
        name_or_folder, size=size, resize=resize, seed=seed, skip_unreadable=skip_unreadable, channels=channels,
        classes=classes, test_fraction=test_fraction, splits=splits,
    )  # fmt: skip


def load_data(
    batch_size: int,
    num_workers: int = 0,
    resize: int | None = None,
    *,
    data: str | Path = "fashion-mnist",
    data_dir: str | Path | None = None,
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """The tutorial's data loaders: (training, test). The training images are shuffled again in each pass.

    A batch is float32 images (N, C, H, W) with pixels in 0..1, and int64 labels (N,).

    Args:
        batch_size: images per batch; the last batch may have fewer.
        num_workers: processes that prepare batches (gather, resize, convert to float) while the network trains, at most
            one per core; 0: the calling process prepares them.
        resize: height and width in pixels; default: 28 for Fashion-MNIST, 224 for a folder.
        data: name or folder, and `data_dir`: as for `load_dataset`, which says what is raised, too.
    """
    check_counts(batch_size=batch_size, resize=resize)
    if num_workers < 0:
        raise UserError(f"num_workers must be 0 or more, not {num_workers}")
    dataset = load_dataset(data, data_dir, size=resize or 224, splits=("train", "test"))
    if dataset.note:
        log.warning(dataset.note)
    channels = dataset.channels
    spec = InputSpec(channels, resize or dataset.train[0][0].shape[-1], (0.0,) * channels, (1.0,) * channels)
    train, test = (
        DataLoader(
            split,
            batch_size,
            shuffle=split is dataset.train,
            num_workers=min(num_workers, available_cores()),
            collate_fn=partial(_prepare, spec),  # called in the workers
            persistent_workers=num_workers > 0,
        )
        for split in (dataset.train, dataset.test)
    )
    return train, test


def _prepare(spec: InputSpec, batch: Batch) -> Batch:
    images, labels = batch
    return spec.prepare(images), labels

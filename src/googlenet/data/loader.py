"""Batches out of splits: the loaders that training uses, and the tutorial's."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from googlenet.data import fashion_mnist
from googlenet.data import folder as image_folder
from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.data.decode import Progress
from googlenet.data.transforms import InputSpec
from googlenet.device import available_cores
from googlenet.errors import UserError

Batch = tuple[Tensor, Tensor]


class ShuffledBatches(Sampler[Tensor]):
    """The indices of each training batch, in an order that depends on the seed and the epoch alone.

    So a run that is taken up again in the middle of an epoch sees the batches that it would have seen. Of several
    processes each takes its share of every batch. The last batch is shorter where the count does not divide; what
    would leave a process a single image joins the batch before, since batch normalization cannot work on one. Where a
    batch does not divide by the processes, some of its images are seen by two of them.

    Where `weights` (N,) are given, an epoch draws as many images, each as often as its weight says, on average.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, *, rank: int = 0, world: int = 1, weights: Tensor | None = None
    ) -> None:
        if batch_size > count:
            raise UserError(f"batch_size = {batch_size} is more than the {count} training images")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world, self.weights = rank, world, weights
        self.epoch = 0
        self.first = 0
        """The batch to start the next pass with."""

    def __len__(self) -> int:
        whole, left = divmod(self.count, self.batch_size)
        return whole + (left > self.world)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.weights is None:
            order = torch.randperm(self.count, generator=generator)
        else:
            order = torch.multinomial(self.weights, self.count, replacement=True, generator=generator)
        for batch in range(self.first, len(self)):
            end = self.count if batch == len(self) - 1 else (batch + 1) * self.batch_size
            yield self._share(order[batch * self.batch_size : end])

    def _share(self, batch: Tensor) -> Tensor:
        each = -(-len(batch) // self.world)
        return batch[torch.arange(self.rank, each * self.world, self.world) % len(batch)]


def training_loader(split: ImageSplit, batches: ShuffledBatches, num_workers: int, *, pin: bool) -> DataLoader[Batch]:
    """Batches of uint8 images (N, C, H, W) and labels (N,), as they lie in memory."""
    return DataLoader(
        split,
        batch_sampler=batches,  # type: ignore[arg-type]  # a tensor of indices is taken as well as a list
        collate_fn=_as_is,  # type: ignore[arg-type]  # a batch comes whole, not as a list
        num_workers=_useful(num_workers),
        worker_init_fn=_set_apart,
        pin_memory=pin,
    )


def load_data(
    batch_size: int,
    num_workers: int = 0,
    resize: int | None = None,
    *,
    data: str = "fashion-mnist",
    data_dir: str | Path | None = None,
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """The tutorial's loaders: (training, test), the training one shuffled anew in each pass.

    Each gives float32 images (N, C, H, W) with pixels in 0..1 and int64 labels (N,).

    Args:
        batch_size: images a batch; the last batch may hold fewer.
        num_workers: processes that prepare batches; 0 is the calling one.
        resize: height and width in pixels; None leaves images as they are, 28x28 for Fashion-MNIST.
        data: a name from the catalog.
        data_dir: the folder with its files; None looks where `load_dataset` looks.

    Raises:
        UserError: for an unknown name, damaged files, or a size below 1.
    """
    if batch_size < 1 or (resize is not None and resize < 1) or num_workers < 0:
        raise UserError(
            f"load_data needs batch_size and resize of 1 or more and num_workers of 0 or more, "
            f"not {batch_size}, {resize} and {num_workers}"
        )
    dataset = load_dataset(data, data_dir)
    if dataset.note:
        warnings.warn(dataset.note, stacklevel=2)
    channels = dataset.channels
    spec = InputSpec(channels, resize or dataset.train.images.shape[-1], (0.0,) * channels, (1.0,) * channels)
    loaders = [
        DataLoader(
            split,
            batch_size,
            shuffle=split is dataset.train,
            num_workers=_useful(num_workers),
            collate_fn=partial(_prepared, spec),
            persistent_workers=num_workers > 0,
        )
        for split in (dataset.train, dataset.test)
    ]
    return loaders[0], loaders[1]


def _useful(workers: int) -> int:
    return min(workers, available_cores())  # more would only wait, and torch warns of them


def _set_apart(_worker: int) -> None:
    """Ctrl-C and a time limit reach every process of a group; when to stop is the main one's to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)


def _as_is(batch: Batch) -> Batch:
    return batch


def _prepared(spec: InputSpec, batch: Batch) -> Batch:
    images, labels = batch
    return spec.prepare(images), labels


@dataclass(frozen=True)
class CatalogEntry:
    """One known data set: what it is, and how to have it."""

    name: str
    description: str
    load: Callable[[str | Path | None], ImageDataset]
    """From the folder named, or from the first place that has it."""
    fetch: Callable[[], Path]
    """Into the cache; returns the folder."""
    find: Callable[[], Path | None]
    """The folder on this machine that has it."""


CATALOG = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            "fashion-mnist",
            "60,000 + 10,000 gray 28x28 pictures of clothes in 10 classes (Xiao et al. 2017)",
            fashion_mnist.load,
            fashion_mnist.fetch,
            fashion_mnist.find,
        ),
    )
}


def entry(name: str) -> CatalogEntry:
    """The known data set of that name.

    Raises:
        UserError: for a name that is none.
    """
    if name not in CATALOG:
        raise UserError(f"there is no data set {name!r}, nor a folder of that name; data sets: {', '.join(CATALOG)}")
    return CATALOG[name]


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    size: int = 224,
    seed: int = 0,
    skip_unreadable: bool = False,
    channels: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> ImageDataset:
    """A data set in memory: one of the catalog, from `data_dir` or from the first place that has it; or a folder.

    What comes after `data_dir` is for folders of pictures: see `image_folder.load`.

    Raises:
        UserError: for a name that is neither, or files that are missing or damaged.
    """
    if not is_folder(name):
        return entry(name).load(data_dir)
    return image_folder.load(
        name,
        size=size,
        seed=seed,
        skip_unreadable=skip_unreadable,
        channels=channels,
        say=say,
        progress=progress,
    )


def is_folder(name: str) -> bool:
    """Whether that is no name of the catalog but a folder on this machine."""
    return name not in CATALOG and Path(name).is_dir()

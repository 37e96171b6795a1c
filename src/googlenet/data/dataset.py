"""The nouns of this floor: images with labels, and a data set made of two such splits."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from torch import Tensor
from torch.utils import data

from googlenet.errors import RunError, UserError, reason_of


class ImageSplit(data.Dataset[tuple[Tensor, Tensor]]):
    """Labelled images of one size, in memory or in a file that is mapped there.

    Attributes:
        images: uint8, (N, C, H, W).
        labels: int64, (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """A whole batch at once: (N, C, H, W) and (N,). PyTorch's loaders call this where it is there."""
        chosen = torch.as_tensor(indices)
        return self.images[chosen], self.labels[chosen]

    def subset(self, indices: Tensor) -> ImageSplit:
        """A copy of these, in a file: the memory need not hold it.

        Raises:
            RunError: where the disk has no room for it.
        """
        images = torch.from_numpy(anonymous_memmap((len(indices), *self.images.shape[1:])))
        for part, chosen in zip(images.split(1024), indices.split(1024), strict=True):
            torch.index_select(self.images, 0, chosen, out=part)
        return ImageSplit(images, self.labels[indices])

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of pixels scaled to 0..1. Exact: from a histogram."""
        values = np.arange(256) / 255.0
        means, deviations = [], []
        for channel in self.images.unbind(dim=1):
            # in parts: counting takes eight bytes a pixel
            counts = sum(np.bincount(part.numpy().ravel(), minlength=256) for part in channel.split(1024))
            share = counts / channel.numel()
            mean = float(share @ values)
            means.append(round(mean, 4))
            deviations.append(round(float(np.sqrt(share @ (values - mean) ** 2)), 4) or 1.0)
        return tuple(means), tuple(deviations)


@dataclass(frozen=True)
class ImageDataset:
    """A data set: what to learn from, what to be judged on, and where it came from."""

    name: str
    classes: tuple[str, ...]
    train: ImageSplit
    test: ImageSplit
    source: str
    """The folder or address that the files were found in."""
    digest: str
    """SHA-256 over the digests of the files read."""
    note: str = ""
    """What a user should know about this copy, in one line; empty where there is nothing."""
    validation: ImageSplit | None = None
    """DecodedImages to choose a model by, where the data set has such."""
    skipped: tuple[str, ...] = ()
    """Files that could not be read, and why."""

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[1])

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Images of each class in each split."""
        count = len(self.classes)
        train = torch.bincount(self.train.labels, minlength=count).tolist()
        test = torch.bincount(self.test.labels, minlength=count).tolist()
        return {name: {"train": train[i], "test": test[i]} for i, name in enumerate(self.classes)}

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.digest,
            "train_images": len(self.train),
            "test_images": len(self.test),
            "validation_images": 0 if self.validation is None else len(self.validation),
            "note": self.note,
            "skipped": list(self.skipped),
        }


def split_validation(split: ImageSplit, share: float, seed: int) -> tuple[ImageSplit, ImageSplit]:
    """Hold out `share` of a split, the same share of every class, chosen by `seed`: (the rest, the held-out).

    Copies of an image come to the side of the first of them, so that none is judged that was learned from.

    Raises:
        UserError: where the share leaves a side without an image.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(split), dtype=torch.bool)
    for label in split.labels.unique():
        members = torch.nonzero(split.labels == label).squeeze(1)
        chosen = torch.randperm(len(members), generator=generator)[: round(share * len(members))]
        held_out[members[chosen]] = True
    firsts: dict[bytes, int] = {}
    pixels = (image.tobytes() for image in split.images.numpy())
    first = [firsts.setdefault(sha256(image).digest(), number) for number, image in enumerate(pixels)]
    held_out = held_out[torch.tensor(first)]
    if not held_out.any() or held_out.all():
        raise UserError(f"validation = {share} of {len(split)} images leaves one of the two sides empty")
    return split.subset(torch.nonzero(~held_out).squeeze(1)), split.subset(torch.nonzero(held_out).squeeze(1))


def anonymous_memmap(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An array in a file without a name, which is gone with it.

    Raises:
        RunError: where the disk has no room for it.
    """
    folder = _scratch_folder()
    size = int(np.prod(shape))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # it lives as long as something is mapped from it
            if size == 0:
                return np.empty(shape, np.uint8)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would kill the process
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise RunError(f"no room for {size / 2**20:,.0f} MiB of pixels in {folder}: {reason_of(error)}") from error


def _scratch_folder() -> Path:
    """In the cache, since temporary files may lie in memory; where that cannot be written, with those."""
    folder = Path(platformdirs.user_cache_dir("googlenet", appauthor=False))
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())

"""Labeled images, and a dataset of several splits."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from googlenet.errors import RunError, UserError, check_counts, reason_of
from googlenet.files import cache_dir

_CHUNK = 128  # images that are processed at a time


class ImageSplit(data.Dataset[tuple[Tensor, Tensor]]):
    """Images of one size with their labels, in memory or in a file mapped into memory.

    `split[i]` is an image (C, H, W) and its label. A subset is a view: it shares the pixels of its split.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        """`images` are uint8, (N, C, H, W); `labels` are int64, (N,)."""
        self.labels = labels
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
        view = ImageSplit(self._pixels, self.labels[indices])
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
    source: str
    """The folder that the files were read from."""
    digest: str
    """SHA-256 over the digests of the files."""
    note: str = ""
    """What a user should know about this copy, in one line."""
    validation: ImageSplit | None = None
    skipped: tuple[str, ...] = ()
    """Files that cannot be read, and why."""

    @property
    def channels(self) -> int:
        return self.train.channels

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Number of images of each class in the training and the test split."""
        counts = [torch.bincount(split.labels, minlength=len(self.classes)) for split in (self.train, self.test)]
        rows = zip(self.classes, *(count.tolist() for count in counts), strict=True)
        return {name: {"train": train, "test": test} for name, train, test in rows}

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


def anonymous_memmap(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A uint8 array in a file without a name, so that it need not fit into memory. The file goes away with the array.

    It is in the cache folder, since temporary files may be in memory. Raises `RunError` if the disk has no room for it.
    """
    size = int(np.prod(shape))
    if size == 0:
        return np.empty(shape, np.uint8)
    folder = cache_dir()
    try:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # if the disk filled up later, the process would be killed
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise RunError(f"no room for {size / 2**20:,.0f} MiB of pixels in {folder}: {reason_of(error)}") from error

"""Labeled images of one size: in memory, in a file mapped into memory, or decoded when they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Protocol

import torch
from torch import Tensor
from torch.utils import data

from googlenet.data.decode import anonymous_memmap
from googlenet.data.store import pixel_sums
from googlenet.data.streaming import ShardNames, ShardPixels, stream_order
from googlenet.errors import check_counts

_CHUNK = 128  # images that are processed at a time
_EXAMPLE_BLOCKS = 32  # that examples come from


class Pixels(Protocol):
    """Images of one size that need not be one tensor."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, C, H, W)."""

    @property
    def is_decoded(self) -> bool:
        """Whether the pixels are there; else each image is decoded whenever it is indexed."""

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """uint8: one image (C, H, W) for a 0-d index, else a batch."""

    def original(self, number: int, min_side: int) -> Tensor:
        """One image as its file has it, if that is known: see `ImageSplit.original`."""


class ImageSplit(data.Dataset[tuple[Tensor, Tensor]]):
    """Images of one size with their labels: in memory, in a file mapped into memory, or decoded when they are used.

    `split[i]` is an image (C, H, W) and its label. A subset is a view: it shares the pixels of its split.
    """

    def __init__(
        self, images: Tensor | Pixels, labels: Tensor, files: Sequence[str] = (),
        columns: Mapping[str, Sequence[str]] | None = None, *, units: Tensor | None = None,
        index: Tensor | None = None, sums: Tensor | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            images: uint8, (N, C, H, W).
            labels: int64, (N,).
            files: the name of each image. Default: its number.
            columns: what a table of files says about each of them (`group`, `camera`, ...).
            units: int64, (N,); images with the same number must stay together when a part is held out. Default: those
                with the same pixels.
            index: int64, (N,): of each image in `images`, which then may have others. Default: all in their order.
            sums: float64, (N of `images`, C, 2): `pixel_sums` of `images`, if they are known.
        """
        self.labels, self.units = labels, units
        self.files: Sequence[str] = (
            files if isinstance(files, ShardNames) else tuple(files) or tuple(map(str, range(len(labels))))
        )
        self.columns = {name: tuple(values) for name, values in (columns or {}).items()}
        self._pixels, self._index, self._sums = images, index, sums

    @property
    def images(self) -> Tensor:
        """uint8, (N, C, H, W). The first use copies a view's images into a file; `RunError` if the disk is full."""
        if self._index is not None or not isinstance(self._pixels, Tensor):
            pixels = torch.from_numpy(anonymous_memmap((len(self), *self._pixels.shape[1:])))
            for part, images in zip(pixels.split(_CHUNK), self._chunks(), strict=True):
                part.copy_(images)
            self._sums = None if self._sums is None or self._index is None else self._sums[self._index]
            self._pixels, self._index = pixels, None
        return self._pixels

    def original(self, number: int, min_side: int) -> Tensor:
        """An image before it was made square, uint8 (C, H, W), if it is decoded when it is used; else as it is.

        A JPEG may be decoded at a half, a quarter or an eighth of its size, but no side below `min_side` pixels.
        """
        row = int(self._rows(torch.tensor(number)))
        return self._pixels[row] if isinstance(self._pixels, Tensor) else self._pixels.original(row, min_side)

    @property
    def channels(self) -> int:
        return self.image_shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        _, channels, height, width = self._pixels.shape
        return channels, height, width

    @property
    def is_decoded(self) -> bool:
        """Whether the pixels are there; else each image is decoded whenever it is used."""
        return isinstance(self._pixels, Tensor) or self._pixels.is_decoded

    @property
    def is_streamed(self) -> bool:
        """Whether the images are in shards, which are read in order."""
        return isinstance(self._pixels, ShardPixels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._pixels[self._rows(torch.tensor(index))], self.labels[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """A batch: (N, C, H, W) and (N,). PyTorch's data loaders call this."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self._pixels[self._rows(chosen)], self.labels[chosen]

    def batches(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batch for each tensor of indices. Images that are not decoded are decoded one batch ahead."""
        if isinstance(self._pixels, ShardPixels):
            chosen = list(batches)
            images = self._pixels.stream([self._rows(indices) for indices in chosen])
            yield from zip(images, (self.labels[indices] for indices in chosen), strict=True)
            return
        if self.is_decoded:
            yield from map(self.__getitems__, batches)
            return
        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for indices in batches:
                current, ahead = ahead, pool.submit(self.__getitems__, indices)
                if current is not None:
                    yield current.result()
            if ahead is not None:
                yield ahead.result()

    def shuffled(self, generator: torch.Generator, batch_size: int, processes: int = 1, buffer: int = 1) -> Tensor:
        """All indices in random order: int64, (N,). For images in shards, an order in which they can be read.

        `batch_size`, `processes` and `buffer` are as in `stream_order`.
        """
        if not isinstance(self._pixels, ShardPixels):
            return torch.randperm(len(self), generator=generator)
        return stream_order(self._pixels.blocks_of(self._all_rows()), generator, batch_size, processes, buffer)

    def examples(self, count: int) -> Tensor:
        """Indices of about `count` images from all over the split that can be read together: int64."""
        if not isinstance(self._pixels, ShardPixels):
            # Spread over all classes: a folder's images are sorted by class
            return torch.arange(0, len(self), -(-len(self) // min(count, len(self))))
        blocks = self._pixels.blocks_of(self._all_rows()).unique_consecutive(return_counts=True)[1]
        chosen = torch.arange(0, len(blocks), -(-len(blocks) // _EXAMPLE_BLOCKS))
        of_each, starts = -(-count // len(chosen)), blocks.cumsum(0) - blocks
        return torch.cat([torch.arange(starts[n], starts[n] + min(of_each, int(blocks[n]))) for n in chosen])[:count]

    def _all_rows(self) -> Tensor:
        return torch.arange(len(self)) if self._index is None else self._index

    def _rows(self, indices: Tensor) -> Tensor:
        return indices if self._index is None else self._index[indices]

    def subset(self, indices: Tensor) -> ImageSplit:
        """A view of these images, in this order."""
        chosen = indices.tolist()
        return ImageSplit(
            self._pixels, self.labels[indices], [self.files[i] for i in chosen],
            {name: [values[i] for i in chosen] for name, values in self.columns.items()},
            units=None if self.units is None else self.units[indices], index=self._rows(indices), sums=self._sums,
        )  # fmt: skip

    def content_units(self) -> Tensor:
        """`units`, or if they are not known, those of images with the same pixels: int64, (N,)."""
        if self.units is not None:
            return self.units
        digests = (sha256(image.tobytes()).digest() for images in self._chunks() for image in images.numpy())
        numbers: dict[bytes, int] = {}
        return torch.tensor([numbers.setdefault(digest, len(numbers)) for digest in digests], dtype=torch.int64)

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
        """Mean and standard deviation of each channel, for pixels in 0..1, exact.

        Of images that are decoded when they are used, those of 1,000 of them.
        """
        if self._sums is not None:
            sums = self._sums[self._all_rows()].sum(0)
            count = len(self) * self._pixels.shape[2] * self._pixels.shape[3]
        else:
            split = self
            if isinstance(self._pixels, ShardPixels):
                split = self.subset(self.examples(1000))
            elif not self.is_decoded:
                split = self.spread(1000)
            sums = torch.stack([pixel_sums(images).sum(0) for images in split._chunks()]).sum(0)
            count = len(split) * self._pixels.shape[2] * self._pixels.shape[3]
        mean, square = (sums / count / torch.tensor([255, 255**2])).unbind(1)
        std = (square - mean.square()).clamp(min=0).sqrt()
        rounded = ([round(value, 4) for value in values.tolist()] for values in (mean, std))
        return tuple(next(rounded)), tuple(value or 1.0 for value in next(rounded))

    def _chunks(self) -> Iterator[Tensor]:
        return (images for images, _ in self.batches(torch.arange(len(self)).split(_CHUNK)))

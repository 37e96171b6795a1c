"""Images in shards: in which order they are read, and how they are read and decoded ahead of their use.

A shard is a file with many images; a block of it is what is read at a time. The order of an epoch depends on the seed
alone, not on what was read before, so a resumed run starts to read where it stopped.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, overload

import numpy as np
import torch
from torch import Tensor

from googlenet.data.decode import decode_image, decode_resized
from googlenet.data.store import Decoding
from googlenet.device import available_cores
from googlenet.errors import UserError

_LANES = 16
_READERS = 8  # threads that wait for a disk or a server
_IMAGES_AHEAD, _BLOCKS_AHEAD = 2048, 8  # that are read before they are needed; always two blocks
_BATCHES_AHEAD = 2  # that are decoded before they are needed


def stream_order(
    blocks: Tensor, generator: torch.Generator, batch_size: int, processes: int = 1, buffer: int = 1
) -> Tensor:
    """A random order of all images in which each process reads few blocks at a time, and each block once.

    The blocks are put in random order and divided among 16 lanes. Each lane mixes the images of neighboring blocks. A
    batch takes its images from all lanes in turn, as processes take theirs from the batch, so that a process reads the
    blocks of its own lanes only. 1, 2, 4, 8 and 16 processes get the same batches. Large blocks, or another number of
    processes, have another number of lanes.

    Args:
        blocks: int64, (N,): the block of each image.
        generator: decides the order.
        batch_size: images per batch, over all processes.
        processes: how many share each batch.
        buffer: images that are mixed at a time, over all lanes.

    Returns: indices of the images, int64, (N,).
    """
    count = len(blocks)
    names, block, sizes = blocks.unique(return_inverse=True, return_counts=True)
    rank = torch.randperm(len(names), generator=generator)
    images = rank[block].argsort(stable=True)  # block after block
    lanes = _lanes(int(sizes.max()), processes, buffer)
    position = torch.arange(count)  # in the epoch
    lane = position % batch_size % lanes
    slots = lane.argsort(stable=True)  # the positions of the first lane, then those of the next one
    of_lane = torch.bincount(lane, minlength=lanes)
    lane = lane[slots]
    place = position - (of_lane.cumsum(0) - of_lane)[lane]
    width = max(buffer // lanes, 1)
    # The windows of the lanes end one after the other, so that blocks are read at an even pace
    window = (place + lane * width // lanes) // width
    mixed = torch.randperm(count, generator=generator)
    mixed = mixed[(lane * (count + lanes) + window)[mixed].argsort(stable=True)]  # within each window
    order = torch.empty_like(position)
    order[slots] = images[mixed]
    return order


def _lanes(largest: int, processes: int, buffer: int) -> int:
    """Two to the power of something, if `processes` is too: as many as the buffer has room for blocks."""
    most = max(min(_LANES, buffer // largest), 1)
    lanes = 1 << (most.bit_length() - 1)
    return lanes if lanes % processes == 0 else processes * max(lanes // processes, 1)


class Blocks(Protocol):
    """Where images come from."""

    def sizes(self) -> Tensor:
        """Images in each block: int64."""

    def read(self, block: int) -> Sequence[bytes]:
        """The files of the images in a block. Raises `UserError` or `RunError` if it cannot be read."""

    def name(self, block: int, number: int) -> str:
        """Of an image, for a message."""


class ShardNames(Sequence[str]):
    """The names of images that are known by their place only, made when they are used."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._ends = blocks, blocks.sizes().cumsum(0).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        block = bisect.bisect_right(self._ends, index)
        return self._blocks.name(block, index - (self._ends[block - 1] if block else 0))


class ShardPixels:
    """Images that are read and decoded when they are used: (N, C, size, size), never in memory as a whole."""

    is_decoded = False

    def __init__(self, blocks: Blocks, decoding: Decoding) -> None:
        self._blocks, self._decoding = blocks, decoding
        self._ends = blocks.sizes().cumsum(0)
        self._starts = self._ends - blocks.sizes()
        self._recent: dict[int, Sequence[bytes]] = {}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        channels, size, _ = self._decoding
        return int(self._ends[-1]) if len(self._ends) else 0, channels, size, size

    def blocks_of(self, rows: Tensor) -> Tensor:
        """The block of each image: int64, (N,)."""
        return torch.searchsorted(self._ends, rows.contiguous(), right=True)

    def __getitem__(self, index: Tensor) -> Tensor:
        """One image (C, size, size) for a 0-d index, else a batch. Reads each block that they are in once."""
        images = next(self.stream([index.reshape(-1)]))
        return images if index.ndim else images[0]

    def original(self, number: int, min_side: int) -> Tensor:
        """One image as its file has it, uint8 (C, H, W). Two blocks are kept, for those that follow it."""
        block = int(self.blocks_of(torch.tensor([number])))
        if (files := self._recent.get(block)) is None:
            files = self._blocks.read(block)
            self._recent = dict([*self._recent.items(), (block, files)][-2:])
        row = number - int(self._starts[block])
        try:
            return decode_image(files[row], self._decoding.channels, min_side=min_side)
        except UserError as error:
            raise self._named(error, block, row) from error

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images (N, C, size, size) of each batch of indices.

        Blocks are read, and images decoded, a little ahead; a block is dropped after its last image. Raises `UserError`
        for an image that is damaged, and whatever reading a block raises.
        """
        lengths = [len(rows) for rows in batches]
        images = torch.cat([torch.empty(0, dtype=torch.int64), *batches])
        blocks_of_all = self.blocks_of(images)
        places = zip(blocks_of_all.split(lengths), (images - self._starts[blocks_of_all]).split(lengths), strict=True)
        needed = blocks_of_all.numpy()
        of_batch = np.repeat(np.arange(len(batches)), lengths)
        names, first = np.unique(needed, return_index=True)
        last = len(needed) - 1 - np.unique(needed[::-1], return_index=True)[1]
        arrivals = deque((int(names[n]), int(of_batch[first[n]])) for n in first.argsort())
        departures = deque((int(names[n]), int(of_batch[last[n]])) for n in last.argsort())
        sizes = self._blocks.sizes().tolist()
        reads: dict[int, Future[Sequence[bytes]]] = {}
        ahead = deque[tuple[int, int]]()  # blocks that are read before a batch needs them, and that batch
        decoded = deque[tuple[Tensor, list[Future[None]]]]()
        readers, decoders = ThreadPoolExecutor(_READERS, "read"), ThreadPoolExecutor(available_cores(), "decode")
        try:
            for number, (blocks, rows) in enumerate(places):
                while ahead and ahead[0][1] <= number:
                    ahead.popleft()
                while arrivals and (arrivals[0][1] <= number or self._has_room([sizes[block] for block, _ in ahead])):
                    block, needed_by = arrivals.popleft()
                    reads[block] = readers.submit(self._blocks.read, block)
                    if needed_by > number:
                        ahead.append((block, needed_by))
                decoded.append(self._decode(decoders, reads, blocks.tolist(), rows.tolist()))
                while departures and departures[0][1] <= number:
                    del reads[departures.popleft()[0]]
                if len(decoded) > _BATCHES_AHEAD:
                    yield _finished(*decoded.popleft())
            while decoded:
                yield _finished(*decoded.popleft())
        finally:
            for pool in (readers, decoders):
                pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _has_room(ahead: list[int]) -> bool:
        return len(ahead) < 2 or (len(ahead) < _BLOCKS_AHEAD and sum(ahead) < _IMAGES_AHEAD)

    def _decode(
        self, pool: ThreadPoolExecutor, reads: dict[int, Future[Sequence[bytes]]], blocks: list[int], rows: list[int]
    ) -> tuple[Tensor, list[Future[None]]]:
        """Images that are complete when all futures are."""
        images = np.empty(
            (len(rows), *self.shape[1:]), np.uint8
        )  # threads must not write to a tensor of inference mode
        contents = [reads[block] for block in blocks]

        def decode(start: int, stop: int) -> None:
            for n in range(start, stop):
                content = contents[n].result()[rows[n]]
                try:
                    images[n] = decode_resized(content, *self._decoding).numpy()
                except UserError as error:
                    raise self._named(error, blocks[n], rows[n]) from error

        part = max(-(-len(rows) // (4 * available_cores())), 1)
        starts = range(0, len(rows), part)
        return torch.from_numpy(images), [pool.submit(decode, start, min(start + part, len(rows))) for start in starts]

    def _named(self, error: UserError, block: int, row: int) -> UserError:
        return UserError(f"{self._blocks.name(block, row)}: {str(error).removeprefix('image (bytes): ')}")


def _finished(images: Tensor, parts: list[Future[None]]) -> Tensor:
    for part in parts:
        part.result()
    return images

"""The order in which shards are read, and the images that come out."""

from __future__ import annotations

import io
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import Tensor

from googlenet import ImageSplit, UserError
from googlenet.data.store import Decoding
from googlenet.data.streaming import ShardNames, ShardPixels, stream_order

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(sum)


def blocks_of(sizes: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def order_of(sizes: Sequence[int], batch: int, processes: int = 1, buffer: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return stream_order(blocks_of(sizes), generator, batch, processes, buffer)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 70), st.integers(1, 9), st.integers(1, 500), st.integers(0, 3))
def test_every_image_comes_once(sizes: list[int], batch: int, processes: int, buffer: int, seed: int) -> None:
    assert sorted(order_of(sizes, batch, processes, buffer, seed).tolist()) == list(range(sum(sizes)))


@settings(max_examples=15, deadline=None)
@given(SIZES, st.integers(1, 70), st.integers(0, 3))
def test_the_batches_do_not_depend_on_the_number_of_processes(sizes: list[int], batch: int, seed: int) -> None:
    buffer = 16 * max(sizes)
    expected = order_of(sizes, batch, 1, buffer, seed)
    assert all(torch.equal(order_of(sizes, batch, processes, buffer, seed), expected) for processes in (2, 4, 8, 16))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 8), st.integers(1, 200))
def test_each_process_reads_its_own_part(sizes: list[int], processes: int, of_each: int, buffer: int) -> None:
    """Together they read all images once, and of the blocks only those that two lanes meet in twice."""
    batch = processes * of_each
    blocks, order = blocks_of(sizes), order_of(sizes, batch, processes, buffer)
    parts = [torch.cat([part[rank::processes] for part in order.split(batch)]) for rank in range(processes)]
    assert sorted(torch.cat(parts).tolist()) == list(range(sum(sizes)))
    readers = sum(len(blocks[part].unique()) for part in parts)
    assert readers <= len(sizes) + max(16, processes)


def test_another_seed_is_another_order_and_a_batch_has_images_from_many_blocks() -> None:
    sizes = [20] * 100
    order = order_of(sizes, 32, 1, 16 * 40)
    assert not torch.equal(order, order_of(sizes, 32, 1, 16 * 40, seed=1))
    blocks = blocks_of(sizes)[order]
    assert min(len(batch.unique()) for batch in blocks.split(32)[:-1]) >= 16
    # Neighbors in a block are far apart
    apart = (order.argsort()[1:] - order.argsort()[:-1]).abs().float()
    assert apart.median() > 64


class Memory:
    """Blocks of images whose pixels are their number."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = torch.tensor(sizes, dtype=torch.int64)
        self.reads: Counter[int] = Counter()
        self.alive: weakref.WeakSet[Block] = weakref.WeakSet()
        self.most_alive = 0

    def sizes(self) -> Tensor:
        return self._sizes

    def name(self, block: int, number: int) -> str:
        return f"{block}:{number}"

    def read(self, block: int) -> Sequence[bytes]:
        self.reads[block] += 1
        first = int(self._sizes[:block].sum())
        content = Block(png(first + number) for number in range(int(self._sizes[block])))
        self.alive.add(content)
        self.most_alive = max(self.most_alive, len(self.alive))
        return content


class Block(Sequence[bytes]):
    """A list that can be watched."""

    def __init__(self, images: Iterable[bytes]) -> None:
        self._images = list(images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        return self._images[index]


def png(value: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((2, 2), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def split_of(blocks: Memory) -> ImageSplit:
    count = int(blocks.sizes().sum())
    return ImageSplit(ShardPixels(blocks, Decoding(1, 2, "stretch")), torch.arange(count), ShardNames(blocks))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(sum), st.integers(1, 20), st.integers(0, 20))
def test_images_have_their_labels_from_any_batch_on(sizes: list[int], batch: int, first: int) -> None:
    blocks = Memory(sizes)
    split, batches = split_of(blocks), order_of(sizes, batch).split(batch)[first:]
    found = list(split.batches(batches))
    assert [labels.tolist() for _, labels in found] == [part.tolist() for part in batches]
    assert all((images[:, 0, 0, 0] == labels).all() for images, labels in found)
    assert set(blocks.reads.values()) <= {1}
    needed = {int(block) for part in batches for block in blocks_of(sizes)[part]}
    assert set(blocks.reads) == needed


def test_images_by_index_and_their_names() -> None:
    split = split_of(Memory([2, 0, 3]))
    assert int(split[3][0].max()) == 3 and split.files[3] == "2:1" and len(split.files) == 5
    images, labels = split.__getitems__([4, 0, 4])
    assert images[:, 0, 0, 0].tolist() == labels.tolist() == [4, 0, 4]
    view = split.subset(torch.tensor([4, 1]))
    assert view.files == ("2:2", "0:1") and view.images[:, 0, 0, 0].tolist() == [4, 1]
    with torch.inference_mode():  # in which the thread that decodes is not
        assert int(next(iter(split.batches([torch.tensor([2])])))[0].max()) == 2


def test_memory_stays_bounded() -> None:
    """Of 200 blocks, those in the buffer and a few ahead."""
    blocks = Memory([2] * 100)
    split, order = split_of(blocks), order_of([2] * 100, 8, buffer=32)
    for _ in split.batches(order.split(8)):
        pass
    assert blocks.most_alive < 60


def test_a_stream_that_is_left_stops_reading() -> None:
    blocks = Memory([2] * 100)
    stream = split_of(blocks).batches(order_of([2] * 100, 8, buffer=16).split(8))
    next(stream)
    del stream
    assert len(blocks.reads) < 60


def test_a_damaged_image_is_named() -> None:
    class Damaged(Memory):
        def read(self, block: int) -> Sequence[bytes]:
            return [b"\xff\xd8\xff"] * int(self.sizes()[block])

    with pytest.raises(UserError, match="1:0"):
        split_of(Damaged([2, 3]))[2]

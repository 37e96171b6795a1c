"""A dataset in shards: in a folder, at an address, or on the Hugging Face Hub. Images are read when they are used."""

from __future__ import annotations

import functools
import itertools
import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock

from googlenet.choices import Resize
from googlenet.console import log, progress
from googlenet.data.decode import NamedImage, is_dir
from googlenet.data.folder import SPLITS, SplitName
from googlenet.data.folder_layout import split_of
from googlenet.data.hub_data import PREFIX, find_on_hub
from googlenet.data.image_split import ImageSplit
from googlenet.data.shard_scan import find_splits, scan_shards
from googlenet.data.shards import INDEX, SUFFIXES, ShardBlocks, ShardIndex
from googlenet.data.splits import choose_held_out
from googlenet.data.storage import Storage, is_address
from googlenet.data.store import Decoding, limit_bytes
from googlenet.data.streaming import ShardNames, ShardPixels
from googlenet.errors import RunError, UserError, plural, reason_of
from googlenet.files import atomic_write, cache_dir, expand

COPIED_BYTES = 10**9  # of shards on a server: more are streamed
_PART = 16 * 2**20  # bytes that are copied at a time
_AHEAD = 4  # blocks that are read before they are needed


class ShardedSplits(NamedTuple):
    """What a dataset in shards consists of."""

    name: str
    classes: tuple[str, ...]
    source: str
    digest: str
    splits: dict[SplitName, ImageSplit]


def is_sharded(source: str | Path) -> bool:
    """Whether this is a name on the Hub, an address, or a folder with an index, or with Parquet or tar files, which may
    be in a folder for each split; other folders could be classes."""
    if isinstance(source, str) and (source.startswith(PREFIX) or is_address(source)):
        return True
    try:
        entries = [entry for entry in os.scandir(expand(source)) if not entry.name.startswith(".")]
    except (OSError, ValueError):
        return False
    if any(entry.name == INDEX for entry in entries):
        return True
    folders = [entry for entry in entries if is_dir(entry.path)]
    if folders:
        return all(split_of(entry.name) is not None and is_sharded(Path(entry.path)) for entry in folders)
    return any(entry.name.endswith(SUFFIXES) for entry in entries)


def open_shards(source: str | Path) -> tuple[ShardIndex, Storage]:
    """The index of shards. Raises `UserError` if there are none, or they cannot be used; `RunError` if they cannot be
    read."""
    if isinstance(source, str) and source.startswith(PREFIX):
        found = find_on_hub(source)
        index = scan_shards(found.storage, found.sizes, found.splits, label=found.label)
        return index, _copied(index, found.storage)
    storage = Storage(source)
    try:
        content = storage.read(INDEX)
    except UserError:  # it has none
        try:
            sizes = storage.list()
        except RunError as error:
            raise UserError(
                f"{storage.path(INDEX)} does not exist, and the server lists no files ({error}): name the folder that "
                "googlenet data pack has written"
            ) from error
        if not (names := [name for name in sizes if name.endswith(SUFFIXES)]):
            raise UserError(f"{storage.source} has no {INDEX} and no Parquet or tar files") from None
        index = scan_shards(storage, sizes, find_splits(names))
        return index, _copied(index, storage)
    index = ShardIndex.from_bytes(content, storage.path(INDEX))
    if not storage.is_remote:  # the others are found when they are read: a server may have thousands
        for split in index.splits.values():
            for shard in split.shards:
                if storage.size(shard.file) != shard.bytes:
                    raise UserError(f"{storage.path(shard.file)} is not complete: copy it again")
    return index, _copied(index, storage)


class ShardImages:
    """The content of every image of all splits, to read one after the other."""

    def __init__(self, source: str | Path) -> None:
        """Raises as `open_shards`."""
        index, storage = open_shards(source)
        self._parts = [
            (ShardBlocks(storage, split, index.image), split.columns.get("file")) for split in index.splits.values()
        ]

    def __len__(self) -> int:
        return sum(int(blocks.sizes().sum()) for blocks, _ in self._parts)

    def between(self, start: int, stop: int) -> Iterator[NamedImage]:
        """The images with these numbers, with their names. The next blocks are read meanwhile."""

        def read(blocks: ShardBlocks, block: int, files: Sequence[str], wanted: slice) -> list[NamedImage]:
            names = files or [blocks.name(block, number) for number in range(int(blocks.sizes()[block]))]
            return [NamedImage(*image) for image in zip(blocks.read(block)[wanted], names[wanted], strict=True)]

        work, first = [], 0
        for blocks, files in self._parts:
            place = 0
            for block, count in enumerate(blocks.sizes().tolist()):
                wanted = slice(max(start - first, 0), max(min(stop - first, count), 0))
                if wanted.start < wanted.stop:
                    work.append(functools.partial(read, blocks, block, (files or ())[place : place + count], wanted))
                first, place = first + count, place + count
        with ThreadPoolExecutor(_AHEAD) as pool:
            ahead = deque[Future[list[NamedImage]]]()
            waiting = iter(work)
            for _ in work:
                ahead.extend(pool.submit(task) for task in itertools.islice(waiting, _AHEAD - len(ahead)))
                yield from ahead.popleft().result()


def _copied(index: ShardIndex, storage: Storage) -> Storage:
    """Where to read shards from: small ones that are not on this machine are copied to the cache folder, so that they
    are not downloaded in every epoch."""
    shards = [shard for split in index.splits.values() for shard in split.shards]
    total = sum(shard.bytes for shard in shards)
    if not storage.is_remote or total > min(COPIED_BYTES, limit_bytes()):
        return storage
    folder = cache_dir() / "shards" / sha256(f"{storage.source} {index.digest}".encode()).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # the processes of a run start together
            missing = [s for s in shards if not (p := folder / s.file).is_file() or p.stat().st_size != s.bytes]
            with progress(f"copying {storage.source}", sum(shard.bytes for shard in missing) / 1e6) as bar:
                for shard in missing:
                    with atomic_write(folder / shard.file) as temporary, temporary.open("wb") as file:
                        for start in range(0, shard.bytes, _PART):
                            part = storage.read(shard.file, start, min(start + _PART, shard.bytes))
                            file.write(part)
                            bar.advance(len(part) / 1e6)
    except (OSError, RunError, NotImplementedError) as error:  # the last one: a file system without locks
        log.warning(f"{reason_of(error)}: the images are read from {storage.source} in every epoch")
        return storage
    return Storage(folder)


def load_shards(
    source: str | Path, *, size: int, resize: Resize, seed: int, channels: int | None, classes: Sequence[str] | None,
    test_fraction: float, splits: Collection[str], train_size: int | None,
) -> ShardedSplits:  # fmt: skip
    """The splits of a dataset in shards; arguments as for `load_dataset`.

    Without a test split, the validation split is the test split; without either, a fraction of each class is held out
    of the training images, or all of them if `test_fraction` is 1.
    """
    index, storage = open_shards(source)
    name = str(source).removeprefix(PREFIX) if not Path(source).is_dir() else Path(expand(source)).resolve().name
    counts = ", ".join(f"{len(split.labels):,} {name}" for name, split in index.splits.items())
    log.info(f"{source}: {counts} images in shards, {plural(len(index.classes), 'class')}; read when they are used")
    found: dict[SplitName, ImageSplit] = {}
    numbers = torch.arange(len(index.classes))
    if classes is not None:
        if unknown := [name for name in index.classes if name not in classes]:
            raise UserError(f"{source} has a class {unknown[0]!r}, which the model does not have: {', '.join(classes)}")
        numbers = torch.tensor([classes.index(name) for name in index.classes])
    for split, content in index.splits.items():
        side = train_size or size if split == "train" else size
        blocks = ShardBlocks(storage, content, index.image)
        columns = {name: values for name, values in content.columns.items() if name != "file"}
        found[split] = ImageSplit(
            ShardPixels(blocks, Decoding(channels or index.channels, side, resize)), numbers[content.labels],
            content.columns.get("file", ShardNames(blocks)), columns, units=torch.arange(len(content.labels)),
        )  # fmt: skip
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    if "test" not in found:
        train = found["train"]
        held_out = torch.ones(len(train), dtype=torch.bool)
        if test_fraction < 1:
            assert train.units is not None
            held_out = choose_held_out(train.labels, train.units, test_fraction, seed, grouped=False)
        found["train"], found["test"] = (train.subset(torch.nonzero(mask).squeeze(1)) for mask in (~held_out, held_out))
        if train_size not in (None, size):
            raise UserError(
                f"{source} has no test split: pack it with one, or omit stored_size, which is for training images"
            )
    nothing = torch.empty(0, dtype=torch.int64)
    for split in SPLITS:
        if split not in splits or split not in found:
            example = next(iter(found.values()))
            found[split] = found.get(split, example).subset(nothing)
    return ShardedSplits(name, tuple(classes or index.classes), str(source), index.digest, found)

"""The index of shards that `googlenet data pack` has not written: what is in them, found once and kept in the cache.

Labels are read, images are not, except for the first few, whose size and channels choose settings.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedReader
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from googlenet.console import log
from googlenet.data import formats
from googlenet.data.decode import map_threads, read_header
from googlenet.data.folder import SPLITS, SplitName
from googlenet.data.folder_layout import split_of
from googlenet.data.shards import Shard, ShardBlocks, ShardIndex, ShardSplit, open_parquet, parquet_errors
from googlenet.data.storage import RangeFile, Storage
from googlenet.errors import RunError, UserError, plural, reason_of
from googlenet.files import atomic_write, cache_dir

if TYPE_CHECKING:
    from pyarrow import Schema

_VERSION = 1
BLOCK_BYTES = 8 * 2**20  # of neighbors in a tar file that are read together
_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")  # names of columns
_LABELS = ("label", "labels", "class", "cls", "target")
_SAMPLE = 100  # images whose headers are read


@dataclass(frozen=True)
class Columns:
    """The columns of Parquet files with the image and the label, and the names of the classes if they are known."""

    image: str
    label: str
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Scanned:
    """One shard, before the classes of all shards are known."""

    shard: Shard
    labels: Sequence[int] | Sequence[str]
    files: Sequence[str]
    places: Sequence[tuple[int, int]] | None = None  # first byte and size of each image in a tar file


def find_splits(names: Sequence[str]) -> dict[SplitName, list[str]]:
    """The shards of each split, by their names and folders: `train/0000.parquet`, `data/test-00000-of-00002.parquet`,
    `imagenet-val-0001.tar`. Those without a split in their name are for training."""
    splits: dict[SplitName, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        folders = [folder.removeprefix("partial-") for folder in path.parts[:-1]]  # as the Hub calls a part of a split
        words = [*reversed(folders), *reversed(re.split(r"[-_.]", path.stem))]
        splits.setdefault(next(filter(None, map(split_of, words)), "train"), []).append(name)
    return {split: splits[split] for split in SPLITS if split in splits}


def scan_shards(
    storage: Storage, sizes: Mapping[str, int], splits: Mapping[SplitName, Sequence[str]],
    image: str | None = None, label: str | None = None,
) -> ShardIndex:  # fmt: skip
    """The index of shards, from the cache if they are unchanged.

    Args:
        storage: the folder or address with them.
        sizes: bytes of each shard, by its name.
        splits: names of the shards of each split.
        image: name of the column with the images; default: found by its type or name.
        label: name of the column with the labels; default: found likewise.

    Raises `UserError` for a shard that is damaged or has other columns than the first one, `RunError` if one cannot be
    read.
    """
    chosen = [(name, sizes[name]) for names in splits.values() for name in names]
    if len({name.endswith(".tar") for name, _ in chosen}) > 1:
        raise UserError(f"{storage.source} has shards in tar files and in Parquet: use one kind in a folder")
    times = [storage.changed(name) for name, _ in chosen]
    key = sha256(repr((_VERSION, storage.source, chosen, times, dict(splits), image, label)).encode()).hexdigest()[:32]
    cached = cache_dir() / "shards" / f"{key}.safetensors"
    if cached.is_file():
        try:
            return ShardIndex.from_bytes(cached.read_bytes(), str(cached))
        except (UserError, OSError) as error:
            log.warning(f"{cached} cannot be used ({reason_of(error)}): looking into the shards again")
    log.info(f"looking into {plural(len(chosen), 'shard')} of {storage.source}: the next time, this is known")
    columns: Columns | None = None
    if any(name.endswith(".parquet") for name, _ in chosen):
        first = next(name for name, _ in chosen if name.endswith(".parquet"))
        schema = open_parquet(storage, Shard(first, sizes[first], ())).schema_arrow
        columns = find_columns(schema, storage.path(first), image, label)
    found: dict[SplitName, list[Scanned]] = {}
    for split, names in splits.items():

        def scan(name: str, split: SplitName = split) -> Scanned:
            if name.endswith(".tar"):
                return _scan_tar(storage, name, sizes[name])
            assert columns is not None
            return _scan_parquet(storage, name, sizes[name], columns, with_files=split != "train")

        found[split] = list(map_threads(scan, names, f"looking into {split} shards"))
    index = _joined(storage, found, columns)
    try:
        with atomic_write(cached) as temporary:
            temporary.write_bytes(index.to_bytes())
    except RunError as error:
        log.warning(f"{error}: the shards are looked into again the next time")
    return index


def find_columns(schema: Schema, path: str, image: str | None, label: str | None) -> Columns:
    """The columns of a Parquet file: those named, or those of `datasets`' types Image and ClassLabel, or those that are
    called so. Raises `UserError` if there are none, or several."""
    with parquet_errors(path):
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
        kinds = {name: kind.get("_type") for name, kind in features.items() if isinstance(kind, dict)}
    for name in (image, label):
        if name is not None and name not in schema.names:
            raise UserError(f"{path} has no column {name!r}; its columns are {', '.join(schema.names)}")

    def find(kind: str, known: Sequence[str]) -> str:
        typed = [name for name, of_kind in kinds.items() if of_kind == kind and name in schema.names]
        named = [name for name in known if name in (typed or schema.names)]
        if len(typed) == 1 or named:
            return typed[0] if len(typed) == 1 else named[0]
        columns = ", ".join(schema.names)
        raise UserError(f"{path}: which of its columns is the {known[0]}? It has {columns}; rename it to {known[0]}")

    image, label = image or find("Image", _IMAGES), label or find("ClassLabel", _LABELS)
    with parquet_errors(path):
        names = features[label]["names"] if kinds.get(label) == "ClassLabel" else None
        return Columns(image, label, None if names is None else tuple(map(str, names)))


def _scan_parquet(storage: Storage, name: str, size: int, columns: Columns, *, with_files: bool) -> Scanned:
    import pyarrow

    path = storage.path(name)
    file = open_parquet(storage, Shard(name, size, ()))
    for column in (columns.image, columns.label):
        if column not in file.schema_arrow.names:
            raise UserError(f"{path} has no column {column!r}; its columns are {', '.join(file.schema_arrow.names)}")
    classes = find_columns(file.schema_arrow, path, columns.image, columns.label).classes
    if classes != columns.classes:
        raise UserError(f"{path} has other classes, or another order of them, than the first shard: write them alike")
    with parquet_errors(path):
        labels = file.read(columns=[columns.label]).column(0)
        if labels.null_count:
            raise UserError(f"{path} has {labels.null_count:,} rows without a {columns.label}")
        blocks = tuple(file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups))
        files: Sequence[str | None] = ()
        kind = file.schema_arrow.field(columns.image).type
        if with_files and pyarrow.types.is_struct(kind) and "path" in [inner.name for inner in kind]:
            files = file.read(columns=[f"{columns.image}.path"]).column(0).combine_chunks().field(0).to_pylist()
    is_number = pyarrow.types.is_integer(labels.type)
    values = labels.to_numpy().tolist() if is_number else [str(value) for value in labels.to_pylist()]
    named = (
        tuple(file or f"{name}:{row}" for row, file in enumerate(files or [None] * len(values))) if with_files else ()
    )
    return Scanned(Shard(name, size, blocks), values, named)


def _scan_tar(storage: Storage, name: str, size: int) -> Scanned:
    """Samples are neighbors of the same name: an image, and its class in a file with the suffix .cls."""
    path, labels, places, files = storage.path(name), dict[str, str](), list[tuple[int, int]](), list[str]()
    images: dict[str, tuple[int, int, str]] = {}
    others: dict[str, str] = {}  # `a.mask.png`, which belongs to `a.jpg`, if that is there
    try:
        with (
            BufferedReader(RangeFile(storage, name, size), 2**20) as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for member in tar:
                folder, _, last = member.name.rpartition("/")
                key, _, suffix = last.partition(".")
                sample = f"{folder}/{key}"
                if not member.isfile() or last.startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                if f".{suffix.lower()}" in formats.SUFFIXES:
                    if sample in images:
                        raise UserError(f"{path} has two images of one name: {images[sample][2]} and {member.name}")
                    images[sample] = (member.offset_data, member.size, member.name)
                elif PurePosixPath(last).suffix.lower() in formats.SUFFIXES:
                    others[sample] = member.name
                elif suffix == "cls" and (content := tar.extractfile(member)) is not None:
                    labels[sample] = content.read(1000).decode().strip()
    except (tarfile.TarError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}): copy it again") from error
    if lost := [file for sample, file in others.items() if sample not in images]:
        raise UserError(f"{path}: in WebDataset, a name ends at its first dot: rename {lost[0]}")
    if missing := [image[2] for sample, image in images.items() if sample not in labels]:
        raise UserError(f"{path}: {missing[0]} has no .cls file with its class next to it")
    blocks, filled = [], BLOCK_BYTES
    for offset, length, file in sorted(images.values()):
        if filled + length > BLOCK_BYTES:
            blocks.append(0)
            filled = 0
        blocks[-1] += 1
        filled += length
        places.append((offset, length))
        files.append(file)
    order = sorted(images, key=lambda sample: images[sample][0])
    texts = [labels[sample] for sample in order]
    is_number = all(re.fullmatch(r"-?\d{1,9}", text) for text in texts)
    return Scanned(Shard(name, size, tuple(blocks)), [int(t) for t in texts] if is_number else texts, files, places)


def _joined(storage: Storage, found: Mapping[SplitName, Sequence[Scanned]], columns: Columns | None) -> ShardIndex:
    """The index of all shards, and their classes."""
    for split in [split for split in found if split != "train"]:
        labels = [label for scanned in found[split] for label in scanned.labels]
        if labels and all(label == -1 for label in labels):  # as the Hub marks the labels of a competition
            log.info(f"the {split} split of {storage.source} has no labels: it is not used")
            found = {name: scanned for name, scanned in found.items() if name != split}
    everything = [label for split in found.values() for scanned in split for label in scanned.labels]
    if len({type(label) for label in everything}) != 1:
        what = "numbers and texts as labels" if everything else "no images"
        raise UserError(f"{storage.source} has {what}")
    classes = columns.classes if columns is not None else None
    if isinstance(everything[0], int):
        lowest, highest = min(everything), max(everything)
        classes = classes or tuple(map(str, range(int(highest) + 1)))
        if int(lowest) < 0 or int(highest) >= len(classes):
            label = lowest if int(lowest) < 0 else highest
            raise UserError(f"{storage.source} has the label {label}, and {plural(len(classes), 'class')}")
        numbers: Callable[[Any], int] = int
    else:
        classes = tuple(sorted(map(str, set(everything))))
        numbers = {name: number for number, name in enumerate(classes)}.__getitem__
    splits, content = {}, sha256(repr(classes).encode())
    for name, parts in found.items():
        own = torch.tensor([numbers(label) for part in parts for label in part.labels], dtype=torch.int64)
        places = list(itertools.chain.from_iterable(part.places or () for part in parts))
        files = tuple(file for part in parts for file in part.files) if name != "train" else ()
        splits[name] = ShardSplit(
            tuple(part.shard for part in parts), own, {"file": files} if files else {},
            torch.tensor(places, dtype=torch.int64) if places else None,
        )  # fmt: skip
        content.update(repr((name, splits[name].shards)).encode() + own.numpy().tobytes())
    return ShardIndex(
        classes, *_look_at_images(storage, splits, columns.image if columns else "image"), content.hexdigest(), splits,
        columns.image if columns else "image",
    )  # fmt: skip


def _look_at_images(storage: Storage, splits: Mapping[SplitName, ShardSplit], image: str) -> tuple[int, int]:
    """Channels, and the median of the shorter sides, of the images of one block."""
    split = splits.get("train") or next(iter(splits.values()))
    blocks = ShardBlocks(storage, split, image)
    filled = int(torch.nonzero(blocks.sizes())[0])
    headers = [
        read_header(blocks.name(filled, number), content)
        for number, content in enumerate(blocks.read(filled)[:_SAMPLE])
    ]
    is_gray = all(header.mode in ("1", "L", "LA", "F") or header.mode.startswith("I") for header in headers)
    return 1 if is_gray else 3, round(statistics.median(min(header.size) for header in headers))

"""Shards of images: their index, and how blocks of images are read from them.

A shard is a Parquet file whose rows are images, in the convention of Hugging Face's `datasets`, or a tar file in that
of WebDataset. A block is what is read at a time: a row group, or neighbors in a tar file. The index has the number of
images in each block and the label of each image; `googlenet data pack` writes it, and other shards get one in the
cache folder (`shard_scan.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from googlenet.data.folder import SPLITS, SplitName
from googlenet.data.storage import RangeFile, Storage
from googlenet.device import require
from googlenet.errors import RunError, UserError, reason_of

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData, ParquetFile

INDEX = "index.safetensors"
SUFFIXES = (".parquet", ".tar")
_VERSION = 1
_NO_COLUMNS = torch.tensor(list(b"{}"), dtype=torch.uint8)


class Shard(NamedTuple):
    """A file with images."""

    file: str  # Its name in the folder
    bytes: int
    blocks: tuple[int, ...]  # Images in each block


@dataclass(frozen=True)
class ShardSplit:
    """The images of a split, shard after shard."""

    shards: tuple[Shard, ...]
    labels: Tensor  # int64, (N,)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """N values each: `file`, the names of the images, and other columns of a table. Empty for the train split, which
    may be large."""
    places: Tensor | None = None  # int64, (N, 2): first byte and size of each image in its tar file


@dataclass(frozen=True)
class ShardIndex:
    """What is known about shards before an image is read."""

    classes: tuple[str, ...]
    channels: int  # 1 if the images are gray, else 3
    side: int  # Median of the shorter sides of some images, in pixels
    digest: str  # SHA-256 over the images, their labels and their order, or over what identifies them
    splits: Mapping[SplitName, ShardSplit]
    image: str = "image"  # The column of a Parquet file that has the images

    def to_bytes(self) -> bytes:
        """A safetensors file: its metadata describe the shards, its tensors are the labels and all else by image."""
        tensors: dict[str, Tensor] = {}
        about: dict[str, Any] = {
            "version": _VERSION, "classes": self.classes, "channels": self.channels, "side": self.side,
            "digest": self.digest, "image": self.image,
            "splits": {name: [shard._asdict() for shard in split.shards] for name, split in self.splits.items()},
        }  # fmt: skip
        for name, split in self.splits.items():
            tensors[f"{name}.labels"] = split.labels.to(torch.int32)
            if split.places is not None:
                tensors[f"{name}.places"] = split.places
            if split.columns:
                values = bytearray(json.dumps(split.columns).encode())
                tensors[f"{name}.columns"] = torch.frombuffer(values, dtype=torch.uint8)
        text = json.dumps(about)
        return save(tensors, {"shards": text, "sha256": _digest(text, tensors)})

    @classmethod
    def from_bytes(cls, content: bytes, path: str) -> ShardIndex:
        """The inverse of `to_bytes`. Raises `UserError`, with the `path`, for anything else."""
        try:
            (header,) = struct.unpack_from("<Q", content)
            metadata, tensors = json.loads(content[8 : 8 + header])["__metadata__"], load(content)
            about = json.loads(metadata["shards"])
            if about["version"] != _VERSION:
                raise UserError(f"{path} is of version {about['version']}, which this googlenet cannot read: update it")
            if metadata["sha256"] != _digest(metadata["shards"], tensors):
                raise ValueError("its SHA-256 differs")
            splits = {}
            for name in SPLITS:
                if name in about["splits"]:
                    shards = tuple(_checked(**shard) for shard in about["splits"][name])
                    columns = json.loads(bytes(tensors.get(f"{name}.columns", _NO_COLUMNS).tolist()))
                    splits[name] = ShardSplit(
                        shards, tensors[f"{name}.labels"].long(),
                        {str(column): tuple(map(str, values)) for column, values in columns.items()},
                        tensors.get(f"{name}.places"),
                    )  # fmt: skip
            index = cls(
                tuple(map(str, about["classes"])), int(about["channels"]), int(about["side"]), str(about["digest"]),
                splits, str(about["image"]),
            )  # fmt: skip
            index._check()
        except UserError:
            raise
        except Exception as error:  # damaged bytes can raise anything
            raise UserError(
                f"{path} is damaged ({reason_of(error)}): copy it again, or pack the images again"
            ) from error
        return index

    def _check(self) -> None:
        """Raises `ValueError` if its parts do not fit together."""
        if self.channels not in (1, 3) or not self.splits or len(set(self.classes)) < len(self.classes):
            raise ValueError("its channels, splits or classes are not possible")
        for name, split in self.splits.items():
            count = sum(sum(shard.blocks) for shard in split.shards)
            lengths = {len(split.labels), *(len(values) for values in split.columns.values())}
            if lengths != {count} or (split.places is not None and split.places.shape != (count, 2)):
                raise ValueError(f"its {name} split has {count} images and something else")
            if count and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < len(self.classes):
                raise ValueError(f"its {name} split has a label without a class")


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _checked(file: str, bytes: int, blocks: list[int]) -> Shard:
    # A name in an index from elsewhere must not lead out of the folder
    if Path(file).is_absolute() or ".." in Path(file).parts or "://" in file or not file.endswith(SUFFIXES):
        raise ValueError(f"{file!r} is not the name of a shard")
    if bytes < 0 or any(not isinstance(count, int) or count < 0 for count in blocks):
        raise ValueError(f"the sizes of {file} are not possible")
    return Shard(file, int(bytes), tuple(blocks))


class ShardBlocks:
    """The blocks of a split, to read from any thread."""

    def __init__(self, storage: Storage, split: ShardSplit, image: str) -> None:
        self._storage, self._split, self._image = storage, split, image
        self._where = [
            (number, block) for number, shard in enumerate(split.shards) for block in range(len(shard.blocks))
        ]
        self._sizes = torch.tensor([count for shard in split.shards for count in shard.blocks], dtype=torch.int64)
        # The first image of each block within its shard
        self._firsts = [
            end - count
            for shard in split.shards
            for count, end in zip(shard.blocks, itertools.accumulate(shard.blocks), strict=True)
        ]
        self._footers: dict[int, FileMetaData] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_footers": {}}

    def sizes(self) -> Tensor:
        return self._sizes

    def name(self, block: int, number: int) -> str:
        """`train-00001-of-00004.parquet:12`, counted from 0 within the shard."""
        return f"{self._split.shards[self._where[block][0]].file}:{self._firsts[block] + number}"

    def read(self, block: int) -> Sequence[bytes]:
        """The files of the images. Raises `UserError` for a shard that is missing, damaged, or has other columns, and
        `RunError` if it cannot be read."""
        number, group = self._where[block]
        shard = self._split.shards[number]
        if shard.file.endswith(".tar"):
            return self._read_tar(block, shard)
        file = open_parquet(self._storage, shard, self._footers.get(number))
        self._footers[number] = file.metadata
        with parquet_errors(self._storage.path(shard.file)):
            names = file.schema_arrow.names
            if self._image not in names:
                columns = ", ".join(names)
                raise UserError(
                    f"{self._storage.path(shard.file)} has no column {self._image!r}; its columns are {columns}"
                )
            images = images_of(
                file.read_row_group(group, columns=[self._image]).column(0), self._storage.path(shard.file)
            )
        if len(images) != shard.blocks[group]:
            raise UserError(
                f"{self._storage.path(shard.file)} is not the shard that the index describes: copy it again"
            )
        return images

    def _read_tar(self, block: int, shard: Shard) -> Sequence[bytes]:
        assert self._split.places is not None
        first = int(self._sizes[:block].sum())
        places = self._split.places[first : first + int(self._sizes[block])].tolist()
        if not places:
            return []
        start, stop = places[0][0], places[-1][0] + places[-1][1]
        content = memoryview(self._storage.read(shard.file, start, stop))
        return [bytes(content[offset - start : offset - start + size]) for offset, size in places]


def open_parquet(storage: Storage, shard: Shard, footer: FileMetaData | None = None) -> ParquetFile:
    """A Parquet file, of which only what is used is read. Raises `UserError` or `RunError` if it cannot be read."""
    require("pyarrow", "a Parquet file")
    from pyarrow import parquet

    path = storage.path(shard.file)
    if not storage.is_remote and storage.size(shard.file) != shard.bytes:
        raise UserError(f"{path} has {storage.size(shard.file):,} bytes instead of {shard.bytes:,}: copy it again")
    source = RangeFile(storage, shard.file, shard.bytes) if storage.is_remote else path
    with parquet_errors(path):
        return parquet.ParquetFile(source, metadata=footer, pre_buffer=True, page_checksum_verification=True)


@contextlib.contextmanager
def parquet_errors(path: str) -> Iterator[None]:
    """Within it, any error is a `UserError` that names the file: damaged bytes can raise anything."""
    try:
        yield
    except (UserError, RunError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}): copy it again") from error


def images_of(column: Any, path: str) -> list[bytes]:
    """The files of the images in a column: of `bytes`, or of {`bytes`, `path`} as in `datasets`."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_struct(column.type) and "bytes" in [inner.name for inner in column.type]:
        column = compute.struct_field(column, "bytes")
    if not (pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type)):
        raise UserError(f"{path}: its images are {column.type}, not the content of image files")
    if column.null_count:
        raise UserError(f"{path} has {column.null_count:,} rows without an image")
    images: list[bytes] = column.to_pylist()
    return images

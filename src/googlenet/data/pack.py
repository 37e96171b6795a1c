"""A folder or table of images as shards: `googlenet data pack`.

The files are copied as they are, into Parquet files that Hugging Face's `datasets` reads too.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from googlenet.console import log, progress
from googlenet.data.dataset import check_trained_on, check_unreadable, list_files
from googlenet.data.decode import decode_image
from googlenet.data.folder import SPLITS, FolderReport, ImageFile, SplitName, scan
from googlenet.data.shards import INDEX, Shard, ShardIndex, ShardSplit
from googlenet.data.splits import find_units, split_files
from googlenet.device import available_cores, require
from googlenet.errors import UserError, check_counts, reason_of
from googlenet.files import check_writable, disk_errors, expand, flush_folder, printable

SHARD_BYTES = 256 * 2**20
BLOCK_BYTES, BLOCK_IMAGES = 8 * 2**20, 1000  # at most, unless one image is larger
SUMS = "SHA256SUMS"
_CHUNK = 64  # images that are read at a time


@dataclass(frozen=True)
class Packed:
    """What was written."""

    folder: Path
    images: dict[SplitName, int]
    classes: int
    shards: int
    bytes: int
    seconds: float
    skipped: tuple[str, ...] = ()  # files that cannot be read, and why

    @property
    def images_per_second(self) -> float:
        return sum(self.images.values()) / max(self.seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder), "images": self.images, "classes": self.classes, "shards": self.shards,
            "bytes": self.bytes, "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 1), "skipped": list(self.skipped),
        }  # fmt: skip


def pack(
    source: str | Path, to: str | Path, *, seed: int = 0, test_fraction: float = 0.2, skip_unreadable: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Packed:  # fmt: skip
    """Write the images of a folder or a table of files as shards to a new folder.

    They get the splits that training on the folder with the same `seed` would give them. Training images are in random
    order. Every image is decoded once to see that it can be. The folder is written under another name and renamed.

    Args:
        source: folder or table, as for `load_dataset`.
        to: the new folder.
        seed: decides which images are for the test, and the order of the training images.
        test_fraction: of each class, for the test if the folder has no test or validation split.
        skip_unreadable: leave out files that cannot be read.
        shard_bytes: size that a shard ends at.

    Raises:
        UserError: if `to` exists, or the images cannot be used.
        RunError: if the disk is full.
    """
    require("pyarrow", "data pack")
    check_counts(shard_bytes=shard_bytes)
    folder = expand(to)
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} exists already: name another folder with --to")
    check_writable(folder / INDEX)
    started = time.perf_counter()
    report = scan(list_files(source))
    if taken := {"image", "label"} & set(report.listing.columns):
        raise UserError(f"{source} has a column {min(taken)!r}, which shards use for something else: rename it")
    for line in report.lines():
        log.info(line)
    check_unreadable(report.unreadable, skip_unreadable)
    skipped = dict(report.unreadable)
    members = _members(report, seed, test_fraction)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        with disk_errors(folder), progress("packing images", sum(map(len, members.values()))) as bar:
            temporary.mkdir(parents=True)
            splits, sums, digest = {}, [], sha256()
            for name, files in members.items():
                writer = _SplitWriter(temporary, name, report, shard_bytes)
                for chunk, found in _checked(files, report.channels):
                    for file, content in zip(chunk, found, strict=True):
                        if isinstance(content, bytes):
                            writer.add(file, content)
                            digest.update(f"{name} {report.listing.classes[file.label]} ".encode() + file.digest)
                        else:
                            skipped[file.path] = printable(content)
                            check_unreadable({file.path: printable(content)}, skip_unreadable)
                    bar.advance(len(chunk))
                splits[name] = writer.close()
                sums += writer.sums
            _check_split(splits, report)
            index = ShardIndex(
                report.listing.classes, report.channels,
                round(statistics.median(min(file.header.size) for file in report.files)), digest.hexdigest(), splits,
            )  # fmt: skip
            for file_name, written in ((INDEX, index.to_bytes()), (SUMS, "".join(sums).encode())):
                with (temporary / file_name).open("wb") as stream:
                    stream.write(written)
                    os.fsync(stream.fileno())
            flush_folder(temporary)
            temporary.rename(folder)  # fails if another process has made it meanwhile
            flush_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shards = [shard for split in splits.values() for shard in split.shards]
    return Packed(
        folder, {name: len(split.labels) for name, split in splits.items()}, len(report.listing.classes), len(shards),
        sum(shard.bytes for shard in shards), time.perf_counter() - started, tuple(skipped.values()),
    )  # fmt: skip


def _members(report: FolderReport, seed: int, test_fraction: float) -> dict[SplitName, list[ImageFile]]:
    """The files of each split that has any, as `load_dataset` splits them; those for training in random order."""
    listing = report.listing
    units = find_units(report.files, listing.columns.get("group"))
    ranks = {number: rank for rank, number in enumerate(sorted(listing.labels, key=listing.classes.__getitem__))}
    members = split_files(
        report.files, units, seed, test_fraction, grouped="group" in listing.columns, ranks=ranks
    )  # fmt: skip
    order = torch.randperm(len(members["train"]), generator=torch.Generator().manual_seed(seed))
    members["train"] = [members["train"][number] for number in order]
    return {name: members[name] for name in SPLITS if members[name]}


def _check_split(splits: dict[SplitName, ShardSplit], report: FolderReport) -> None:
    if "train" in splits:
        check_trained_on(report.listing.classes, set(splits["train"].labels.tolist()), str(report.listing.folder))
    if missing := {"train", "test"} - splits.keys():
        raise UserError(f"{report.listing.folder} has no image for the {min(missing)} split")


def _checked(files: Sequence[ImageFile], channels: int) -> Iterator[tuple[list[ImageFile], list[bytes | str]]]:
    """Parts of the files, and the content of each, or why it cannot be decoded. The next part is read meanwhile."""

    def read(file: ImageFile) -> bytes | str:
        try:
            content = file.path.read_bytes()
            if sha256(content).digest() != file.digest:
                return f"{file.path}: it has changed since packing began"
            decode_image(content, channels, min_side=1)  # a JPEG as small as possible, but all of its data
        except OSError as error:
            return f"{file.path}: {reason_of(error)}"
        except UserError as error:
            return f"{file.path}: {str(error).removeprefix('image (bytes): ')}"
        return content

    with ThreadPoolExecutor(available_cores()) as pool:
        chunks = [list(files[start : start + _CHUNK]) for start in range(0, len(files), _CHUNK)]
        ahead: list[Future[bytes | str]] = []
        for number in range(len(chunks) + 1):
            current, ahead = ahead, [pool.submit(read, file) for file in chunks[number]] if number < len(chunks) else []
            if number:
                yield chunks[number - 1], [future.result() for future in current]


class _SplitWriter:
    """Writes the shards of a split, block after block."""

    def __init__(self, folder: Path, split: SplitName, report: FolderReport, shard_bytes: int) -> None:
        import pyarrow

        self._folder, self._split, self._report, self._shard_bytes = folder, split, report, shard_bytes
        self._names = list(report.listing.columns)
        feature: dict[str, Any] = {
            "image": {"_type": "Image"}, "label": {"names": list(report.listing.classes), "_type": "ClassLabel"},
            **{name: {"dtype": "string", "_type": "Value"} for name in self._names},
        }  # fmt: skip
        image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        self._schema = pyarrow.schema(
            [("image", image), ("label", pyarrow.int64()), *((name, pyarrow.string()) for name in self._names)],
            {"huggingface": json.dumps({"info": {"features": feature}})},
        )
        self._block: list[tuple[Any, ...]] = []
        self._block_bytes = self._written = 0
        self._file: Any = None
        self._blocks: list[list[int]] = []  # of each shard
        self._labels: list[int] = []
        self._columns: dict[str, list[str]] = {name: [] for name in ("file", *self._names)}
        self.sums: list[str] = []  # lines as of sha256sum

    def add(self, file: ImageFile, content: bytes) -> None:
        if self._block and (len(self._block) >= BLOCK_IMAGES or self._block_bytes + len(content) > BLOCK_BYTES):
            self._write_block()
        listing = self._report.listing
        name = printable(file.path.relative_to(listing.folder).as_posix())
        values = [listing.columns[column][file.number] for column in self._names]
        self._block.append(({"bytes": content, "path": name}, file.label, *map(printable, values)))
        self._block_bytes += len(content)
        self._labels.append(file.label)
        if self._split != "train":
            for column, value in zip(self._columns, (name, *values), strict=True):
                self._columns[column].append(value)

    def _write_block(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._file is None or self._written >= self._shard_bytes:
            self._close_file()
            self._blocks.append([])
            path = self._path(len(self._blocks) - 1)
            # Images are compressed already. Statistics and dictionaries would copy them into the footer
            self._file = parquet.ParquetWriter(
                path,
                self._schema,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        arrays = [
            pyarrow.array(values, kind)
            for values, kind in zip(zip(*self._block, strict=True), self._schema.types, strict=True)
        ]
        self._file.write_table(pyarrow.table(arrays, self._schema), row_group_size=len(self._block))
        self._blocks[-1].append(len(self._block))
        self._written += self._block_bytes
        self._block, self._block_bytes = [], 0

    def _path(self, number: int, count: int | None = None) -> Path:
        of = "unknown" if count is None else f"{count:05}"
        return self._folder / f"{self._split}-{number:05}-of-{of}.parquet"

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._written = None, 0

    def close(self) -> ShardSplit:
        """Finish the last shard, and give all of them their names."""
        if self._block:
            self._write_block()
        self._close_file()
        shards = []
        for number, blocks in enumerate(self._blocks):
            path = self._path(number, len(self._blocks))
            self._path(number).rename(path)
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            self.sums.append(f"{digest}  {path.name}\n")
            shards.append(Shard(path.name, path.stat().st_size, tuple(blocks)))
        columns = {name: tuple(values) for name, values in self._columns.items()} if self._split != "train" else {}
        return ShardSplit(tuple(shards), torch.tensor(self._labels, dtype=torch.int64), columns)

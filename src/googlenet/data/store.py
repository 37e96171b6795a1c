"""Decoded images in the cache folder: each content once per machine, for every process and run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from filelock import FileLock
from torch import Tensor

from googlenet.choices import Resize
from googlenet.console import log
from googlenet.data.decode import Header, decode_image, decode_resized, map_threads
from googlenet.device import available_cores, memory_bytes
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import cache_dir, parse_json, printable, reserve_space

_VERSION = 1  # of the pixels and their layout; another one never reads these files
_DEFAULT_LIMIT_GB = 20.0
_RACY_NS = 2_000_000_000  # a file that changed this shortly before it was read may change again without a new time


class Decoding(NamedTuple):
    """How images become pixels: uint8 (channels, size, size)."""

    channels: int
    size: int
    resize: Resize


class Content(NamedTuple):
    """The content of an image file, and one file that has it."""

    digest: bytes
    path: Path


class PixelStore(NamedTuple):
    """Pixels of many contents, and which row each has. Contents with an error have a row of zeros."""

    pixels: Tensor | PixelsOnDemand  # uint8 (N, C, size, size)
    rows: dict[bytes, int]
    errors: dict[bytes, str]
    sums: Tensor | None
    """float64 (N, C, 2): sum and sum of squares of each image's pixels, if known."""


@dataclass(frozen=True)
class PixelsOnDemand:
    """Images that are decoded when they are indexed, on all cores: (N, C, size, size), never in memory as a whole."""

    paths: tuple[Path, ...]
    decoding: Decoding

    @property
    def is_decoded(self) -> bool:
        return False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        channels, size, _ = self.decoding
        return len(self.paths), channels, size, size

    def __getitem__(self, index: Tensor) -> Tensor:
        """One image (C, size, size) for a 0-d index, else a batch. Raises `UserError` for a file that is damaged."""
        if index.ndim == 0:
            return self._decode(int(index))
        if not len(index):
            return torch.empty(0, *self.shape[1:], dtype=torch.uint8)
        with ThreadPoolExecutor(available_cores()) as pool:  # Pillow releases the GIL
            return torch.stack(list(pool.map(self._decode, index.tolist())))

    def original(self, number: int, min_side: int) -> Tensor:
        """One image as its file has it, (C, H, W)."""
        return decode_image(self.paths[number], self.decoding.channels, min_side=min_side)

    def _decode(self, number: int) -> Tensor:
        return decode_resized(self.paths[number], *self.decoding)


def open_store(
    everything: Sequence[Content], wanted: Sequence[Content], decoding: Decoding, *, on_demand: bool = False,
    use_store: bool = True, find_errors: bool = False,
) -> PixelStore:  # fmt: skip
    """The pixels of (at least) the wanted contents.

    A store of everything is used if an earlier run has built one, else one of what is wanted, which is built if needed.
    If the disk has no room for it, the pixels are kept in memory or, if they are too many, decoded on demand.

    Args:
        everything: the contents of the folder or table that the wanted ones come from.
        wanted: the contents that are needed.
        decoding: channels, size and resize rule.
        on_demand: do not build a store, and decode each image when it is used.
        use_store: use one that an earlier run has built.
        find_errors: decode images that are not stored once, to know which of them have an error.
    """
    for contents in (everything, wanted) if use_store else ():
        if (store := _open(_path(contents, decoding), contents, decoding)) is not None:
            return store
    files = dict(sorted((content.digest, content.path) for content in wanted))
    if on_demand or not files:
        return _on_demand(files, decoding, find_errors)
    digests, paths = list(files), list(files.values())
    shape = (len(digests), decoding.channels, decoding.size, decoding.size)
    needed = int(np.prod(shape))
    path = _path(wanted, decoding)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two runs that start together build it once
            if (store := _open(path, wanted, decoding)) is None:
                _make_room(path.parent, needed)
                store = _build(path, paths, digests, shape, decoding)
            return store
    except (OSError, RunError, NotImplementedError) as error:  # the last one: a file system without locks
        reason = f"decoded images cannot be stored in {path.parent} ({reason_of(error)})"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each would keep them
    if needed <= memory_bytes() / 4 / processes:
        log.warning(f"{reason}: they are kept in memory and decoded again by the next run")
        pixels = np.empty(shape, np.uint8)
        sums, errors = _decode_into(pixels, paths, digests, decoding)
        return PixelStore(torch.from_numpy(pixels), _rows(digests), errors, torch.from_numpy(sums))
    log.warning(f"{reason}: each image is decoded whenever it is used, which is slow")
    return _on_demand(files, decoding, find_errors)


def _on_demand(files: Mapping[bytes, Path], decoding: Decoding, find_errors: bool) -> PixelStore:
    paths, errors = tuple(files.values()), {}
    if find_errors and paths:
        results = map_threads(lambda path: _decode(path, decoding), paths, "decoding images")
        errors = {digest: found for digest, found in zip(files, results, strict=True) if isinstance(found, str)}
    return PixelStore(PixelsOnDemand(paths, decoding), _rows(files), errors, None)


def _rows(digests: Iterable[bytes]) -> dict[bytes, int]:
    return {digest: row for row, digest in enumerate(digests)}


def _decode(file: Path, decoding: Decoding) -> Tensor | str:
    """The image, or why it cannot be decoded, without the file's name."""
    try:
        return decode_resized(file, *decoding)
    except UserError as error:
        return str(error).removeprefix(f"{printable(file)}: ")


class StoreInfo(NamedTuple):
    """One store in the cache folder."""

    path: Path
    images: int
    decoding: Decoding
    source: str  # the folder of one of its files
    bytes: int
    used: float  # when it was last opened, in seconds since 1970


def list_stores() -> list[StoreInfo]:
    """Every complete store, the one that was used last first."""
    stores = []
    for path in _stores(cache_dir() / "pixels"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = parse_json((path / "store.json").read_text(encoding="utf-8"))
            decoding = Decoding(**facts["decoding"])
            stores.append(
                StoreInfo(path, facts["images"], decoding, facts["source"], _size(path), path.stat().st_mtime)
            )
    return sorted(stores, key=lambda store: -store.used)


def clear_stores() -> int:
    """Delete every store, copies of shards, and what killed runs left. Returns the bytes freed. Runs keep what they
    use."""
    folders = [cache_dir() / "pixels", cache_dir() / "shards"]
    freed = sum(map(_size, folders))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return freed - sum(map(_size, folders))


def limit_bytes() -> int:
    """How much the stores may take together: `$GOOGLENET_CACHE_GB` (default: 20) in bytes."""
    text = os.environ.get("GOOGLENET_CACHE_GB", str(_DEFAULT_LIMIT_GB))
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise UserError(f"$GOOGLENET_CACHE_GB must be a number of gigabytes, such as 20, not {text!r}") from None


def _path(contents: Sequence[Content], decoding: Decoding) -> Path:
    # Other versions of the decoders may decode what these cannot
    digest = sha256(repr((_VERSION, *decoding, PIL.__version__, find_spec("pillow_heif") is not None)).encode())
    for content in sorted({content.digest for content in contents}):
        digest.update(content)
    return cache_dir() / "pixels" / digest.hexdigest()[:32]


def _open(path: Path, contents: Sequence[Content] = (), decoding: Decoding | None = None) -> PixelStore | None:
    """A complete store; None if there is none. One that is damaged, or lacks a content that can be decoded now, is
    deleted."""
    if not path.is_dir():
        return None
    try:
        facts = parse_json((path / "store.json").read_text(encoding="utf-8"))
        channels, size, _ = Decoding(**facts["decoding"])
        count = facts["images"]
        pixels = _load(path / "pixels.npy", np.uint8, (count, channels, size, size))
        digests = _load(path / "digests.npy", np.uint8, (count, None))
        sums = _load(path / "sums.npy", np.float64, (count, channels, 2))
        errors = {bytes.fromhex(digest): str(error) for digest, error in facts["errors"].items()}
        rows = _rows(digest.tobytes() for digest in digests)
        if missing := {content.digest for content in contents} - rows.keys():
            raise ValueError(f"it lacks {len(missing):,} images")
    except Exception as error:  # damaged files lead to errors of any type
        log.warning(f"the stored images in {path} are damaged ({reason_of(error)}): decoding again")
        shutil.rmtree(path, ignore_errors=True)
        return None
    if errors and decoding is not None:  # few; they may have had a passing reason, such as a limit that was raised
        files = {content.digest: content.path for content in contents if content.digest in errors}
        found = {digest: _decode(file, decoding) for digest, file in files.items()}
        errors |= {digest: reason for digest, reason in found.items() if isinstance(reason, str)}
        if any(isinstance(result, Tensor) for result in found.values()):
            shutil.rmtree(path, ignore_errors=True)
            return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the least recently used are evicted first
    return PixelStore(torch.from_numpy(pixels), rows, errors, torch.from_numpy(sums))


def _load(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...]) -> np.ndarray[Any, Any]:
    """An array of a store, mapped from its file. Raises `ValueError` for one of another type or shape."""
    # Copy on write: torch wants arrays that can be written to, and nobody may change the file
    values = np.load(path, mmap_mode="c")
    is_array = isinstance(values, np.ndarray) and values.dtype == dtype and values.ndim == len(shape)
    if not is_array or any(side not in (None, own) for side, own in zip(shape, values.shape, strict=True)):
        raise ValueError("its files do not fit together")
    return values


def _build(
    path: Path, files: Sequence[Path], digests: Sequence[bytes], shape: tuple[int, ...], decoding: Decoding
) -> PixelStore:
    """Write a store aside and rename it when it is complete. The caller holds the lock."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        temporary.mkdir()
        pixels = np.lib.format.open_memmap(temporary / "pixels.npy", "w+", np.uint8, shape)
        with (temporary / "pixels.npy").open("rb+") as file:
            reserve_space(file.fileno(), os.fstat(file.fileno()).st_size)
        sums, errors = _decode_into(pixels, files, digests, decoding)
        pixels.flush()
        np.save(temporary / "digests.npy", np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1))
        np.save(temporary / "sums.npy", sums)
        facts = {
            "images": len(digests), "decoding": decoding._asdict(), "source": printable(files[0].parent),
            "errors": {digest.hex(): error for digest, error in errors.items()},
        }  # fmt: skip
        (temporary / "store.json").write_text(json.dumps(facts), encoding="utf-8")
        del pixels  # Windows renames no folder with an open file
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if (store := _open(path)) is None:
        raise RunError("they are gone already")
    return store


def _decode_into(
    pixels: np.ndarray[Any, Any], files: Sequence[Path], digests: Sequence[bytes], decoding: Decoding
) -> tuple[np.ndarray[Any, Any], dict[bytes, str]]:
    """Decode files on all cores: the sums of `PixelStore`, and the reasons of errors without the file's name."""
    sums, errors = np.zeros((len(files), decoding.channels, 2)), {}

    def decode(number: int) -> None:
        found = _decode(files[number], decoding)
        if isinstance(found, str):
            errors[digests[number]] = found
        else:
            pixels[number] = found.numpy()
            sums[number] = pixel_sums(found[None])[0]

    for _ in map_threads(decode, range(len(files)), "decoding images"):
        pass
    return sums, errors


def pixel_sums(images: Tensor) -> Tensor:
    """Sum and sum of squares of each channel of uint8 images (N, C, H, W): float64 (N, C, 2), exact."""
    values = images.flatten(2).to(torch.float64)
    return torch.stack((values.sum(2), values.square().sum(2)), 2)


def _make_room(folder: Path, needed: int) -> None:
    """Delete the stores that were not used for the longest time, and what killed runs left, until there is room.

    Raises `RunError` if the store alone is over the limit or the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if needed > (limit := limit_bytes()):
        raise RunError(f"{needed / 1e9:.1f} GB are more than GOOGLENET_CACHE_GB={limit / 1e9:g}")
    for path in folder.glob(".*.tmp"):
        if time.time() - path.stat().st_mtime > 24 * 3600:
            shutil.rmtree(path, ignore_errors=True)
    stores = sorted(_stores(folder), key=lambda path: path.stat().st_mtime)
    while stores and (
        sum(map(_size, stores)) + needed > limit or shutil.disk_usage(folder).free < needed * 1.02 + 2**20
    ):
        log.info(f"deleting stored images to make room: {stores[0]}")
        shutil.rmtree(stores.pop(0), ignore_errors=True)
    if shutil.disk_usage(folder).free < needed * 1.02:
        raise RunError(f"the disk has no room for {needed / 1e9:.1f} GB")


def _stores(folder: Path) -> list[Path]:
    return [path for path in folder.glob("[!.]*") if path.is_dir()]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class FileIndex:
    """What was found in image files, kept in the cache folder, so that unchanged files need not be read again.

    A file counts as unchanged if its size and the times of its last changes are the same. Any error of the database
    means that nothing is known.
    """

    def __init__(self) -> None:
        self._path = cache_dir() / "files.sqlite"

    def known(self, paths: Sequence[Path]) -> dict[Path, tuple[bytes, Header]]:
        """Digest and header of those files that are known and unchanged."""
        found: dict[Path, tuple[bytes, Header]] = {}
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._connect()) as database:
            names = {os.fsencode(path.absolute()): path for path in paths}
            keys = list(names)
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                query = f"SELECT * FROM files WHERE path IN ({','.join('?' * len(part))})"  # noqa: S608
                for name, *times, digest, mode, width, height, frames in database.execute(query, part):
                    path, is_intact = names.get(name), isinstance(digest, bytes) and isinstance(mode, str)
                    if path is not None and is_intact and tuple(times) == file_times(path):
                        found[path] = (digest, Header(mode, (width, height), frames))
        return found

    def add(self, found: Sequence[tuple[Path, tuple[int, int, int], bytes, Header]]) -> None:
        """Remember files with their size and times from before they were read."""
        limit = time.time_ns() - _RACY_NS
        rows = [
            (os.fsencode(path.absolute()), *times, digest, header.mode, *header.size, header.frames)
            for path, times, digest, header in found
            if times[1] < limit and times[2] < limit
        ]
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._connect()) as database, database:
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=5)
        database.execute(
            "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, "
            "changed INTEGER, digest BLOB, mode TEXT, width INTEGER, height INTEGER, frames INTEGER)"
        )
        return database


def file_times(path: Path) -> tuple[int, int, int] | None:
    """Size and the times of the last change of content and of anything, in ns; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns

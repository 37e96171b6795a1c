"""Fashion-MNIST: 60,000 + 10,000 grayscale images of 28x28 pixels in 10 classes (Xiao et al. 2017, MIT license).

It is searched for in this order: the folder that the caller names; `$GOOGLENET_DATA`; the cache folder; the folder of
Debian's package `dataset-fashion-mnist`; the network (`$GOOGLENET_MIRROR` or the official address, then Debian's
package through apt); last, the part of it that comes with this package.
"""

from __future__ import annotations

import gzip
import math
import os
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from googlenet.download import DownloadError, download, mirrored, sha256
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write, cache_dir, expand

DESCRIPTION = "60,000 + 10,000 grayscale 28x28 images of clothes in 10 classes (Xiao et al. 2017)"
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# SHA-256 of the unpacked files: the .gz files of the official address and of Debian differ in their headers only
DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_MAX_BYTES = 16 + 60_000 * 28 * 28  # of the images for training; a file that unpacks to more is another one
BUNDLED_DIGESTS = DIGESTS | {
    "train-images-idx3-ubyte": "d33512cfdc636a0d8972818e6659995be209a88891df7fa2109d7895922c8985",
    "train-labels-idx1-ubyte": "620cb8e3b9348037c5ff9a07b02d773ab165330e072dfd19e0d21c59f8042dcf",
}
OFFICIAL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
BUNDLED = "bundled"
BUNDLED_NOTE = "the bundled part of Fashion-MNIST: 10,000 training images, all test images"
NOT_FOUND_NOTE = (
    "only the bundled part of Fashion-MNIST was found: 10,000 of its 60,000 training images, all 10,000 test images; "
    "to get all of it: googlenet data fetch fashion-mnist"
)


class Content(NamedTuple):
    """Images, uint8 (N, 1, 28, 28), and labels, int64 (N,), of both splits, and where they were found."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    source: str
    digest: str
    note: str = ""


def read(data_dir: str | Path | None = None, splits: Collection[str] = ("train", "test")) -> Content:
    """Read the dataset from a folder (`bundled`: the part that comes with this package), or search for it.

    Splits not in `splits` are empty. Raises `UserError` if `data_dir` does not have it, or a file is damaged.
    """
    note = BUNDLED_NOTE
    if data_dir != BUNDLED:
        try:
            return _read(find(data_dir) or fetch(), DIGESTS, splits)
        except RunError:  # no network, or no space on the disk
            note = NOT_FOUND_NOTE
    content = _read(Path(__file__).with_name(BUNDLED), BUNDLED_DIGESTS, splits)
    return content._replace(source="bundled with googlenet", note=note)


def find(data_dir: str | Path | None = None) -> Path | None:
    """The folder on this machine that `read` would read, or None if it would have to download the files.

    Raises `UserError` if `data_dir` or `$GOOGLENET_DATA` is given and does not have the files.
    """
    if named := data_dir or os.environ.get("GOOGLENET_DATA"):
        folder = expand(named)
        found = [place for place in (folder, folder / "fashion-mnist") if any(_exist(place))]
        if not found:
            raise UserError(
                f"{folder} does not have the files of Fashion-MNIST, {', '.join(DIGESTS)} (or .gz); "
                "omit --data-dir and $GOOGLENET_DATA to search for them"
            )
        return found[0]
    if all(_exist(cache_folder())):
        return cache_folder()
    return DEBIAN_FOLDER if any(_exist(DEBIAN_FOLDER)) else None


def fetch() -> Path:
    """Download the files that the cache folder lacks, and return the folder.

    Raises `RunError` if that is not possible, and `UserError` if a file in the cache is damaged.
    """
    folder = cache_folder()
    try:
        for name, digest in DIGESTS.items():
            path, verify = _path(folder, name), partial(_read_verified, name=name, digest=digest)
            verify(path) if path.exists() else download(mirrored(f"{OFFICIAL}/{name}.gz"), path, verify)
    except DownloadError as error:
        try:
            _fetch_through_apt(folder)
        except (OSError, subprocess.SubprocessError, UserError):
            raise error from None
    return folder


def cache_folder() -> Path:
    return cache_dir() / "fashion-mnist"


def _exist(folder: Path) -> list[bool]:
    return [_path(folder, name).exists() for name in DIGESTS]


def _path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _read(folder: Path, digests: dict[str, str], splits: Collection[str]) -> Content:
    def read_split(split: str, prefix: str) -> tuple[Tensor, Tensor]:
        if split not in splits:
            return torch.empty(0, 1, 28, 28, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        names = (name for name in digests if name.startswith(prefix))
        images, labels = (_read_verified(_path(folder, name), name, digests[name]) for name in names)
        return torch.tensor(images)[:, None], torch.tensor(labels, dtype=torch.int64)

    digest = sha256("".join(digests.values()).encode())
    return Content(read_split("train", "train-"), read_split("test", "t10k-"), str(folder), digest)


def _read_verified(path: Path, name: str, digest: str) -> np.ndarray:
    """The values in a file. Raises `UserError` if it is damaged or another file."""
    content = read_unpacked(path)
    values = parse_idx(content, 3 if "images" in name else 1, str(path))
    if sha256(content) != digest:
        raise UserError(f"{path} is not {name} of Fashion-MNIST: its SHA-256 differs; delete it and fetch it again")
    return values


def _fetch_through_apt(folder: Path) -> None:
    """Download and unpack Debian's package, without root and without installing it.

    Raises `OSError` or `subprocess.SubprocessError` if apt fails, and `UserError` if the package has other files.
    """
    with tempfile.TemporaryDirectory() as scratch:
        state = [f"-oDir::State::Lists={scratch}/lists", f"-oDir::Cache={scratch}/cache", "-oAPT::Sandbox::User=root"]
        for part in ("lists/partial", "cache/archives/partial"):
            (Path(scratch) / part).mkdir(parents=True)
        run = partial(subprocess.run, cwd=scratch, capture_output=True, timeout=120, check=True)
        run(["apt-get", "-q", *state, "update"])
        run(["apt-get", "-q", *state, "download", DEBIAN_PACKAGE])
        for package in Path(scratch).glob(f"{DEBIAN_PACKAGE}*.deb"):
            run(["dpkg-deb", "-x", package.name, "unpacked"])
        unpacked = Path(scratch) / "unpacked/usr/share/datasets/fashion-mnist"
        for name, digest in DIGESTS.items():
            _read_verified(unpacked / f"{name}.gz", name, digest)
            with atomic_write(folder / f"{name}.gz") as temporary:
                shutil.copyfile(unpacked / f"{name}.gz", temporary)


def read_unpacked(path: Path) -> bytes:
    """The content of a file, unpacked if its name ends in .gz.

    Raises `UserError` if it cannot be read, is damaged, or is larger than the largest file of the dataset.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is missing or damaged ({reason_of(error)}); delete it and fetch it again") from error
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path} is not a file of Fashion-MNIST: it is larger; delete it and fetch it again")
    return content


# The IDX format: two zero bytes, 8 for unsigned bytes, the number of dimensions, the size of each dimension as a
# big-endian 32-bit integer, then the values
def parse_idx(content: bytes, dimensions: int, name: str) -> np.ndarray:
    """The array of unsigned bytes in the content of an IDX file with 3 (images) or 1 (labels) `dimensions`.

    Raises `UserError`, with the `name`, for another type or shape, or more or fewer values than the header says.
    """
    header, start = 4 + 4 * dimensions, content[:4]
    if start != bytes((0, 0, 8, dimensions)) or len(content) < header:
        raise UserError(
            f"{name} is not an IDX file with {dimensions} dimensions: it starts with {start.hex()}; fetch it again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise UserError(
            f"{name} is damaged: it has {len(content) - header:,} values, not {math.prod(shape):,}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def dump_idx(values: np.ndarray) -> bytes:
    """The IDX file of an array of unsigned bytes."""
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()

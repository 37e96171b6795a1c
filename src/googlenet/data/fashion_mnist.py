"""Fashion-MNIST: 60,000 + 10,000 gray images of 28x28 pixels in 10 classes (Xiao et al. 2017, MIT license).

It is looked for, in this order, in: the folder that the caller names; `$GOOGLENET_DATA`; the cache folder; the folder
of Debian's and Ubuntu's package `dataset-fashion-mnist`; the network (the mirror in `$GOOGLENET_MIRROR` or the official
addresses, then Debian's package through apt). Where none has it, a part of it that comes with this package serves.
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
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import platformdirs
import torch

from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.data.download import DownloadError, download, sha256
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# SHA-256 of the unpacked files: the official .gz and Debian's differ in their headers, not in what they hold.
DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
BUNDLED_DIGESTS = {
    "train-images-idx3-ubyte": "d33512cfdc636a0d8972818e6659995be209a88891df7fa2109d7895922c8985",
    "train-labels-idx1-ubyte": "620cb8e3b9348037c5ff9a07b02d773ab165330e072dfd19e0d21c59f8042dcf",
    "t10k-images-idx3-ubyte": DIGESTS["t10k-images-idx3-ubyte"],
    "t10k-labels-idx1-ubyte": DIGESTS["t10k-labels-idx1-ubyte"],
}
OFFICIAL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
BUNDLED = "bundled"
BUNDLED_NOTE = (
    "only the bundled part of Fashion-MNIST was found: 10,000 of its 60,000 training images, all 10,000 test images; "
    "for the whole: googlenet data fetch fashion-mnist"
)


def cache_folder() -> Path:
    """Where fetched files are kept: `$XDG_CACHE_HOME/googlenet/fashion-mnist`, or the system's like of it."""
    return Path(platformdirs.user_cache_dir("googlenet", appauthor=False)) / "fashion-mnist"


def load(data_dir: str | Path | None = None) -> ImageDataset:
    """The data set, from the first place that has it.

    Args:
        data_dir: the folder to read; `bundled` is the part that comes with this package; None looks everywhere.

    Raises:
        UserError: for a named folder that does not hold it, or a file that is damaged or not Fashion-MNIST's.
    """
    if data_dir == BUNDLED:
        return _read_bundled("the bundled part of Fashion-MNIST: 10,000 of its 60,000 training images, all test images")
    for folder in _places(data_dir):
        if _holds_any(folder):
            return _read(folder, DIGESTS)
    try:
        return _read(fetch(), DIGESTS)
    except RunError:  # nobody has them, or there is no room for them
        return _read_bundled(BUNDLED_NOTE)


def fetch() -> Path:
    """Bring all four files into the cache folder, and return it. Nothing is fetched that is there already.

    Raises:
        DownloadError: where no address has them and apt cannot help either.
        RunError: where the cache folder cannot be written.
        UserError: where a file in the cache is damaged.
    """
    folder = cache_folder()
    if all((folder / f"{name}.gz").exists() for name in DIGESTS):
        _read(folder, DIGESTS)
        return folder
    base = os.environ.get("GOOGLENET_MIRROR", OFFICIAL).rstrip("/")
    try:
        for name in DIGESTS:
            target = folder / f"{name}.gz"
            if not target.exists():
                download(f"{base}/{name}.gz", target, partial(_verify, name=name, digests=DIGESTS))
    except DownloadError as error:
        try:
            _fetch_through_apt(folder)
        except (OSError, subprocess.SubprocessError, UserError):
            raise error from None
    return folder


def find() -> Path | None:
    """The folder on this machine that `load` would read, or None where it would have to fetch."""
    return next((folder for folder in _places(None) if _holds_any(folder)), None)


def _places(data_dir: str | Path | None) -> Iterator[Path]:
    named = data_dir or os.environ.get("GOOGLENET_DATA")
    if named:
        folder = Path(named)
        nested = folder / "fashion-mnist"
        if not _holds_any(folder) and not _holds_any(nested):
            raise UserError(
                f"{folder} holds no Fashion-MNIST: it needs {', '.join(f'{name}[.gz]' for name in DIGESTS)}"
            )
        yield folder if _holds_any(folder) else nested
        return
    yield cache_folder()
    yield DEBIAN_FOLDER


def _holds_any(folder: Path) -> bool:
    # A half-fetched cache is not a copy: its other files are still to come.
    present = [_path(folder, name).exists() for name in DIGESTS]
    return all(present) if folder == cache_folder() else any(present)


def _path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _verify(path: Path, name: str, digests: dict[str, str]) -> bytes:
    content = read_bytes(path)
    if sha256(content) != digests[name]:
        parse(content, 3 if "images" in name else 1, str(path))  # says more where it is no such file at all
        raise UserError(f"{path} is not Fashion-MNIST's {name}: its SHA-256 is another; delete it and fetch it again")
    return content


def _read(folder: Path, digests: dict[str, str], note: str = "") -> ImageDataset:
    contents = {name: _verify(_path(folder, name), name, digests) for name in digests}

    def split(part: str) -> ImageSplit:
        images = parse(contents[f"{part}-images-idx3-ubyte"], 3, f"{part} images")
        labels = parse(contents[f"{part}-labels-idx1-ubyte"], 1, f"{part} labels")
        return ImageSplit(torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype("int64")))

    return ImageDataset(
        name="fashion-mnist",
        classes=CLASSES,
        train=split("train"),
        test=split("t10k"),
        source="bundled with googlenet" if note else str(folder),
        digest=sha256("".join(digests.values()).encode()),
        note=note,
    )


def _read_bundled(note: str) -> ImageDataset:
    with resources.as_file(resources.files("googlenet.data") / "bundled") as folder:
        return _read(folder, BUNDLED_DIGESTS, note)


def _fetch_through_apt(folder: Path) -> None:
    """Debian's package, downloaded and unpacked without root and without installing it.

    Raises:
        OSError, subprocess.SubprocessError: where there is no apt, it has no such package, or does not answer.
        UserError: where the package holds other files.
    """
    with tempfile.TemporaryDirectory() as scratch:
        state = [f"-oDir::State::Lists={scratch}/lists", f"-oDir::Cache={scratch}/cache", "-oAPT::Sandbox::User=root"]
        for part in ("lists/partial", "cache/archives/partial"):
            (Path(scratch) / part).mkdir(parents=True)
        for command in (["update"], ["download", DEBIAN_PACKAGE]):
            subprocess.run(
                ["apt-get", "-q", *state, *command], cwd=scratch, capture_output=True, timeout=120, check=True
            )
        for package in Path(scratch).glob(f"{DEBIAN_PACKAGE}*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), f"{scratch}/unpacked"], check=True, capture_output=True)
        unpacked = Path(scratch) / "unpacked" / "usr/share/datasets/fashion-mnist"
        folder.mkdir(parents=True, exist_ok=True)
        for name in DIGESTS:
            _verify(unpacked / f"{name}.gz", name, DIGESTS)
            with atomic_write(folder / f"{name}.gz") as arriving:
                shutil.copyfile(unpacked / f"{name}.gz", arriving)


_UNSIGNED_BYTE = 0x08


def read_bytes(path: Path) -> bytes:
    """A file's content, unpacked where its name ends in .gz.

    Raises:
        UserError: where it is missing, cannot be read, or is truncated or damaged.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is missing, truncated or damaged ({reason_of(error)}); delete it and fetch it again"
        ) from error


def parse(content: bytes, dimensions: int, name: str) -> np.ndarray:
    """The array of unsigned bytes that an IDX file holds.

    Args:
        content: the file, unpacked.
        dimensions: how many dimensions it must have: 3 for images (N, H, W), 1 for labels (N,).
        name: what to call the file in an error.

    Raises:
        UserError: for an empty file, another magic number, or more or fewer bytes than its header announces.
    """
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise UserError(f"{name} is no IDX file: {len(content)} bytes are fewer than its header needs")
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
        expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions)).hex()
        raise UserError(
            f"{name} is no IDX file of {dimensions} dimensions: its magic is {content[:4].hex()}, not {expected}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise UserError(
            f"{name} is truncated or damaged: its header announces {math.prod(shape):,} values, "
            f"it holds {len(content) - header:,}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def dump(values: np.ndarray) -> bytes:
    """The IDX file of an array of unsigned bytes."""
    return (
        bytes((0, 0, _UNSIGNED_BYTE, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    )

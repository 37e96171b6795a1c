"""Image files to pixels: one image, or many on all cores."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from googlenet.choices import Resize
from googlenet.console import log, progress
from googlenet.data.formats import SUFFIXES, open_file
from googlenet.device import available_cores
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import cache_dir, printable, reserve_space

_SYSTEM_NAMES = frozenset(
    ("@eadir", "#recycle", "$recycle.bin", "system volume information", "__macosx", "lost+found", "thumbs.db",
     "ehthumbs.db", "desktop.ini")
)  # fmt: skip
PAD_GRAY = 128  # of 255, in the borders of `pad`


class NamedImage(bytes):
    """The content of an image file without a path, and its name."""

    def __new__(cls, content: bytes, name: str) -> NamedImage:
        image = super().__new__(cls, content)
        image.name = name
        return image

    name: str


Source = str | Path | bytes | Image.Image | np.ndarray[Any, Any] | Tensor
"""One image: a file's path or content, a PIL image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W).
Arrays and tensors are uint8, gray, RGB or RGBA."""
MAX_PIXELS = 100_000_000
"""Larger images are refused: a few kilobytes can unpack to gigabytes. `$GOOGLENET_MAX_PIXELS` sets another limit."""
_loading = [threading.Lock() for _ in range(61)]  # images share them, by identity
Item = TypeVar("Item")
Result = TypeVar("Result")


class Header(NamedTuple):
    """What an image file says about itself before its pixels: Pillow's mode (L, RGB, P, CMYK, I;16, ...), and width and
    height in pixels as stored."""

    mode: str
    size: tuple[int, int]
    frames: int


def read_header(path: str | Path, content: bytes | None = None) -> Header:
    """Open an image file (or its content, if that has been read already) without decoding. Raises as `decode_image`."""
    with _open_image(path if content is None else content, name=str(path)) as image:
        # A JPEG with a second image, such as a preview or an HDR gain map, is an MPO for Pillow; it is not animated
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        return Header(image.mode, image.size, frames)


def decode_image(
    source: Source, channels: int, max_side: int | None = None, *, min_side: int | None = None
) -> Tensor:  # fmt: skip
    """An image as uint8 (C, H, W): its first frame, rotated by its EXIF orientation, transparent parts white.

    16 bits per channel are scaled to 8; color becomes gray by ITU-R 601, and gray is repeated in three channels.

    Args:
        source: see `Source`.
        channels: 1 (gray) or 3 (RGB).
        max_side: a larger image is reduced, in proportion, to this many pixels on its longer side.
        min_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, but no side below this.

    Raises `UserError` for a file that is missing, damaged, not an image, or larger than `MAX_PIXELS`; or an array of
    another type or shape.
    """
    with _decode(source, channels, min_side=2 * max_side if max_side else min_side) as image:
        if max_side is not None:
            image.thumbnail((max_side, max_side), Image.Resampling.BILINEAR)
        return _to_tensor(np.asarray(image))


def decode_resized(source: Source, channels: int, size: int, resize: Resize = "stretch") -> Tensor:
    """An image as a square of `size` pixels, uint8 (C, size, size): what `decode_image` and resizing give.

    A much larger JPEG is decoded at a half, a quarter or an eighth of its size (but at least twice `size`), which is
    much faster; the result differs by rounding only. Raises as `decode_image`.
    """
    return make_square(decode_image(source, channels, min_side=2 * size)[None], size, resize)[0]


def make_square(images: Tensor, size: int, resize: Resize) -> Tensor:
    """uint8 images (N, C, H, W) as uint8 (N, C, size, size), by a resize rule of `InputSpec`."""
    height = width = size
    if resize == "crop":
        # Before resizing: resized as a whole, a long thin image would take gigabytes
        images = center_crop(images, min(images.shape[2:]))
    elif resize == "pad":
        height, width = scaled_sides(images.shape[2], images.shape[3], size)
    resized = _resize(images, height, width)
    return F.pad(resized, borders(height, width, size), value=PAD_GRAY) if resize == "pad" else resized


def center_crop(images: Tensor, side: int) -> Tensor:
    """The middle (N, C, side, side) of images (N, C, H, W)."""
    top, left = (images.shape[2] - side) // 2, (images.shape[3] - side) // 2
    return images[:, :, top : top + side, left : left + side]


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 images (N, C, H, W) to uint8 (N, C, height, width): bilinear, with antialiasing if they become smaller.

    First the rows become shorter, then the columns, and both results are rounded to 8 bits (a half up): as PyTorch
    computes on a CPU, where with AVX2 it is three times as fast as Pillow.
    """
    if images.shape[2:] == (height, width):
        return images
    if images.device.type == "cpu" and height * width > 1:  # for a single pixel, PyTorch 2.13 fails
        return F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)
    return _resize_in_steps(images, height, width)


def _resize_in_steps(images: Tensor, height: int, width: int) -> Tensor:
    """`_resize` for devices that resize floating-point images only."""
    for size in ((images.shape[2], width), (height, width)):
        if images.shape[2:] != size:
            smaller = size[0] < images.shape[2] or size[1] < images.shape[3]
            resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=smaller)
            images = resized.add_(0.5).to(torch.uint8)
    return images


def scaled_sides(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of an image scaled so that its longer side has `size` pixels."""
    longer = max(height, width)
    rows, columns = ((2 * side * size + longer) // (2 * longer) for side in (height, width))  # rounded, in integers
    return max(1, rows), max(1, columns)


def borders(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom borders that center an image in a square of `size` pixels."""
    left, top = (size - width) // 2, (size - height) // 2
    return left, size - width - left, top, size - height - top


@contextlib.contextmanager
def _decode(source: Source, channels: int, min_side: int | None) -> Iterator[Image.Image]:
    """The image in 8 bits, gray or RGB. No side is reduced below `min_side` when decoding."""
    if channels not in (1, 3):
        raise UserError(f"images can be decoded to 1 (gray) or 3 (RGB) channels, not {channels}")
    mode = "L" if channels == 1 else "RGB"

    def load(image: Image.Image) -> None:
        if min_side is not None and image.format in ("JPEG", "MPO"):  # for HEIC, it would choose the file's preview
            image.draft(mode, (min_side, min_side))
        image.load()

    with _open_image(source, load) as image:
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception as error:  # of any type, for damaged metadata although the pixels are fine
            if isinstance(error, MemoryError):
                raise
        image = _to_8_bits(image)
        yield image if image.mode == mode else image.convert(mode)


@contextlib.contextmanager
def _open_image(
    source: Source, load: Callable[[Image.Image], None] | None = None, name: str = ""
) -> Iterator[Image.Image]:
    """The image; without `load` only its header is read. Any error, now or while it is used, is a `UserError`."""
    name = name or name_of(source) or f"image ({type(source).__name__})"
    limit = os.environ.get("GOOGLENET_MAX_PIXELS", str(MAX_PIXELS))
    if not limit.isdecimal():
        raise RunError(f"$GOOGLENET_MAX_PIXELS must be a number of pixels, not {limit!r}; unset it for {MAX_PIXELS:,}")

    def prepare(image: Image.Image) -> None:
        if image.width * image.height > int(limit):
            size = f"{image.width}x{image.height} pixels are more than {int(limit):,}"
            raise UserError(f"{name}: {size}; $GOOGLENET_MAX_PIXELS can allow it")
        if load is not None:
            load(image)

    try:
        if isinstance(source, np.ndarray | Tensor | Image.Image):
            image = _copied(source) if isinstance(source, Image.Image) else _from_array(source)
            prepare(image)
        else:
            if isinstance(source, str | Path):
                check_regular_file(source)
            image = open_file(source, prepare)
        with image:
            yield image
    except (UserError, RunError):
        raise
    except MemoryError as error:
        raise RunError(f"{name}: not enough memory to decode it; make the image smaller") from error
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise errors of any type for a damaged file
        raise UserError(f"{name}: cannot be decoded ({reason_of(error)})") from error


def name_of(source: Source) -> str:
    """The path or name of an image; empty if it has none."""
    return source.name if isinstance(source, NamedImage) else str(source) if isinstance(source, str | Path) else ""


def check_regular_file(path: str | Path) -> None:
    """Raises `UserError` for a folder, or for a pipe or a device, which could block forever."""
    if (file := Path(path)).exists() and not file.is_file():
        is_allowed = os.access(path, os.R_OK | os.X_OK)
        kind = "not a file" if not is_dir(path) else "a folder" if is_allowed else "permission denied"
        raise UserError(f"{path}: {kind}")


def check_source(source: object, name: str = "image") -> None:
    """Raises `UserError` for an object that is not a `Source`, or an array of another type or shape."""
    if not isinstance(source, np.ndarray | Tensor):
        if not isinstance(source, str | Path | bytes | Image.Image):
            kinds = "a path, bytes, a PIL image, a NumPy array or a tensor"
            raise UserError(f"{name}: an image is {kinds}, not {type(source).__name__}")
        if isinstance(source, Image.Image) and 0 in source.size:
            raise UserError(f"{name}: the image has no pixels, but {source.width}x{source.height}")
        return
    shape, is_tensor = tuple(source.shape), isinstance(source, Tensor)
    channels = 1 if len(shape) == 2 else shape[0 if is_tensor else -1] if len(shape) == 3 else 0
    if str(source.dtype).removeprefix("torch.") != "uint8" or channels not in (1, 3, 4) or 0 in shape:
        expected = "a tensor (H, W) or (C, H, W)" if is_tensor else "an array (H, W) or (H, W, C)"
        raise UserError(f"{name}: expected {expected} of uint8 with 1, 3 or 4 channels, not {source.dtype} {shape}")


def _from_array(values: np.ndarray[Any, Any] | Tensor) -> Image.Image:
    check_source(values)
    if isinstance(values, Tensor):
        values = (values if values.ndim == 2 else values.permute(1, 2, 0)).cpu().numpy()
    pixels = values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
    return Image.fromarray(np.ascontiguousarray(pixels))


def _copied(image: Image.Image) -> Image.Image:
    """Pillow reads a file when its pixels are first used, which two threads must not do at once."""
    with _loading[id(image) % len(_loading)]:
        return image.copy()


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The image in a mode with 8 bits per channel and without transparency. Raises `ValueError` for other ranges."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        # Files with 16 bits per channel open as I;16, or as I (32 bits), depending on their format
        lowest, highest = (0, 65535) if image.mode.startswith("I;16") else (values.min(), values.max())
        if not 0 <= lowest <= highest <= 65535:  # NaN, too
            raise ValueError(f"its pixels go from {lowest:g} to {highest:g}; save it with 8 or 16 bits per channel")
        white = 65535 if highest > 255 else 1 if image.mode == "F" and highest <= 1 else 255
        values = values / (white / 255)
        if isinstance(transparent := image.info.get("transparency"), int):
            values[np.asarray(image) == transparent] = 255
        return Image.fromarray((values.round() if image.mode == "F" else values).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image


def _to_tensor(pixels: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1)


class DecodedImages(NamedTuple):
    """uint8 (N, C, size, size) in an anonymous memory map, zeros for a file with an error; error messages by number."""

    images: Tensor
    errors: dict[int, str]


def decode_images(paths: Sequence[Path], channels: int, size: int, resize: Resize = "stretch") -> DecodedImages:
    """Decode many files to squares (see `decode_resized`) on all cores. Raises `RunError` if the disk is full."""
    pixels = anonymous_memmap((len(paths), channels, size, size))
    errors: dict[int, str] = {}

    def decode(number: int) -> None:
        try:
            pixels[number] = decode_resized(paths[number], channels, size, resize).numpy()
        except UserError as error:
            errors[number] = str(error)

    for _ in map_threads(decode, range(len(paths)), "decoding images"):
        pass
    return DecodedImages(torch.from_numpy(pixels), dict(sorted(errors.items())))


def map_threads(function: Callable[[Item], Result], items: Sequence[Item], description: str) -> Iterator[Result]:
    """Results in the order of `items`, with a progress bar. Threads suffice: Pillow and hashing release the GIL."""
    pool = ThreadPoolExecutor(available_cores())
    try:
        with progress(description, len(items)) as bar:
            for result in pool.map(function, items):
                bar.advance()
                yield result
    finally:
        pool.shutdown(cancel_futures=True)


def image_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The given files, and the image files (by suffix) in the given folders. A log line counts the other files.

    Raises `UserError` for a folder without images.
    """
    others: list[Path] = []
    for path in map(Path, paths):
        files, runs = [path], list[Path]()
        if is_dir(path):
            files = []
            for file in walk(path, runs):
                (files if file.suffix.lower() in SUFFIXES or is_dir(file) else others).append(file)
        for run in runs:
            log.info("ignored: %s, a folder with a trained model", printable(run))
        if not files:
            raise UserError(f"{path} has no images; their names end in {', '.join(sorted(SUFFIXES))}")
        yield from files
    if line := ignored(others):
        log.info(line)


def ignored(files: Iterable[Path]) -> str:
    """A line that counts files other than images by suffix; empty if there are none."""
    kinds = Counter(printable(file.suffix.lower() or file.name) for file in files)
    most = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common(5))
    return f"other files, ignored: {kinds.total():,} ({most})" if kinds else ""


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or was made by a system and not by a user."""
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def walk(folder: Path, runs: list[Path] | None = None, _parents: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file in a folder and below, sorted within each folder, without hidden ones and those of the system.

    Links are followed, except to a folder that they are in; a broken link, or one that leads to itself, counts as a
    file. A folder that cannot be listed is yielded itself: opening it says why. Folders of runs inside, whose images
    are plots, are not searched but added to `runs`.
    """
    try:
        real = folder.resolve()
        with os.scandir(folder) as listing:
            visible = (entry for entry in listing if not is_ignored(entry.name))
            entries = sorted(visible, key=lambda entry: entry.name)
    except (OSError, RuntimeError):
        yield folder
        return
    if real in _parents:
        return
    names = {entry.name for entry in entries}
    if _parents and ("model.safetensors" in names or names >= {"recipe.toml", "metrics.jsonl"}):
        if runs is not None:
            runs.append(folder)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and is_dir(entry.path)):
            yield from walk(Path(entry.path), runs, _parents | {real})
        else:
            yield Path(entry.path)


def is_dir(path: str | Path) -> bool:
    """Like `Path.is_dir`, but never an error: False without permission to look, or for a name that is too long."""
    return os.path.isdir(path)  # noqa: PTH112


def anonymous_memmap(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A uint8 array in a file without a name, so that it need not fit into memory. The file goes away with the array.

    It is in the cache folder, since temporary files may be in memory. Raises `RunError` if the disk has no room for it.
    """
    size = int(np.prod(shape))
    if size == 0:
        return np.empty(shape, np.uint8)
    folder = cache_dir()
    try:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=folder) as file:
            reserve_space(file.fileno(), size)
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise RunError(f"no room for {size / 2**20:,.0f} MiB of pixels in {folder}: {reason_of(error)}") from error

"""A picture file to pixels."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from googlenet.data.dataset import anonymous_memmap
from googlenet.device import available_cores
from googlenet.errors import RunError, UserError, reason_of

# Pillow warns of bombs, whose limit is ours, and of odd metadata, which is not used. Not around each picture: the
# process has one set of filters, and pictures are opened in many threads at once.
warnings.filterwarnings("ignore", module=r"PIL\.")

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"))
Resize = Literal["stretch", "crop"]
"""How a picture of another shape is made square: stretched, or the middle cut out."""
MAX_PIXELS = 100_000_000
"""Larger pictures are refused: a few kilobytes can unpack to gigabytes. `$GOOGLENET_MAX_PIXELS` sets another limit."""


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself before its pixels."""

    mode: str
    """Pillow's: L, RGB, RGBA, P, CMYK, I;16, ..."""
    size: tuple[int, int]
    """Width and height in pixels, as stored."""
    frames: int

    @property
    def is_gray(self) -> bool:
        return self.mode in ("1", "L", "LA", "F") or self.mode.startswith("I")


def read_header(path: str | Path, content: bytes | None = None) -> Header:
    """Open a picture file, or its content where that was read already, and read no pixels. Raises as `decode_image`
    does, where that shows already."""
    with _opened(path, content) as image:
        # A photograph may have a smaller one, or one for bright screens, behind it: a JPEG that Pillow calls MPO
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        return Header(image.mode, image.size, frames)


def decode_image(path: str | Path, channels: int, at_most: int | None = None) -> Tensor:
    """The first frame of a picture file as uint8 (C, H, W), turned as its EXIF orientation says.

    Transparent parts are laid on white. Pixels of 16 bits are scaled to 8. A gray picture has its channel repeated
    where three are asked for; a colored one is made gray (ITU-R 601) where one is.

    Args:
        path: PNG, JPEG, WebP, BMP or GIF.
        channels: 1 (gray) or 3 (red, green, blue).
        at_most: pixels on a side; a larger picture is made smaller, in proportion. Left out, it keeps its size.

    Raises:
        UserError: for a file that is missing, empty, truncated, no picture, or larger than `MAX_PIXELS`.
    """

    def reduced(image: Image.Image) -> Tensor:
        if at_most is not None:
            image.thumbnail((at_most, at_most), Image.Resampling.BILINEAR)
        return _tensor(image)

    return _decoded(path, channels, reduced, at_least=None if at_most is None else 2 * at_most)


def decode_resized(path: str | Path, channels: int, size: int, resize: Resize = "stretch") -> Tensor:
    """A picture as a square of `size` pixels, uint8 (C, size, size): what `decode_image` and resizing give.

    A JPEG much larger than that is decoded at a half, a quarter or an eighth of its size, which is far less work; what
    is left is twice the size asked for or more, so that the result differs by rounding only. Raises as `decode_image`.
    """

    def square(image: Image.Image) -> Tensor:
        if resize == "crop":
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        # With eight-bit colors and AVX2 torch's resizing is three times as fast as Pillow's; it differs by roundings
        return F.interpolate(_tensor(image)[None], size=(size, size), mode="bilinear", antialias=True)[0]

    return _decoded(path, channels, square, at_least=2 * size)


def check_ordinary(path: str | Path) -> None:
    """Raises `UserError` for a pipe or a device, which could be waited on for ever."""
    if not Path(path).is_file() and not Path(path).is_dir() and Path(path).exists():  # in nearly every case one look
        raise UserError(f"{path}: is no ordinary file")


def image_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The files named, and those in the folders named that have a picture's suffix, each folder's sorted.

    Raises:
        UserError: for a folder without pictures.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        found = False
        for file in walk(path):
            if file.suffix.lower() in SUFFIXES:
                found = True
                yield file
        if not found:
            raise UserError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")


def walk(folder: Path, _above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file in a folder and below, sorted within each folder, hidden ones left out. Links are followed, but not
    to a folder that they lie in."""
    here = folder.resolve()
    if here in _above:
        return
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from walk(Path(entry.path), _above | {here})
        else:
            yield Path(entry.path)


def _tensor(image: Image.Image) -> Tensor:
    array = np.asarray(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1)


def _decoded(path: str | Path, channels: int, finish: Callable[[Image.Image], Tensor], at_least: int | None) -> Tensor:
    """What `finish` makes of the picture in eight bits a channel, gray or red, green, blue. Each side has `at_least` so
    many pixels if it had them before."""
    if channels not in (1, 3):
        raise UserError(f"picture files give 1 or 3 channels; this model wants {channels}")
    mode = "L" if channels == 1 else "RGB"
    with _opened(path) as image:
        if at_least is not None:
            image.draft(mode, (at_least, at_least))
        return finish(_eight_bits(_upright(image)).convert(mode))


@contextmanager
def _opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """A picture file, its first frame; whatever goes wrong with it, then or later, is a `UserError`."""
    try:
        check_ordinary(path)
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            if image.width * image.height > _most_pixels():
                raise UserError(
                    f"{path}: {image.width}x{image.height} pixels are more than {_most_pixels():,}; "
                    f"GOOGLENET_MAX_PIXELS in the environment sets another limit"
                )
            yield image
    except (UserError, RunError):
        raise
    except MemoryError as error:
        raise RunError(f"{path}: the memory does not hold it") from error
    except Image.DecompressionBombError as error:
        most = min(_most_pixels(), 2 * (Image.MAX_IMAGE_PIXELS or 0))  # Pillow has a limit of its own
        raise UserError(f"{path}: more than {most:,} pixels") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder, not a picture") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is no picture that can be read") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UserError(f"{path}: cannot be read as a picture ({reason_of(error)})") from error


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: S110  Pillow's reader raises whatever damaged metadata lead it to; the pixels are whole
        pass
    return image


def _most_pixels() -> int:
    given = os.environ.get("GOOGLENET_MAX_PIXELS", str(MAX_PIXELS))
    if not given.isdecimal():
        raise RunError(f"GOOGLENET_MAX_PIXELS is a number of pixels, not {given!r}")
    return int(given)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture in a mode of 8 bits a channel without transparency."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        # A file of 16 bits a pixel opens as I;16; as I, which has room for 32, where its format leaves that open
        sixteen = image.mode.startswith("I;16") or values.max(initial=0) > 255
        if isinstance(clear := image.info.get("transparency"), int):
            values[values == clear] = 65535 if sixteen else 255
        return Image.fromarray((values / 257 if sixteen else values).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(ground, layered).convert("RGB")
    return image


Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many files are done, and of how many."""


def on_all_cores(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    progress: Progress = lambda *_: None,
    *,
    threads: int | None = None,
) -> Iterator[Result]:
    """The results in the order of `items`, as they come. Threads: Pillow and hashing work without Python's lock."""
    with ThreadPoolExecutor(threads or available_cores()) as pool:
        for done, result in enumerate(pool.map(function, items), start=1):
            yield result
            progress(what, done, len(items))


@dataclass(frozen=True)
class DecodedImages:
    """DecodedImages of one size, and what was wrong with those that could not be read."""

    images: Tensor
    """uint8, (N, C, size, size). They lie in a file without a name; memory holds what is in use."""
    errors: dict[int, str] = field(default_factory=dict)
    """By the picture's number in the list; its pixels are 0."""


def decode_images(
    paths: Sequence[Path],
    channels: int,
    size: int,
    *,
    resize: Resize = "stretch",
    threads: int | None = None,
    what: str = "decoding",
    progress: Progress = lambda *_: None,
) -> DecodedImages:
    """Every picture as a square of `size` pixels (see `decode.decode_resized`), in the order of `paths`.

    Args:
        paths: the files.
        channels: 1 (gray) or 3 (red, green, blue).
        size: height and width in pixels.
        resize: how a picture of another shape is made square.
        threads: files decoded at the same time; left out, one a core.
        what: what `progress` is told is being done.
        progress: see `parallel.Progress`.

    Raises:
        RunError: where the disk has no room for the pixels.
    """
    pixels = anonymous_memmap((len(paths), channels, size, size))
    errors: dict[int, str] = {}

    def read(number: int) -> None:
        try:
            pixels[number] = decode_resized(paths[number], channels, size, resize).numpy()
        except UserError as error:
            errors[number] = str(error)

    for _ in on_all_cores(read, range(len(paths)), what, progress, threads=threads):
        pass
    return DecodedImages(torch.from_numpy(pixels), dict(sorted(errors.items())))

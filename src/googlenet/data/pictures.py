"""Many picture files to one array of pixels, decoded once, on all cores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor

from googlenet.data.decode import decode_resized
from googlenet.errors import RunError, UserError
from googlenet.machine import available_cores


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size, and what was wrong with those that could not be read."""

    images: Tensor
    """uint8, (N, C, size, size). They lie in a file without a name; memory holds what is in use."""
    errors: dict[int, str] = field(default_factory=dict)
    """By the picture's number in the list; its pixels are 0."""


def read_pictures(
    paths: Sequence[Path],
    channels: int,
    size: int,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Pictures:
    """Every picture stretched to a square of `size` pixels (see `decode.decode_resized`), in the order of `paths`.

    Args:
        paths: the files.
        channels: 1 (grey) or 3 (red, green, blue).
        size: height and width in pixels.
        threads: files decoded at the same time; left out, one a core. Pillow decodes without holding Python's lock.
        progress: called with the number of pictures done, after each.

    Raises:
        RunError: where the disk has no room for the pixels.
    """
    pixels = _unnamed_array((len(paths), channels, size, size))
    errors: dict[int, str] = {}

    def read(number: int) -> None:
        try:
            pixels[number] = decode_resized(paths[number], channels, size).numpy()
        except UserError as error:
            errors[number] = str(error)

    with ThreadPoolExecutor(threads or available_cores()) as pool:
        for done, _ in enumerate(pool.map(read, range(len(paths))), start=1):
            if progress is not None:
                progress(done)
    return Pictures(torch.from_numpy(pixels), dict(sorted(errors.items())))


def _unnamed_array(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    folder = Path(platformdirs.user_cache_dir("googlenet", appauthor=False))
    size = int(np.prod(shape))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # it lives as long as something is mapped from it
            if size == 0:
                return np.empty(shape, np.uint8)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would kill the process
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise RunError(
            f"no room for {size / 2**20:,.0f} MiB of pixels in {folder}: {error.strerror or error}"
        ) from error

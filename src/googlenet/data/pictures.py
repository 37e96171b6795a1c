"""Many picture files to one array of pixels, decoded once, on all cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from googlenet.data.decode import Resize, decode_resized
from googlenet.data.parallel import Progress, on_all_cores
from googlenet.data.unnamed import unnamed_array
from googlenet.errors import UserError


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
    resize: Resize = "stretch",
    threads: int | None = None,
    what: str = "decoding",
    progress: Progress = lambda *_: None,
) -> Pictures:
    """Every picture as a square of `size` pixels (see `decode.decode_resized`), in the order of `paths`.

    Args:
        paths: the files.
        channels: 1 (grey) or 3 (red, green, blue).
        size: height and width in pixels.
        resize: how a picture of another shape is made square.
        threads: files decoded at the same time; left out, one a core.
        what: what `progress` is told is being done.
        progress: see `parallel.Progress`.

    Raises:
        RunError: where the disk has no room for the pixels.
    """
    pixels = unnamed_array((len(paths), channels, size, size))
    errors: dict[int, str] = {}

    def read(number: int) -> None:
        try:
            pixels[number] = decode_resized(paths[number], channels, size, resize).numpy()
        except UserError as error:
            errors[number] = str(error)

    for _ in on_all_cores(read, range(len(paths)), what, progress, threads=threads):
        pass
    return Pictures(torch.from_numpy(pixels), dict(sorted(errors.items())))

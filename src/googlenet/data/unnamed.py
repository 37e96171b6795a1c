"""Room for more pixels than the memory holds."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import platformdirs

from googlenet.errors import RunError, reason_of


def unnamed_array(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An array in a file without a name, which is gone with it.

    Raises:
        RunError: where the disk has no room for it.
    """
    folder = _scratch_folder()
    size = int(np.prod(shape))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # it lives as long as something is mapped from it
            if size == 0:
                return np.empty(shape, np.uint8)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would kill the process
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise RunError(f"no room for {size / 2**20:,.0f} MiB of pixels in {folder}: {reason_of(error)}") from error


def _scratch_folder() -> Path:
    """In the cache, since temporary files may lie in memory; where that cannot be written, with those."""
    folder = Path(platformdirs.user_cache_dir("googlenet", appauthor=False))
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())

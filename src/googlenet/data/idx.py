"""IDX, the format of MNIST's files and of Fashion-MNIST's: a magic number, the sizes, then the bytes.

Source: "The IDX file format", http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from googlenet.errors import UserError, reason_of

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

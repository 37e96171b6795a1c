"""Images that look the same although their files differ: resized, compressed again, slightly brighter or darker.

A perceptual hash finds candidates, and small versions of the images confirm them. docs/decisions.md has the measurement
behind the thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

_Array = np.ndarray[Any, Any]

MAX_DISTANCE = 8
"""Candidates differ in at most this many of the 64 bits of their hashes."""
MIN_CORRELATION = 0.99
"""Of the small versions of two near duplicates, over all pixels and channels."""
_MIN_CONTRAST = 3.0
"""Standard deviation, of 255. The hash of an image with less is noise: blank images would all be near duplicates."""
_SIDE = 16
_ROWS = 16  # compared with all others at a time; what they need fits into the processor's cache
_PAIRS = 4096  # confirmed at a time


class Fingerprint(NamedTuple):
    """What is compared of an image."""

    hash: int  # 64 bits, by DCT (imagehash.phash)
    small: _Array  # uint8 (16, 16, 3)


class Match(NamedTuple):
    """An image that has near duplicates."""

    number: int
    nearest: int  # number of the image that is most like it
    correlation: float  # with that one, `MIN_CORRELATION` to 1


def fingerprint(image: Tensor) -> Fingerprint | None:
    """The fingerprint of an image, uint8 (3, H, W); None if it is almost blank. Needs the package imagehash."""
    import imagehash

    pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((2 * _SIDE, 2 * _SIDE), Image.Resampling.BILINEAR)
    small = np.asarray(pixels.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    if small.std(axis=(0, 1)).max() < _MIN_CONTRAST:
        return None
    bits = imagehash.phash(pixels, hash_size=8).hash
    return Fingerprint(int.from_bytes(np.packbits(bits).tobytes()), small)


def near_duplicates(fingerprints: Sequence[Fingerprint]) -> list[list[Match]]:
    """Groups of near duplicates, by their number in `fingerprints`. Each image is in one group at most.

    Not every two images of a group are alike: each is like at least one other. 50,000 images take seconds.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    found = list(_pairs(fingerprints)) if fingerprints else []
    if not found:
        return []
    first, second, correlation = (np.concatenate(part) for part in zip(*found, strict=True))
    count = len(fingerprints)
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    one, other = np.concatenate((first, second)), np.concatenate((second, first))
    both = np.concatenate((correlation, correlation))
    order = np.argsort(both, kind="stable")
    nearest, highest = np.zeros(count, int), np.zeros(count)
    nearest[one[order]], highest[one[order]] = other[order], both[order]  # the last one stays, with the highest
    groups: dict[int, list[Match]] = {}
    for number in np.unique(one).tolist():
        match = Match(number, int(nearest[number]), float(highest[number]))
        groups.setdefault(int(component[number]), []).append(match)
    return list(groups.values())


def _pairs(fingerprints: Sequence[Fingerprint]) -> Iterator[tuple[_Array, _Array, _Array]]:
    """Numbers of the first and second images of pairs that are near duplicates, and their correlations."""
    hashes = np.array([each.hash for each in fingerprints], np.uint64)
    small = np.stack([each.small for each in fingerprints])
    for start in range(0, len(hashes), _ROWS):
        distances = np.bitwise_count(hashes[start : start + _ROWS, None] ^ hashes[None, start:])
        # Much faster than np.nonzero of two dimensions
        rows, columns = np.divmod(np.flatnonzero(distances <= MAX_DISTANCE), distances.shape[1])
        rows, columns = rows[columns > rows], columns[columns > rows]
        for part in range(0, len(rows), _PAIRS):
            first, second = rows[part : part + _PAIRS] + start, columns[part : part + _PAIRS] + start
            correlation = np.einsum("nd,nd->n", _normalize(small[first]), _normalize(small[second]))
            alike = correlation >= MIN_CORRELATION
            yield first[alike], second[alike], correlation[alike].clip(max=1)


def _normalize(small: _Array) -> _Array:
    """Each image as a vector of length 1, without its brightness and contrast."""
    values = small.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    vectors = values.reshape(len(small), 3 * _SIDE**2)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

"""Real images are near duplicates of their resized, compressed and brighter copies, and of nothing else."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from googlenet.data.near_duplicates import Fingerprint, fingerprint, near_duplicates
from tests.conftest import bundled


def photo(number: int) -> Image.Image:
    """A real image of Fashion-MNIST, four times as large, in color."""
    image = Image.fromarray(bundled("t10k-images-idx3-ubyte")[number]).convert("RGB")
    return image.resize((112, 112), Image.Resampling.BICUBIC)


def compress(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def of(*images: Image.Image) -> list[Fingerprint]:
    found = [fingerprint(to_tensor(image)) for image in images]
    assert None not in found
    return [each for each in found if each is not None]


PHOTOS = 12


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((70, 70), Image.Resampling.BILINEAR),
        lambda image: image.resize((300, 200), Image.Resampling.BICUBIC),
        compress,
        lambda image: ImageEnhance.Brightness(image).enhance(1.05),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    ],
    ids=["smaller", "larger", "compressed", "brighter", "darker"],
)
def test_a_changed_copy_is_found_and_nothing_else(change: Callable[[Image.Image], Image.Image]) -> None:
    photos = [photo(number) for number in range(PHOTOS)]
    groups = near_duplicates(of(*photos, *map(change, photos)))
    assert [[match.number for match in group] for group in groups] == [[n, n + PHOTOS] for n in range(PHOTOS)]
    assert all(0.99 <= match.correlation <= 1 for group in groups for match in group)


def test_other_color_mirrored_and_inverted_images_are_different() -> None:
    image = photo(0)
    red, green, blue = image.split()
    black = Image.new("L", image.size)
    variants = (
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        Image.merge("RGB", (red, black, black)),
        Image.merge("RGB", (black, green, blue)),
        Image.eval(image, lambda value: 255 - value),
    )
    assert near_duplicates(of(image, *variants)) == []


def test_blank_images_have_no_fingerprint() -> None:
    noise = np.random.default_rng(0).normal(0, 2, (60, 80, 3))
    for color in ((255, 255, 255), (0, 0, 0), (200, 30, 90)):
        pixels = (np.array(color) + noise).clip(0, 255).astype(np.uint8)
        assert fingerprint(torch.from_numpy(pixels).permute(2, 0, 1)) is None
    assert fingerprint(torch.zeros(3, 1, 1, dtype=torch.uint8)) is None
    assert near_duplicates([]) == []


def test_a_chain_is_one_group_and_each_names_its_nearest() -> None:
    image = photo(3)
    darker = ImageEnhance.Brightness(image).enhance(0.9)
    groups = near_duplicates(of(photo(5), image, darker, compress(darker), photo(7)))
    (group,) = groups
    assert [match.number for match in group] == [1, 2, 3]
    for number, nearest, _ in group:
        assert nearest in {1, 2, 3} - {number}


def test_many_images_take_seconds_and_match_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5000, 16, 16, 3), dtype=np.uint8)
    hashes = rng.integers(0, 2**64, 5000, dtype=np.uint64)
    copies = rng.permutation(5000)[:200]
    small[copies[:100]], hashes[copies[:100]] = small[copies[100:]], hashes[copies[100:]] ^ np.uint64(0b1011)
    start = time.monotonic()
    groups = near_duplicates([Fingerprint(int(hash), each) for hash, each in zip(hashes, small, strict=True)])
    assert time.monotonic() - start < 20
    found = {tuple(match.number for match in group) for group in groups}
    assert found == {tuple(sorted(map(int, pair))) for pair in zip(copies[:100], copies[100:], strict=True)}

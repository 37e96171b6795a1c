"""Splits as views: what they hold, what is held out, and what memory they take."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from googlenet import ImageSplit, RunError, UserError
from googlenet.data import decode
from googlenet.data.dataset import split_validation
from googlenet.data.decode import anonymous_memmap


def numbered(count: int, classes: int = 10) -> ImageSplit:
    images = torch.arange(count).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return ImageSplit(images, torch.arange(count) % classes)


def numbers(split: ImageSplit) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_view_of_a_view_is_the_same_as_indexing(data: st.DataObject) -> None:
    split, expected = numbered(40, classes=3), torch.arange(40)
    for _ in range(data.draw(st.integers(1, 3))):
        indices = torch.tensor(data.draw(st.lists(st.integers(0, len(expected) - 1), min_size=1, max_size=30)))
        split, expected = split.subset(indices), expected[indices]
    assert (len(split), split.channels) == (len(expected), 1)
    assert split.labels.tolist() == (expected % 3).tolist()
    number = data.draw(st.integers(0, len(expected) - 1))
    batch = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=9))
    for _ in range(2):  # before and after the view has its own copy
        image, label = split[number]
        assert (int(image[0, 0, 0]), int(label)) == (int(expected[number]), int(expected[number]) % 3)
        images, labels = split.__getitems__(batch)
        assert images[:, 0, 0, 0].tolist() == expected[batch].tolist()
        assert labels.tolist() == (expected[batch] % 3).tolist()
        assert numbers(split) == expected.tolist()


def test_a_view_shares_the_pixels() -> None:
    split = numbered(10)
    view = split.subset(torch.tensor([3, 5]))
    split.images[5] = 77
    assert int(view[1][0][0, 0, 0]) == 77


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), count=st.integers(1, 200))
def test_spread_has_the_same_share_of_every_class(sizes: list[int], count: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))  # sorted by class, as in a folder
    split = ImageSplit(torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1), labels)
    sample = split.spread(count)
    assert len(sample) == min(count, len(split))
    assert numbers(sample) == sorted(set(numbers(sample)))
    assert numbers(sample) == numbers(split.spread(count))
    counts = torch.bincount(sample.labels, minlength=len(sizes))
    assert (counts > 0).all() or count < len(sizes)
    share = len(sample) / len(split)
    assert all(abs(found - share * size) <= len(sizes) for found, size in zip(counts.tolist(), sizes, strict=True))


def test_spread_needs_a_count() -> None:
    with pytest.raises(UserError, match="count"):
        numbered(10).spread(0)


def test_spread_does_not_change_the_random_state() -> None:
    before = torch.get_rng_state()
    numbered(10).spread(3)
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(20, 300), fraction=st.floats(0.05, 0.9), seed=st.integers(0, 9))
def test_validation_is_held_out_by_class_and_seed(count: int, fraction: float, seed: int) -> None:
    split = numbered(min(count, 255), classes=3)
    expected = [round(fraction * int((split.labels == label).sum())) for label in range(3)]
    assume(0 < sum(expected) < len(split))
    rest, held_out = split_validation(split, fraction, seed)
    assert sorted(numbers(rest) + numbers(held_out)) == list(range(len(split)))
    assert torch.bincount(held_out.labels, minlength=3).tolist() == expected
    assert numbers(held_out) == numbers(split_validation(split, fraction, seed)[1])


def test_identical_images_are_held_out_together() -> None:
    images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(3, 1, 4, 4)
    rest, held_out = split_validation(ImageSplit(images, torch.zeros(120, dtype=torch.int64)), 0.3, seed=1)
    assert len(rest) + len(held_out) == 120
    assert not set(numbers(rest)) & set(numbers(held_out))


def test_validation_needs_two_sides() -> None:
    with pytest.raises(UserError, match="validation"):
        split_validation(numbered(10), 0.01, 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_held_out_images_need_not_fit_into_memory() -> None:
    def anonymous() -> int:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed does not count
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    images = torch.from_numpy(anonymous_memmap((2000, 3, 128, 128)))  # 94 MiB
    images[:, 0, 0, :2] = torch.stack((torch.arange(2000) // 256, torch.arange(2000) % 256), dim=1)
    split = ImageSplit(images, torch.arange(2000) % 4)
    before = anonymous()
    rest, held_out = split_validation(split, 0.25, seed=0)
    assert anonymous() - before < 20 * 2**20
    assert (rest.images.shape, held_out.images.shape) == ((1500, 3, 128, 128), (500, 3, 128, 128))
    held_out.pixel_statistics()
    assert anonymous() - before < 40 * 2**20
    assert torch.bincount(held_out.labels).tolist() == [125] * 4


def test_pixel_statistics_are_exact() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, 3, 6, 5), dtype=np.uint8))
    split = ImageSplit(images, torch.zeros(300, dtype=torch.int64))
    odd = torch.arange(1, 300, 2)
    for part, pixels in ((split, images), (split.subset(odd), images[odd])):
        mean, std = part.pixel_statistics()
        scaled = pixels.double() / 255
        assert mean == pytest.approx(scaled.mean(dim=(0, 2, 3)).tolist(), abs=1e-4)
        assert std == pytest.approx(scaled.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-4)
    flat = ImageSplit(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    assert flat.pixel_statistics() == ((0.0,), (1.0,))


def test_a_full_disk_is_a_run_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode.os, "posix_fallocate", refuse)
    with pytest.raises(RunError, match="No space left on device"):
        anonymous_memmap((1, 3, 16, 16))


@pytest.mark.parametrize("home", [None, "", "relative", "/no/such/folder"])
def test_pixels_are_stored_without_a_home_folder(
    home: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", home) if home is not None else monkeypatch.delenv("HOME")

    def no_entry(*_: Any) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    make = Path.mkdir

    def make_temporary_only(path: Path, *args: Any, **options: Any) -> None:
        if not path.is_relative_to(tempfile.gettempdir()):
            raise PermissionError(13, "denied")
        make(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", make_temporary_only)
    assert anonymous_memmap((2, 2)).shape == (2, 2)
    assert list(tmp_path.iterdir()) == []

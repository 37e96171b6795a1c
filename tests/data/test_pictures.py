from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from googlenet import RunError
from googlenet.data import unnamed
from googlenet.data.decode import decode_resized
from googlenet.data.decode import decode_images


def test_pictures_are_read_in_order_and_errors_are_told(tmp_path: Path) -> None:
    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((20 + number, 30, 3), 20 * number, np.uint8)).save(paths[-1])
    paths[4].write_bytes(b"no picture")
    done: list[tuple[str, int, int]] = []
    read = decode_images(paths, 3, 16, what="reading", progress=lambda *told: done.append(told))
    assert (read.images.shape, read.images.dtype) == ((9, 3, 16, 16), torch.uint8)
    assert done == [("reading", number, 9) for number in range(1, 10)]
    assert list(read.errors) == [4]
    assert "is no picture" in read.errors[4]
    assert not read.images[4].any()
    for number in set(range(9)) - {4}:
        assert torch.equal(read.images[number], decode_resized(paths[number], 3, 16))
    assert decode_images([], 1, 16).images.shape == (0, 1, 16, 16)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unnamed.os, "posix_fallocate", refuse)
    with pytest.raises(RunError, match="no room for"):
        decode_images([Path("x.png")], 3, 16)

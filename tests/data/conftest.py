from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from googlenet.data import store


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes with ten images each."""
    for number in range(20):
        write_image(tmp_path / "pets" / ("cats", "dogs")[number % 2] / f"{number}.png", number)
    return tmp_path / "pets"


def deny_listing(names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may list folders of these names. By a patch, since permissions do not apply to root."""
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if not isinstance(folder, int) and Path(folder).name in names:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded, in any order."""
    opened: list[Path] = []
    original = store.decode_resized

    def decode_resized(path: Path, *rest: Any) -> torch.Tensor:
        opened.append(path)
        return original(path, *rest)

    monkeypatch.setattr(store, "decode_resized", decode_resized)
    return opened

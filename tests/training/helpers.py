"""A network that trains in milliseconds, and comparisons of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from googlenet import RunFolder, TrainingResult


def small_net(channels: int = 1, classes: int = 10, size: int = 28) -> nn.Sequential:
    """A network with convolution, batch norm, max pool and dropout: always the same weights, (N, C, size, size)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8 * (size // 4) ** 2, classes),
        )


def rows(result: TrainingResult) -> list[dict[str, Any]]:
    return RunFolder(result.folder).rows()


def rows_without_times(result: TrainingResult) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(result)]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    expected = weights(other)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, expected[name]), name

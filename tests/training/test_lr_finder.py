"""The search for a learning rate."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from googlenet import UserError
from googlenet.recipe import Recipe
from googlenet.training import lr_finder
from googlenet.training.lr_finder import find_learning_rate, suggest_learning_rate
from tests.conftest import QUICK


@pytest.mark.usefixtures("small_data")
def test_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes its plot and nothing else, not even temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    search = find_learning_rate(Recipe(**{**QUICK, "image_size": 16}), Path("rates.png"), steps=32)
    assert 1e-5 < search.suggestion < 0.5
    assert Path("rates.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]
    assert list(search.rates) == sorted(search.rates)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("settings", [{}, {"augment": "medium"}, {"balance": "sampling"}])
def test_each_pass_has_its_own_order(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[torch.Tensor] = []

    def step(inputs: torch.Tensor, _targets: torch.Tensor) -> tuple[torch.Tensor, None]:
        batches.append(inputs.flatten(1).mean(dim=1))
        return torch.tensor(2.3 - 0.02 * len(batches)), None

    monkeypatch.setattr(lr_finder, "make_step", lambda _trainer: step)
    recipe = Recipe(**{**QUICK, "hflip": False, "batch_size": 64, **settings})
    find_learning_rate(recipe, tmp_path / "rates.png", steps=20)
    passes = [torch.cat(batches[first : first + 5]) for first in range(0, 20, 5)]
    assert len({tuple(images.tolist()) for images in passes}) == 4
    if not settings:  # the same images, in another order
        assert len({tuple(images.sort().values.tolist()) for images in passes}) == 1


@pytest.mark.usefixtures("small_data")
def test_errors_of_a_search(tmp_path: Path) -> None:
    one_pixel = Recipe(**{**QUICK, "image_size": 16, "batch_size": 1})
    with pytest.raises(UserError, match=r"--batch-size.*--image-size"):
        find_learning_rate(one_pixel, tmp_path / "rates.png", steps=20)
    with pytest.raises(UserError, match="steps"):
        find_learning_rate(one_pixel, tmp_path / "rates.png", steps=5)


RATES = [1e-5 * 10 ** (step / 20) for step in range(101)]
NOISE = [0.05 * (-1) ** step for step in range(101)]


def test_the_rate_of_the_lowest_loss_is_suggested() -> None:
    """A curve that falls most steeply at step 30 and is lowest at step 50."""
    falling = [2.3 - 1.5 / (1 + np.exp((30 - step) / 5)) for step in range(51)]
    losses = [loss + noise for loss, noise in zip([*falling, *np.linspace(0.8, 5, 50)], NOISE, strict=True)]
    assert suggest_learning_rate(RATES, losses) == pytest.approx(RATES[47], rel=0.5)
    # The losses just before one that is NaN do not show yet what is coming
    ends = [*(2.3 - 0.02 * step + NOISE[step] for step in range(60)), math.nan]
    assert suggest_learning_rate(RATES[:61], ends) == pytest.approx(RATES[53], rel=0.2)


@pytest.mark.parametrize(
    ("losses", "names"),
    [
        ([2.3 + noise for noise in NOISE], "--batch-size"),
        ([2.3] * 101, "--batch-size"),
        ([1.0 + 0.02 * step + NOISE[step] for step in range(101)], "--batch-size"),
        ([2.3, 2.2, math.nan], "NaN.*1e-05"),
        ([math.inf], "NaN.*1e-05"),
    ],
)
def test_a_loss_that_only_chance_moves_suggests_nothing(losses: list[float], names: str) -> None:
    with pytest.raises(UserError, match=names):
        suggest_learning_rate(RATES[: len(losses)], losses)

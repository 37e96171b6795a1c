"""`--batch-size auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from googlenet import UserError, load_recipe, train
from googlenet.device import memory_bytes
from googlenet.training import batch_size
from googlenet.training.auto import resolve_recipe
from tests.conftest import QUICK, Call
from tests.training.helpers import small_net


def with_memory(free: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "free_memory", lambda _: free)


def test_the_recipes_batch_size_unless_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("images", image_size=64, precision="fp32")
    fixed, each = batch_size.step_bytes(recipe)
    for images, expected in ((1000, recipe.batch_size), (20, 16)):
        with_memory((fixed + images * each) / 0.8, monkeypatch)
        resolved, name, line = resolve_recipe(recipe, {"batch_size": "auto"})
        assert resolved == recipe.model_copy(update={"batch_size": expected})
        assert name == "run" and str(expected) in line
    with_memory((fixed + 1.5 * each) / 0.8, monkeypatch)
    with pytest.raises(UserError, match="--image-size"):
        resolve_recipe(recipe, {"batch_size": "auto"})
    with_memory((fixed + 2.5 * each) / 0.8, monkeypatch)
    assert resolve_recipe(recipe, {"batch_size": "auto", "gradient_accumulation": 8})[0].batch_size == 16


def test_memory_grows_with_the_image_and_halves_with_bf16() -> None:
    def each(**settings: object) -> float:
        return batch_size.step_bytes(load_recipe("images", **settings))[1]

    small, large, half = (each(image_size=s, precision=p) for s, p in ((64, "fp32"), (128, "fp32"), (128, "bf16")))
    assert large == pytest.approx(4 * small, rel=0.15)
    assert half == large / 2


def test_free_memory_is_a_part_of_this_machines() -> None:
    assert 0 < batch_size.free_memory(torch.device("cpu")) < memory_bytes()


def test_the_run_has_a_number(small_data: Path, tmp_path: Path, call: Call) -> None:
    settings: dict[str, Any] = {**QUICK, "max_steps": 1, "batch_size": "auto", "resume": True}
    for _ in range(2):
        train("fast", model=small_net(), output=tmp_path / "run", **settings)
        assert load_recipe(tmp_path / "run" / "recipe.toml").batch_size == 128
    assert "nowhere" in call("train", "--batch-size", "auto", "--data", "nowhere", code=2)[1]
    assert "auto" in call("train", "--batch-size", "small", code=2)[1]

"""`--batch-size auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from googlenet import Recipe, UserError, load_recipe, train
from googlenet.device import memory_bytes
from googlenet.training import auto, batch_size, folds
from googlenet.training.auto import resolve_recipe
from tests.conftest import TINY, Call
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


def test_processes_share_the_memory_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("images", image_size=64, precision="fp32", batch_size=1024)
    fixed, each = batch_size.step_bytes(recipe)
    monkeypatch.setattr(batch_size, "step_bytes", lambda _: (fixed, each))
    devices: list[torch.device] = []

    def free(device: torch.device) -> float:
        devices.append(device)
        return 2 * (fixed + 20 * each) / 0.8

    monkeypatch.setattr(batch_size, "free_memory", free)
    # Two machines with two processes each: 20 images for each process
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert batch_size.fit_batch_size(recipe)[0] == 64
    monkeypatch.setattr(batch_size, "resolve_device", torch.device)
    batch_size.fit_batch_size(recipe.model_copy(update={"device": "cuda"}))
    assert [str(device) for device in devices] == ["cpu", "cuda:1"]


def test_all_folds_have_one_batch_size(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a cross-validation that continues while less memory is free."""
    monkeypatch.setattr(auto, "fit_batch_size", lambda _: (16, ""))
    seen: list[int] = []

    class Stop(Exception):  # noqa: N818
        pass

    def stop(recipe: Recipe, count: int) -> None:
        seen.append(recipe.batch_size)
        raise Stop

    monkeypatch.setattr(folds, "_assign", stop)
    (tmp_path / "cv" / "fold-1").mkdir(parents=True)
    (tmp_path / "cv" / "fold-1" / "recipe.toml").write_text("batch_size = 8")
    for name in ("cv", "new"):
        with pytest.raises(Stop):
            folds.cross_validate("fast", output=tmp_path / name, data=str(photos), batch_size="auto")
    assert seen == [8, 16]


def test_free_memory_is_a_part_of_this_machines() -> None:
    assert 0 < batch_size.free_memory(torch.device("cpu")) < memory_bytes()


def test_the_run_has_a_number(small_data: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {**TINY, "max_steps": 1, "batch_size": "auto", "resume": True}
    for size in (8, 16):  # that fit: a resumed run keeps its own
        monkeypatch.setattr(auto, "fit_batch_size", lambda _, size=size: (size, ""))
        train("fast", output=tmp_path / "run", **settings)
        assert load_recipe(tmp_path / "run" / "recipe.toml").batch_size == 8
    with pytest.raises(UserError, match="auto"):
        train("fast", model=small_net(), output=tmp_path / "other", **settings)
    assert "nowhere" in call("train", "--batch-size", "auto", "--data", "nowhere", code=2)[1]
    assert "auto" in call("train", "--batch-size", "small", code=2)[1]

"""Training on a folder of images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import googlenet
from googlenet import Trainer, TrainingResult, UserError, load_dataset, train
from googlenet.training.auto import resolve_recipe
from googlenet.training.optim import balanced_weights
from tests.conftest import QUICK
from tests.training.helpers import rows, small_net

pytestmark = pytest.mark.usefixtures("small_data")

SETTINGS: dict[str, Any] = {**QUICK, "image_size": 32, "batch_size": 8, "epochs": 3}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Real images of shoes and trousers, three times as many of one class as of the other."""
    data = load_dataset("fashion-mnist").train
    folder = tmp_path / "photos"
    for name, label, count in (("boot", 9, 24), ("trouser", 1, 8)):
        (folder / name).mkdir(parents=True)
        for number in torch.nonzero(data.labels == label).squeeze(1)[:count].tolist():
            Image.fromarray(data.images[number, 0].numpy()).resize((40, 56)).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_is_learned_and_evaluated_on_the_same_images(
    photos: Path, trained: TrainingResult, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "image_size": 28, "weights": str(trained.folder), "epochs": 4, "learning_rate": 0.001}
    del settings["stem_stride"]
    result = train(output=tmp_path / "run", data=photos, **settings)
    assert [row["accuracy"] for row in rows(result) if row["split"] == "train"][-1] > 0.8
    net = googlenet.load(result.model)
    assert (net.info.classes, net.info.input.channels, net.info.input.size) == (("boot", "trouser"), 1, 28)
    assert googlenet.evaluate(net, precision="fp32").accuracy == result.metrics["test"]["accuracy"]


def test_balanced_weights() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert balanced_weights(labels, 2).tolist() == pytest.approx([100 / 180, 5.0])
    assert balanced_weights(labels, 3)[2].isfinite()  # a class without images


@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_balanced_runs_with_strong_augmentation(balance: str, photos: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "balance": balance, "augment": "strong", "max_steps": 3}
    result = train(output=tmp_path / "run", model=small_net(classes=2, size=32), data=str(photos), **settings)
    assert math.isfinite(result.metrics["test"]["loss"])


def test_random_crops_to_train_and_a_margin_to_evaluate(photos: Path, tmp_path: Path) -> None:
    seen: list[torch.Size] = []
    settings = {**SETTINGS, "resize": "crop", "crop_pct": 0.8, "crop_scale": 0.08, "max_steps": 2, "ema_decay": 0.9}

    def on_step(trainer: Trainer) -> None:
        seen.append(next(trainer.batches(0))[0].shape)
        assert trainer.train_split.image_shape == (1, 40, 40)

    result = train(output=tmp_path / "run", data=photos, on_step=on_step, **settings)
    assert seen == [(8, 1, 32, 32)] * 2
    net = googlenet.load(result.model)
    assert (net.info.input.size, net.info.input.decoded_size) == (32, 40)
    assert googlenet.evaluate(net, precision="fp32").loss == pytest.approx(result.metrics["test"]["loss"], rel=1e-4)


def test_unreadable_images(photos: Path, tmp_path: Path) -> None:
    (photos / "boot" / "bad.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"bad\.png.*--skip-unreadable"):
        train(output=tmp_path / "run", data=str(photos), **SETTINGS)
    assert not (tmp_path / "run").exists()
    settings = {**SETTINGS, "max_steps": 1, "skip_unreadable": True}
    train(output=tmp_path / "run", model=small_net(classes=2, size=32), data=str(photos), **settings)
    assert "bad.png" in (tmp_path / "run" / "environment.json").read_text()


def test_a_folder_by_any_of_its_paths(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    settings: dict[str, Any] = {**SETTINGS, "data": photos.name, "max_steps": 2}
    net = small_net(classes=2, size=32)
    train(output=tmp_path / "run", model=net, **settings)
    assert googlenet.load_recipe(tmp_path / "run" / "recipe.toml").data == str(photos.resolve())
    assert train(output=tmp_path / "run", model=net, resume=True, **settings).metrics["step"] == 2
    recipe = tmp_path / "own.toml"
    recipe.write_text((tmp_path / "run" / "recipe.toml").read_text().replace(str(photos.resolve()), photos.name))
    assert resolve_recipe(recipe, {})[0].data == str(photos.resolve())


def test_what_was_chosen_for_a_folder_is_chosen_again_when_resumed(photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": str(photos), "max_steps": 2, "plots": False}
    net = small_net(classes=2, size=64)
    train("images", output=tmp_path / "run", model=net, **settings)
    assert train("images", output=tmp_path / "run", model=net, resume=True, **settings).metrics["step"] == 2

"""The fraction of a run in which only the classifiers learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import googlenet
from googlenet import Trainer, create_model, train
from googlenet.recipe import Recipe
from googlenet.training.optim import make_optimizer
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with auxiliary heads, whose last layers are classifiers too."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(create_model("torchvision", num_classes=7, in_channels=1).state_dict(), path)
    return path


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_while_frozen_only_the_classifiers_change(optimizer: str, weights: Path, tmp_path: Path) -> None:
    frozen: list[dict[str, torch.Tensor]] = []
    learning: list[set[str]] = []

    def look(trainer: Trainer) -> None:
        learning.append({name for name, p in trainer.net.named_parameters() if p.requires_grad})
        if trainer.step <= 2:
            net = trainer.net if trainer.ema is None else trainer.ema.module
            frozen.append({name: tensor.clone() for name, tensor in net.state_dict().items()})

    settings: dict[str, Any] = {**TINY, "optimizer": optimizer, "weight_decay": 0.1, "max_steps": 4, "batch_size": 8}
    settings |= {"image_size": 32, "freeze_fraction": 0.5, "ema_decay": 0.5 if optimizer == "muon" else 0.0}
    del settings["stem_stride"]
    result = train(output=tmp_path / "run", weights=str(weights), on_step=look, **settings)
    heads = ("fc.", "aux1.fc2.", "aux2.fc2.")
    everything = set(dict(googlenet.load(result.model).named_parameters()))
    assert learning == [{name for name in everything if name.startswith(heads)}] * 2 + [everything] * 2
    before, after = (googlenet.import_weights(weights).state_dict(), googlenet.load(result.model).state_dict())
    for name, tensor in before.items():
        if name.startswith(heads):
            assert not torch.equal(frozen[1][name], frozen[0][name])
        elif "num_batches" not in name:
            assert torch.equal(frozen[0][name], tensor) and torch.equal(frozen[1][name], tensor), name
            assert not torch.equal(after[name], tensor) or not tensor.numel(), name


def test_unfreezing_between_two_epochs(weights: Path, photos: Path, tmp_path: Path) -> None:
    learning: list[int] = []

    def look(trainer: Trainer) -> None:
        learning.append(sum(p.requires_grad for p in trainer.net.parameters()))

    settings: dict[str, Any] = {**TINY, "epochs": 2, "batch_size": 10, "image_size": 32, "freeze_fraction": 0.5}
    del settings["stem_stride"]
    result = train(output=tmp_path / "run", weights=str(weights), data=photos, on_step=look, **settings)
    assert result.metrics["epoch"] == 2
    assert learning == [6, 6, learning[-1], learning[-1]] and learning[-1] > 100


def test_a_resumed_run_is_frozen_to_the_same_step(weights: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def die(trainer: Trainer) -> None:
        if trainer.step == 3:
            raise Killed

    settings: dict[str, Any] = {**TINY, "max_steps": 6, "batch_size": 8, "image_size": 32, "checkpoint_every": 2}
    settings |= {"weights": str(weights), "freeze_fraction": 0.7}
    del settings["stem_stride"]
    whole = train(output=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        train(output=tmp_path / "run", on_step=die, **settings)
    resumed = train(output=tmp_path / "run", resume=True)
    expected = googlenet.load(whole.model).state_dict()
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in googlenet.load(resumed.model).state_dict().items()
    )


def test_backbone_lr_scale() -> None:
    net = create_model("bn", num_classes=4, in_channels=1)
    for recipe in (Recipe(), Recipe(weights="x"), Recipe(weights="x", optimizer="muon")):
        groups = make_optimizer(net, net.classifiers(), recipe).param_groups
        backbone = {id(p) for group in groups if group["backbone"] for p in group["params"]}
        expected = {id(p) for name, p in net.named_parameters() if not name.startswith("fc.")}
        assert backbone == (expected if recipe.weights else set())
        assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def test_the_backbone_learns_at_its_own_rate(weights: Path, tmp_path: Path) -> None:
    rates: list[set[tuple[bool, float]]] = []

    def look(trainer: Trainer) -> None:
        rates.append({(group["backbone"], group["lr"]) for group in trainer.optimizer.param_groups})

    settings: dict[str, Any] = {**TINY, "max_steps": 1, "batch_size": 8, "image_size": 32, "learning_rate": 0.01}
    settings |= {"weights": str(weights), "backbone_lr_scale": 0.25, "schedule": "constant"}
    del settings["stem_stride"]
    train(output=tmp_path / "run", on_step=look, **settings)
    assert rates == [{(True, 0.0025), (False, 0.01)}]

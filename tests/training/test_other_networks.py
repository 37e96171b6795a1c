"""The project's training takes any network: GoogLeNet's rivals go through it too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import googlenet
from googlenet import UserError
from googlenet.weights.model_file import read_weights
from googlenet.data.dataset import ImageDataset
from googlenet.recipe import Recipe
from googlenet.training.loop import fit
from googlenet.training.setup import prepare
from tests.conftest import QUICK


class Tiny(nn.Sequential):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels * 49, classes))


def tiny(_: Recipe, dataset: ImageDataset) -> nn.Module:
    return Tiny(dataset.channels, len(dataset.classes))


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_another_network_is_trained_judged_and_kept(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ema: float
) -> None:
    settings = {**QUICK, "learning_rate": 0.05, "epochs": 12, "validation": 0.2, "ema": ema}
    run = prepare(Recipe(**settings), tmp_path / "run", build=tiny)
    result = fit(run)
    assert "Tiny: 500 parameters" in capsys.readouterr().out
    assert result.metrics["chosen_by"] == "validation"
    assert result.metrics["test"]["accuracy"] > 0.45
    kept = read_weights(result.model)
    assert all(torch.equal(kept[name], tensor) for name, tensor in run.eval_model.state_dict().items())


def test_its_file_is_no_model_file(small_data: Path, tmp_path: Path) -> None:
    result = fit(prepare(Recipe(**{**QUICK, "max_steps": 2}), tmp_path / "run", build=tiny))
    with pytest.raises(UserError, match="says nothing about them"):
        googlenet.load(result.model)


def test_a_googlenet_that_is_brought_stays_as_it_is(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = googlenet.create_model("bn", num_classes=10, in_channels=1, stem_stride=2)
    before = net.conv1.conv.weight.detach().clone()
    run = prepare(Recipe(**{**QUICK, "max_steps": 1, "whiten": True}), tmp_path / "run", build=lambda *_: net)
    assert torch.equal(run.net.conv1.conv.weight, before)  # type: ignore[union-attr]
    assert not run.recipe.whiten
    fit(run)
    assert "whitened" not in capsys.readouterr().out


def test_the_same_seed_draws_the_same_weights(small_data: Path, tmp_path: Path) -> None:
    first, second = (prepare(Recipe(**QUICK), tmp_path / name, build=tiny).net.state_dict() for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)

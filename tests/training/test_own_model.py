"""`train(model=...)`: any network, a GoogLeNet as it was built, and one that was changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import googlenet
from googlenet import UserError, create_model, train
from googlenet.weights.model_file import read_weights
from tests.conftest import QUICK, TINY
from tests.training.helpers import assert_same_weights, small_net, weights

pytestmark = pytest.mark.usefixtures("small_data")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_any_network_is_trained_in_place_and_evaluated(
    ema_decay: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**QUICK, "learning_rate": 0.01, "epochs": 6, "validation": 0.2, "ema_decay": ema_decay}
    net = small_net()
    result = train(output=tmp_path / "run", model=net, **settings)
    out = capsys.readouterr().out
    assert "Sequential" in out and f"{sum(p.numel() for p in net.parameters()):,}" in out
    assert result.metrics["selected_by"] == "validation"
    assert result.metrics["test"]["accuracy"] > 0.5
    assert set(read_weights(result.model)) == set(net.state_dict())
    assert not torch.equal(net[0].weight, small_net()[0].weight)
    with pytest.raises(UserError, match="import"):  # its file does not describe the network
        googlenet.load(result.model)


def test_an_unmodified_googlenet_gives_a_complete_model_file(tmp_path: Path) -> None:
    net = create_model("bn", num_classes=10, in_channels=1, stem_stride=2)
    before = net.conv1.conv.weight.detach().clone()
    started = []
    settings = {**TINY, "max_steps": 1, "whiten": True, "variant": "bn", "learning_rate": 1e-9}
    train(output=tmp_path / "run", model=net, on_step=lambda trainer: started.append(trainer.net is net), **settings)
    assert started == [True]
    torch.testing.assert_close(net.conv1.conv.weight, before)  # whiten is for the recipe's network
    loaded = googlenet.load(tmp_path / "run")
    assert loaded.architecture == net.architecture
    assert torch.equal(loaded.fc.weight, net.fc.weight)


def _with_another_classifier(net: googlenet.GoogLeNet) -> None:
    net.fc = nn.Sequential(nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 10))


def _with_another_activation(net: googlenet.GoogLeNet) -> None:
    net.dropout = nn.Dropout(0.9)


@pytest.mark.parametrize("change", [_with_another_classifier, _with_another_activation])
def test_a_modified_googlenet_gives_weights_only(change: Any, tmp_path: Path) -> None:
    net = create_model("bn", num_classes=10, in_channels=1)
    change(net)
    result = train(output=tmp_path / "run", model=net, **{**TINY, "max_steps": 1})
    assert set(read_weights(result.model)) == set(net.state_dict())
    with pytest.raises(UserError, match="import"):
        googlenet.load(result.model)


def test_a_new_classifier_on_another_networks_layers(tmp_path: Path) -> None:
    """As one does it with torchvision's networks: `architecture` is what the network was built with."""
    net = create_model("bn", num_classes=1000, in_channels=1)
    net.fc = nn.Linear(1024, 10)
    assert train(output=tmp_path / "run", model=net, **{**TINY, "max_steps": 1}).metrics["step"] == 1


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (lambda: create_model("bn", num_classes=10, in_channels=3), r"\(N, 3, H, W\)"),
        (lambda: create_model("bn", num_classes=7, in_channels=1), "num_classes"),
        (lambda: create_model("torchvision", num_classes=10, in_channels=1), "size|small|pixels"),
        (lambda: small_net(channels=3), "in_channels"),
        (lambda: small_net(classes=3), "num_classes"),
        (lambda: small_net(size=64), "height"),
        (lambda: nn.Conv2d(1, 10, 3), "num_classes"),
    ],
)
def test_a_network_that_does_not_fit_the_data(model: Any, names: str, tmp_path: Path) -> None:
    settings = {**QUICK, **({"image_size": 2, "batch_size": 8} if "size" in names else {})}
    with pytest.raises(UserError, match=names):
        train(output=tmp_path / "run", model=model(), **settings)
    assert not (tmp_path / "run").exists()


def test_weights_and_model_exclude_each_other(tmp_path: Path) -> None:
    settings = {name: value for name, value in QUICK.items() if name != "stem_stride"}
    with pytest.raises(UserError, match=r"weights.*model"):
        train(output=tmp_path / "run", model=small_net(), weights="x.pth", **settings)


def test_resuming_with_the_same_network(tmp_path: Path) -> None:
    settings = {**QUICK, "checkpoint_every": 3}

    def die(trainer: googlenet.Trainer) -> None:
        if trainer.step == 8:
            raise Killed

    whole = train(output=tmp_path / "whole", model=small_net(), **settings)
    with pytest.raises(Killed):
        train(output=tmp_path / "run", model=small_net(), on_step=die, **settings)
    for other in (None, small_net(classes=10, size=28)[:1].append(nn.Flatten()).append(nn.Linear(8 * 14 * 14, 10))):
        with pytest.raises(UserError, match="model"):
            train(output=tmp_path / "run", model=other, resume=True)
    train(output=tmp_path / "run", model=small_net(), resume=True)
    assert_same_weights(whole.folder, tmp_path / "run")


def test_parameters_that_the_caller_froze_stay_frozen(tmp_path: Path) -> None:
    net = small_net()
    net[0].requires_grad_(False)
    before = net[0].weight.detach().clone()
    train(output=tmp_path / "run", model=net, **{**QUICK, "max_steps": 3, "weight_decay": 0.1})
    assert torch.equal(net[0].weight, before)
    assert not net[0].weight.requires_grad
    google = create_model("bn", num_classes=10, in_channels=1)
    google.conv1.requires_grad_(False)
    train(output=tmp_path / "google", model=google, **{**TINY, "max_steps": 1})
    assert not google.conv1.conv.weight.requires_grad


class _Recorder(nn.Module):
    """Remembers the precision that it computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dtype = small_net(), torch.float64

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        self.dtype = y.dtype
        return y


def test_a_model_can_be_used_after_training(tmp_path: Path) -> None:
    """Mixed precision and faster forms end with the run."""
    net = _Recorder()
    train(output=tmp_path / "run", model=net, **{**QUICK, "max_steps": 2, "precision": "bf16"})
    assert net.dtype == torch.bfloat16
    x = torch.rand(2, 1, 28, 28)
    copied = copy.deepcopy(net).eval()
    torch.testing.assert_close(net.eval()(x), copied(x))
    assert net.dtype == copied.dtype == torch.float32
    torch.save(net.state_dict(), tmp_path / "own.pt")
    other = nn.Sequential(_Recorder(), nn.Identity())
    with pytest.raises(UserError, match="model"):  # which is known after mixed precision began
        train(output=tmp_path / "run", model=other, resume=True)
    other.eval()(x)
    assert other[0].dtype == torch.float32


def test_hooks_and_types_of_every_layer_in_bf16(tmp_path: Path) -> None:
    net = create_model("bn", num_classes=10, in_channels=1)
    types = [type(module) for module in net.modules()]
    called: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(*_: object) -> None:
            called[name] = called.get(name, 0) + net.training

        return hook

    layers = {name: module for name, module in net.named_modules() if name}
    for name, module in layers.items():
        module.register_forward_hook(count(name))
    train(output=tmp_path / "run", model=net, **{**TINY, "max_steps": 2, "batch_size": 8, "precision": "bf16"})
    assert called == dict.fromkeys(layers, 2)
    assert [type(module) for module in net.modules()] == types


def test_the_network_of_the_recipe_depends_on_the_seed_alone(tmp_path: Path) -> None:
    for name in "ab":
        torch.manual_seed(ord(name))
        train(output=tmp_path / name, **{**TINY, "max_steps": 1, "batch_size": 8})
    assert torch.equal(weights(tmp_path / "a")["conv3.conv.weight"], weights(tmp_path / "b")["conv3.conv.weight"])

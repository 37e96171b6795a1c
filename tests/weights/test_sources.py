"""Weights of other projects, in their own files, give the outputs that their definitions give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import googlenet
from googlenet import UserError, create_model
from googlenet.data.fashion_mnist import CLASSES
from googlenet.weights.sources import CAFFE, D2L, D2L_BEFORE_2023, INCEPTION5H, MINDCV, OURS, TUTORIAL
from tests.weights import references
from tests.weights.references import D2LNetwork, frozen_graph, mindspore_checkpoint


def test_every_source_names_each_layer_of_the_network_once() -> None:
    plain = set(create_model("tutorial").state_dict())
    for source in (TUTORIAL, D2L, D2L_BEFORE_2023, CAFFE, MINDCV, INCEPTION5H):
        named = list(source.names.values())
        assert len(named) == len(set(named))
        assert plain <= set(named)
    assert OURS.names[OURS.key] == OURS.key


@pytest.mark.parametrize(("letter", "whole"), [("b", True), ("p", False)])
def test_d2l(letter: str, whole: bool, tmp_path: Path) -> None:
    """Chapter 8.4 of d2l.ai, saved as the class `GoogleNet` or as the `Sequential` of earlier editions."""
    torch.manual_seed(1)
    x = torch.rand(1, 1, 64, 64)
    theirs = D2LNetwork(letter).eval()
    theirs(x)  # lazy layers take their shapes from it
    torch.save((theirs if whole else theirs.net).state_dict(), tmp_path / "d2l.params")
    net = googlenet.import_weights(tmp_path / "d2l.params")
    assert (net.architecture.variant, net.info.classes, net.info.input.size) == ("tutorial", CLASSES, 96)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_lazy_layers_that_never_ran(tmp_path: Path) -> None:
    torch.save(D2LNetwork().state_dict(), tmp_path / "lazy.pt")
    with pytest.raises(UserError, match=r"lazy\.pt") as error:
        googlenet.import_weights(tmp_path / "lazy.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("slices", [1, 3])
def test_mindcv(slices: int, tmp_path: Path) -> None:
    torch.manual_seed(2)
    weights = references.mindcv_weights(7)
    optimizer = {"moments.conv1.conv.weight": torch.zeros(2), "learning_rate": torch.tensor(0.1)}
    (tmp_path / "googlenet.ckpt").write_bytes(mindspore_checkpoint(weights | optimizer, slices=slices))
    net = googlenet.import_weights(tmp_path / "googlenet.ckpt")
    spec = net.info.input
    assert (spec.size, spec.mean, spec.std) == (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (spec.resize, spec.crop_pct, len(net.info.classes)) == ("crop", 0.875, 7)
    with pytest.raises(UserError, match="32"):
        googlenet.import_weights(tmp_path / "googlenet.ckpt", size=112)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(net(x), references.mindcv_forward(weights, x), rtol=1e-4, atol=1e-5)
    googlenet.save(net, net.info, tmp_path / "model.safetensors")
    again = googlenet.load(tmp_path / "model.safetensors")
    assert again.architecture == net.architecture
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


def test_inception5h(tmp_path: Path) -> None:
    torch.manual_seed(3)
    weights = references.inception5h_weights(9)
    (tmp_path / "graph.pb").write_bytes(frozen_graph(weights))
    net = googlenet.import_weights(tmp_path / "graph.pb")
    white = net.info.input.prepare(torch.full((1, 3, 300, 300), 255, dtype=torch.uint8))
    assert white[0, :, 0, 0].tolist() == pytest.approx([255 - 117] * 3, abs=1e-3)
    x = torch.randint(-117, 139, (1, 3, 224, 224)).float()
    expected = references.inception5h_forward(weights, x)
    assert expected[0].std() > 1
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected[0], rtol=1e-4, atol=1e-3)
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        for ours, theirs in zip(net.train()(x), expected, strict=True):  # the heads, too
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    googlenet.save(net, net.info, tmp_path / "model.safetensors")
    assert googlenet.load(tmp_path / "model.safetensors").architecture == net.architecture

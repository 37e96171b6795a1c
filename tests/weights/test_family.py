"""Weights of the rest of the family: equal outputs, and what the file does not say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import googlenet
from googlenet import GoogLeNet, UserError
from googlenet.weights import convert
from googlenet.weights.catalog import CATALOG
from tests.weights.family_references import Weights, bn_inception, inception_v3, inception_v4


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> object:
    """`import_weights` of weights without a file: these are large."""

    def read(weights: Weights) -> GoogLeNet:
        monkeypatch.setattr(convert, "read_tensors", lambda _path, **_options: weights)
        return googlenet.import_weights("weights.pth")

    return read


@torch.no_grad()
def test_inception_v3_with_its_head(imported: object) -> None:
    x = torch.rand(1, 3, 300, 299) * 2 - 1
    weights, logits, head = inception_v3(x, 1000)
    net = imported({f"module.{name}": tensor for name, tensor in weights.items()})
    assert net.architecture.variant == "v3" and net.architecture.auxiliary and net.aux2 is None
    assert len(net.info.classes) == 1000 and net.info.classes[0] == "tench"
    spec = net.info.input
    assert (spec.size, spec.decoded_size, spec.mean, spec.std) == (299, 342, (0.5,) * 3, (0.5,) * 3)
    seen: list[torch.Tensor] = []
    net.inception6e.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    torch.testing.assert_close(net(x), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.aux1(seen[0]), head, rtol=1e-4, atol=1e-4)
    own = imported({name: tensor for name, tensor in net.state_dict().items() if not name.startswith("aux")})
    assert own.architecture.variant == "v3" and not own.architecture.auxiliary and own.info.input.size == 299


@torch.no_grad()
def test_inception_v4(imported: object) -> None:
    x = torch.rand(1, 3, 75, 90) * 2 - 1
    weights, logits = inception_v4(x, 5)
    net = imported(weights)
    assert (net.architecture.variant, net.info.input.size) == ("v4", 299)
    torch.testing.assert_close(net(x), logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bn_inception(tmp_path: Path) -> None:
    bgr = torch.rand(1, 3, 64, 96)
    weights, logits = bn_inception(bgr, 5)
    torch.save(weights, tmp_path / "v2.pth")
    net = googlenet.import_weights(tmp_path / "v2.pth")
    assert (net.architecture.variant, net.architecture.pool, net.info.input.size) == ("v2", "ceil", 224)
    torch.testing.assert_close(net(bgr.flip(1)), logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="multiple of 32"):
        net(torch.rand(1, 3, 40, 40))
    torch.save(net.state_dict(), tmp_path / "own.pth")
    assert googlenet.import_weights(tmp_path / "own.pth").architecture.variant == "v2"
    with pytest.raises(UserError, match="v3"):
        googlenet.import_weights(tmp_path / "own.pth", variant="v3")


def test_the_published_file() -> None:
    entry = CATALOG["imagenet-v3"]
    assert entry.url.endswith("inception_v3_google-0cc3c7bd.pth") and entry.sha256 == "0cc3c7bd"
    assert entry.top1 == 0.77294

from __future__ import annotations

import pytest
import torch
from torch import nn

from googlenet import GoogLeNet, create_model
from googlenet.inference.backends import torch_backend
from googlenet.model.fuse import folded


def lived_in(variant: str, **changes: object) -> GoogLeNet:
    """A network whose normalizations are not those that it was born with."""
    torch.manual_seed(0)
    net = create_model(variant, num_classes=5, in_channels=3, **changes).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


@pytest.mark.parametrize("variant", ["bn", "torchvision"])
def test_folding_the_normalization_changes_no_answer(variant: str) -> None:
    net, images = lived_in(variant), torch.rand(2, 3, 96, 96)
    ready = folded(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    with torch.inference_mode():
        expected = net(images)
        assert torch.allclose(ready(images), expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_what_predict_computes_is_what_the_network_does(precision: str, tolerance: float) -> None:
    net, images = lived_in("bn"), torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        expected = net(images)
    answers = torch_backend(net, device="cpu", precision=precision)(images)
    assert (answers - expected).abs().max() < tolerance * expected.abs().max()

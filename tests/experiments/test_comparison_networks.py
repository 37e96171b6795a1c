from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.comparison.networks import BASELINES, NiN, Residual, SqueezeNet

OTHERS = ("alexnet", "nin", "vgg-11", "vgg-16", "resnet-18", "squeezenet-1.1", "mobilenet-v2")

# Parameters, and billions of multiply-adds of one image of 3x224x224, as torchvision publishes them with its weights.
# NiN's are counted by hand from its author's definition.
PUBLISHED = {
    "alexnet": (61_100_840, 0.714),
    "nin": (7_595_176, 1.100),
    "vgg-11": (132_863_336, 7.609),
    "vgg-16": (138_357_544, 15.470),
    "resnet-18": (11_689_512, 1.814),
    "squeezenet-1.1": (1_235_496, 0.349),
    "mobilenet-v2": (3_504_872, 0.301),
}


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        net = BASELINES[name].build(3, 1000).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = net(torch.empty(2, 3, 224, 224))
    parameters, billions = PUBLISHED[name]
    assert logits.shape == (2, 1000)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert round(counter.get_total_flops() / 2 / 2 / 1e9, 3) == billions


@pytest.mark.parametrize("name", ["nin", "resnet-18", "squeezenet-1.1", "mobilenet-v2"])
def test_the_gradient_reaches_every_weight(name: str) -> None:
    torch.manual_seed(0)
    net = BASELINES[name].build(1, 4)
    loss = nn.functional.cross_entropy(net(torch.randn(8, 1, 64, 64)), torch.arange(8) % 4)
    loss.backward()
    assert loss.isfinite()
    # The bias of some layers may get none, if every ReLU after it is 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters() if parameter.ndim > 1)


def test_a_residual_block_of_zeros_returns_its_input() -> None:
    block = Residual(4, 4, stride=1).eval()
    for parameter in block.body.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("make", [NiN, SqueezeNet])
def test_logits_after_a_relu_start_near_0(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    logits = make(3, 10).eval()(torch.randn(2, 3, 64, 64))
    assert logits.min() >= 0 and logits.max() < 1

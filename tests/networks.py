"""Networks for tests, as if they came from model files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from googlenet import GoogLeNet, ImageSplit, InputSpec, ModelInfo, create_model
from googlenet.model.architecture import VARIANTS
from googlenet.model.layers import Convolution
from googlenet.model.tables import stride_of

GOOGLENETS = [name for name, architecture in VARIANTS.items() if architecture.version == 1]
"""The variants of version 1; `tests/model/test_family.py` is about the others."""


def with_info(net: GoogLeNet, classes: tuple[str, ...], size: int, **fields: Any) -> GoogLeNet:
    """The network in eval mode with an `info`. Pixels in 0..1 are its input; `fields` are of InputSpec or ModelInfo."""
    channels = net.architecture.in_channels
    rule = {name: fields.pop(name) for name in ("resize", "crop_pct") if name in fields}
    spec = InputSpec(channels, size, (0.0,) * channels, (1.0,) * channels, **rule)
    net.info = ModelInfo(net.architecture, classes, spec, **fields)
    return net.eval()


def whole(num_classes: int, in_channels: int) -> GoogLeNet:
    return create_model("bn", num_classes=num_classes, in_channels=in_channels)


def thin(
    num_classes: int, in_channels: int, variant: str = "bn", keep: tuple[str, ...] = (), **changes: Any
) -> GoogLeNet:
    """A network with one Inception block, the last, and those to keep; the others are 1x1 convolutions: quick."""
    net = create_model(variant, num_classes=num_classes, in_channels=in_channels, **changes)
    for block in net.architecture.blocks[:-1]:
        if block.name not in keep:
            channels = block.in_channels, block.out_channels
            convolution = Convolution(*channels, 1, stride_of(block), batch_norm_epsilon=1e-3)
            setattr(net, f"inception{block.name}", convolution)
    return net


def one_block(num_classes: int, in_channels: int) -> GoogLeNet:
    """Quicker still: one 1x1 convolution for all blocks but the last."""
    net = thin(num_classes, in_channels)
    blocks = net.architecture.blocks
    for block in blocks[:-1]:
        setattr(net, f"inception{block.name}", nn.Identity())
    channels = blocks[0].in_channels, blocks[-1].in_channels
    net.inception3a = Convolution(*channels, 1, batch_norm_epsilon=1e-3)  # type: ignore[assignment]
    return net


def tiny(num_classes: int, in_channels: int) -> GoogLeNet:
    """The first convolution of a `bn` network and a classifier: where only what is around a network matters."""
    net = whole(num_classes, in_channels)
    for name, _ in net.named_children():
        if name.startswith(("conv", "maxpool", "inception")) and name != "conv1":
            setattr(net, name, nn.Identity())
    net.fc = nn.Linear(net.conv1.conv.out_channels, num_classes)
    return net


def fitted(
    split: ImageSplit,
    classes: tuple[str, ...],
    size: int = 28,
    *,
    create: Callable[[int, int], GoogLeNet] = whole,
    **fields: Any,
) -> GoogLeNet:
    """A network of random layers whose classifier is fitted to a split by least squares: right for most images."""
    torch.manual_seed(0)
    net = with_info(create(len(classes), split.channels), classes, size, **fields)
    with torch.no_grad():
        x = net.info.input.prepare(split.images)
        net.train()(x)  # for the statistics of the batch norms
        features = net.eval().avgpool(net.forward_features(x)).double()
        targets = 4.0 * F.one_hot(split.labels, len(classes)).double()
        inputs = torch.cat([features, torch.ones(len(features), 1).double()], dim=1)
        penalty = 1e-2 * features.square().mean() * len(features) * torch.eye(inputs.shape[1]).double()
        weights = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets).float()
        net.fc.weight.copy_(weights[:-1].T)
        net.fc.bias.copy_(weights[-1])
    return net

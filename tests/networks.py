"""Networks for tests, as if they came from model files."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from googlenet import GoogLeNet, ImageSplit, InputSpec, ModelInfo, create_model


def with_info(net: GoogLeNet, classes: tuple[str, ...], size: int, **fields: Any) -> GoogLeNet:
    """The network in eval mode with an `info`. Pixels in 0..1 are its input; `fields` are of InputSpec or ModelInfo."""
    channels = net.architecture.in_channels
    rule = {name: fields.pop(name) for name in ("resize", "crop_pct") if name in fields}
    spec = InputSpec(channels, size, (0.0,) * channels, (1.0,) * channels, **rule)
    net.info = ModelInfo(net.architecture, classes, spec, **fields)
    return net.eval()


def fitted(split: ImageSplit, classes: tuple[str, ...], size: int = 28, **fields: Any) -> GoogLeNet:
    """A `bn` network of random layers whose classifier is fitted to a split by least squares: right for most images."""
    torch.manual_seed(0)
    net = create_model("bn", num_classes=len(classes), in_channels=split.channels)
    with_info(net, classes, size, **fields)
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

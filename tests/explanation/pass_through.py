"""A network whose activations are known: it passes two channels of its input to the classifier, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from googlenet import GoogLeNet, Inception, create_model
from tests.networks import with_info

CLASSES = ("first channel", "second channel", "neither")


def pass_through(variant: str, size: int, **fields: Any) -> GoogLeNet:
    """Channels 0 and 1 of the input pass through the 1x1 branches, unchanged but for the epsilon of batch norm, LRN and
    the pools. The mean of channel 0 is the logit of the first class, that of channel 1 of the second."""
    net = create_model(variant, num_classes=len(CLASSES), in_channels=3)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.fill_(1 if name.endswith("bn.weight") else 0)
        branches = [module.branch1 for module in net.modules() if isinstance(module, Inception)]
        for layer in (net.conv1, net.conv2, net.conv3, *branches):
            connect(layer.conv, 0, 0)
            connect(layer.conv, 1, 1)
        net.fc.weight[0, 0] = net.fc.weight[1, 1] = 1
    return with_info(net, CLASSES, size, **fields)


def connect(convolution: nn.Conv2d, source: int, target: int, weight: float = 1.0) -> None:
    """Make output channel `target` the input channel `source`, times `weight`."""
    middle = convolution.kernel_size[0] // 2
    with torch.no_grad():
        convolution.weight[target, source, middle, middle] = weight

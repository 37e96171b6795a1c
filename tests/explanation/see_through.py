"""A network whose every number is known: it carries two channels of its input to the classifier and does no more."""

from __future__ import annotations

import torch
from torch import nn

from googlenet import GoogLeNet, Inception, create_model
from googlenet.weights.model_file import ModelInfo
from googlenet.data.transforms import InputSpec

CLASSES = ("first channel", "second channel", "neither")


def described(net: GoogLeNet, classes: tuple[str, ...], size: int, **rule: object) -> GoogLeNet:
    """The network as though it came out of a model file; it sees pixels as they are, from 0 to 1."""
    channels = net.architecture.in_channels
    spec = InputSpec(channels, size, (0.0,) * channels, (1.0,) * channels, **rule)
    net.info = ModelInfo(net.architecture, classes, spec)
    return net.eval()


def see_through(variant: str, size: int, **rule: object) -> GoogLeNet:
    """Channels 0 and 1 of the input go up through the 1x1 branches, unchanged but for batch norm's epsilon, LRN and the
    pools; the mean of channel 0 is the first class's logit, that of channel 1 the second's.
    """
    net = create_model(variant, num_classes=len(CLASSES), in_channels=3)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.fill_(1 if name.endswith("bn.weight") else 0)
        for module in (
            net.conv1,
            net.conv2,
            net.conv3,
            *(m.branch1 for m in net.modules() if isinstance(m, Inception)),
        ):
            carry(module.conv, 0, 0)
            carry(module.conv, 1, 1)
        net.fc.weight[0, 0] = net.fc.weight[1, 1] = 1
    return described(net, CLASSES, size, **rule)


def carry(convolution: nn.Conv2d, source: int, target: int, weight: float = 1.0) -> None:
    """Makes output channel `target` the input channel `source`, times `weight`."""
    middle = convolution.kernel_size[0] // 2
    with torch.no_grad():
        convolution.weight[target, source, middle, middle] = weight

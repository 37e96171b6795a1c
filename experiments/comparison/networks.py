"""The networks that GoogLeNet is compared with, each in a few lines from its paper, and GoogLeNet's own variants.

All map (N, in_channels, H, W) to (N, num_classes) logits. Weights are drawn as in He et al. 2015, so that each network
can be trained from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import googlenet


def initialize(net: nn.Module) -> None:
    """Draw convolutions and fully connected layers with variance 2 / fan_in, biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    """Convolution with bias and ReLU."""
    return [nn.Conv2d(channels_in, channels_out, kernel, stride, padding), nn.ReLU(inplace=True)]


def _normalized(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: type[nn.ReLU] | type[nn.ReLU6] | None = nn.ReLU,
) -> list[nn.Module]:
    """Convolution, batch norm and, if given, activation; stride 1 keeps the size."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), *([activation(inplace=True)] if activation else [])]


def _classifier(in_features: int, num_classes: int) -> list[nn.Module]:
    """The two wide hidden layers of AlexNet and VGG, with dropout between, and the layer that makes logits."""
    layers: list[nn.Module] = [nn.Flatten()]
    for features in (in_features, 4096):
        layers += [nn.Linear(features, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return [*layers, nn.Linear(4096, num_classes)]


def _draw_last_small(net: nn.Sequential) -> None:
    """Weights near 0 for a last convolution with a ReLU after it: logits that fall below 0 early do not recover."""
    *_, last = (module for module in net if isinstance(module, nn.Conv2d))
    nn.init.normal_(last.weight, std=0.01)


class AlexNet(nn.Sequential):
    """Krizhevsky 2014, https://arxiv.org/abs/1404.5997: the network of 2012 in one column, without normalization."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(
            *_convolution(in_channels, 64, 11, stride=4, padding=2),
            nn.MaxPool2d(3, 2),
            *_convolution(64, 192, 5, padding=2),
            nn.MaxPool2d(3, 2),
            *_convolution(192, 384, 3, padding=1),
            *_convolution(384, 256, 3, padding=1),
            *_convolution(256, 256, 3, padding=1),
            nn.MaxPool2d(3, 2),
            nn.AdaptiveAvgPool2d(6),  # leaves 224x224 as it is, and lets other sizes in
            *_classifier(256 * 6 * 6, num_classes),
        )
        initialize(self)


class NiN(nn.Sequential):
    """Lin et al. 2013, https://arxiv.org/abs/1312.4400, as its author built it for ImageNet in Caffe."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        def perceptron(
            channels_in: int, widths: tuple[int, int, int], kernel: int, stride: int, padding: int
        ) -> list[nn.Module]:
            first, second, third = widths
            return [
                *_convolution(channels_in, first, kernel, stride, padding),
                *_convolution(first, second, 1),
                *_convolution(second, third, 1),
            ]

        super().__init__(
            *perceptron(in_channels, (96, 96, 96), 11, stride=4, padding=0),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *perceptron(96, (256, 256, 256), 5, stride=1, padding=2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *perceptron(256, (384, 384, 384), 3, stride=1, padding=1),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Dropout(0.5),
            *perceptron(384, (1024, 1024, num_classes), 3, stride=1, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        initialize(self)
        _draw_last_small(self)


class VGG(nn.Sequential):
    """Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556, Table 1.

    Args:
        in_channels: channels of the input.
        num_classes: classes.
        depths: 3x3 convolutions in each of the five stages: (1, 1, 2, 2, 2) is column A with 11 weight layers,
            (2, 2, 3, 3, 3) column D with 16.
    """

    def __init__(self, in_channels: int, num_classes: int, depths: tuple[int, ...]) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                layers += _convolution(channels, width, 3, padding=1)
                channels = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(7), *_classifier(512 * 7 * 7, num_classes))
        initialize(self)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normalized(in_channels, out_channels, 3, stride),
            *_normalized(out_channels, out_channels, 3, activation=None),
        )
        keeps_shape = stride == 1 and in_channels == out_channels
        projection = nn.Sequential(*_normalized(in_channels, out_channels, 1, stride, activation=None))
        self.shortcut = nn.Identity() if keeps_shape else projection

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.body(x) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """He et al. 2015, https://arxiv.org/abs/1512.03385, Table 1, with projections where the shape changes."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        stages: list[nn.Module] = []
        channels = 64
        for width in (64, 128, 256, 512):
            stages += [Residual(channels, width, stride=1 if width == 64 else 2), Residual(width, width, stride=1)]
            channels = width
        super().__init__(
            *_normalized(in_channels, 64, 7, stride=2),
            nn.MaxPool2d(3, 2, padding=1),
            *stages,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, num_classes),
        )
        initialize(self)


class Fire(nn.Module):
    """1x1 to fewer channels, then 1x1 and 3x3 side by side: (N, C, H, W) -> (N, 2 * expanded, H, W)."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(*_convolution(in_channels, squeezed, 1))
        self.expand1 = nn.Sequential(*_convolution(squeezed, expanded, 1))
        self.expand3 = nn.Sequential(*_convolution(squeezed, expanded, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat((self.expand1(x), self.expand3(x)), dim=1)


class SqueezeNet(nn.Sequential):
    """Iandola et al. 2016, https://arxiv.org/abs/1602.07360, in the authors' release 1.1, which pools earlier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(
            *_convolution(in_channels, 64, 3, stride=2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
            nn.Dropout(0.5),
            *_convolution(512, num_classes, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        initialize(self)
        _draw_last_small(self)


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 on each channel, 1x1 to few: (N, C_in, H, W) -> (N, C_out, H', W')."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = _normalized(in_channels, hidden, 1, activation=nn.ReLU6) if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *_normalized(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6),
            *_normalized(hidden, out_channels, 1, activation=None),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.has_shortcut else self.body(x)


class MobileNetV2(nn.Sequential):
    """Sandler et al. 2018, https://arxiv.org/abs/1801.04381, Table 2, at width 1."""

    # Expansion, channels, blocks, stride of the first one
    _TABLE_2 = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, in_channels: int, num_classes: int) -> None:
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, width, count, stride in self._TABLE_2:
            for number in range(count):
                blocks.append(InvertedResidual(channels, width, 1 if number else stride, expansion))
                channels = width
        super().__init__(
            *_normalized(in_channels, 32, 3, stride=2, activation=nn.ReLU6),
            *blocks,
            *_normalized(channels, 1280, 1, activation=nn.ReLU6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(1280, num_classes),
        )
        initialize(self)


@dataclass(frozen=True)
class Baseline:
    """One network of the comparison."""

    name: str
    label: str
    build: Callable[[int, int], nn.Module]
    """Makes it, with fresh weights, for a number of input channels and one of classes."""
    imagenet_accuracy: float | None
    """Share of the 50,000 validation images that published weights classify correctly, from one crop of 224x224."""
    learning_rate: float
    """The best of 3e-4, 1e-3 and 3e-3 on Fashion-MNIST after 50 to 80 steps."""


def _googlenet(variant: str, in_channels: int, num_classes: int) -> nn.Module:
    """The variant without auxiliary heads, which cost nothing after training."""
    return googlenet.create_model(variant, in_channels=in_channels, num_classes=num_classes, auxiliary=False)


# Accuracies are those of torchvision's first weights (IMAGENET1K_V1), except `paper`, the model of BVLC's Caffe, and
# `nin`, its author's in Caffe's model zoo. There are no published weights of `bn` and `tutorial`.
_ALL = (
    Baseline("bn", "GoogLeNet bn", partial(_googlenet, "bn"), None, 3e-3),
    Baseline("tutorial", "GoogLeNet tutorial", partial(_googlenet, "tutorial"), None, 1e-3),
    Baseline("paper", "GoogLeNet paper", partial(_googlenet, "paper"), 0.687, 1e-3),
    Baseline("torchvision", "GoogLeNet torchvision", partial(_googlenet, "torchvision"), 0.69778, 3e-4),
    Baseline("alexnet", "AlexNet", AlexNet, 0.56522, 1e-3),
    Baseline("nin", "NiN", NiN, 0.5936, 3e-4),
    Baseline("vgg-11", "VGG-11", partial(VGG, depths=(1, 1, 2, 2, 2)), 0.6902, 3e-4),
    # Its learning rate was not tuned but taken from VGG-11
    Baseline("vgg-16", "VGG-16", partial(VGG, depths=(2, 2, 3, 3, 3)), 0.71592, 3e-4),
    Baseline("resnet-18", "ResNet-18", ResNet18, 0.69758, 1e-3),
    Baseline("squeezenet-1.1", "SqueezeNet 1.1", SqueezeNet, 0.58178, 1e-3),
    Baseline("mobilenet-v2", "MobileNetV2", MobileNetV2, 0.71878, 3e-3),
)
BASELINES = {baseline.name: baseline for baseline in _ALL}


def choose(names: Sequence[str]) -> list[Baseline]:
    """Those named, in that order; all if none is. Raises `UserError` for an unknown name."""
    for name in names:
        if name not in BASELINES:
            raise googlenet.UserError(f"there is no network {name!r} to compare; there are: {', '.join(BASELINES)}")
    return [BASELINES[name] for name in dict.fromkeys(names or BASELINES)]

"""Who is compared with whom: GoogLeNet's variants and its rivals, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from experiments.comparison.networks import VGG, AlexNet, MobileNetV2, NiN, ResNet18, SqueezeNet
from googlenet.errors import UserError
from googlenet.model.googlenet import create_model


@dataclass(frozen=True)
class Baseline:
    """One network of a comparison."""

    name: str
    label: str
    build: Callable[[int, int], nn.Module]
    """Makes it, with fresh weights, of a count of input channels and one of classes."""
    imagenet_accuracy: float | None
    """Share of the 50,000 validation images that published weights classify rightly, from one crop of 224x224."""
    learning_rate: float
    """The one of 3e-4, 1e-3 and 3e-3 with which it learned most of Fashion-MNIST in 50 to 80 steps."""


def _googlenet(variant: str, in_channels: int, num_classes: int) -> nn.Module:
    """The variant without auxiliary heads, which cost nothing once it is trained."""
    return create_model(variant, in_channels=in_channels, num_classes=num_classes, auxiliary=False)


# Accuracies are those of torchvision's first weights (IMAGENET1K_V1), but for `paper`, which is the model of BVLC's
# Caffe, and `nin`, which is its author's in Caffe's model zoo. No weights of `bn` and `tutorial` are published.
_ALL = (
    Baseline("bn", "GoogLeNet bn", partial(_googlenet, "bn"), None, 3e-3),
    Baseline("tutorial", "GoogLeNet tutorial", partial(_googlenet, "tutorial"), None, 1e-3),
    Baseline("paper", "GoogLeNet paper", partial(_googlenet, "paper"), 0.687, 1e-3),
    Baseline("torchvision", "GoogLeNet torchvision", partial(_googlenet, "torchvision"), 0.69778, 3e-4),
    Baseline("alexnet", "AlexNet", AlexNet, 0.56522, 1e-3),
    Baseline("nin", "NiN", NiN, 0.5936, 3e-4),
    Baseline("vgg-11", "VGG-11", partial(VGG, depths=(1, 1, 2, 2, 2)), 0.6902, 3e-4),
    # Its rate was not tried out, but taken from VGG-11
    Baseline("vgg-16", "VGG-16", partial(VGG, depths=(2, 2, 3, 3, 3)), 0.71592, 3e-4),
    Baseline("resnet-18", "ResNet-18", ResNet18, 0.69758, 1e-3),
    Baseline("squeezenet-1.1", "SqueezeNet 1.1", SqueezeNet, 0.58178, 1e-3),
    Baseline("mobilenet-v2", "MobileNetV2", MobileNetV2, 0.71878, 3e-3),
)
BASELINES = {contender.name: contender for contender in _ALL}


def contenders(names: Sequence[str]) -> list[Baseline]:
    """Those named, in that order; all where none is named. Raises `UserError` for a name that nobody has."""
    for name in names:
        if name not in BASELINES:
            raise UserError(f"there is no network {name!r} to compare; there are: {', '.join(BASELINES)}")
    return [BASELINES[name] for name in dict.fromkeys(names or BASELINES)]

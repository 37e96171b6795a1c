"""Who is compared with whom: GoogLeNet's variants and its rivals, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from googlenet.errors import UserError
from googlenet.network.googlenet import create_model
from googlenet.network.rivals import VGG, AlexNet, MobileNetV2, NiN, ResNet18, SqueezeNet


@dataclass(frozen=True)
class Contender:
    """One network of a comparison."""

    name: str
    label: str
    build: Callable[[int, int], nn.Module]
    """Makes it, with fresh weights, of a count of input channels and one of classes."""
    imagenet_accuracy: float | None
    """Share of the 50,000 validation images that published weights classify rightly, from one crop of 224x224."""
    learning_rate: float
    """The one of 3e-4, 1e-3 and 3e-3 with which it learnt most of Fashion-MNIST in 50 to 80 steps."""


def _googlenet(variant: str, in_channels: int, num_classes: int) -> nn.Module:
    """The variant without auxiliary heads, which cost nothing once it is trained."""
    return create_model(variant, in_channels=in_channels, num_classes=num_classes, auxiliary=False)


# Accuracies are those of torchvision's first weights (IMAGENET1K_V1), but for `paper`, which is the model of BVLC's
# Caffe, and `nin`, which is its author's in Caffe's model zoo. No weights of `bn` and `tutorial` are published.
_ALL = (
    Contender("bn", "GoogLeNet bn", partial(_googlenet, "bn"), None, 3e-3),
    Contender("tutorial", "GoogLeNet tutorial", partial(_googlenet, "tutorial"), None, 1e-3),
    Contender("paper", "GoogLeNet paper", partial(_googlenet, "paper"), 0.687, 1e-3),
    Contender("torchvision", "GoogLeNet torchvision", partial(_googlenet, "torchvision"), 0.69778, 3e-4),
    Contender("alexnet", "AlexNet", AlexNet, 0.56522, 1e-3),
    Contender("nin", "NiN", NiN, 0.5936, 3e-4),
    Contender("vgg-11", "VGG-11", partial(VGG, depths=(1, 1, 2, 2, 2)), 0.6902, 3e-4),
    # Its rate was not tried out, but taken from VGG-11
    Contender("vgg-16", "VGG-16", partial(VGG, depths=(2, 2, 3, 3, 3)), 0.71592, 3e-4),
    Contender("resnet-18", "ResNet-18", ResNet18, 0.69758, 1e-3),
    Contender("squeezenet-1.1", "SqueezeNet 1.1", SqueezeNet, 0.58178, 1e-3),
    Contender("mobilenet-v2", "MobileNetV2", MobileNetV2, 0.71878, 3e-3),
)
CONTENDERS = {contender.name: contender for contender in _ALL}


def contenders(names: Sequence[str]) -> list[Contender]:
    """Those named, in that order; all where none is named. Raises `UserError` for a name that nobody has."""
    for name in names:
        if name not in CONTENDERS:
            raise UserError(f"there is no network {name!r} to compare; there are: {', '.join(CONTENDERS)}")
    return [CONTENDERS[name] for name in dict.fromkeys(names or CONTENDERS)]

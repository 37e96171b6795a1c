"""The tutorial's network with one thing changed, and what of an image reaches each of its layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import googlenet

IMAGES = 16
"""Images that a network is probed with."""


@dataclass(frozen=True)
class Network:
    """How a network differs from the tutorial's."""

    initialization: Literal["default", "he", "xavier", "truncated-normal", "orthogonal"] = "default"
    normalization: Literal["none", "lrn", "batch"] = "none"
    auxiliary: bool = False
    blocks: int = 9
    """Inception blocks, counted from 3a."""
    head: Literal["average", "flattened", "alexnet", "average-wide"] = "average"
    """What is between the last maps and the classifier: their average; nothing; nothing and two fully connected layers;
    the average and two layers wide enough for as many parameters."""


def build(network: Network, image_size: int, head_width: int, seed: int) -> googlenet.GoogLeNet:
    """The network for gray images of `image_size` pixels and 10 classes, with fresh weights drawn from `seed`.

    Args:
        network: what differs from the tutorial's.
        image_size: height and width in pixels. Heads that do not average fit this size only.
        head_width: of AlexNet's two fully connected layers.
        seed: of torch's generator.

    Raises:
        UserError: if the images are too small for the network.
    """
    torch.manual_seed(seed)
    net = googlenet.create_model(
        "tutorial",
        num_classes=10,
        in_channels=1,
        initialization=network.initialization,
        normalization=network.normalization,
        auxiliary=network.auxiliary,
    )
    net.check_size(image_size, image_size)
    _remove_blocks(net, network.blocks)
    with torch.no_grad():
        channels, side, _ = net.eval().forward_features(torch.zeros(1, 1, image_size, image_size))[0].shape
    net.train()
    flattened = network.head in ("flattened", "alexnet")
    if flattened:
        net.avgpool = nn.Flatten()  # type: ignore[assignment]
    features = channels * side**2 if flattened else channels
    if network.head in ("alexnet", "average-wide"):
        width = head_width if flattened else equal_width(side, head_width)
        hidden = nn.Sequential(
            _linear(features, width, network.initialization),
            nn.ReLU(),
            nn.Dropout(net.architecture.dropout),
            _linear(width, width, network.initialization),
            nn.ReLU(),
        )
        net.fc = nn.Sequential(hidden, _linear(width, 10, network.initialization))
    elif features != 1024:
        net.fc = _linear(features, 10, network.initialization)
    return net


def _remove_blocks(net: nn.Module, count: int) -> None:
    """Leave the first `count` Inception blocks; a pool that no block follows goes too."""
    blocks = 0
    for name, child in net.named_children():
        blocks += isinstance(child, googlenet.Inception)
        last_block_passed = blocks > count or (blocks == count and not isinstance(child, googlenet.Inception))
        if last_block_passed and isinstance(child, googlenet.Inception | nn.MaxPool2d):
            setattr(net, name, nn.Identity())


def _linear(in_features: int, out_features: int, initialization: str) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    if initialization == "he":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    elif initialization != "default":
        raise NotImplementedError(f"no head is combined with initialization {initialization}")
    return layer


def equal_width(side: int, width: int) -> int:
    """The width at which a head on averaged maps has as many parameters as one of `width` on maps of `side` x `side`.

    Both are two fully connected layers and a classifier for 10 classes, on 1024 maps.
    """
    parameters = 1024 * side**2 * width + width**2 + 12 * width
    return round((math.sqrt((1024 + 12) ** 2 + 4 * parameters) - (1024 + 12)) / 2)


@dataclass(frozen=True)
class LayerProbe:
    """One layer of a network at one moment."""

    layer: str
    variance: float
    """Of all its outputs, over images, channels and positions."""
    spread: float
    """Standard deviation over the images of each output, as a root mean square over the outputs."""
    gradient: float
    """Root mean square of the loss's gradient with respect to the layer's kernels."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(net: nn.Module, spec: googlenet.InputSpec, split: googlenet.ImageSplit) -> list[LayerProbe]:
    """Pass the first training images forward and back through a copy of the network; from the stem to the classifier.

    In training mode, in which batch norm uses the batch's own statistics, but without dropout; in float64, so that
    small values are not lost in rounding.
    """
    net = copy.deepcopy(net).cpu().double().train()
    net.zero_grad()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    outputs: dict[str, Tensor] = {}
    layers = dict(_layers(net))
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output))
    images, labels = split.__getitems__(range(IMAGES))
    output = net(spec.prepare(images).double())
    F.cross_entropy(output[0] if isinstance(output, tuple) else output, labels).backward()
    return [_probe_of(name, layers[name], output.detach()) for name, output in outputs.items()]


def _layers(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children with weights, without auxiliary heads; the fully connected layers before the classifier count as
    one layer, `hidden`."""
    for name, child in net.named_children():
        if name == "fc" and isinstance(child, nn.Sequential):
            yield from (("hidden", child[0]), ("fc", child[1]))
        elif any(True for _ in child.parameters()) and not name.startswith("aux"):
            yield name, child


def _probe_of(name: str, layer: nn.Module, output: Tensor) -> LayerProbe:
    kernels = [p.grad.flatten() for p in layer.parameters() if p.grad is not None and p.ndim > 1]
    return LayerProbe(
        name,
        variance=float(output.var()),
        spread=float(output.var(dim=0).mean().sqrt()),
        gradient=float(torch.cat(kernels).square().mean().sqrt()),
    )

"""Feature maps instead of logits: a network without its classifier, with timm's interface (`features_only`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from googlenet.errors import UserError
from googlenet.model.architecture import Architecture
from googlenet.model.googlenet import GoogLeNet
from googlenet.model.tables import Block, ResponseNorm, channels_after, stride_of


class Level(NamedTuple):
    """One of the feature maps."""

    module: str  # The layer it comes from
    num_chs: int
    reduction: int  # Pixels of the input per cell of the map, along one side


def levels(architecture: Architecture) -> tuple[Level, ...]:
    """The last layer before each reduction of the size, and the last of all: five in every version."""
    found: list[Level] = []
    name, channels, reduction = "", architecture.in_channels, 1
    for next_name, layer in architecture.layers.items():
        if isinstance(layer, ResponseNorm):
            continue  # the maps of the convolution before it are the level's
        if name and stride_of(layer) > 1:
            found.append(Level(name, channels, reduction))
        name, channels, reduction = next_name, channels_after(layer, channels), reduction * stride_of(layer)
    return (*found, Level(name, channels, reduction))


class FeatureInfo(tuple[Level, ...]):
    """What a network with `features_only` returns, map by map; the methods of timm's class of this name."""

    def channels(self) -> list[int]:
        return [level.num_chs for level in self]

    def reduction(self) -> list[int]:
        return [level.reduction for level in self]

    def module_name(self) -> list[str]:
        return [level.module for level in self]


class FeatureNet(nn.Module):
    """The layers of a network up to the last map asked for: (N, in_channels, H, W) -> a list of maps (N, C, h, w).

    It shares these layers with the network, and its weights have the same names.
    """

    def __init__(self, net: GoogLeNet, out_indices: Sequence[int] = (0, 1, 2, 3, 4)) -> None:
        """`out_indices`: which of the five levels, whose sides are a half to a 32nd of the input's at a stem stride
        of 2. Raises `UserError` for others."""
        super().__init__()
        every = levels(net.architecture)
        if not out_indices or any(not -len(every) <= index < len(every) for index in out_indices):
            raise UserError(f"out_indices must be from 0 to {len(every) - 1}, not {tuple(out_indices)}")
        self.feature_info = FeatureInfo(every[index] for index in sorted({index % len(every) for index in out_indices}))
        for name, layer in layers_until(net, self.feature_info[-1].module):
            self.add_module(name, layer)
        self.train(net.training)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, wanted = [], {level.module for level in self.feature_info}
        for name, layer in self.named_children():
            x = layer(x)
            if name in wanted:
                maps.append(x)
        return maps


def layers_until(net: GoogLeNet, last: str) -> list[tuple[str, nn.Module]]:
    """The layers of a network in the order of a forward pass, by name, to the one named `last`."""
    layers = list(net.named_children())
    names = [name for name, _ in layers]
    return layers[: names.index(last) + 1]


def pooled_features(net: GoogLeNet, x: Tensor, block: str | None = None) -> Tensor:
    """The mean of each map of an Inception block: (N, in_channels, H, W) -> float32 (N, C).

    The last block, the default, gives the values that the classifier reads: 1,024 in version 1. Later layers are not
    computed. Raises `UserError` for a block that does not exist.
    """
    for _, layer in layers_until(net, f"inception{find_block(net.architecture, block).name}"):
        x = layer(x)
    return x.float().mean(dim=(2, 3))


def find_block(architecture: Architecture, name: str | None = None) -> Block:
    """The Inception block of this name, by default the last one. Raises `UserError` if there is none."""
    blocks = architecture.blocks
    found = [block for block in blocks if name in (None, block.name)]
    if not found:
        raise UserError(f"unknown block {name!r}; blocks: {', '.join(block.name for block in blocks)}")
    return found[-1]

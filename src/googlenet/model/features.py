"""Feature maps instead of logits: a network without its classifier, with timm's interface (`features_only`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from googlenet.errors import UserError
from googlenet.model.architecture import TABLE_1
from googlenet.model.googlenet import GoogLeNet

BLOCKS = {row.name: row.out_channels for row in TABLE_1}  # 3a to 5b, and the channels of their maps
# The last layer before each reduction of the size, its channels, and the reduction at a stem stride of 1
_LEVELS = (
    ("conv1", 64, 1),
    ("conv3", 192, 2),
    ("inception3b", BLOCKS["3b"], 4),
    ("inception4e", BLOCKS["4e"], 8),
    ("inception5b", BLOCKS["5b"], 16),
)


class Level(NamedTuple):
    """One of the feature maps."""

    module: str  # The layer it comes from
    num_chs: int
    reduction: int  # Pixels of the input per cell of the map, along one side


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
        if not out_indices or any(not -len(_LEVELS) <= index < len(_LEVELS) for index in out_indices):
            raise UserError(f"out_indices must be from 0 to {len(_LEVELS) - 1}, not {tuple(out_indices)}")
        stride = net.architecture.stem_stride
        levels = [_LEVELS[index] for index in sorted({index % len(_LEVELS) for index in out_indices})]
        self.feature_info = FeatureInfo(Level(name, channels, stride * factor) for name, channels, factor in levels)
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


def pooled_features(net: GoogLeNet, x: Tensor, block: str = "5b") -> Tensor:
    """The mean of each map of an Inception block: (N, in_channels, H, W) -> float32 (N, C).

    `5b` gives the 1,024 values that the classifier reads. Later layers are not computed. Raises `UserError` for a block
    that does not exist.
    """
    check_block(block)
    for _, layer in layers_until(net, f"inception{block}"):
        x = layer(x)
    return x.float().mean(dim=(2, 3))


def check_block(block: str) -> None:
    """Raises `UserError` unless an Inception block has this name."""
    if block not in BLOCKS:
        raise UserError(f"unknown block {block!r}; blocks: {', '.join(BLOCKS)}")

"""Units of a network by name, `4c:447` for example, and how much an image excites them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.errors import UserError
from googlenet.model.features import layers_until
from googlenet.model.fuse import folded
from googlenet.model.googlenet import GoogLeNet
from googlenet.model.layers import Convolution, Inception

CLASS = "class"  # the layer of the class logits
SYNTAX = "a channel 4c:447, a neuron 4c:447:3,5 (row, column), a branch 4c:3x3, a block 4c, a class by name, or class"


@dataclass(frozen=True)
class Unit:
    """A part of one layer: a channel, one neuron of it, a branch of a block, a class logit, or the whole layer."""

    name: str  # as a user writes it
    kind: Literal["channel", "neuron", "branch", "class", "layer"]
    layer: str  # conv1 to conv3, 3a to 5b, or `class`
    channels: slice  # of the layer's maps, or the class's logit
    cell: tuple[int, int] | None = None  # row and column of a neuron

    def is_in(self, channels: slice) -> bool:
        return channels.start <= self.channels.start and self.channels.stop <= channels.stop

    def activation(self, maps: Tensor, *, sign: int = 1, slope: float = 0.0) -> Tensor:
        """How much each image excites the unit: maps (N, C, h, w), or logits (N, C) -> (N,).

        The logit of a class; the value of a neuron before its ReLU; the mean over the map of a channel after the ReLU;
        the mean of the squares over a branch or layer, where a few strong channels count more than many weak ones (the
        objective of DeepDream). `sign` -1 asks for the opposite: how far values are below 0. A `slope` lets values of
        a channel that the ReLU cuts off count a little, so that they have a gradient.
        """
        values = sign * maps[:, self.channels].float()
        if self.kind == "class":
            return values[:, 0]
        if self.cell is not None:
            return values[:, 0, self.cell[0], self.cell[1]]
        if self.kind == "channel":
            return torch.where(values > 0, values, slope * values).mean(dim=(1, 2, 3))
        return values.clamp(min=0).square().flatten(1).mean(dim=1)


class Probe(nn.Module):
    """The layers up to a unit's, as a copy made for speed: prepared images (N, C, H, W) -> maps (N, channels, h, w).

    The last ReLUs are skipped, so that `Unit.activation` sees values below 0. For the layer `class`, the maps are
    those of the last block, and `head` makes logits of them. Parameters need no gradient.
    """

    def __init__(self, net: GoogLeNet, layer: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        copied = folded(net, dtype).requires_grad_(False)
        blocks = list(block_channels(net))
        last = blocks[-1] if layer == CLASS else layer
        last = f"inception{last}" if last in blocks else last
        body = layers_until(copied, last)
        layers = layers_until(copied, "fc" if layer == CLASS else last)
        self.body = nn.Sequential(*(module for _, module in body))
        self.head = nn.Sequential(*(module for _, module in layers[len(body) :]))
        if layer != CLASS:
            _skip_relus(body[-1][1])
        self.dtype = dtype

    def maps(self, x: Tensor) -> Tensor:
        """The maps that the units are parts of; for classes, those that the classifier reads."""
        maps: Tensor = self.body(x.to(self.dtype, memory_format=torch.channels_last))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.head(self.maps(x))
        return values


def _skip_relus(layer: nn.Module) -> None:
    """The last ones of a convolution, a branch, or every branch of a block."""
    if isinstance(layer, Convolution):
        layer.add_module("relu", nn.Identity())
    elif isinstance(layer, Inception):
        for branch in layer.children():
            _skip_relus(branch)
    elif isinstance(layer, nn.Sequential):
        _skip_relus(layer[-1])


def parse_unit(text: str, net: GoogLeNet, classes: Sequence[str], *, option: str = "UNIT") -> Unit:
    """The unit that a user means. Raises `UserError`, with the name of the option, if there is none."""
    layer, _, rest = text.strip().partition(":")
    layer = layer.casefold()
    if layer == CLASS:
        if not rest:
            return Unit(CLASS, "layer", CLASS, slice(0, len(classes)))
        return _class_unit(rest, classes, option, ())
    layers = stem_channels(net) | {name: sum(channels) for name, channels in block_channels(net).items()}
    if layer not in layers:
        return _class_unit(text, classes, option, layers)
    count = layers[layer]
    if not rest:
        return Unit(layer, "layer", layer, slice(0, count))
    branches = branches_of(net, layer)
    if (name := rest.casefold()) in branches:
        return Unit(f"{layer}:{name}", "branch", layer, branches[name])
    match = re.fullmatch(r"(\d+)(?::(\d+),(\d+))?", rest)
    if match is None:
        known = f"; its branches are {', '.join(branches)}" if branches else ""
        raise UserError(f"{option} {text!r} is not a part of {layer}{known}; {option} is {SYNTAX}")
    channel = int(match[1])
    if channel >= count:
        raise UserError(f"{option} {text!r}: {layer} has the channels 0 to {count - 1}")
    cell = None if match[2] is None else (int(match[2]), int(match[3]))
    return channel_unit(layer, channel) if cell is None else replace(channel_unit(layer, channel, cell), kind="neuron")


def channel_unit(layer: str, channel: int, cell: tuple[int, int] | None = None) -> Unit:
    """A channel of a layer, or with a cell, one of its neurons."""
    suffix = "" if cell is None else f":{cell[0]},{cell[1]}"
    kind: Literal["channel", "neuron"] = "channel" if cell is None else "neuron"
    return Unit(f"{layer}:{channel}{suffix}", kind, layer, slice(channel, channel + 1), cell)


def units_of(unit: Unit, classes: Sequence[str], count: int) -> list[Unit]:
    """The channels of a layer or the classes, at most `count`, spread evenly. Else the unit itself."""
    if unit.kind != "layer":
        return [unit]
    total = unit.channels.stop
    count = min(count, total)
    chosen = [index * total // count for index in range(count)]
    if unit.layer == CLASS:
        return [Unit(classes[number], "class", CLASS, slice(number, number + 1)) for number in chosen]
    return [channel_unit(unit.layer, number) for number in chosen]


def stem_channels(net: GoogLeNet) -> dict[str, int]:
    """The convolutions of the stem, and their channels."""
    return {name: layer.conv.out_channels for name, layer in net.named_children() if isinstance(layer, Convolution)}


def block_channels(net: GoogLeNet) -> dict[str, tuple[int, ...]]:
    """The Inception blocks by name, and the channels of their branches."""
    return {block.name: block.branch_channels for block in net.architecture.blocks}


def branches_of(net: GoogLeNet, layer: str) -> dict[str, slice]:
    """The channels of each branch of a block, by the branch's name; empty for a layer of the stem."""
    branches, start = {}, 0
    for block in net.architecture.blocks:
        if block.name == layer:
            for name, count in zip(block.branches, block.branch_channels, strict=True):
                branches[name.casefold()] = slice(start, start + count)
                start += count
    return branches


def check_cell(unit: Unit, probe: Probe, x: Tensor, *, option: str = "UNIT") -> None:
    """Raises `UserError` if a neuron is outside of the maps of its layer for an input like `x`."""
    if unit.cell is None:
        return
    with torch.no_grad():
        rows, columns = probe.maps(x).shape[2:]
    if unit.cell[0] >= rows or unit.cell[1] >= columns:
        raise UserError(
            f"{option} {unit.name!r}: for images of {x.shape[2]}x{x.shape[3]} pixels, the maps of {unit.layer} have "
            f"the rows 0 to {rows - 1} and the columns 0 to {columns - 1}"
        )


def _class_unit(name: str, classes: Sequence[str], option: str, layers: Collection[str]) -> Unit:
    index = find_class(name.strip(), classes)
    if index is None:
        neither = f"neither a layer ({', '.join(layers)}) nor" if layers else "not"
        raise UserError(
            f"{option} {name!r} is {neither} a class of the model ({first_classes(classes)}); {option} is {SYNTAX}"
        )
    return Unit(classes[index], "class", CLASS, slice(index, index + 1))


def find_class(name: str, classes: Sequence[str]) -> int | None:
    """The index of a class, in upper or lower case; the same spelling has priority."""
    matches = [index for index, known in enumerate(classes) if known.casefold() == name.casefold()]
    return next((index for index in matches if classes[index] == name), matches[0] if matches else None)


def first_classes(classes: Sequence[str]) -> str:
    """Ten of them, for messages."""
    return ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")


def similarity(maps: Tensor) -> Tensor:
    """The mean cosine between the styles (Gram matrices of the channels) of a group of images (Olah et al. 2017).

    (N, C, h, w) -> 0-d, 0 to 1 for maps after their ReLU.
    """
    flat = F.relu(maps.float()).flatten(2)
    styles = F.normalize((flat @ flat.transpose(1, 2)).flatten(1), dim=1)
    count = len(styles)
    return ((styles @ styles.T).sum() - count) / max(count * (count - 1), 1)

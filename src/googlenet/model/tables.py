"""The Inception family as data: what a network is made of, and each version's blocks as its paper lists them.

A network is a list of layers, some of which are blocks. A block has branches side by side over the same input, whose
outputs are concatenated; a branch is a list of steps, one after another. `architecture.py` has the layers around the
blocks, and the choices within a version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias


class Conv(NamedTuple):
    """A convolution, then batch norm (or a bias) and ReLU."""

    kernel: int | tuple[int, int]  # The side of a square, or (height, width)
    channels: int  # Of the output
    stride: int = 1
    padding: Literal["half", "valid", "same"] = "half"
    """Half the kernel, with which stride 1 keeps the size; none; or as `SAME` of TensorFlow and MindSpore pads images
    of an even size at stride 2: one pixel less at the top and left than elsewhere."""

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel


class Pool(NamedTuple):
    """A pool over square windows."""

    kind: Literal["max", "average"]
    kernel: int = 3
    stride: int = 1
    border: Literal["padded", "ceil", "valid"] = "padded"
    """Padding of half the kernel; none, and the output size rounded up; or none, and the size rounded down."""
    count_padding: bool = True  # Whether the zeros of the padding belong to an average


class ResponseNorm(NamedTuple):
    """Local response normalization, in networks that have it."""


class Split(NamedTuple):
    """The end of a branch: branches again, side by side."""

    branches: tuple[Branch, ...]


Step: TypeAlias = Conv | Pool | Split
Branch: TypeAlias = tuple[Step, ...]


@dataclass(frozen=True)
class Block:
    """An Inception block. The module of block 3a is called `inception3a`."""

    name: str
    in_channels: int
    branches: dict[str, Branch] = field(hash=False)  # By name, in the order of the concatenation

    @property
    def branch_channels(self) -> tuple[int, ...]:
        """Output channels of each branch."""
        return tuple(channels_after(branch, self.in_channels) for branch in self.branches.values())

    @property
    def out_channels(self) -> int:
        return sum(self.branch_channels)


Layer: TypeAlias = Conv | Pool | ResponseNorm | Block


class Head(NamedTuple):
    """An auxiliary head: a classifier on the maps of a block, for training only."""

    block: str
    grid: int  # Cells per side of the pooled maps: all that `hidden` reads, or the least that `last` needs
    first: Conv
    last: Conv | None = None  # A second convolution, and after it the mean of each map
    hidden: int = 0  # Outputs of a fully connected layer before the classifier, if there is one


def channels_after(layer: Layer | Step | Branch, in_channels: int) -> int:
    """Channels of the output for an input of `in_channels`."""
    match layer:
        case Conv():
            return layer.channels
        case Split():
            return sum(channels_after(branch, in_channels) for branch in layer.branches)
        case Block():
            return layer.out_channels
        case Pool() | ResponseNorm():
            return in_channels
    for step in layer:
        in_channels = channels_after(step, in_channels)
    return in_channels


def size_after(layer: Layer | Step | Branch, size: int) -> int:
    """Height (or width) of the output for an input of `size` pixels.

    0 or less if nothing is left, or if the branches of a block disagree, as those with stride 2 may at an odd size.
    """
    match layer:
        case Split() | ResponseNorm():
            return size
        case Block():
            sizes = {size_after(branch, size) for branch in layer.branches.values()}
            return sizes.pop() if len(sizes) == 1 else 0
        case Conv(padding="half") | Pool(border="padded"):
            return (size - 1) // layer.stride + 1
        case Conv(padding="same"):
            return (size - layer.stride) // layer.stride + 1
        case Conv():
            return (size - max(layer.sides)) // layer.stride + 1
        case Pool(border="ceil"):
            return -(-(size - layer.kernel) // layer.stride) + 1
        case Pool():
            return (size - layer.kernel) // layer.stride + 1
    for step in layer:
        size = size_after(step, size)
    return size


def stride_of(layer: Layer | Step | Branch) -> int:
    """2 if the output has half the size of the input, else 1; or another stride of the first convolution."""
    match layer:
        case Conv() | Pool():
            return layer.stride
        case Split() | ResponseNorm():
            return 1
        case Block():
            return max(map(stride_of, layer.branches.values()))
    return max(map(stride_of, layer))


class InceptionRow(NamedTuple):
    """One Inception block of version 1. Every number is a count of channels."""

    name: str
    in_channels: int
    branch1: int
    branch2: tuple[int, int]
    branch3: tuple[int, int]
    branch4: int

    @property
    def branch_channels(self) -> tuple[int, int, int, int]:
        """Output channels of each branch, in the order of the concatenation."""
        return self.branch1, self.branch2[1], self.branch3[1], self.branch4

    @property
    def out_channels(self) -> int:
        return sum(self.branch_channels)

    def block(self, kernel: int = 5) -> Block:
        """Figure 2b of the paper; `kernel` is that of the third branch."""
        branches: dict[str, Branch] = {
            "1x1": (Conv(1, self.branch1),),
            "3x3": (Conv(1, self.branch2[0]), Conv(3, self.branch2[1])),
            "5x5" if kernel == 5 else "3x3 (third)": (Conv(1, self.branch3[0]), Conv(kernel, self.branch3[1])),
            "pool": (Pool("max"), Conv(1, self.branch4)),
        }
        return Block(self.name, self.in_channels, branches)


# Version 1: Szegedy et al. 2014, "Going Deeper with Convolutions", https://arxiv.org/abs/1409.4842, Table 1.
#                name  in   1x1  (3x3 reduce, 3x3)  (5x5 reduce, 5x5)  pool projection
TABLE_1 = (
    InceptionRow("3a", 192, 64, (96, 128), (16, 32), 32),
    InceptionRow("3b", 256, 128, (128, 192), (32, 96), 64),
    InceptionRow("4a", 480, 192, (96, 208), (16, 48), 64),
    InceptionRow("4b", 512, 160, (112, 224), (24, 64), 64),
    InceptionRow("4c", 512, 128, (128, 256), (24, 64), 64),
    InceptionRow("4d", 512, 112, (144, 288), (32, 64), 64),
    InceptionRow("4e", 528, 256, (160, 320), (32, 128), 128),
    InceptionRow("5a", 832, 256, (160, 320), (32, 128), 128),
    InceptionRow("5b", 832, 384, (192, 384), (48, 128), 128),
)


def _v2(
    name: str, in_channels: int, one: int, three: tuple[int, int], double: tuple[int, int], pool: Pool, project: int
) -> Block:
    """Two 3x3 convolutions in place of 5x5; without `one` and `project`, a block that halves the size."""
    stride = pool.stride
    branches: dict[str, Branch] = {
        "1x1": (Conv(1, one),),
        "3x3": (Conv(1, three[0]), Conv(3, three[1], stride)),
        "double 3x3": (Conv(1, double[0]), Conv(3, double[1]), Conv(3, double[1], stride)),
        "pool": (pool, Conv(1, project)) if project else (pool,),
    }
    return Block(name, in_channels, branches if one else {key: branches[key] for key in list(branches)[1:]})


def v2_blocks(halve: Pool) -> tuple[Block, ...]:
    """Version 2, BN-Inception: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, Figure 5.

    The figure's sum for 4c and 4d, 576, does not fit their 128 channels of pool projection; as in Caffe's network, it
    is the sum that is wrong. `halve` is the pool of the blocks with stride 2.
    """
    average, largest = Pool("average"), Pool("max")
    return (
        # name  in  1x1  (reduce, 3x3)  (reduce, double 3x3)  pool, projection
        _v2("3a", 192, 64, (64, 64), (64, 96), average, 32),
        _v2("3b", 256, 64, (64, 96), (64, 96), average, 64),
        _v2("3c", 320, 0, (128, 160), (64, 96), halve, 0),
        _v2("4a", 576, 224, (64, 96), (96, 128), average, 128),
        _v2("4b", 576, 192, (96, 128), (96, 128), average, 128),
        _v2("4c", 576, 160, (128, 160), (128, 160), average, 128),
        _v2("4d", 608, 96, (128, 192), (160, 192), average, 128),
        _v2("4e", 608, 0, (128, 192), (192, 256), halve, 0),
        _v2("5a", 1056, 352, (192, 320), (160, 224), average, 128),
        _v2("5b", 1024, 352, (192, 320), (192, 224), largest, 128),
    )


# The branches of versions 3 and 4, by what is between the 1x1 convolution and the concatenation: one convolution of
# n x n, or a row and a column of n; or two of these
_ONE, _SINGLE, _DOUBLE, _POOL = "1x1", "nxn", "double nxn", "pool"
_HALVE = Pool("max", 3, 2, "valid")


def _sides(side: int, channels: int) -> Split:
    """A row and a column side by side."""
    return Split(((Conv((1, side), channels),), (Conv((side, 1), channels),)))


def _v3_figure_5(name: str, in_channels: int, project: int) -> Block:
    """As in version 2; the published network has 5x5 where the figure has 3x3."""
    return Block(name, in_channels, {
        _ONE: (Conv(1, 64),),
        _SINGLE: (Conv(1, 48), Conv(5, 64)),
        _DOUBLE: (Conv(1, 64), Conv(3, 96), Conv(3, 96)),
        _POOL: (Pool("average"), Conv(1, project)),
    })  # fmt: skip


def _v3_figure_6(name: str, inner: int) -> Block:
    """A row and a column of 7 in place of 7x7."""
    row, column = Conv((1, 7), inner), Conv((7, 1), inner)
    return Block(name, 768, {
        _ONE: (Conv(1, 192),),
        _SINGLE: (Conv(1, inner), row, Conv((7, 1), 192)),
        _DOUBLE: (Conv(1, inner), column, row, column, Conv((1, 7), 192)),
        _POOL: (Pool("average"), Conv(1, 192)),
    })  # fmt: skip


def _v3_figure_7(name: str, in_channels: int) -> Block:
    """Wide outputs for the last, smallest maps."""
    return Block(name, in_channels, {
        _ONE: (Conv(1, 320),),
        _SINGLE: (Conv(1, 384), _sides(3, 384)),
        _DOUBLE: (Conv(1, 448), Conv(3, 384), _sides(3, 384)),
        _POOL: (Pool("average"), Conv(1, 192)),
    })  # fmt: skip


# Version 3: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision",
# https://arxiv.org/abs/1512.00567, Table 1 and Figures 5 to 7 and 10, with the channels of the published network.
V3_BLOCKS = (
    _v3_figure_5("5b", 192, 32),
    _v3_figure_5("5c", 256, 64),
    _v3_figure_5("5d", 288, 64),
    Block("6a", 288, {
        _SINGLE: (Conv(3, 384, 2, "valid"),),
        _DOUBLE: (Conv(1, 64), Conv(3, 96), Conv(3, 96, 2, "valid")),
        _POOL: (_HALVE,),
    }),
    _v3_figure_6("6b", 128),
    _v3_figure_6("6c", 160),
    _v3_figure_6("6d", 160),
    _v3_figure_6("6e", 192),
    Block("7a", 768, {
        _SINGLE: (Conv(1, 192), Conv(3, 320, 2, "valid")),
        _DOUBLE: (Conv(1, 192), Conv((1, 7), 192), Conv((7, 1), 192), Conv(3, 192, 2, "valid")),
        _POOL: (_HALVE,),
    }),
    _v3_figure_7("7b", 1280),
    _v3_figure_7("7c", 2048),
)  # fmt: skip


_PROJECT = Pool("average", count_padding=False)


def _v4_a(name: str) -> Block:
    return Block(name, 384, {
        _ONE: (Conv(1, 96),),
        _SINGLE: (Conv(1, 64), Conv(3, 96)),
        _DOUBLE: (Conv(1, 64), Conv(3, 96), Conv(3, 96)),
        _POOL: (_PROJECT, Conv(1, 96)),
    })  # fmt: skip


def _v4_b(name: str) -> Block:
    return Block(name, 1024, {
        _ONE: (Conv(1, 384),),
        _SINGLE: (Conv(1, 192), Conv((1, 7), 224), Conv((7, 1), 256)),
        _DOUBLE: (Conv(1, 192), Conv((7, 1), 192), Conv((1, 7), 224), Conv((7, 1), 224), Conv((1, 7), 256)),
        _POOL: (_PROJECT, Conv(1, 128)),
    })  # fmt: skip


def _v4_c(name: str) -> Block:
    return Block(name, 1536, {
        _ONE: (Conv(1, 256),),
        _SINGLE: (Conv(1, 384), _sides(3, 256)),
        _DOUBLE: (Conv(1, 384), Conv((3, 1), 448), Conv((1, 3), 512), _sides(3, 256)),
        _POOL: (_PROJECT, Conv(1, 256)),
    })  # fmt: skip


# Version 4: Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
# https://arxiv.org/abs/1602.07261, Figures 3 to 9. The stem has branches, too.
V4_BLOCKS = (
    Block("3a", 64, {_POOL: (_HALVE,), _SINGLE: (Conv(3, 96, 2, "valid"),)}),
    Block("4a", 160, {
        _SINGLE: (Conv(1, 64), Conv(3, 96, 1, "valid")),
        _DOUBLE: (Conv(1, 64), Conv((1, 7), 64), Conv((7, 1), 64), Conv(3, 96, 1, "valid")),
    }),
    Block("5a", 192, {_SINGLE: (Conv(3, 192, 2, "valid"),), _POOL: (_HALVE,)}),
    *(_v4_a(f"5{letter}") for letter in "bcde"),
    Block("6a", 384, {
        _SINGLE: (Conv(3, 384, 2, "valid"),),
        _DOUBLE: (Conv(1, 192), Conv(3, 224), Conv(3, 256, 2, "valid")),
        _POOL: (_HALVE,),
    }),
    *(_v4_b(f"6{letter}") for letter in "bcdefgh"),
    Block("7a", 1024, {
        _SINGLE: (Conv(1, 192), Conv(3, 192, 2, "valid")),
        _DOUBLE: (Conv(1, 256), Conv((1, 7), 256), Conv((7, 1), 320), Conv(3, 320, 2, "valid")),
        _POOL: (_HALVE,),
    }),
    *(_v4_c(f"7{letter}") for letter in "bcd"),
)  # fmt: skip

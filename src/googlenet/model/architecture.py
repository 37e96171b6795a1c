"""The network as data: Table 1 of the paper, and what the variants change.

Source: Szegedy et al. 2014, "Going Deeper with Convolutions", https://arxiv.org/abs/1409.4842, section 5, Table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Variant = Literal["bn", "tutorial", "paper", "torchvision"]
Initialization = Literal["default", "he", "xavier", "truncated-normal", "orthogonal"]
Normalization = Literal["none", "lrn", "batch"]


class InceptionRow(NamedTuple):
    """One Inception block of Table 1. Every number is a count of channels."""

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


@dataclass(frozen=True)
class Architecture:
    """Everything that decides which layers a network has. `GoogLeNet` checks the values when it is built."""

    variant: Variant
    num_classes: int = 1000  # 0: no classifier; the network returns the 1024 pooled features
    in_channels: int = 3
    normalization: Normalization = "none"
    batch_norm_epsilon: float = 1e-5
    stem_stride: int = 2  # Stride of the first convolution: 2 in the paper, for 224x224
    stem_padding: Literal["symmetric", "same"] = "symmetric"
    """Padding of the first convolution: 3 pixels on each side; or 2 at the top and left and 3 elsewhere, as `SAME` of
    TensorFlow and MindSpore pads images of an even size at stride 2."""
    lrn: tuple[int, float, float, float] = (5, 1e-4, 0.75, 1.0)
    """Size, alpha, beta and k of the local response normalization (`LocalResponseNorm`), if there is one."""
    reduction_5a: Literal[32, 48] = 32
    """Channels of the 5x5 reduction in block 5a: 32 in Table 1, 48 in TensorFlow's inception5h."""
    pool: Literal["padded", "ceil"] = "padded"
    """Border of the 3x3 stride-2 max pools: padding 1, or no padding and the output size rounded up."""
    last_pool_kernel: Literal[2, 3] = 3  # Kernel of the max pool after block 4e
    third_branch_kernel: Literal[3, 5] = 5
    dropout: float = 0.4
    auxiliary: bool = False  # The two auxiliary heads (after 4a and 4d), which are used in training only
    auxiliary_pool: Literal["average", "adaptive"] = "average"
    """5x5 stride-3 average pool as in the paper, or adaptive to 4x4 as in torchvision."""
    auxiliary_dropout: float = 0.7
    initialization: Initialization = "default"
    """How fresh weights are drawn: see `googlenet.model.googlenet.initialize`."""

    @property
    def blocks(self) -> tuple[InceptionRow, ...]:
        """Table 1, with this network's `reduction_5a`."""
        return tuple(
            row._replace(branch3=(self.reduction_5a, row.branch3[1])) if row.name == "5a" else row for row in TABLE_1
        )

    @property
    def branch_names(self) -> tuple[str, str, str, str]:
        """Names of the four branches of a block, in the order of the concatenation."""
        return "1x1", "3x3", "5x5" if self.third_branch_kernel == 5 else "3x3 (third)", "pool"

    def spatial_sizes(self, size: int) -> dict[str, int]:
        """Height (or width) in pixels after each layer that changes it, for an input of `size` pixels.

        A size of 0 or less means that the layer has no input left.
        """

        def pooled(size: int, kernel: int = 3) -> int:
            if self.pool == "padded" and kernel == 3:
                return (size - 1) // 2 + 1
            return -(-(size - kernel) // 2) + 1

        padding = 6 if self.stem_padding == "symmetric" else 5
        sizes = {"conv1": (size + padding - 7) // self.stem_stride + 1}
        sizes["maxpool1"] = pooled(sizes["conv1"])
        sizes["maxpool2"] = pooled(sizes["maxpool1"])
        sizes["maxpool3"] = pooled(sizes["maxpool2"])
        sizes["maxpool4"] = pooled(sizes["maxpool3"], self.last_pool_kernel)
        return sizes

    def smallest_input(self) -> int:
        """The smallest height and width in pixels that leaves every layer an input."""
        return next(size for size in range(1, 1000) if min(self.spatial_sizes(size).values()) >= 1)


VARIANTS: dict[str, Architecture] = {
    # The text that this project grew from: no normalization, global average pooling at the end.
    "tutorial": Architecture("tutorial"),
    # The network of 2014. Pooling, LRN and initialization as in BVLC's Caffe model; the authors' own is unpublished.
    "paper": Architecture("paper", normalization="lrn", pool="ceil", auxiliary=True, initialization="xavier"),
    # torchvision's: its third branch has a 3x3 kernel where the paper has 5x5, kept for its published weights.
    "torchvision": Architecture(
        "torchvision",
        normalization="batch",
        batch_norm_epsilon=1e-3,
        pool="ceil",
        last_pool_kernel=2,
        third_branch_kernel=3,
        dropout=0.2,
        auxiliary=True,
        auxiliary_pool="adaptive",
        initialization="truncated-normal",
    ),
    # The one that trains well: the tutorial's network with batch norm.
    "bn": Architecture("bn", normalization="batch", dropout=0.2, initialization="he"),
}

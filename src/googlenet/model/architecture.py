"""A network as data: which layers it has, in order, and what the variants change."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from googlenet.model.tables import (
    TABLE_1,
    V3_BLOCKS,
    V4_BLOCKS,
    Block,
    Conv,
    Head,
    Layer,
    Pool,
    ResponseNorm,
    size_after,
    v2_blocks,
)

Variant = Literal["bn", "tutorial", "paper", "torchvision", "v2", "v3", "v4"]
Version = Literal[1, 2, 3, 4]
Initialization = Literal["default", "he", "xavier", "truncated-normal", "orthogonal"]
Normalization = Literal["none", "lrn", "batch"]


@dataclass(frozen=True)
class Architecture:
    """Everything that decides which layers a network has. `GoogLeNet` checks the values when it is built."""

    variant: Variant
    num_classes: int = 1000  # 0: no classifier; the network returns the pooled features
    in_channels: int = 3
    normalization: Normalization = "none"
    batch_norm_epsilon: float = 1e-5
    stem_stride: int = 2  # Stride of the first convolution: 2 in the papers, for 224x224 or 299x299
    stem_padding: Literal["symmetric", "same"] = "symmetric"
    """Padding of the first convolution: 3 pixels on each side; or 2 at the top and left and 3 elsewhere, as `SAME` of
    TensorFlow and MindSpore pads images of an even size at stride 2."""
    lrn: tuple[int, float, float, float] = (5, 1e-4, 0.75, 1.0)
    """Size, alpha, beta and k of the local response normalization (`LocalResponseNorm`), if there is one."""
    reduction_5a: Literal[32, 48] = 32
    """Channels of the 5x5 reduction in block 5a: 32 in Table 1, 48 in TensorFlow's inception5h."""
    pool: Literal["padded", "ceil"] = "padded"
    """Border of the 3x3 stride-2 max pools in versions 1 and 2: padding 1, or none and the output size rounded up."""
    last_pool_kernel: Literal[2, 3] = 3  # Kernel of the max pool after block 4e
    third_branch_kernel: Literal[3, 5] = 5
    dropout: float = 0.4
    auxiliary: bool = False  # The auxiliary heads (after 4a and 4d; in version 3 after 6e), for training only
    auxiliary_pool: Literal["average", "adaptive"] = "average"
    """5x5 stride-3 average pool as in the paper, or adaptive to 4x4 as in torchvision."""
    auxiliary_dropout: float = 0.7
    initialization: Initialization = "default"
    """How fresh weights are drawn: see `googlenet.model.googlenet.initialize`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lrn", tuple(self.lrn))  # JSON has lists

    @property
    def version(self) -> Version:
        """The member of the family: 1 (GoogLeNet) to 4."""
        return {"v2": 2, "v3": 3, "v4": 4}.get(self.variant, 1)  # type: ignore[return-value]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The Inception blocks, from the image to the classifier."""
        match self.version:
            case 2:
                return v2_blocks(halve=self._max_pool)
            case 3:
                return V3_BLOCKS
            case 4:
                return V4_BLOCKS
        rows = (
            row._replace(branch3=(self.reduction_5a, row.branch3[1])) if row.name == "5a" else row for row in TABLE_1
        )
        return tuple(row.block(self.third_branch_kernel) for row in rows)

    @property
    def layers(self) -> dict[str, Layer]:
        """All layers up to the last block, by name. The sizes in the comments are those for 224x224, or 299x299."""
        stride, pool, blocks = self.stem_stride, self._max_pool, self._named_blocks
        match self.version:
            case 1:
                last = Pool("max", 2, 2, "ceil") if self.last_pool_kernel == 2 else pool
                return {
                    "conv1": Conv(7, 64, stride, "half" if self.stem_padding == "symmetric" else "same"),  # 112x112
                    "maxpool1": pool,  # 56x56
                    "lrn1": ResponseNorm(),
                    "conv2": Conv(1, 64),
                    "conv3": Conv(3, 192),
                    "lrn2": ResponseNorm(),
                    "maxpool2": pool,  # 28x28
                    **blocks("3"),
                    "maxpool3": pool,  # 14x14
                    **blocks("4"),
                    "maxpool4": last,  # 7x7
                    **blocks("5"),
                }
            case 2:
                return {
                    "conv1": Conv(7, 64, stride),  # 112x112
                    "maxpool1": pool,  # 56x56
                    "conv2": Conv(1, 64),
                    "conv3": Conv(3, 192),
                    "maxpool2": pool,  # 28x28
                    **blocks("345"),  # 3c: 14x14, 4e: 7x7
                }
            case 3:
                return {
                    "conv1": Conv(3, 32, stride, "valid"),  # 149x149
                    "conv2": Conv(3, 32, 1, "valid"),  # 147x147
                    "conv3": Conv(3, 64),
                    "maxpool1": Pool("max", 3, 2, "valid"),  # 73x73
                    "conv4": Conv(1, 80),
                    "conv5": Conv(3, 192, 1, "valid"),  # 71x71
                    "maxpool2": Pool("max", 3, 2, "valid"),  # 35x35
                    **blocks("567"),  # 6a: 17x17, 7a: 8x8
                }
            case 4:
                return {
                    "conv1": Conv(3, 32, stride, "valid"),  # 149x149
                    "conv2": Conv(3, 32, 1, "valid"),  # 147x147
                    "conv3": Conv(3, 64),
                    **blocks("34567"),  # 3a: 73x73, 4a: 71x71, 5a: 35x35, 6a: 17x17, 7a: 8x8
                }

    @property
    def _max_pool(self) -> Pool:
        return Pool("max", 3, 2, self.pool)

    def _named_blocks(self, stages: str) -> dict[str, Layer]:
        return {f"inception{block.name}": block for block in self.blocks if block.name[0] in stages}

    @property
    def heads(self) -> dict[str, Head]:
        """The auxiliary heads by name, if the network has them."""
        return HEADS.get(self.version, {}) if self.auxiliary else {}

    @property
    def branch_names(self) -> tuple[str, ...]:
        """Names of the branches, in the order of the concatenation. Some blocks do not have all of them."""
        longest = max((block.branches for block in self.blocks), key=len)
        return tuple(longest)

    @property
    def usual_size(self) -> int:
        """Height and width in pixels of the paper's images."""
        return 224 if self.version < 3 else 299

    @property
    def num_features(self) -> int:
        """Features that the classifier reads: the channels of the last block."""
        return self.blocks[-1].out_channels

    def spatial_sizes(self, size: int) -> dict[str, int]:
        """Height (or width) in pixels after each layer, for an input of `size` pixels.

        A size of 0 or less means that the layer has no input left.
        """
        sizes = {}
        for name, layer in self.layers.items():
            sizes[name] = size = size_after(layer, size)
        return sizes

    def fits(self, size: int) -> bool:
        """Whether every layer has an input for images of `size` pixels in height or width."""
        return _smallest_map(self, size) >= 1

    def smallest_input(self) -> int:
        """The smallest height and width in pixels that leaves every layer an input."""
        return next(size for size in range(1, 1000) if self.fits(size))


@functools.lru_cache(maxsize=4096)
def _smallest_map(architecture: Architecture, size: int) -> int:
    return min(architecture.spatial_sizes(size).values())


HEADS: dict[Version, dict[str, Head]] = {
    1: {name: Head(block, 4, Conv(1, 128), hidden=1024) for name, block in (("aux1", "4a"), ("aux2", "4d"))},
    3: {"aux1": Head("6e", 5, Conv(1, 128), Conv(5, 768, 1, "valid"))},
}
"""Auxiliary heads by version and name."""

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
    # The rest of the family
    "v2": Architecture("v2", normalization="batch", dropout=0.2, initialization="he"),
    "v3": Architecture(
        "v3",
        normalization="batch",
        batch_norm_epsilon=1e-3,
        dropout=0.5,
        auxiliary=True,
        auxiliary_dropout=0.0,
        initialization="he",
    ),
    "v4": Architecture("v4", normalization="batch", batch_norm_epsilon=1e-3, dropout=0.2, initialization="he"),
}

"""The network as data: Table 1 of the paper, and what sets the variants apart.

Source: Szegedy et al. 2014, "Going Deeper with Convolutions", https://arxiv.org/abs/1409.4842, section 5, Table 1.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from googlenet.errors import UserError

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
        """What each branch puts into the concatenation, in its order."""
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


@functools.cache
def _choices() -> dict[str, tuple[Any, ...]]:
    """The fields of an architecture that have one of a few values, and those."""
    hints = get_type_hints(Architecture)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


@dataclass(frozen=True)
class Architecture:
    """Everything that decides which layers a network has. Two equal ones have the same weights' names and shapes."""

    variant: Variant
    num_classes: int = 1000
    in_channels: int = 3
    normalization: Normalization = "none"
    batch_norm_epsilon: float = 1e-5
    stem_stride: int = 2
    """Stride of the first convolution: 2 in the paper, for 224x224."""
    pool: Literal["padded", "ceil"] = "padded"
    """How a 3x3 stride-2 max pool treats the border: padding 1, or no padding and the size rounded up."""
    last_pool_kernel: Literal[2, 3] = 3
    """Kernel of the max pool after block 4e."""
    third_branch_kernel: Literal[3, 5] = 5
    blocks: int = 9
    """How many of the nine Inception blocks there are, counted from 3a; a pool that no block follows goes too."""
    head_grid: int = 1
    """The last maps are averaged to so many rows and columns for the classifier: 1 is the paper's global average."""
    head_width: int = 0
    """Outputs of each of two fully connected layers before the classifier, as AlexNet has them; 0: none."""
    dropout: float = 0.4
    auxiliary: bool = False
    """Whether the two auxiliary heads are there (after 4a and 4d); they are used in training only."""
    auxiliary_pool: Literal["average", "adaptive"] = "average"
    """5x5 stride-3 average pool as in the paper, or pooled to 4x4 whatever the input size, as torchvision does."""
    auxiliary_dropout: float = 0.7
    initialization: Initialization = "default"
    """The scheme that fresh weights are drawn with."""

    def __post_init__(self) -> None:
        for name, values in _choices().items():
            if getattr(self, name) not in values:
                raise UserError(f"there is no {name} {getattr(self, name)!r}; there are: {', '.join(map(str, values))}")
        if self.stem_stride < 1:
            raise UserError(f"a stride is 1 pixel or more, not stem_stride={self.stem_stride}")
        if self.num_classes < 0 or self.in_channels < 1:
            raise UserError(
                f"a network needs at least 1 input channel and 0 or more classes, "
                f"not in_channels={self.in_channels}, num_classes={self.num_classes}"
            )
        if not 1 <= self.blocks <= len(TABLE_1) or self.head_grid < 1 or self.head_width < 0:
            raise UserError(
                f"a network has 1 to {len(TABLE_1)} blocks, a head_grid of 1 or more and a head_width of 0 or more, "
                f"not blocks={self.blocks}, head_grid={self.head_grid}, head_width={self.head_width}"
            )
        if self.auxiliary and self.blocks < 6:
            raise UserError(f"the auxiliary heads read blocks 4a and 4d: they need 6 blocks or more, not {self.blocks}")
        for name in ("dropout", "auxiliary_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name} is a probability from 0 up to, but not including, 1; not {getattr(self, name)}"
                )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def branch_names(self) -> tuple[str, str, str, str]:
        """What the four branches of a block are called, in the order of the concatenation."""
        return "1x1", "3x3", "5x5" if self.third_branch_kernel == 5 else "3x3 (third)", "pool"

    @property
    def rows(self) -> tuple[InceptionRow, ...]:
        """The rows of Table 1 whose blocks are there."""
        return TABLE_1[: self.blocks]

    def has_block(self, name: str) -> bool:
        """Whether the block of that name in Table 1 is there."""
        return any(row.name == name for row in self.rows)

    def spatial_sizes(self, size: int) -> dict[str, int]:
        """Height (or width) in pixels after each layer that changes it, for an input of `size` pixels.

        A size of 0 or less means that the layer has nothing left to work on.
        """

        def pooled(size: int, kernel: int = 3) -> int:
            if self.pool == "padded" and kernel == 3:
                return (size - 1) // 2 + 1
            return -(-(size - kernel) // 2) + 1

        sizes = {"conv1": (size - 1) // self.stem_stride + 1}
        sizes["maxpool1"] = pooled(sizes["conv1"])
        sizes["maxpool2"] = pooled(sizes["maxpool1"])
        if self.has_block("4a"):
            sizes["maxpool3"] = pooled(sizes["maxpool2"])
        if self.has_block("5a"):
            sizes["maxpool4"] = pooled(sizes["maxpool3"], self.last_pool_kernel)
        return sizes

    @functools.cache  # noqa: B019  (a handful of architectures in a process)
    def smallest_input(self) -> int:
        """The smallest height and width in pixels that leaves every layer something to work on."""
        size = 1
        while min(self.spatial_sizes(size).values()) < 1:
            size += 1
        return size


VARIANTS: dict[str, Architecture] = {
    # The text that this project grew from: no normalization, global average pooling at the end.
    "tutorial": Architecture("tutorial"),
    # The network of 2014. Pooling, LRN and initialization as in BVLC's Caffe model, the authors' own being unpublished.
    "paper": Architecture("paper", normalization="lrn", pool="ceil", auxiliary=True, initialization="xavier"),
    # torchvision's: its third branch has a 3x3 kernel where the paper has 5x5, kept there for its published weights.
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
    # The one that trains well: the tutorial's network with batch normalization.
    "bn": Architecture("bn", normalization="batch", dropout=0.2, initialization="he"),
}


def architecture(variant: str, **changes: Any) -> Architecture:
    """The named variant with some fields changed.

    Raises:
        UserError: for a name that is no variant, or a field that an architecture does not have.
    """
    if variant not in VARIANTS:
        raise UserError(f"there is no variant {variant!r}; there are: {', '.join(VARIANTS)}")
    known = {field.name for field in dataclasses.fields(Architecture)} - {"variant"}
    if unknown := sorted(set(changes) - known):
        raise UserError(f"an architecture has no field {unknown[0]!r}; it has: {', '.join(sorted(known))}")
    return dataclasses.replace(VARIANTS[variant], **changes)

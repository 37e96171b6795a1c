"""The layers of every network of the family, each built from a row of `tables.py`.

Weights have torchvision's names (`conv`, `bn`, `branch2.0.conv`, ...), so state dicts of GoogLeNet fit both ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.model.architecture import Architecture
from googlenet.model.tables import Block, Branch, Conv, Head, InceptionRow, Pool, Split, channels_after


class Convolution(nn.Module):
    """Convolution, batch norm (optional), ReLU: (N, C_in, H, W) -> (N, C_out, H', W').

    `kernel_size` is a side or (height, width); `Conv` explains the padding. With batch norm there is no convolution
    bias, because the normalization would subtract it again.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], stride: int = 1,
        padding: Literal["half", "valid", "same"] = "half", *, batch_norm_epsilon: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        sides = Conv(kernel_size, out_channels).sides
        symmetric = (sides[0] // 2, sides[1] // 2) if padding == "half" else (0, 0)
        total = sides[0] - stride  # of borders that `SAME` adds to a square kernel's input
        self.pad = nn.ZeroPad2d((total // 2, total - total // 2) * 2) if padding == "same" else None
        bias = batch_norm_epsilon is None
        self.conv = nn.Conv2d(in_channels, out_channels, sides, stride, symmetric, bias=bias)
        self.bn = nn.BatchNorm2d(out_channels, eps=batch_norm_epsilon) if batch_norm_epsilon is not None else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad is not None:
            x = self.pad(x)
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return self.relu(x)


class Inception(nn.Module):
    """One Inception block: branches over the same input, concatenated along the channels (version 1: figure 2b).

    (N, in_channels, H, W) -> (N, branch1 + branch2[1] + branch3[1] + branch4, H, W). The positional arguments are the
    tutorial's: `Inception(192, 64, (96, 128), (16, 32), 32)` is block 3a. `from_rows` makes the blocks of all versions.

    Args:
        in_channels: channels of the input.
        branch1: channels of the 1x1 convolution.
        branch2: channels of the 1x1 reduction, and of the 3x3 convolution after it.
        branch3: channels of the 1x1 reduction, and of the 5x5 convolution after it.
        branch4: channels of the 1x1 convolution after the 3x3 max pool.
        third_branch_kernel: 5 as in the paper, or 3 as in torchvision.
        batch_norm_epsilon: adds batch norm with this epsilon to every convolution.
    """

    if TYPE_CHECKING:  # branch1, branch2, ...: as many as the block has

        def __getattr__(self, name: str) -> Any: ...

    def __init__(
        self, in_channels: int, branch1: int, branch2: tuple[int, int], branch3: tuple[int, int], branch4: int, *,
        third_branch_kernel: int = 5, batch_norm_epsilon: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        row = InceptionRow("", in_channels, branch1, branch2, branch3, branch4).block(third_branch_kernel)
        self._add_branches(in_channels, row.branches.values(), batch_norm_epsilon)

    @classmethod
    def from_rows(
        cls, in_channels: int, branches: Iterable[Branch], *, batch_norm_epsilon: float | None = None
    ) -> Inception:
        """(N, in_channels, H, W) -> (N, sum of the branches' channels, H', W')."""
        block = cls.__new__(cls)
        nn.Module.__init__(block)
        block._add_branches(in_channels, branches, batch_norm_epsilon)
        return block

    def _add_branches(self, in_channels: int, branches: Iterable[Branch], batch_norm_epsilon: float | None) -> None:
        for number, branch in enumerate(branches, start=1):
            layers, channels = [], in_channels
            for step in branch:
                layers.append(make_layer(step, channels, batch_norm_epsilon))
                channels = channels_after(step, channels)
            self.add_module(f"branch{number}", layers[0] if len(layers) == 1 else nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], dim=1)


def make_layer(row: Conv | Pool | Split | Block, in_channels: int, batch_norm_epsilon: float | None) -> nn.Module:
    """The layer that a row describes. A `Split` is a small Inception block."""
    match row:
        case Conv():
            return Convolution(
                in_channels, row.channels, row.kernel, row.stride, row.padding, batch_norm_epsilon=batch_norm_epsilon
            )
        case Pool():
            padding, ceil = row.kernel // 2 if row.border == "padded" else 0, row.border == "ceil"
            if row.kind == "max":
                return nn.MaxPool2d(row.kernel, row.stride, padding, ceil_mode=ceil)
            return nn.AvgPool2d(row.kernel, row.stride, padding, ceil, row.count_padding)
    branches = row.branches.values() if isinstance(row, Block) else row.branches
    return Inception.from_rows(in_channels, branches, batch_norm_epsilon=batch_norm_epsilon)


class LocalResponseNorm(nn.Module):
    """Each value divided by (k + alpha / size * sum of squares over `size` neighboring channels) ** beta.

    (N, C, H, W) -> (N, C, H, W). Krizhevsky et al. 2012, section 3.3, with the constants of BVLC's GoogLeNet. The sum
    is in float32 and over shifted slices, because PyTorch's own layer does not take float16 on a CPU.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        squares = F.pad(x.float().square(), (0, 0, 0, 0, self.size // 2, self.size // 2))
        window = squares[:, :channels]
        for shift in range(1, self.size):
            window = window + squares[:, shift : shift + channels]
        return x * (self.k + self.alpha / self.size * window).pow(-self.beta).to(x.dtype)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class GlobalAveragePool(nn.Module):
    """The mean of every feature map: (N, C, H, W) -> (N, C), for any H and W."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class AuxiliaryHead(nn.Module):
    """A classifier on an intermediate map, whose loss gives the lower layers more gradient (version 1: section 5).

    (N, in_channels, H, W) -> (N, num_classes). At 224x224 a 5x5 pool turns the 14x14 maps of version 1 into 4x4, and at
    299x299 the 17x17 maps of version 3 into 5x5. Maps smaller than 5x5 skip it. In version 1, an adaptive pool to 4x4
    follows, because the fully connected layer needs 128 x 4 x 4 inputs. In version 3, maps that are then smaller than
    5x5 are enlarged to that for the 5x5 convolution; larger ones stay as they are.
    """

    def __init__(
        self, row: Head, in_channels: int, architecture: Architecture, batch_norm_epsilon: float | None
    ) -> None:
        super().__init__()
        is_paper = architecture.auxiliary_pool == "average"
        self.avgpool = nn.AvgPool2d(kernel_size=5, stride=3) if is_paper else nn.Identity()
        self.fit = EnlargeTo(row.grid) if row.last else nn.AdaptiveAvgPool2d(row.grid)
        self.conv = make_layer(row.first, in_channels, batch_norm_epsilon)
        self.conv2 = make_layer(row.last, row.first.channels, batch_norm_epsilon) if row.last else None
        self.fc1 = nn.Linear(row.first.channels * row.grid**2, row.hidden) if row.hidden else None
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(architecture.auxiliary_dropout)
        self.num_features = row.last.channels if row.last else row.hidden
        self.fc2 = classifier(self.num_features, architecture.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) >= 5:
            x = self.avgpool(x)
        x = self.fit(x)  # version 1: (N, C, 4, 4)
        x = self.conv(x)  # version 1: (N, 128, 4, 4)
        if self.conv2 is not None:
            x = self.conv2(x).mean(dim=(2, 3))  # (N, 768)
        if self.fc1 is not None:
            x = self.relu(self.fc1(torch.flatten(x, 1)))  # (N, 1024)
        return self.fc2(self.dropout(x))  # (N, num_classes)


class EnlargeTo(nn.Module):
    """Maps with fewer cells per side than `side` are enlarged by repeating them: (N, C, H, W) -> (N, C, h, w)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (max(x.shape[2], self.side), max(x.shape[3], self.side)))

    def extra_repr(self) -> str:
        return f"side={self.side}"


def classifier(in_features: int, num_classes: int) -> nn.Module:
    """(N, in_features) -> (N, num_classes); the features themselves for 0 classes."""
    return nn.Linear(in_features, num_classes) if num_classes > 0 else nn.Identity()

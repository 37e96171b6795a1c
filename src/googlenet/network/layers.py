"""The parts that GoogLeNet is made of.

Weights carry torchvision's names (`conv`, `bn`, `branch2.0.conv`, ...), so state dicts fit both ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.native.max_pool import max_pool
from googlenet.network import fused


class Convolution(nn.Module):
    """Convolution, batch normalisation where asked for, ReLU: (N, C_in, H, W) -> (N, C_out, H', W').

    A 1x1, 3x3, 5x5 or 7x7 kernel is padded so that stride 1 keeps the size. With batch normalisation there is no
    convolution bias, since the normalisation would subtract it again.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        batch_norm_epsilon: float | None = None,
    ) -> None:
        super().__init__()
        normalized = batch_norm_epsilon is not None
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=not normalized
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=batch_norm_epsilon) if batch_norm_epsilon is not None else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        # In place on a product's view, autograd would copy its gradient
        return F.relu(x) if fused.pays(x) else self.relu(x)

    def linear(self, x: Tensor) -> Tensor:
        """The same before the ReLU."""
        x = fused.convolve(self.conv, x)
        return x if self.bn is None else self.bn(x)


class MaxPool(nn.MaxPool2d):
    """PyTorch's max pool, computed by a faster one where there is one for the input: (N, C, H, W) -> (N, C, H', W')."""

    kernel_size: int
    stride: int
    padding: int

    def forward(self, x: Tensor) -> Tensor:
        if fused.pools(x):
            return max_pool(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return super().forward(x)


def convolve_and_pool(convolution: Convolution, pool: MaxPool, x: Tensor) -> Tensor:
    """What `pool(convolution(x))` gives: a ReLU and a max pool commute, and behind the pool it has less to work on."""
    if fused.pays(x):
        return F.relu_(pool(convolution.linear(x)))
    return pool(convolution(x))


class Inception(nn.Module):
    """One Inception block: four branches over the same input, concatenated along the channels (paper, figure 2b).

    (N, in_channels, H, W) -> (N, branch1 + branch2[1] + branch3[1] + branch4, H, W). The positional arguments are the
    tutorial's: `Inception(192, 64, (96, 128), (16, 32), 32)` is block 3a.

    Args:
        in_channels: channels of the input.
        branch1: channels of the 1x1 convolution.
        branch2: channels of the 1x1 convolution that reduces, and of the 3x3 convolution after it.
        branch3: channels of the 1x1 convolution that reduces, and of the 5x5 convolution after it.
        branch4: channels of the 1x1 convolution after the 3x3 max pool.
        third_branch_kernel: 5 as in the paper, or 3 as in torchvision.
        batch_norm_epsilon: adds batch normalisation with this epsilon to every convolution.
    """

    def __init__(
        self,
        in_channels: int,
        branch1: int,
        branch2: tuple[int, int],
        branch3: tuple[int, int],
        branch4: int,
        *,
        third_branch_kernel: int = 5,
        batch_norm_epsilon: float | None = None,
    ) -> None:
        super().__init__()

        def convolution(channels_in: int, channels_out: int, kernel_size: int) -> Convolution:
            return Convolution(channels_in, channels_out, kernel_size, batch_norm_epsilon=batch_norm_epsilon)

        self.branch1 = convolution(in_channels, branch1, 1)
        self.branch2 = nn.Sequential(convolution(in_channels, branch2[0], 1), convolution(*branch2, 3))
        self.branch3 = nn.Sequential(
            convolution(in_channels, branch3[0], 1), convolution(*branch3, third_branch_kernel)
        )
        self.branch4 = nn.Sequential(MaxPool(kernel_size=3, stride=1, padding=1), convolution(in_channels, branch4, 1))

    def forward(self, x: Tensor) -> Tensor:
        if fused.pays(x):
            return self._merged(x)
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), dim=1)

    def _merged(self, x: Tensor) -> Tensor:
        """The same in fewer steps: the 1x1 convolutions of one input as one, then one normalisation and one ReLU."""
        reduce2, convolve2, reduce3, convolve3, pool, project = self._units()
        widths = [unit.conv.out_channels for unit in (self.branch1, reduce2, reduce3)]
        merged = fused.merged_pointwise(x, (self.branch1.conv, reduce2.conv, reduce3.conv))
        one, reduced = merged.split((widths[0], widths[1] + widths[2]), dim=1)
        # Batch normalisation takes long over memory with gaps, as between the pixels of a part of the channels, and
        # what `split` gives may not be changed in place
        reduced = reduced.clone(memory_format=torch.channels_last)
        two, three = F.relu_(fused.merged_batch_norm(reduced, (reduce2.bn, reduce3.bn))).split(widths[1:], dim=1)
        branches = (one, convolve2.conv(two), convolve3.conv(three), fused.convolve(project.conv, pool(x)))
        norms = (self.branch1.bn, convolve2.bn, convolve3.bn, project.bn)
        return F.relu_(fused.merged_batch_norm(torch.cat(branches, dim=1), norms))

    def _units(self) -> list[Any]:
        """What branches 2, 3 and 4 consist of, in order."""
        return [*self.branch2, *self.branch3, *self.branch4]


class LocalResponseNorm(nn.Module):
    """Each value divided by (k + alpha / size * sum of squares over `size` neighbouring channels) ** beta.

    (N, C, H, W) -> (N, C, H, W). Krizhevsky et al. 2012, section 3.3, with the constants of BVLC's GoogLeNet. The sum
    is taken in float32 and from shifted slices, because torch's own layer does not take float16 on a CPU.
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
    """A classifier on a map halfway, whose loss brings gradient to the lower layers (paper, section 5).

    (N, in_channels, H, W) -> (N, num_classes). At 224x224 the paper's 5x5 pool makes 4x4 of a 14x14 map. For other
    sizes its result is pooled on to 4x4, since the fully connected layer needs 128 x 4 x 4 inputs; maps too small for
    it are pooled to 4x4 at once.
    """

    fc2_features = 1024

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        average_pool: bool,
        dropout: float,
        batch_norm_epsilon: float | None,
    ) -> None:
        super().__init__()
        self.avgpool = nn.AvgPool2d(kernel_size=5, stride=3) if average_pool else nn.Identity()
        self.fit = nn.AdaptiveAvgPool2d(4)
        self.conv = Convolution(in_channels, 128, 1, batch_norm_epsilon=batch_norm_epsilon)
        self.fc1 = nn.Linear(128 * 4 * 4, self.fc2_features)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.fc2: nn.Module = nn.Linear(self.fc2_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) >= 5:
            x = self.avgpool(x)
        x = self.fit(x)  # (N, C, 4, 4)
        x = self.conv(x)  # (N, 128, 4, 4)
        x = self.relu(self.fc1(torch.flatten(x, 1)))  # (N, 1024)
        return self.fc2(self.dropout(x))  # (N, num_classes)

"""The parts that GoogLeNet is made of.

Weights carry torchvision's names (`conv`, `bn`, `branch2.0.conv`, ...), so state dicts fit both ways.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.errors import UserError
from googlenet.kernels.max_pool import max_pool
from googlenet.model.architecture import TABLE_1, Architecture, InceptionRow, architecture
from googlenet.model.fuse import convolve, merged_batch_norm, merged_pointwise, pays, pools
from googlenet.model.init import initialize


class Convolution(nn.Module):
    """Convolution, batch normalization where asked for, ReLU: (N, C_in, H, W) -> (N, C_out, H', W').

    A 1x1, 3x3, 5x5 or 7x7 kernel is padded so that stride 1 keeps the size. With batch normalization there is no
    convolution bias, since the normalization would subtract it again.
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
        return F.relu(x) if pays(x) else self.relu(x)

    def linear(self, x: Tensor) -> Tensor:
        """The same before the ReLU."""
        x = convolve(self.conv, x)
        return x if self.bn is None else self.bn(x)


class MaxPool(nn.MaxPool2d):
    """PyTorch's max pool, computed by a faster one where there is one for the input: (N, C, H, W) -> (N, C, H', W')."""

    kernel_size: int
    stride: int
    padding: int

    def forward(self, x: Tensor) -> Tensor:
        if pools(x):
            return max_pool(x, self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return super().forward(x)


def convolve_and_pool(convolution: Convolution, pool: MaxPool, x: Tensor) -> Tensor:
    """What `pool(convolution(x))` gives: a ReLU and a max pool commute, and behind the pool it has less to work on."""
    if pays(x):
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
        batch_norm_epsilon: adds batch normalization with this epsilon to every convolution.
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
        if pays(x):
            return self._merged(x)
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), dim=1)

    def _merged(self, x: Tensor) -> Tensor:
        """The same in fewer steps: the 1x1 convolutions of one input as one, then one normalization and one ReLU."""
        reduce2, convolve2, reduce3, convolve3, pool, project = self._units()
        widths = [unit.conv.out_channels for unit in (self.branch1, reduce2, reduce3)]
        merged = merged_pointwise(x, (self.branch1.conv, reduce2.conv, reduce3.conv))
        one, reduced = merged.split((widths[0], widths[1] + widths[2]), dim=1)
        # Batch normalization takes long over memory with gaps, as between the pixels of a part of the channels, and
        # what `split` gives may not be changed in place
        reduced = reduced.clone(memory_format=torch.channels_last)
        two, three = F.relu_(merged_batch_norm(reduced, (reduce2.bn, reduce3.bn))).split(widths[1:], dim=1)
        branches = (one, convolve2.conv(two), convolve3.conv(three), convolve(project.conv, pool(x)))
        norms = (self.branch1.bn, convolve2.bn, convolve3.bn, project.bn)
        return F.relu_(merged_batch_norm(torch.cat(branches, dim=1), norms))

    def _units(self) -> list[Any]:
        """What branches 2, 3 and 4 consist of, in order."""
        return [*self.branch2, *self.branch3, *self.branch4]


class LocalResponseNorm(nn.Module):
    """Each value divided by (k + alpha / size * sum of squares over `size` neighboring channels) ** beta.

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


class GoogLeNetOutput(NamedTuple):
    """What a network with auxiliary heads returns in training mode, each (N, num_classes)."""

    logits: Tensor
    aux1: Tensor
    """From the head after block 4a."""
    aux2: Tensor
    """From the head after block 4d."""


class GoogLeNet(nn.Module):
    """The network of Szegedy et al. 2014, section 5: a stem, nine Inception blocks, one classifier.

    (N, in_channels, H, W) -> (N, num_classes) logits; in training mode with auxiliary heads, a `GoogLeNetOutput`.
    H and W are free down to `architecture.smallest_input()`.

    Where there are no auxiliary heads, the children are in the order of the computation: passing a batch through
    `named_children()` one by one gives what `forward` gives, which is how the tutorial checks its shapes.

    Raises:
        UserError: from `forward`, for a batch of another shape or of fewer pixels than the pools allow.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.info: Any = None
        """Where the network came out of a model file: what else that file says."""
        epsilon = architecture.batch_norm_epsilon if architecture.normalization == "batch" else None

        def convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> Convolution:
            return Convolution(in_channels, out_channels, kernel_size, stride, batch_norm_epsilon=epsilon)

        def local_response_norm() -> nn.Module:
            return LocalResponseNorm() if architecture.normalization == "lrn" else nn.Identity()

        def max_pool(kernel_size: int = 3) -> MaxPool:
            padded = architecture.pool == "padded" and kernel_size == 3
            return MaxPool(kernel_size, stride=2, padding=int(padded), ceil_mode=not padded)

        def block(row: InceptionRow) -> nn.Module:
            if not architecture.has_block(row.name):
                return nn.Identity()
            kernel = architecture.third_branch_kernel
            return Inception(*row[1:], third_branch_kernel=kernel, batch_norm_epsilon=epsilon)

        blocks = {row.name: block(row) for row in TABLE_1}
        self.conv1 = convolution(architecture.in_channels, 64, 7, architecture.stem_stride)
        self.maxpool1 = max_pool()
        self.lrn1 = local_response_norm()
        self.conv2 = convolution(64, 64, 1)
        self.conv3 = convolution(64, 192, 3)
        self.lrn2 = local_response_norm()
        self.maxpool2 = max_pool()
        self.inception3a = blocks["3a"]
        self.inception3b = blocks["3b"]
        self.maxpool3 = max_pool() if architecture.has_block("4a") else nn.Identity()
        self.inception4a = blocks["4a"]
        self.inception4b = blocks["4b"]
        self.inception4c = blocks["4c"]
        self.inception4d = blocks["4d"]
        self.inception4e = blocks["4e"]
        self.maxpool4 = max_pool(architecture.last_pool_kernel) if architecture.has_block("5a") else nn.Identity()
        self.inception5a = blocks["5a"]
        self.inception5b = blocks["5b"]
        self.avgpool = _average_pool(architecture.head_grid)
        self.dropout = nn.Dropout(architecture.dropout)
        self.hidden = self._hidden_layers()
        self.fc: nn.Module = self._classifier(architecture.num_classes)
        self.aux1: AuxiliaryHead | None = None
        self.aux2: AuxiliaryHead | None = None
        if architecture.auxiliary:
            self.aux1 = self._auxiliary_head(512)
            self.aux2 = self._auxiliary_head(528)
        initialize(self, architecture.initialization)

    @property
    def num_features(self) -> int:
        """Values that the head reads of an image: 1024, the channels of the last block, in a whole GoogLeNet."""
        described = self.architecture
        return TABLE_1[described.blocks - 1].out_channels * described.head_grid**2

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutput:
        features, map_4a, map_4d = self._trunk(x)
        logits = self.forward_head(features)
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return GoogLeNetOutput(logits, self.aux1(map_4a), self.aux2(map_4d))
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps, before pooling: (N, in_channels, H, W) -> (N, 1024, H/32, W/32)."""
        return self._trunk(x)[0]

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits from the last feature maps: (N, 1024, H, W) -> (N, num_classes)."""
        x = self.avgpool(features)  # (N, 1024)
        x = self.dropout(x)
        x = self.hidden(x)
        return self.fc(x)  # (N, num_classes)

    def _trunk(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The maps after blocks 5b, 4a and 4d. The shapes beside the code are those of a 224x224 input."""
        self._check_input(x)
        x = convolve_and_pool(self.conv1, self.maxpool1, x)  # (N, 64, 112, 112), (N, 64, 56, 56)
        x = self.lrn1(x)
        x = self.conv2(x)  # (N, 64, 56, 56)
        if isinstance(self.lrn2, nn.Identity):
            x = convolve_and_pool(self.conv3, self.maxpool2, x)  # (N, 192, 56, 56), (N, 192, 28, 28)
        else:
            x = self.maxpool2(self.lrn2(self.conv3(x)))
        x = self.inception3a(x)  # (N, 256, 28, 28)
        x = self.inception3b(x)  # (N, 480, 28, 28)
        x = self.maxpool3(x)  # (N, 480, 14, 14)
        x = map_4a = self.inception4a(x)  # (N, 512, 14, 14)
        x = self.inception4b(x)  # (N, 512, 14, 14)
        x = self.inception4c(x)  # (N, 512, 14, 14)
        x = map_4d = self.inception4d(x)  # (N, 528, 14, 14)
        x = self.inception4e(x)  # (N, 832, 14, 14)
        x = self.maxpool4(x)  # (N, 832, 7, 7)
        x = self.inception5a(x)  # (N, 832, 7, 7)
        x = self.inception5b(x)  # (N, 1024, 7, 7)
        return x, map_4a, map_4d

    def reset_classifier(self, num_classes: int) -> None:
        """Put fresh classifiers, auxiliary ones too, for `num_classes` classes; 0 leaves the 1024 pooled features."""
        self.architecture = dataclasses.replace(self.architecture, num_classes=num_classes)
        self.fc = self._classifier(num_classes).to(self.conv1.conv.weight)
        for head in (self.aux1, self.aux2):
            if head is not None:
                head.fc2 = _linear(head.fc2_features, num_classes).to(self.conv1.conv.weight)
        for layer in self.classifiers():
            initialize(layer, self.architecture.initialization)

    def classifiers(self) -> list[nn.Module]:
        """The layers that make logits: the network's own, then the auxiliary heads', where it has such."""
        return [self.fc, *(head.fc2 for head in (self.aux1, self.aux2) if head is not None)]

    def get_classifier(self) -> nn.Module:
        """The layer that makes logits of features, as in timm."""
        return self.fc

    def _hidden_layers(self) -> nn.Module:
        width = self.architecture.head_width
        if not width:
            return nn.Identity()
        first, second = nn.Linear(self.num_features, width), nn.Linear(width, width)
        dropout = nn.Dropout(self.architecture.dropout)
        return nn.Sequential(first, nn.ReLU(inplace=True), dropout, second, nn.ReLU(inplace=True))

    def _classifier(self, num_classes: int) -> nn.Module:
        return _linear(self.architecture.head_width or self.num_features, num_classes)

    def _auxiliary_head(self, in_channels: int) -> AuxiliaryHead:
        return AuxiliaryHead(
            in_channels,
            self.architecture.num_classes,
            average_pool=self.architecture.auxiliary_pool == "average",
            dropout=self.architecture.auxiliary_dropout,
            batch_norm_epsilon=self.architecture.batch_norm_epsilon
            if self.architecture.normalization == "batch"
            else None,
        )

    def check_size(self, height: int, width: int) -> None:
        """Raises `UserError` where an image of that many pixels is too small for the pools."""
        smallest = self.architecture.smallest_input()
        if min(height, width) < smallest:
            raise UserError(
                f"an input of {height}x{width} pixels is too small for variant {self.architecture.variant!r}: "
                f"the smallest is {smallest}x{smallest}"
            )

    def _check_input(self, x: Tensor) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return  # a traced or exported network has its shapes fixed already
        if x.ndim != 4 or x.shape[1] != self.architecture.in_channels:
            raise UserError(
                f"the network takes batches of shape (N, {self.architecture.in_channels}, H, W), not {tuple(x.shape)}"
            )
        self.check_size(x.shape[2], x.shape[3])


def _average_pool(grid: int) -> nn.Module:
    """(N, C, H, W) -> (N, C * grid * grid)."""
    return GlobalAveragePool() if grid == 1 else nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten())


def _linear(in_features: int, num_classes: int) -> nn.Module:
    return nn.Linear(in_features, num_classes) if num_classes > 0 else nn.Identity()


def create_model(variant: str = "bn", **changes: Any) -> GoogLeNet:
    """A GoogLeNet with fresh weights.

    Args:
        variant: `bn` (batch normalization; trains best), `tutorial`, `paper` or `torchvision`.
        changes: any field of `Architecture`: `num_classes` (1000), `in_channels` (3), `dropout`, `auxiliary`,
            `initialization`, ...

    Returns:
        The network in training mode, in float32 on the CPU.

    Raises:
        UserError: for an unknown variant or field.
    """
    return GoogLeNet(architecture(variant, **changes))

"""GoogLeNet (Inception v1), whole. Every variant is this one class; `architecture.py` says how they differ."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from googlenet.errors import UserError
from googlenet.network.architecture import TABLE_1, Architecture, InceptionRow, architecture
from googlenet.network.initialization import initialize
from googlenet.network.layers import (
    AuxiliaryHead,
    Convolution,
    GlobalAveragePool,
    Inception,
    LocalResponseNorm,
    MaxPool,
    convolve_and_pool,
)


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
        variant: `bn` (batch normalisation; trains best), `tutorial`, `paper` or `torchvision`.
        changes: any field of `Architecture`: `num_classes` (1000), `in_channels` (3), `dropout`, `auxiliary`,
            `initialization`, ...

    Returns:
        The network in training mode, in float32 on the CPU.

    Raises:
        UserError: for an unknown variant or field.
    """
    return GoogLeNet(architecture(variant, **changes))

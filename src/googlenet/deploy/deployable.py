"""The network as other programs see it: one function of tensors, with or without the preparing of pictures in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from googlenet.artifact.model_file import ModelInfo
from googlenet.network.googlenet import GoogLeNet


class Deployable(nn.Module):
    """What an exported file computes.

    Without `preprocessing`: prepared float32 images (N, C, size, size) -> logits (N, classes), as the network does.
    With it: uint8 images (N, C, H, W) of any size, as they were decoded -> probabilities (N, classes).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: GoogLeNet, info: ModelInfo, *, preprocessing: bool) -> None:
        super().__init__()
        self.net = net.eval()
        self.spec = info.input
        self.preprocessing = preprocessing
        self.temperature = info.temperature
        self.register_buffer("shift", torch.tensor(info.input.mean).view(1, -1, 1, 1))
        self.register_buffer("scale", torch.tensor(info.input.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if not self.preprocessing:
            return self.net(images)
        return (self.net(self._prepared(images)) / self.temperature).softmax(dim=1)

    def _prepared(self, images: Tensor) -> Tensor:
        """What `InputSpec.prepare` gives. Resizing is two matrix products, which every engine has and computes alike;
        an antialiased resize of its own many lack."""
        height, width = images.shape[2], images.shape[3]
        rows, columns = self._resizing(height, width), self._resizing(width, height)
        scaled = (images.to(torch.float32) / 255 - self.shift) / self.scale
        return rows @ scaled @ columns.T

    def _resizing(self, length: int, other: int) -> Tensor:
        """The weights (size, length) of bilinear resizing along one side: each row a triangle as wide as a pixel of
        the result, or of the picture where that is wider, cut off at the border."""
        spec, resized = self.spec, self.spec.size
        whole, span = (torch.full((1,), side, dtype=torch.float32) for side in (length, length))
        if spec.resize == "crop":
            span = torch.minimum(whole, torch.full((1,), other, dtype=torch.float32))
            resized = round(spec.size / spec.crop_share)
        first = ((whole - span) / 2).floor()
        shrinking = span / resized
        result = torch.arange(spec.size, dtype=torch.float32) + (resized - spec.size) // 2
        centre = (result + 0.5) * shrinking
        pixel = torch.arange(length, dtype=torch.float32) - first + 0.5
        weight = (1 - (pixel - centre[:, None]).abs() / shrinking.clamp(min=1)).clamp(min=0)
        weight = weight * ((pixel > 0) & (pixel < span))
        return weight / weight.sum(dim=1, keepdim=True)

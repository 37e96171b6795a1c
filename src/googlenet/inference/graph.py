"""What an exported file computes, as a module of PyTorch."""

from __future__ import annotations

import copy
import json

import torch
from torch import Tensor, nn

from googlenet.data.decode import PAD_GRAY
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import KnownRule, ModelInfo


class ExportableModel(nn.Module):
    """What an exported file computes.

    Without `preprocessing`: prepared float32 images (N, C, size, size) -> logits (N, classes), as the network does.
    With it: decoded uint8 images (N, C, H, W) of any size -> probabilities (N, classes); and if the model has a rule
    for unknown images, which probabilities alone do not allow, its scores (N, 1).
    """

    mean: Tensor
    std: Tensor
    scales: Tensor

    def __init__(self, net: GoogLeNet, info: ModelInfo, *, preprocessing: bool = False, int8: bool = False) -> None:
        """Copies the network."""
        super().__init__()
        self.info = info
        self.metadata = json.loads(info.to_json()) | {"exported": {"preprocessing": preprocessing, "int8": int8}}
        """What the exported file says about itself."""
        self.net = copy.deepcopy(net).float().cpu()
        self.preprocessing = preprocessing
        self.register_buffer("mean", torch.tensor(info.input.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(info.input.std).view(1, -1, 1, 1))
        self.register_buffer("scales", 2.0 ** torch.arange(23))
        self.eval()

    @property
    def outputs(self) -> list[str]:
        """The names of what `forward` returns."""
        if not self.preprocessing:
            return ["logits"]
        return ["probabilities"] if self.info.known is None else ["probabilities", "known_score"]

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.preprocessing:
            return self.net(images)
        logits = self.net(self.prepare(images))
        probabilities = (logits / self.info.temperature).softmax(dim=1)
        return probabilities if self.info.known is None else (probabilities, KnownRule.scores(logits)[:, None])

    def prepare(self, images: Tensor) -> Tensor:
        """What `InputSpec.prepare` computes, with resizing as two matrix products: every runtime has these and computes
        them alike, while many lack an antialiased resize."""
        height, width = images.shape[2], images.shape[3]
        rows, columns = self._resize_weights(height, width), self._resize_weights(width, height)
        shorter = (images.to(torch.float32) @ columns.T + 0.5).floor()
        resized = (rows @ shorter + 0.5).floor()
        if self.info.input.resize == "pad":  # the weights are 0 in the borders
            inside = (rows.sum(dim=1) > 0)[:, None] & (columns.sum(dim=1) > 0)
            resized = resized + PAD_GRAY * (~inside).to(torch.float32)
        return (resized / 255 - self.mean) / self.std

    def _resize_weights(self, length: int, other: int) -> Tensor:
        """The weights (size, length) of bilinear resizing along one side: each row is a triangle as wide as one pixel
        of the result, or of the image if that is wider, cut off at the border.

        Positions are integers in units of half a pixel of the image divided by `resized`, so that they are exact.
        """
        spec = self.info.input
        span, across = (torch.full((1,), side, dtype=torch.int64) for side in (length, other))
        resized, cut_off = torch.full((1,), spec.decoded_size, dtype=torch.int64), (spec.decoded_size - spec.size) // 2
        pixel, result = torch.arange(length), torch.arange(spec.decoded_size)
        if spec.resize == "crop":
            span = torch.minimum(span, across)
            pixel = pixel - (length - span) // 2
        elif spec.resize == "pad":  # as in `scaled_sides` and `borders`
            longer = torch.maximum(span, across)
            resized = ((2 * span * spec.size + longer) // (2 * longer)).clamp(min=1)
            result = result - (spec.size - resized) // 2
        distance = ((2 * pixel + 1) * resized - (2 * result[:, None] + 1) * span).abs()
        is_used = (pixel >= 0) & (pixel < span) & ((result >= 0) & (result < resized))[:, None]
        weight = ((2 * torch.maximum(span, resized) - distance).clamp(min=0) * is_used).to(torch.float32)
        weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)
        # PyTorch's kernel for 8 bits has integer weights: multiplied by the largest power of 2 with which they fit into
        # 16 bits (`_compute_index_ranges_int16_weights` in ATen/native/cpu/UpSampleKernel.cpp)
        scale = (self.scales * (self.scales * weight.max() < 2**15 - 0.5)).max()
        return ((weight * scale + 0.5).floor() / scale)[cut_off : cut_off + spec.size]

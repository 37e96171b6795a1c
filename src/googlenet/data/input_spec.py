"""What a trained network expects of its input, and the one function that makes a batch so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.data.decode import Resize


class Window(NamedTuple):
    """A part of a picture, in pixels of it; whole pixels or not."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class InputSpec:
    """Channels, size and scale of the images that a network was trained on. Travels in the model file."""

    channels: int
    size: int
    """Height and width in pixels."""
    mean: tuple[float, ...]
    """Of each channel, for pixels in 0..1; subtracted."""
    std: tuple[float, ...]
    """Of each channel, for pixels in 0..1; divided by."""
    resize: Resize = "stretch"
    """How a picture of another shape is made square: stretched, or its shorter side resized and the middle cut out."""
    crop_share: float = 1.0
    """With `crop`: the share of the resized shorter side that is cut out, 224 / 256 = 0.875 for ImageNet."""

    @property
    def decoded_size(self) -> int:
        """Height and width in pixels of the square that `decode.decode_resized` makes of a picture, by the rule
        `resize`, for `prepare` to leave at most its border out."""
        return self.size if self.resize == "stretch" else self._resized_side

    @property
    def _resized_side(self) -> int:
        return round(self.size / self.crop_share)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> InputSpec:
        return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 images of one size (N, C, H, W) to the network's float32 input (N, C, size, size), on their device.

        Resizing is bilinear, with antialiasing where it makes smaller.
        """
        shift = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        scale = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        whole = torch.tensor(255, dtype=torch.float32, device=images.device)
        # In place on a tensor of its own: reading and writing memory is what takes the time
        return self._resized((images / whole).sub_(shift).div_(scale))

    def window(self, height: int, width: int) -> Window:
        """The part of a picture of `height` x `width` pixels that `prepare` leaves for the network to see."""
        if self.resize == "stretch":
            return Window(0, 0, height, width)
        side = min(height, width)
        resized = self._resized_side
        margin = (resized - self.size) // 2 * side / resized
        seen = self.size * side / resized
        return Window((height - side) // 2 + margin, (width - side) // 2 + margin, seen, seen)

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.resize == "stretch":
            return _interpolated(images, self.size, self.size)
        # The middle square first: a long thin picture would become gigabytes on the way to its middle.
        square = _middle(images, min(height, width))
        return _middle(_interpolated(square, self._resized_side, self._resized_side), self.size)


def _middle(images: Tensor, side: int) -> Tensor:
    top, left = (images.shape[2] - side) // 2, (images.shape[3] - side) // 2
    return images[:, :, top : top + side, left : left + side]


def _interpolated(images: Tensor, height: int, width: int) -> Tensor:
    if (height, width) == tuple(images.shape[2:]):
        return images
    smaller = height < images.shape[2] or width < images.shape[3]
    return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=smaller)

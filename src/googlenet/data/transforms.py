"""What a network expects as input (`InputSpec`), and the random changes to training images (`Augmentation`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.choices import Resize
from googlenet.data.decode import borders, center_crop, make_square, scaled_sides

MAX_SIDE = 4096
"""The largest size of a network's images, pixels."""


class Window(NamedTuple):
    """A rectangle in an image, in pixels or fractions of them."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class InputSpec:
    """Channels, size, scale and resize rule of the images that a network was trained on. Part of the model file."""

    channels: int
    size: int  # Height and width in pixels
    mean: tuple[float, ...]  # Of each channel, for pixels in 0..1; subtracted.
    std: tuple[float, ...]  # Of each channel, for pixels in 0..1; divided by.
    resize: Resize = "stretch"
    """How an image of another shape is made square: stretched; its shorter side resized and its middle cut out; or its
    longer side resized and gray borders added."""
    crop_pct: float = 1.0
    """For `crop`: size of the crop / size of the resized shorter side, for example 224 / 256 = 0.875."""

    @property
    def decoded_size(self) -> int:
        """Height and width in pixels of the square to decode images to (`decode_resized`): `prepare` needs no more."""
        return round(self.size / self.crop_pct) if self.resize == "crop" else self.size

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> InputSpec:
        """The inverse of `dataclasses.asdict`; version 0.1 wrote `crop_pct` as `crop_share`.

        Raises `ValueError` for values that describe no images, and other errors of Python for other fields.
        """
        fields = {"crop_pct" if name == "crop_share" else name: value for name, value in fields.items()}
        spec = cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
        is_count = all(type(value) is int and 1 <= value <= MAX_SIDE for value in (spec.channels, spec.size))
        numbers = (*spec.mean, *spec.std, spec.crop_pct)
        are_numbers = all(type(value) in (int, float) and abs(value) < 1e6 for value in numbers)
        if (
            not is_count
            or not are_numbers
            or not len(spec.mean) == len(spec.std) == spec.channels
            or min(spec.std) <= 0
        ):
            raise ValueError("its input is not described by channels, size, mean and std")
        if spec.resize not in get_args(Resize) or not 0.1 <= spec.crop_pct <= 1:
            raise ValueError(f"its images are resized by {spec.resize!r} and {spec.crop_pct}")
        return spec

    def prepare(self, images: Tensor) -> Tensor:
        """The network's float32 input (N, C, size, size) from uint8 images (N, C, H, W), on their device.

        Images are resized in 8 bits, exactly as `decode_resized` does (bilinear, with antialiasing).
        """
        images = make_square(images, self.decoded_size, self.resize)
        if self.resize == "crop":
            images = center_crop(images, self.size)
        return self.normalize(images)

    def normalize(self, images: Tensor) -> Tensor:
        """The network's float32 input from uint8 images of its size, (N, C, size, size), on their device."""
        mean, std = (torch.tensor(each, device=images.device).view(-1, 1, 1) for each in (self.mean, self.std))
        white = torch.tensor(255, dtype=torch.float32, device=images.device)
        # In place, since memory bandwidth is the bottleneck
        return (images / white).sub_(mean).div_(std)

    def window(self, height: int, width: int) -> Window:
        """The part of an image of `height` x `width` pixels that the network sees after `prepare`.

        With `pad`, it is larger than the image, and its top and left may be negative.
        """
        if self.resize == "stretch":
            return Window(0, 0, height, width)
        if self.resize == "pad":
            scaled = scaled_sides(height, width, self.size)
            left, _, top, _ = borders(*scaled, self.size)
            rows, columns = height / scaled[0], width / scaled[1]  # pixels of the image per pixel of the input
            return Window(-top * rows, -left * columns, self.size * rows, self.size * columns)
        side = min(height, width)
        visible = side * self.size / self.decoded_size
        margin = (self.decoded_size - self.size) // 2 * side / self.decoded_size
        return Window((height - side) // 2 + margin, (width - side) // 2 + margin, visible, visible)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images. Randomness comes from PyTorch's global generator of the CPU."""

    hflip: bool = False  # Flip each image left to right with probability 0.5.
    crop_padding: int = 0  # Shift each image by up to this many pixels in each direction; the border is repeated
    crop_scale: float = 1.0
    """Resize a random rectangle of each image to the whole: its smallest share of the area; its aspect ratio is 3:4 to
    4:3 (Szegedy et al. 2014, section 6, with 0.08). 1: no crop."""
    color_jitter: float = 0.0
    """Multiply brightness, contrast and saturation by factors from 1 - color_jitter to 1 + color_jitter."""
    random_erasing: float = 0.0
    """Probability of noise over a random rectangle (Zhong et al. 2017, https://arxiv.org/abs/1708.04896)."""
    mixup: float = 0.0
    """Alpha of mixup: images blended in pairs (Zhang et al. 2017, https://arxiv.org/abs/1710.09412). 0: off."""
    cutmix: float = 0.0
    """Alpha of CutMix: a rectangle from another image (Yun et al. 2019, https://arxiv.org/abs/1905.04899). 0: off."""

    def __call__(self, images: Tensor, size: int | None = None) -> Tensor:
        """Everything except mixing: (N, C, H, W) -> (N, C, size, size) of the same type. Default: no new size.

        Random crops are resized to it at once. Images that are not cropped are resized first.
        """
        if size is not None and self.crop_scale == 1 and images.shape[2:] != (size, size):
            images = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
            images = images.round().to(torch.uint8)
        if self.hflip:
            flipped = (torch.rand(len(images)) < 0.5).to(images.device)
            images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
        if self.crop_padding:
            images = _shift(images, self.crop_padding)
        if self.crop_scale < 1:
            # On a CPU, resizing one by one (in 8 bits) takes a tenth of the time
            resize = _resize_each if images.device.type == "cpu" else _resize_all
            images = resize(
                images, _random_rectangles(images, self.crop_scale), (size, size) if size else images.shape[2:]
            )
        if self.color_jitter:
            images = _jitter_colors(images, self.color_jitter)
        if self.random_erasing:
            images = _erase(images, self.random_erasing)
        return images

    def mix(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mixup or CutMix (one of them at random, if both are on) of each image with another one of the batch.

        Takes floating-point images (N, C, H, W) and labels (N,). Returns images, and the share of each class in each of
        them, (N, num_classes); unchanged if both are off.
        """
        if self.mixup == self.cutmix == 0:
            return images, labels
        is_cutmix = self.cutmix > 0 and (self.mixup == 0 or float(torch.rand(())) < 0.5)
        alpha = self.cutmix if is_cutmix else self.mixup
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        other = torch.randperm(len(images)).to(images.device)
        if is_cutmix:
            height, width = images.shape[2:]
            rows, columns = round(height * (1 - share) ** 0.5), round(width * (1 - share) ** 0.5)
            top, left = int(torch.randint(height - rows + 1, ())), int(torch.randint(width - columns + 1, ()))
            rectangle = (..., slice(top, top + rows), slice(left, left + columns))
            images = images.clone()
            images[rectangle] = images[other][rectangle]
            share = 1 - rows * columns / (height * width)  # of the image, exactly
        else:
            images = share * images + (1 - share) * images[other]
        targets = F.one_hot(labels, num_classes).to(torch.float32)
        return images, share * targets + (1 - share) * targets[other]


def _shift(images: Tensor, padding: int) -> Tensor:
    count, _, height, width = images.shape
    down, right = torch.randint(-padding, padding + 1, (2, count, 1))
    # By index, since replication padding of integers does not exist on every device
    batch = torch.arange(count).view(-1, 1, 1).to(images.device)
    rows = (torch.arange(height) + down).clamp(0, height - 1)[:, :, None].to(images.device)
    columns = (torch.arange(width) + right).clamp(0, width - 1)[:, None, :].to(images.device)
    return images[batch, :, rows, columns].permute(0, 3, 1, 2)


def _random_rectangles(images: Tensor, min_area: float) -> Tensor:
    """(top, left, height, width) in pixels for each image: (N, 4)."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(min_area, 1)
    # A longer rectangle of that area would not fit into the image
    max_log_aspect = (-area.log()).clamp(max=math.log(4 / 3))
    aspect = (torch.empty(count).uniform_(-1, 1) * max_log_aspect).exp()
    rows = ((area / aspect).sqrt() * height).round().clamp(1, height)
    columns = ((area * aspect).sqrt() * width).round().clamp(1, width)
    tops = (torch.rand(count) * (height - rows + 1)).floor()
    lefts = (torch.rand(count) * (width - columns + 1)).floor()
    return torch.stack([tops, lefts, rows, columns], 1).long()


def _resize_each(images: Tensor, rectangles: Tensor, size: Sequence[int]) -> Tensor:
    """Each rectangle resized to this height and width, one by one; with antialiasing where that makes it smaller."""
    resized = images.new_empty(*images.shape[:2], *size)
    for image, result, (top, left, rows, columns) in zip(images, resized, rectangles.tolist(), strict=True):
        crop = image[None, :, top : top + rows, left : left + columns]
        smaller = rows > size[0] or columns > size[1]
        result.copy_(F.interpolate(crop, size=tuple(size), mode="bilinear", antialias=smaller)[0])
    return resized


def _resize_all(images: Tensor, rectangles: Tensor, size: Sequence[int]) -> Tensor:
    """The same as `_resize_each` in one operation, without antialiasing; pixels may differ by 1."""
    sides = torch.tensor([images.shape[3], images.shape[2]])
    first, extent = rectangles[:, [1, 0]], rectangles[:, [3, 2]]
    # Centers of the rectangles and of their outermost pixels, in an image that goes from -1 to 1
    center, share = (2 * first + extent) / sides - 1, extent / sides
    low, high = (2 * first + 1) / sides - 1, (2 * (first + extent) - 1) / sides - 1
    transform = torch.cat([torch.diag_embed(share), center[:, :, None]], 2).to(images.device)
    grid = F.affine_grid(transform, [*images.shape[:2], *size], align_corners=False)
    # Clamp here, since grid_sample's border padding does not exist on every device
    grid = grid.clamp(low[:, None, None].to(grid), high[:, None, None].to(grid))
    return F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False).round().to(images.dtype)


def _jitter_colors(images: Tensor, strength: float) -> Tensor:
    def factors() -> Tensor:
        return torch.empty(len(images), 1, 1, 1).uniform_(1 - strength, 1 + strength).to(images.device)

    changed = images.float() * factors()
    mean = changed.mean(dim=(1, 2, 3), keepdim=True)
    changed = mean + (changed - mean) * factors()
    if images.shape[1] == 3:
        gray = changed.mean(dim=1, keepdim=True)
        changed = gray + (changed - gray) * factors()
    return changed.clamp(0, 255).round().to(images.dtype)


def _erase(images: Tensor, probability: float) -> Tensor:
    """Noise over a rectangle of 2 to 40% of the image, up to 3.3 times as long as wide."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(0.02, 0.4) * (torch.rand(count) < probability)
    aspect = torch.empty(count).uniform_(-math.log(3.3), math.log(3.3)).exp()
    rows = _random_interval((area * aspect).sqrt(), height)
    columns = _random_interval((area / aspect).sqrt(), width)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None].to(images.device)
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8).to(images.device)
    return torch.where(erased, noise, images)


def _random_interval(share: Tensor, side: int) -> Tensor:
    """For each image, a mask (N, side) of the pixels in an interval that is a `share` (N,) of the side."""
    length = (share * side).round().clamp(max=side)
    first = (torch.rand(len(share)) * (side - length + 1)).floor()
    pixel = torch.arange(side)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])

"""Random changes to training images, a whole batch at once, on the device that the batch is on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.data.mixing import mix


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image. Randomness comes from torch's global generator of the CPU.

    Attributes:
        flip: mirror each image left to right with probability one half.
        crop_padding: shift each image by up to this many pixels each way; what comes in repeats the border.
        crop_scale: cut a rectangle out of each image and stretch it to the whole; its area is at least this share of
            the image's, its shape up to 4:3 or 3:4 (Szegedy et al. 2014, section 6: a share of 0.08). 1: none.
        colour: change brightness, contrast and saturation of each image, each by a factor of 1 - colour to 1 + colour.
        erasing: put noise over a rectangle of each image with this probability (Zhong et al. 2017,
            https://arxiv.org/abs/1708.04896).
        mixup: alpha of mixup, 0: none; see `mixing.mix`.
        cutmix: alpha of cutmix, 0: none.
    """

    flip: bool = False
    crop_padding: int = 0
    crop_scale: float = 1.0
    colour: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), of the same type."""
        if self.flip:
            mirrored = (torch.rand(len(images)) < 0.5).to(images.device)
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        if self.crop_padding:
            images = _shifted(images, self.crop_padding)
        if self.crop_scale < 1:
            images = _cropped(images, self.crop_scale)
        if self.colour:
            images = _coloured(images, self.colour)
        if self.erasing:
            images = _erased(images, self.erasing)
        return images

    def mix(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """What `mixing.mix` gives of images (N, C, H, W) and labels (N,); both as they are where nothing is mixed."""
        if self.mixup == self.cutmix == 0:
            return images, labels
        return mix(images, labels, num_classes, mixup=self.mixup, cutmix=self.cutmix)


def _shifted(images: Tensor, padding: int) -> Tensor:
    count, _, height, width = images.shape
    # replication is not there for integers on every device, so the border is repeated by index
    rows = torch.arange(-padding, height + padding).clamp(0, height - 1)
    columns = torch.arange(-padding, width + padding).clamp(0, width - 1)
    tops = torch.randint(0, 2 * padding + 1, (count, 1)) + torch.arange(height)
    lefts = torch.randint(0, 2 * padding + 1, (count, 1)) + torch.arange(width)
    batch = torch.arange(count).view(-1, 1, 1)
    where = (batch, rows[tops].view(count, height, 1), columns[lefts].view(count, 1, width))
    return images.permute(0, 2, 3, 1)[tuple(index.to(images.device) for index in where)].permute(0, 3, 1, 2)


def _cropped(images: Tensor, smallest: float) -> Tensor:
    rectangles = _rectangles(images, smallest)
    return _stretched_one_by_one(images, rectangles) if images.device.type == "cpu" else _stretched(images, rectangles)


def _rectangles(images: Tensor, smallest: float) -> Tensor:
    """For each image (top, left, height, width) in pixels: (N, 4)."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(smallest, 1)
    # No longer than that a rectangle of that area lies in the image
    longest = (-area.log()).clamp(max=math.log(4 / 3))
    aspect = (torch.empty(count).uniform_(-1, 1) * longest).exp()
    rows = ((area / aspect).sqrt() * height).round().clamp(1, height)
    columns = ((area * aspect).sqrt() * width).round().clamp(1, width)
    tops = (torch.rand(count) * (height - rows + 1)).floor()
    lefts = (torch.rand(count) * (width - columns + 1)).floor()
    return torch.stack([tops, lefts, rows, columns], 1).long()


def _stretched_one_by_one(images: Tensor, rectangles: Tensor) -> Tensor:
    """A tenth of the time of `_stretched` on a CPU, whose resizing works in eight bits."""
    stretched = torch.empty_like(images)
    for image, result, (top, left, rows, columns) in zip(images, stretched, rectangles.tolist(), strict=True):
        part = image[None, :, top : top + rows, left : left + columns]
        result.copy_(F.interpolate(part, size=image.shape[1:], mode="bilinear")[0])
    return stretched


def _stretched(images: Tensor, rectangles: Tensor) -> Tensor:
    """Each rectangle as large as its image, bilinearly; they may differ by a level in the two ways."""
    sides = torch.tensor([images.shape[3], images.shape[2]])
    first, size = rectangles[:, [1, 0]], rectangles[:, [3, 2]]
    # Where the rectangle's middle lies, with the image going from -1 to 1, and its outermost pixels' middles
    middle, share = (2 * first + size) / sides - 1, size / sides
    least, most = (2 * first + 1) / sides - 1, (2 * (first + size) - 1) / sides - 1
    corners = torch.cat([torch.diag_embed(share), middle[:, :, None]], 2).to(images.device)
    grid = F.affine_grid(corners, list(images.shape), align_corners=False)
    # Held to the rectangle, as not every device's grid_sample can hold it to the image
    grid = grid.clamp(least[:, None, None].to(grid), most[:, None, None].to(grid))
    cut = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return cut.round().to(images.dtype)


def _coloured(images: Tensor, strength: float) -> Tensor:
    def factors() -> Tensor:
        return torch.empty(len(images), 1, 1, 1).uniform_(1 - strength, 1 + strength).to(images.device)

    changed = images.float() * factors()
    middle = changed.mean(dim=(1, 2, 3), keepdim=True)
    changed = middle + (changed - middle) * factors()
    if images.shape[1] == 3:
        grey = changed.mean(dim=1, keepdim=True)
        changed = grey + (changed - grey) * factors()
    return changed.clamp(0, 255).round().to(images.dtype)


def _erased(images: Tensor, probability: float) -> Tensor:
    """A rectangle of 2 to 40% of the image, up to 3.3 times as long as wide, of noise."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(0.02, 0.4) * (torch.rand(count) < probability)
    aspect = torch.empty(count).uniform_(-math.log(3.3), math.log(3.3)).exp()
    rows = _stretch((area * aspect).sqrt(), height)
    columns = _stretch((area / aspect).sqrt(), width)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None].to(images.device)
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8).to(images.device)
    return torch.where(erased, noise, images)


def _stretch(share: Tensor, side: int) -> Tensor:
    """For each image, which pixels along one side lie in a stretch of that share of it, placed at random."""
    length = (share * side).round().clamp(max=side)
    first = (torch.rand(len(share)) * (side - length + 1)).floor()
    pixel = torch.arange(side)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])

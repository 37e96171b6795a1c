"""Random changes to training images, a whole batch at once, on the device that the batch is on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image. Randomness comes from torch's global generator of the CPU.

    Attributes:
        flip: mirror each image left to right with probability one half.
        crop_padding: shift each image by up to this many pixels each way; what comes in repeats the border.
        erasing: put noise over a rectangle of each image with this probability (Zhong et al. 2017,
            https://arxiv.org/abs/1708.04896).
    """

    flip: bool = False
    crop_padding: int = 0
    erasing: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), of the same type."""
        if self.flip:
            mirrored = (torch.rand(len(images)) < 0.5).to(images.device)
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        if self.crop_padding:
            images = _shifted(images, self.crop_padding)
        if self.erasing:
            images = _erased(images, self.erasing)
        return images


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

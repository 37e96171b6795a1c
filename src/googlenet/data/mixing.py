"""Two images and their labels made one: mixup and cutmix, a whole batch at once, on the device that it is on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mix(images: Tensor, labels: Tensor, num_classes: int, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Each image of a batch mixed with another one of it, by the same share for all.

    Where both are on, each batch has one of them, chosen by a coin. Randomness comes from torch's global generator.

    Args:
        images: (N, C, H, W), floating point.
        labels: (N,).
        num_classes: of the data.
        mixup: alpha of the Beta distribution of the share, images blended (Zhang et al. 2017,
            https://arxiv.org/abs/1710.09412); 0: off.
        cutmix: the same, a rectangle of one laid over the other (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

    Returns:
        The images, and the share of each class in each of them, (N, num_classes).
    """
    patch = cutmix > 0 and (mixup == 0 or float(torch.rand(())) < 0.5)
    alpha = cutmix if patch else mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(images)).to(images.device)
    if patch:
        images, share = _patched(images, images[other], share)
    else:
        images = share * images + (1 - share) * images[other]
    targets = F.one_hot(labels, num_classes).to(torch.float32)
    return images, share * targets + (1 - share) * targets[other]


def _patched(images: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """`others` laid over a rectangle of `images`; the share of the latter that is left."""
    height, width = images.shape[2:]
    side = (1 - share) ** 0.5
    rows, columns = round(height * side), round(width * side)
    top = int(torch.randint(0, height - rows + 1, ()))
    left = int(torch.randint(0, width - columns + 1, ()))
    mixed = images.clone()
    mixed[:, :, top : top + rows, left : left + columns] = others[:, :, top : top + rows, left : left + columns]
    return mixed, 1 - rows * columns / (height * width)

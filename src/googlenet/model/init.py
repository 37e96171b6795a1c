"""A first convolution that starts from the images themselves: whitening."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PATCH_STRIDE = 3  # pixels from patch to patch: overlapping ones are nearly the same
_MIN_VARIANCE = 1e-3  # relative to the largest; directions with less would be noise scaled up
_ZERO_VARIANCE = 1e-6  # relative to the largest, or to pixels scaled to a variance of 1
_PIXELS_AT_ONCE = 500_000  # about five patches each, in float64


@torch.no_grad()
def whiten(convolution: nn.Conv2d, images: Tensor) -> None:
    """Set a convolution's kernels so that its outputs for such images are uncorrelated and equally large, in place.

    The kernels are the principal components of the images' patches, largest variance first, each divided by the
    standard deviation along it, and each a second time with the opposite sign, because a ReLU keeps one side. So the
    next layer learns from every direction at once, although neighboring pixels are nearly the same. The kernels keep
    their joint scale; batch norm has to follow. Kernels that are left because the patches vary in fewer directions do
    not change.

    Source: Jordan 2024, https://arxiv.org/abs/2404.00498, section 3.1.

    Args:
        convolution: the first one of a network.
        images: (N, C, H, W), as the network will see them, on the convolution's device.
    """
    weight = convolution.weight
    height, width = weight.shape[2:]
    assert not isinstance(convolution.padding, str)
    size = weight[0].numel()
    total, products = weight.new_zeros(size).double(), weight.new_zeros(size, size).double()
    count = 0
    for part in images.split(max(1, _PIXELS_AT_ONCE // images[0, 0].numel())):
        # (n, C * height * width, number of patches)
        patches = F.unfold(part.double(), (height, width), padding=convolution.padding, stride=_PATCH_STRIDE)
        count += len(patches) * patches.shape[2]
        total, products = total + patches.sum(dim=(0, 2)), products + (patches @ patches.mT).sum(dim=0)
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - mean.outer(mean))  # smallest variance first
    components = int((variances > max(_ZERO_VARIANCE, _ZERO_VARIANCE * float(variances[-1]))).sum())
    pairs = min(components, len(weight) // 2)
    if pairs == 0:
        return
    deviations = (variances + _MIN_VARIANCE * variances[-1]).sqrt()
    kernels = (directions / deviations).T.flip(0)[:pairs].to(weight.dtype)
    kernels = torch.cat([kernels, -kernels]).view(-1, *weight.shape[1:])
    weight[: 2 * pairs] = kernels * (weight.std() / kernels.std())

"""How fresh weights are drawn. Without batch normalization this decides whether the network learns at all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.model.architecture import Initialization

_PATCH_STRIDE = 3  # pixels from patch to patch: next to each other they say nearly the same
_LEAST_VARIANCE = 1e-3  # of the largest
_NO_VARIANCE = 1e-6  # of the largest, or of pixels scaled to a variance of 1
_PIXELS_AT_ONCE = 500_000  # five patches each, in float64


def _he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")


def _truncated_normal(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, mean=0.0, std=0.01, a=-2.0, b=2.0)


def _orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight, gain=nn.init.calculate_gain("relu"))


_DRAW: dict[str, Callable[[Tensor], object]] = {
    "he": _he,
    "xavier": nn.init.xavier_uniform_,
    "truncated-normal": _truncated_normal,
    "orthogonal": _orthogonal,
}


def initialize(net: nn.Module, scheme: Initialization) -> None:
    """Draw the weights of every convolution and fully connected layer anew, in place, from torch's global generator.

    - `default`: what PyTorch's layers do by themselves: uniform with variance 1 / (3 fan_in), biases likewise.
    - `he`: normal with variance 2 / fan_in, biases 0 (He et al. 2015, https://arxiv.org/abs/1502.01852).
    - `xavier`: uniform with variance 2 / (fan_in + fan_out), biases 0 (Glorot and Bengio 2010).
    - `truncated-normal`: standard deviation 0.01 and biases 0, as torchvision draws its GoogLeNet.
    - `orthogonal`: rows (or columns, where these are fewer) orthogonal, of length sqrt(2), biases 0 (Saxe et al. 2013,
      https://arxiv.org/abs/1312.6120).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if scheme == "default":
                module.reset_parameters()
                continue
            _DRAW[scheme](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


@torch.no_grad()
def whiten(convolution: nn.Conv2d, images: Tensor) -> None:
    """Set a convolution's kernels so that what they give of such images is uncorrelated and of one size, in place.

    The kernels are the principal components of the images' patches, those of most variance first, each divided by the
    deviation along it, and each a second time with its sign turned, since a ReLU keeps one side. So the layer after it
    learns from every direction at once, where neighboring pixels say nearly the same. What size the kernels had
    together they keep: batch normalization has to follow, which brings each response to one size. Kernels left over,
    where the patches vary in fewer directions, stay as they are.

    Source: Jordan 2024, https://arxiv.org/abs/2404.00498, section 3.1.

    Args:
        convolution: with a padding of half its kernel, as all of GoogLeNet's have.
        images: (N, C, H, W), as the network will see them, on the convolution's device.
    """
    weight = convolution.weight
    height, width = weight.shape[2:]
    size = weight[0].numel()
    total, products = weight.new_zeros(size).double(), weight.new_zeros(size, size).double()
    count = 0
    for part in images.split(max(1, _PIXELS_AT_ONCE // images[0, 0].numel())):
        patches = F.unfold(part.double(), (height, width), padding=(height // 2, width // 2), stride=_PATCH_STRIDE)
        count += len(patches) * patches.shape[2]  # (n, C * height * width, places)
        total, products = total + patches.sum(dim=(0, 2)), products + (patches @ patches.mT).sum(dim=0)
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - mean.outer(mean))  # the least variance first
    there = int((variances > max(_NO_VARIANCE, _NO_VARIANCE * float(variances[-1]))).sum())
    pairs = min(there, len(weight) // 2)
    if pairs == 0:
        return
    # Directions in which the images hardly vary would be noise made large
    deviations = (variances + _LEAST_VARIANCE * variances[-1]).sqrt()
    kernels = (directions / deviations).T.flip(0)[:pairs].to(weight.dtype)
    kernels = torch.cat([kernels, -kernels]).view(-1, *weight.shape[1:])
    weight[: 2 * pairs] = kernels * (weight.std() / kernels.std())

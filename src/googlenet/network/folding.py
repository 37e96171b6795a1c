"""Batch normalisation as part of the convolutions, for networks that only answer."""

from __future__ import annotations

import copy

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from googlenet.network.googlenet import GoogLeNet
from googlenet.network.layers import Convolution


def folded(net: GoogLeNet, dtype: torch.dtype = torch.float32) -> GoogLeNet:
    """A copy for inference, channels-last: kernels and biases do what the normalisation behind them did.

    It is done in float32, so that what `dtype` rounds is rounded once.
    """
    copied = copy.deepcopy(net).float().eval()
    for unit in copied.modules():
        if isinstance(unit, Convolution) and unit.bn is not None:
            unit.conv, unit.bn = fuse_conv_bn_eval(unit.conv, unit.bn), None
    copied.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied

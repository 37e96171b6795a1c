"""The same arithmetic in fewer and better-fed steps, for training in bf16 on a CPU.

oneDNN takes long over the gradients of a 1x1 convolution on a small map, and two thirds of Any's convolutions are
1x1, most of them on maps of 14x14, 7x7 or less. As matrix products they take a half to a quarter of the time, and the
three in a block that read the same input make one product. In fp32 there is nothing to gain. docs/performance.md has
the figures; tests hold the two forms to equal results.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from googlenet.kernels.max_pool import serves

_enabled = True


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within it every layer is computed as PyTorch does it, to compare with."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def pays(x: Tensor) -> bool:
    """Whether these forms are faster for this input: channels-last, in bf16, gradients to flow back through it."""
    return (
        _usable()
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"))
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def pools(x: Tensor) -> bool:
    """Whether `native.max_pool` is to pool this input."""
    return _usable() and serves(x)


def _usable() -> bool:
    # A traced or compiled network, and one that torch.func transforms, consists of PyTorch's operations only
    changed = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    return _enabled and not changed


def convolve(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """What `convolution(x)` gives: (N, C_in, H, W) -> (N, C_out, H', W')."""
    if convolution.kernel_size == (1, 1) and pays(x):
        return pointwise(x, convolution.weight, convolution.bias)
    return convolution(x)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution as the matrix product that it is: the channels of each pixel times the weights."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def merged_pointwise(x: Tensor, convolutions: Sequence[nn.Conv2d]) -> Tensor:
    """Several 1x1 convolutions of the same input as one: their outputs side by side, (N, sum of C_out, H, W)."""
    weight = torch.cat([convolution.weight for convolution in convolutions])
    biases = [convolution.bias for convolution in convolutions if convolution.bias is not None]
    return pointwise(x, weight, torch.cat(biases) if biases else None)


def merged_batch_norm(y: Tensor, norms: Sequence[nn.BatchNorm2d | None]) -> Tensor:
    """Each normalization on its share of the channels, as one; where there are none, `y` itself."""
    there = [norm for norm in norms if norm is not None]
    return _batch_norm(y, there) if there else y


def _batch_norm(y: Tensor, norms: Sequence[nn.BatchNorm2d]) -> Tensor:
    mean = torch.cat([_buffer(norm.running_mean) for norm in norms])
    variance = torch.cat([_buffer(norm.running_var) for norm in norms])
    weight, bias = torch.cat([norm.weight for norm in norms]), torch.cat([norm.bias for norm in norms])
    training, momentum = norms[0].training, norms[0].momentum or 0.0
    y = F.batch_norm(y, mean, variance, weight, bias, training, momentum, norms[0].eps)
    if training:
        sizes = [norm.num_features for norm in norms]
        for norm, new_mean, new_variance in zip(norms, mean.split(sizes), variance.split(sizes), strict=True):
            _buffer(norm.running_mean).copy_(new_mean)
            _buffer(norm.running_var).copy_(new_variance)
            _buffer(norm.num_batches_tracked).add_(1)
    return y


def _buffer(buffer: Tensor | None) -> Tensor:
    assert buffer is not None
    return buffer


def folded(net: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A copy for inference, channels-last: kernels and biases do what the normalization behind them did.

    It is done in float32, so that what `dtype` rounds is rounded once.
    """
    copied = copy.deepcopy(net).float().eval()
    for unit in copied.modules():
        if type(unit).__name__ == "Convolution" and unit.bn is not None:
            unit.conv, unit.bn = fuse_conv_bn_eval(unit.conv, unit.bn), None
    copied.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied

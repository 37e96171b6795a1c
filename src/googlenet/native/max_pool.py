"""Max pooling that keeps one byte a value for the backward pass, where PyTorch's keeps eight (see max_pool.c)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from googlenet.native.library import compiled

_DEFINITIONS = {torch.bfloat16: "BFLOAT16", torch.float32: "FLOAT32"}


def serves(x: Tensor) -> bool:
    """Whether `max_pool` takes this input: on the CPU, channels-last, in bfloat16 or float32, the C compiled."""
    return (
        x.device.type == "cpu"
        and x.dtype in _DEFINITIONS
        and x.is_contiguous(memory_format=torch.channels_last)
        and compiled("max_pool.c", _DEFINITIONS[x.dtype]) is not None
    )


def max_pool(x: Tensor, kernel_size: int, stride: int, padding: int, ceil_mode: bool) -> Tensor:
    """`torch.nn.functional.max_pool2d` for inputs that it `serves`: (N, C, H, W) -> (N, C, H', W').

    A window may hold up to 256 values. Second derivatives are refused.
    """
    pooled: Tensor = _MaxPool.apply(x, kernel_size, stride, padding, ceil_mode)[0]
    return pooled


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, kernel_size: int, stride: int, padding: int, ceil_mode: bool) -> tuple[Tensor, Tensor]:
        images, channels, *sides = x.shape
        height, width = (_pooled_side(side, kernel_size, stride, padding, ceil_mode) for side in sides)
        y = _empty((images, channels, height, width), x.dtype)
        place = _empty(y.shape, torch.uint8)
        shape = (images, *sides, channels, height, width, kernel_size, stride, padding)
        _call("max_pool", x.dtype, (x, y, place), shape)
        return y, place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, kernel_size, stride, padding, _ = inputs
        y, place = output
        ctx.mark_non_differentiable(place)
        ctx.save_for_backward(place)
        ctx.input_shape = x.shape
        ctx.window = (y.shape[2], y.shape[3], kernel_size, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        (place,) = ctx.saved_tensors
        images, channels, *sides = ctx.input_shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = _empty(ctx.input_shape, gradient.dtype)
        _call("max_pool_backward", gradient.dtype, (gradient, place, result), (images, *sides, channels, *ctx.window))
        return result, None, None, None, None


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, memory_format=torch.channels_last)


def _pooled_side(side: int, kernel_size: int, stride: int, padding: int, ceil_mode: bool) -> int:
    room = side + 2 * padding - kernel_size
    pooled = (-(-room // stride) if ceil_mode else room // stride) + 1
    # A window that would begin in the padding on the far side is left out, as PyTorch does
    return pooled - 1 if ceil_mode and (pooled - 1) * stride >= side + padding else pooled


def _call(name: str, dtype: torch.dtype, tensors: tuple[Tensor, ...], geometry: tuple[int, ...]) -> None:
    library = compiled("max_pool.c", _DEFINITIONS[dtype])
    assert library is not None
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    getattr(library, name)(*pointers, (ctypes.c_long * len(geometry))(*geometry))

"""The C max pool: one byte per value for the backward pass, where PyTorch keeps eight (see max_pool.c).

The C file is compiled once by the machine's own compiler and kept in the cache folder. Without a compiler, PyTorch's
max pool does the work.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from googlenet.device import cpu_capabilities
from googlenet.files import cache_dir

_DTYPES = {torch.bfloat16: "BFLOAT16", torch.float32: "FLOAT32"}
_COMPILE_SECONDS = 60


class CMaxPool2d(nn.MaxPool2d):
    """PyTorch's max pool, computed in C if `supports` its input: (N, C, H, W) -> (N, C, H', W').

    Second derivatives are refused.
    """

    def forward(self, x: Tensor) -> Tensor:
        window = (self.kernel_size, self.stride, self.padding)
        is_simple = all(isinstance(side, int) for side in window) and self.dilation == 1 and not self.return_indices
        # A traced or compiled network consists of PyTorch's operations only; a window's place must fit into a byte
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or not is_simple or self.kernel_size > 16:  # type: ignore[operator]
            return super().forward(x)
        return max_pool(x, *window, self.ceil_mode) if supports(x) else super().forward(x)  # type: ignore[arg-type]


def supports(x: Tensor) -> bool:
    """Whether `max_pool` takes this input: on the CPU, channels-last, bfloat16 or float32, and the C compiles."""
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.is_contiguous(memory_format=torch.channels_last)
        and library(_DTYPES[x.dtype]) is not None
    )


def max_pool(x: Tensor, kernel_size: int, stride: int, padding: int, ceil_mode: bool) -> Tensor:
    """`torch.nn.functional.max_pool2d` for an input that it `supports`: (N, C, H, W) -> (N, C, H', W').

    A window may hold up to 256 values. Second derivatives are refused.
    """
    pooled: Tensor = _MaxPool.apply(x, kernel_size, stride, padding, ceil_mode)[0]
    return pooled


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, kernel_size: int, stride: int, padding: int, ceil_mode: bool) -> tuple[Tensor, Tensor]:
        def pooled(side: int) -> int:
            room = side + 2 * padding - kernel_size
            size = (-(-room // stride) if ceil_mode else room // stride) + 1
            # As in PyTorch, no window begins in the padding on the far side
            return size - 1 if ceil_mode and (size - 1) * stride >= side + padding else size

        images, channels, height, width = x.shape
        shape = (images, channels, pooled(height), pooled(width))
        y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        place = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        geometry = (images, height, width, channels, *shape[2:], kernel_size, stride, padding)
        _call("max_pool", x.dtype, (x, y, place), geometry)
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
        images, channels, height, width = ctx.input_shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = torch.empty(ctx.input_shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        geometry = (images, height, width, channels, *ctx.window)
        _call("max_pool_backward", gradient.dtype, (gradient, place, result), geometry)
        return result, None, None, None, None


def _call(name: str, dtype: torch.dtype, tensors: tuple[Tensor, ...], geometry: tuple[int, ...]) -> None:
    compiled = library(_DTYPES[dtype])
    assert compiled is not None
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    getattr(compiled, name)(*pointers, (ctypes.c_long * len(geometry))(*geometry))


@functools.cache
def library(dtype: str) -> ctypes.CDLL | None:
    """max_pool.c compiled for BFLOAT16 or FLOAT32; None if it cannot be compiled here."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    source = resources.files("googlenet.kernels").joinpath("max_pool.c").read_text(encoding="utf-8")
    # Linked to the OpenMP that torch brings, so that both share one set of threads instead of competing for cores
    folder = Path(torch.__file__).parent
    bundled = [*folder.glob("lib/libgomp*.so*"), *folder.with_name("torch.libs").glob("libgomp*.so*")]
    openmp = str(bundled[0]) if bundled else "-fopenmp"
    # Machines with other processors may share a cache folder, and it may outlive this installation of torch
    key = (source, dtype, compiler, torch.__version__, openmp, sorted(cpu_capabilities().items()))
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    target = cache_dir() / "kernels" / f"{dtype}-{digest}.so"
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                c, o, so = (str(Path(scratch) / f"max_pool.{suffix}") for suffix in ("c", "o", "so"))
                Path(c).write_text(source, encoding="utf-8")
                run = functools.partial(subprocess.run, check=True, capture_output=True, timeout=_COMPILE_SECONDS)
                run((compiler, "-O3", "-march=native", "-fPIC", "-fopenmp", f"-D{dtype}", "-c", c, "-o", o))
                run((compiler, "-shared", o, "-o", so, openmp))
                Path(so).replace(target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None

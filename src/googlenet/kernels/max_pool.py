"""Max pooling that keeps one byte a value for the backward pass, where PyTorch's keeps eight (see max_pool.c)."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_COMPILE_SECONDS = 60


@functools.cache
def compiled(source: str, definition: str) -> ctypes.CDLL | None:
    """The shared library of one C file, compiled with `-D definition`; None where it cannot be had."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    text = resources.files("googlenet.kernels").joinpath(source).read_text(encoding="utf-8")
    # A cache folder may be shared by machines with other processors, and outlive this installation of torch
    made_for = (
        text,
        definition,
        compiler,
        torch.__version__,
        str(_openmp()),
        sorted(torch.cpu.get_capabilities().items()),
    )
    digest = hashlib.sha256(repr(made_for).encode()).hexdigest()[:16]
    target = Path(platformdirs.user_cache_dir("googlenet", appauthor=False)) / "native" / f"{definition}-{digest}.so"
    try:
        if not target.exists():
            _compile(compiler, text, definition, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(compiler: str, text: str, definition: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        source, unit, library = (Path(scratch) / f"native.{suffix}" for suffix in ("c", "o", "so"))
        source.write_text(text, encoding="utf-8")
        flags = ("-O3", "-march=native", "-fPIC", "-fopenmp", f"-D{definition}")
        run = functools.partial(subprocess.run, check=True, capture_output=True, timeout=_COMPILE_SECONDS)
        run((compiler, *flags, "-c", str(source), "-o", str(unit)))
        # Linked to the OpenMP that torch brings, so that both share one set of threads instead of fighting over cores
        openmp = _openmp()
        run((compiler, "-shared", str(unit), "-o", str(library), str(openmp) if openmp else "-fopenmp"))
        library.replace(target)


def _openmp() -> Path | None:
    folder = Path(torch.__file__).parent
    bundled = [*folder.glob("lib/libgomp*.so*"), *folder.with_name("torch.libs").glob("libgomp*.so*")]
    return bundled[0] if bundled else None


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

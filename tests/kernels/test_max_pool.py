from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn import functional as F

from googlenet.kernels import max_pool as kernels
from googlenet.kernels.max_pool import CMaxPool2d, library, max_pool, supports

has_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
WINDOWS = [(3, 2, 1, False), (3, 2, 0, True), (2, 2, 0, True), (3, 1, 1, False)]


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    # Few different values, so that windows often hold equal ones
    values = torch.randint(-40, 40, shape).to(dtype) / 8
    return values.contiguous(memory_format=torch.channels_last)


@has_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", WINDOWS)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 130), st.integers(3, 11), st.integers(3, 11))
def test_values_and_gradients_equal_torchs(
    dtype: torch.dtype, window: tuple[int, int, int, bool], count: int, channels: int, height: int, width: int
) -> None:
    kernel, stride, padding, ceil = window
    x = images(count, channels, height, width, dtype=dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert supports(ours)
    pooled = max_pool(ours, kernel, stride, padding, ceil)
    expected = F.max_pool2d(theirs, kernel, stride, padding, ceil_mode=ceil)
    assert torch.equal(pooled, expected)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    gradient = images(*pooled.shape, dtype=dtype)
    pooled.backward(gradient)
    expected.backward(gradient)
    # Sums of up to nine gradients: ours are rounded to bfloat16 once, PyTorch's after each addition
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=tolerance)


@has_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_and_infinity_pass_through(dtype: torch.dtype) -> None:
    x = images(1, 3, 6, 6, dtype=dtype)
    x[0, 0, 2, 2], x[0, 1], x[0, 2, 4, 4] = float("nan"), float("-inf"), float("inf")
    x = x.detach().requires_grad_()
    pooled = max_pool(x, 3, 2, 1, False)
    assert torch.equal(pooled.isnan(), F.max_pool2d(x, 3, 2, 1).isnan())
    assert torch.equal(pooled[0, 1:], F.max_pool2d(x, 3, 2, 1)[0, 1:])
    pooled.backward(torch.full_like(pooled, float("nan")))
    assert x.grad is not None and x.grad.isnan().any()


@has_compiler
def test_only_supported_inputs_are_taken() -> None:
    assert supports(images(2, 8, 6, 6))
    assert not supports(torch.zeros(2, 8, 6, 6))  # contiguous
    assert not supports(images(2, 8, 6, 6, dtype=torch.float64))


@pytest.mark.parametrize("compiler", ["none", "broken"])
def test_without_a_working_compiler_pytorchs_pool_is_used(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    if compiler == "broken":
        (folder / "cc").write_text("#!/bin/sh\nexit 1\n")
        (folder / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin" if compiler == "broken" else str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    try:
        x = images(2, 8, 6, 6)
        assert not supports(x)
        torch.testing.assert_close(CMaxPool2d(3, 2, 1)(x), F.max_pool2d(x, 3, 2, 1))
        assert not list(tmp_path.rglob("*.so"))
    finally:
        library.cache_clear()


@has_compiler
def test_it_is_compiled_once_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.cache_clear()
    try:
        assert supports(images(2, 8, 6, 6))
        cached = list(tmp_path.rglob("*"))
        assert [path.suffix for path in cached if path.is_file()] == [".so"]
        library.cache_clear()
        monkeypatch.setattr(kernels.subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
        assert supports(images(2, 8, 6, 6))
    finally:
        library.cache_clear()

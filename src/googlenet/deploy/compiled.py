"""A network compiled ahead of time for this processor: the fastest that PyTorch alone computes it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from googlenet.deploy.graphs import quietly
from googlenet.errors import UserError
from googlenet.machine import DTYPES, compiles, resolve_precision
from googlenet.network.folding import folded
from googlenet.network.googlenet import GoogLeNet

CPU = torch.device("cpu")


def compiled_engine(net: GoogLeNet, *, precision: str = "auto") -> Callable[[Tensor], Tensor]:
    """Prepared images (N, C, H, W) in float32 to logits (N, classes) in float32, on the CPU.

    It is compiled at the first batch, for batches of that size, which takes some 20 s (AOTInductor: the kernels
    with their ReLUs, weights laid out for them, no Python in between). Smaller batches are filled up with zeros;
    a larger one has it compiled anew.

    Raises:
        UserError: where there is no C++ compiler.
    """
    if not compiles(CPU):
        raise UserError("the engine compiled needs a compiler of C++, such as g++, which was not found")
    dtype = DTYPES[resolve_precision(precision, CPU)]
    ready = folded(net, dtype).cpu()
    compiled: tuple[int, Callable[[Tensor], Tensor]] | None = None

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        nonlocal compiled
        if compiled is None or compiled[0] < len(images):
            compiled = len(images), _compiled(ready, _as_taken(images, dtype))
        size, program = compiled
        missing = images.new_zeros(size - len(images), *images.shape[1:])
        return program(_as_taken(torch.cat([images, missing]), dtype))[: len(images)].float()

    return run


def _as_taken(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype).contiguous(memory_format=torch.channels_last)


def _compiled(net: GoogLeNet, example: Tensor) -> Callable[[Tensor], Tensor]:
    # In that order: leaving inference mode turns gradients on, and with them weights would not be laid out
    with torch.inference_mode(mode=False), quietly(), tempfile.TemporaryDirectory() as folder:
        exported = torch.export.export(net, (example.clone(),))
        package = torch._inductor.aoti_compile_and_package(
            exported, package_path=str(Path(folder) / "network.pt2"), inductor_configs={"freezing": True}
        )
        return torch._inductor.aoti_load_package(package)

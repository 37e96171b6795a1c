"""A network compiled ahead of time for this processor: the fastest that PyTorch alone computes it."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from googlenet.deploy.graphs import quietly
from googlenet.errors import RunError, UserError, ran_out_of_memory, reason_of
from googlenet.machine import DTYPES, compile_obstacle, resolve_precision
from googlenet.network.folding import folded
from googlenet.network.googlenet import GoogLeNet

CPU = torch.device("cpu")


def compiled_engine(net: GoogLeNet, *, precision: str = "auto") -> Callable[[Tensor], Tensor]:
    """Prepared images (N, C, H, W) in float32 to logits (N, classes) in float32, on the CPU.

    It is compiled at the first batch, for batches of that size, rounded up to a power of two, which takes 20 to 40 s
    (AOTInductor: the kernels with their ReLUs, weights laid out for them, no Python in between). Smaller batches
    are filled up, and take as long as whole ones; a larger one, or images of another size, have it compiled anew.

    Raises:
        UserError: where there is no C++ compiler, or for a precision that the CPU does not have.
        RunError: from the engine, where compiling fails.
    """
    dtype = DTYPES[resolve_precision(precision, CPU)]
    if obstacle := compile_obstacle(CPU):
        raise UserError(
            f"the engine compiled needs a C++ compiler, and PyTorch installed in a path without spaces: torch.compile "
            f"does not work here ({obstacle}); take --engine torch"
        )
    ready, lock = folded(net, dtype).cpu(), threading.Lock()
    size, shape = 0, torch.Size()
    program: Callable[[Tensor], Tensor] | None = None

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        nonlocal size, shape, program
        with lock:
            if program is None or len(images) > size or images.shape[1:] != shape:
                larger = 1 << (len(images) - 1).bit_length()
                program = _compiled(ready, _as_taken(_filled(images, larger), dtype))
                size, shape = larger, images.shape[1:]
            compiled, whole = program, _filled(images, size)
        return compiled(_as_taken(whole, dtype))[: len(images)].float()

    return run


def _filled(images: Tensor, size: int) -> Tensor:
    return torch.cat([images, images.new_zeros(size - len(images), *images.shape[1:])])


def _as_taken(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype).contiguous(memory_format=torch.channels_last)


def _compiled(net: GoogLeNet, example: Tensor) -> Callable[[Tensor], Tensor]:
    try:
        # In that order: leaving inference mode turns gradients on, and with them weights would not be laid out
        with torch.inference_mode(mode=False), quietly(), tempfile.TemporaryDirectory() as folder:
            exported = torch.export.export(net, (example.clone(),))
            # Else what was compiled, weights and all, would stay in a folder of PyTorch's
            with torch._inductor.config.patch({"aot_inductor.output_path": folder}):
                package = torch._inductor.aoti_compile_and_package(
                    exported, package_path=str(Path(folder) / "network.pt2"), inductor_configs={"freezing": True}
                )
            return torch._inductor.aoti_load_package(package)
    except (RuntimeError, OSError) as error:
        if ran_out_of_memory(error):
            raise
        raise RunError(f"the network cannot be compiled: {reason_of(error)}; take --engine torch") from error

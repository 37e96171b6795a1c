"""The backend `compiled`: a network compiled for this processor."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from googlenet.device import compile_error
from googlenet.errors import RunError, UserError, is_out_of_memory, reason_of
from googlenet.inference.backends import Backend
from googlenet.inference.export import quietly


def compiled_backend(net: nn.Module, dtype: torch.dtype) -> Backend:
    """A folded network on the CPU, compiled for this processor: prepared images (N, C, H, W) -> logits (N, classes).

    AOTInductor takes 20 to 40 s, at the first batch, for batches of that size rounded up to a power of two. Smaller
    batches are padded and take as long as full ones; a larger batch or image size is compiled again.

    Raises:
        UserError: if there is no C++ compiler.
        RunError: from the backend, if compiling fails.
    """
    if problem := compile_error(torch.device("cpu")):
        raise UserError(
            "--backend compiled needs a C++ compiler, and PyTorch in a path without spaces: torch.compile fails "
            f"({problem}); use --backend torch"
        )
    lock, size, shape = threading.Lock(), 0, torch.Size()
    program: Callable[[Tensor], Tensor] | None = None

    def padded(images: Tensor, size: int) -> Tensor:
        images = torch.cat([images, images.new_zeros(size - len(images), *images.shape[1:])])
        return images.to(dtype).contiguous(memory_format=torch.channels_last)

    def compile_for(example: Tensor) -> Callable[[Tensor], Tensor]:
        # In this order: leaving inference mode turns gradients on, and with them weights would not be laid out
        with (
            torch.inference_mode(mode=False),
            quietly(),
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ):
            exported = torch.export.export(net, (example.clone(),))
            # Else the compiled code, weights and all, would stay in PyTorch's cache folder
            with torch._inductor.config.patch({"aot_inductor.output_path": folder}):
                package = torch._inductor.aoti_compile_and_package(
                    exported, package_path=str(Path(folder) / "network.pt2"), inductor_configs={"freezing": True}
                )
            return torch._inductor.aoti_load_package(package)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        nonlocal size, shape, program
        with lock:
            if program is None or len(images) > size or images.shape[1:] != shape:
                larger = 1 << (len(images) - 1).bit_length()
                try:
                    program = compile_for(padded(images, larger))
                except (RuntimeError, OSError) as error:
                    if is_out_of_memory(error):
                        raise
                    raise RunError(f"compiling the network fails: {reason_of(error)}; use --backend torch") from error
                size, shape = larger, images.shape[1:]
            compiled, batch = program, padded(images, size)
        return compiled(batch)[: len(images)].float()

    return run

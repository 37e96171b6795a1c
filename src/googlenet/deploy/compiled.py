"""A network compiled ahead of time for this processor: the fastest that PyTorch alone computes it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from googlenet.deploy.graphs import quietly
from googlenet.errors import UserError
from googlenet.machine import DTYPES, compiles, resolve_precision
from googlenet.network.googlenet import GoogLeNet
from googlenet.network.layers import Convolution

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
    folded = fold_batch_norm(net).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size, program = 0, None

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        nonlocal size, program
        count = len(images)
        if program is None or count > size:
            size, program = count, _compiled(folded, _as_taken(images, dtype))
        filled = torch.cat([images, images.new_zeros(size - count, *images.shape[1:])]) if count < size else images
        logits: Tensor = program(_as_taken(filled, dtype))
        return logits[:count].float()

    return run


def fold_batch_norm(net: GoogLeNet) -> GoogLeNet:
    """A copy for inference whose convolutions have their batch normalisation in their kernels and biases.

    In float32, so that what is rounded to bf16 later is rounded once.
    """
    folded = copy.deepcopy(net).float().cpu().eval()
    for unit in folded.modules():
        if isinstance(unit, Convolution) and unit.bn is not None:
            unit.conv, unit.bn = fuse_conv_bn_eval(unit.conv, unit.bn), None
    return folded


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

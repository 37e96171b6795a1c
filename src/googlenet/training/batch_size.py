"""`--batch-size auto`: the recipe's batch size, or a smaller one if its training step would not fit into memory."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor

from googlenet.device import resolve_device, resolve_precision
from googlenet.errors import UserError
from googlenet.model.architecture import VARIANTS
from googlenet.model.googlenet import GoogLeNet
from googlenet.recipe import ARCHITECTURE_SETTINGS, Recipe
from googlenet.weights.load import load_or_import

_USABLE = 0.8  # of the free memory
# The backward pass needs gradients and buffers besides the outputs of all layers. With it, the estimates for `tutorial`
# at 224x224 are a tenth over the measured memory in fp32 and a third in bf16 (docs/performance.md)
_BESIDES_OUTPUTS = 1.5


def fit_batch_size(recipe: Recipe) -> tuple[int, str]:
    """A batch size, and a line about it. Raises `UserError` if not even two images fit."""
    device = resolve_device(recipe.device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))  # processes on this machine, which share its memory
    if device.type == "cuda" and world > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    free = _USABLE * free_memory(device) / (1 if device.type != "cpu" else here)
    fixed, each = step_bytes(recipe)
    fits = int((free - fixed) / each) * recipe.gradient_accumulation * world
    if fits < 2 * recipe.gradient_accumulation * world:
        raise UserError(
            f"not even two images of {recipe.image_size}x{recipe.image_size} fit into {free / 1e9:.1f} GB; use a "
            "smaller --image-size"
        )
    size = recipe.batch_size if fits >= recipe.batch_size else 2 ** (fits.bit_length() - 1)
    needed = fixed + each * size / recipe.gradient_accumulation / world
    return size, f"batch size {size} (about {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB that are free)"


def step_bytes(recipe: Recipe) -> tuple[float, float]:
    """Memory of a training step: that of the weights, their gradients and the optimizer, and that of each image."""
    if recipe.weights is not None:
        net = load_or_import(recipe.weights)
    else:
        changes = {name: value for name in ARCHITECTURE_SETTINGS if (value := getattr(recipe, name)) is not None}
        # As many classes and channels as it may have; these matter little
        architecture = dataclasses.replace(VARIANTS[recipe.variant], num_classes=1000, in_channels=3, **changes)
        with torch.random.fork_rng(devices=()):
            net = GoogLeNet(dataclasses.replace(architecture, initialization="default"))
    images = torch.zeros(2, net.architecture.in_channels, recipe.image_size, recipe.image_size)
    half = resolve_precision(recipe.precision, resolve_device(recipe.device)) != "fp32"
    copies = 4 if recipe.optimizer != "sgd" else 3  # weights, gradients, and what the optimizer keeps
    parameters = sum(parameter.numel() for parameter in net.parameters())
    fixed = 4 * parameters * (copies + (recipe.ema_decay > 0))
    return fixed, _BESIDES_OUTPUTS * _kept_bytes(net, images) / len(images) * (0.5 if half else 1)


def _kept_bytes(net: GoogLeNet, images: Tensor) -> int:
    """What a forward pass keeps for the backward pass, besides the weights."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # several outputs may be views of one
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net.train()(images)
    del output
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


def free_memory(device: torch.device) -> float:
    """Bytes that a run may still use: of the GPU, or of this machine and the limit of its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [float(psutil.virtual_memory().available)]
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # not in a container, or no limit
            limit, current = (int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")) for name in (most, used))
            free.append(limit - current)
    return max(min(free), 0.0)

"""DeepDream: an image is changed so that whatever a block sees in it becomes stronger.

Mordvintsev, Olah and Tyka 2015, "Inceptionism: Going Deeper into Neural Networks",
https://research.google/blog/inceptionism-going-deeper-into-neural-networks/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from googlenet.console import ProgressBar, progress
from googlenet.data.decode import decode_image
from googlenet.device import DTYPES, resolve_device, resolve_precision
from googlenet.errors import UserError, check_counts
from googlenet.explanation.units import Probe, Unit, check_cell, parse_unit
from googlenet.files import atomic_write
from googlenet.model.architecture import Architecture
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load_or_check

OCTAVE_SCALE = 1.4  # of the sides, from one octave to the next
LARGEST_SHIFT = 32  # pixels, between two steps, so that no seams of the network's strides appear
LONGEST_WAVE = 16  # pixels
# Brightness and color differences of RGB (ITU-R BT.601)
BRIGHTNESS = (0.299, 0.587, 0.114)


def dream(
    image: Any, net: GoogLeNet | str | Path = "imagenet", *, block: str = "4c", steps: int = 10, octaves: int = 4,
    strength: float = 1.5, max_side: int = 640, seed: int = 0, device: str = "auto",
) -> Tensor:  # fmt: skip
    """An image in which a network sees more of what it already sees: uint8 (C, H, W).

    The image climbs the gradient of a block's mean square, first small, then larger and larger (octaves), so that large
    and small forms appear. A network of gray images dreams in the brightness of a color image, whose colors stay.

    Args:
        image: a path, the bytes of a file, a PIL image, a NumPy array (H, W) or (H, W, C), or a tensor (H, W) or
            (C, H, W); arrays and tensors are uint8. Any size.
        net: a network from `googlenet.load` or `googlenet.import_weights`, the path of a model file or run folder, or
            the name of published weights.
        block: the block, `3a` to `5b`, or another unit as in `googlenet.visualize`: `4c:447` dreams of one channel.
        steps: in each octave.
        octaves: how many sizes, each 1.4 times as large as the one before; fewer if the image is small.
        strength: mean change of a pixel per step, of 255.
        max_side: a larger image is reduced to this many pixels on its longer side.
        seed: decides the shifts between steps.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: if the image cannot be read, the block does not exist, a count is below 1, or the network takes
            neither 1 nor 3 channels.
    """
    check_counts(steps=steps, octaves=octaves, max_side=max_side)
    if not strength > 0:
        raise UserError(f"strength must be above 0, not {strength}")
    net, info = load_or_check(net)
    unit, spec = parse_unit(block, net, info.classes, option="--block"), info.input
    if spec.channels not in (1, 3):
        raise UserError(f"dream works for networks of 1 or 3 channels, this one has {spec.channels}")
    resolved = resolve_device(device)
    seen = decode_image(image, 3, max_side=max_side)[None].to(resolved) / 255
    colors = seen - _gray(seen)
    base = seen if spec.channels == 3 else _gray(seen)
    sizes = _octave_sizes(base, octaves, spec.size, net.architecture)
    net.check_size(*sizes[-1])
    precision = resolve_precision("auto", resolved)
    probe = Probe(net, unit.layer, DTYPES[precision if precision == "bf16" else "fp32"]).to(resolved)
    mean, std = (torch.tensor(each, device=resolved).view(-1, 1, 1) for each in (spec.mean, spec.std))
    generator, dreamed, before = torch.Generator().manual_seed(seed), base, base
    with progress("dreaming", steps * sum(height * width for height, width in sizes)) as bar:
        for size in sizes:
            small = _resized(base, size)
            check_cell(unit, probe, small, option="--block")
            # What the last octave added, on the image in this size
            dreamed = small if dreamed is base else small + _resized(dreamed - before, size)
            before = small
            dreamed = _climb(dreamed, probe, unit, mean, std, steps, strength / 255, generator, bar)
    if before is not base:  # the last octave has another size than the image
        dreamed = base + _resized(dreamed - before, list(base.shape[2:]))
    result = dreamed if spec.channels == 3 else dreamed + colors
    return (255 * result.clamp(0, 1)).round().to(torch.uint8)[0].cpu()


def write_image(image: Tensor, path: Path) -> None:
    """Write an image, uint8 (C, H, W) of 1 or 3 channels, as PNG. Raises `RunError` if it cannot."""
    pixels = image.permute(1, 2, 0).squeeze(2).numpy()
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")


def _climb(
    x: Tensor, probe: Probe, unit: Unit, mean: Tensor, std: Tensor, steps: int, rate: float,
    generator: torch.Generator, bar: ProgressBar,
) -> Tensor:  # fmt: skip
    """Gradient ascent on pixels (1, C, H, W), 0 to 1."""
    height, width = x.shape[2:]
    for _ in range(steps):
        shift = (torch.randint(-LARGEST_SHIFT, LARGEST_SHIFT + 1, (2,), generator=generator)).tolist()
        x = torch.roll(x, shift, (2, 3)).requires_grad_()
        activation = unit.activation(probe((x - mean) / std))
        (gradient,) = torch.autograd.grad(activation.sum(), x)
        gradient = _smoothed(gradient)
        x = x.detach() + rate * gradient / gradient.abs().mean().clamp(min=1e-12)
        x = torch.roll(x.clamp(0, 1), [-amount for amount in shift], (2, 3))
        bar.advance(height * width)
    return x


def _smoothed(gradient: Tensor) -> Tensor:
    """With long waves stronger than short ones, as in natural images; up to waves of `LONGEST_WAVE` pixels."""
    size = gradient.shape[2:]
    down, right = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None, :]
    frequency = (down.square() + right.square()).sqrt().clamp(min=1 / LONGEST_WAVE).to(gradient.device)
    return torch.fft.irfft2(torch.fft.rfft2(gradient) / frequency, s=tuple(size))


def _octave_sizes(base: Tensor, octaves: int, least: int, architecture: Architecture) -> list[list[int]]:
    """Height and width of each octave, the smallest first. Its shorter side is not below what the network knows."""

    def fitting(side: int) -> int:
        if architecture.fits(side) or side < architecture.smallest_input():
            return side
        multiple = 16 * architecture.stem_stride  # pools that round up, next to convolutions with stride 2
        return multiple * max(1, round(side / multiple))

    shorter = min(base.shape[2:])
    scales = [OCTAVE_SCALE**-number for number in range(octaves)]
    kept = [scale for scale in scales if scale == 1 or round(shorter * scale) >= min(least, shorter)]
    return [[fitting(max(1, round(side * scale))) for side in base.shape[2:]] for scale in reversed(kept)]


def _resized(images: Tensor, size: list[int]) -> Tensor:
    if list(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def _gray(images: Tensor) -> Tensor:
    """The brightness of RGB images: (N, 3, H, W) -> (N, 1, H, W)."""
    weights = torch.tensor(BRIGHTNESS, device=images.device).view(-1, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)

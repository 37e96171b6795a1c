"""Feature visualization: the images that excite a part of a network most, made by optimization and found in data.

Olah, Mordvintsev and Schubert 2017, "Feature Visualization", https://distill.pub/2017/feature-visualization.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.console import ProgressBar, progress
from googlenet.data.dataset import ImageSplit, check_unreadable, is_folder
from googlenet.data.decode import decode_images, image_files
from googlenet.data.transforms import InputSpec
from googlenet.device import DTYPES, resolve_device, resolve_precision
from googlenet.errors import UserError, check_counts
from googlenet.evaluation.report import EvalData, eval_split, run_on_split
from googlenet.explanation.units import Probe, Unit, branches_of, check_cell, parse_unit, similarity, units_of
from googlenet.files import expand
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load_or_check
from googlenet.weights.model_file import ModelInfo

LEARNING_RATE = 0.2  # at first; it falls to 0, and what differs from step to step averages out
LEAK = 0.1  # of values that a ReLU cuts off, so that a unit that nothing excites yet has a gradient
DIVERSITY = 0.5  # weight of the similarity between images, relative to their activation
PIXELS_AT_ONCE = 4 * 224 * 224  # in a batch, to bound the memory
ROTATION, SCALE, SHIFT = 10.0, 0.1, 1 / 28  # degrees; of the size, in either direction; of the side
# The root of the covariance of ImageNet's colors, from Lucid (lucid/optvis/param/color.py)
IMAGENET_COLORS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


@dataclass(frozen=True)
class Visualization:
    """The result of `visualize`: of U units, K images each, and of M images of a data set."""

    unit: str  # what was asked for: `4c:447`, `4c`, a class
    units: tuple[str, ...]  # it, or U channels or classes in it
    branches: tuple[str, ...]  # the branch that each is in, empty if none
    images: Tensor  # uint8 (U, K, C, size, size): those that excite each unit most
    activations: Tensor  # float32 (U, K), see `Unit.activation`
    negative: Tensor | None = None  # as `images`: what drives each unit below 0
    negative_activations: Tensor | None = None  # float32 (U, K): how far below 0
    examples: Tensor | None = None  # uint8 (U, M, C, H, W): images of the data, the most exciting first
    example_activations: Tensor | None = None  # float32 (U, M)
    example_files: tuple[tuple[str, ...], ...] = ()  # U tuples of M names

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images, ready for JSON."""
        units = []
        for number, name in enumerate(self.units):
            fields: dict[str, Any] = {"unit": name, "activations": self.activations[number].tolist()}
            if self.negative_activations is not None:
                fields["negative_activations"] = self.negative_activations[number].tolist()
            if self.example_activations is not None:
                pairs = zip(self.example_files[number], self.example_activations[number].tolist(), strict=True)
                fields["examples"] = [{"file": file, "activation": value} for file, value in pairs]
            units.append(fields)
        return {"unit": self.unit, "units": units}


def visualize(
    net: GoogLeNet | str | Path, unit: str, *, steps: int = 256, size: int | None = None, diversity: int = 1,
    negative: bool = False, data: EvalData = None, data_dir: str | Path | None = None, skip_unreadable: bool = False,
    examples: int = 6, max_images: int | None = None, max_units: int = 64, seed: int = 0, device: str = "auto",
) -> Visualization:  # fmt: skip
    """Images that excite a part of a network most: what it looks for.

    Each image starts as noise and is changed step by step, by the gradient of the unit's activation, until it excites
    the unit. Without more, this ends in patterns that only the network sees. Two measures of Olah et al. 2017 keep them
    natural. The image is a sum of waves (a Fourier basis) whose low frequencies learn faster, as natural images have
    more of them, in colors whose covariance is taken out. And each step sees it shifted, scaled and rotated at random.

    Only the layers up to the unit are computed, in bfloat16 where the processor has it. The network is left as it was.

    Args:
        net: a network from `googlenet.load` or `googlenet.import_weights`, or the path of a model file or run folder.
        unit: `4c:447` is channel 447 of block 4c; `4c:447:3,5` its neuron at row 3, column 5; `4c:3x3` a branch as a
            whole. `4c` is each channel of the block, `class` for each class; `conv1` to `conv3` are the stem.
            Else the name of a class, in upper or lower case; `class:NAME` is a class that is called like a layer.
        steps: of the optimization.
        size: height and width of the images, pixels. Default: the size that the network was trained on.
        diversity: how many images per unit, made different from each other.
        negative: also make images that drive the unit as far below 0 as possible.
        data: also find the images that excite the unit most: the name of a data set, a folder of images, an
            `ImageDataset` (its test split) or an `ImageSplit`. Colors have their covariance then, else ImageNet's.
        data_dir: the folder with the files of a named data set.
        skip_unreadable: skip image files that cannot be read.
        examples: how many images of the data to find.
        max_images: search at most this many images, spread evenly over the classes of a data set, or over the files of
            a folder in the order of their names; others are not decoded. Default: all.
        max_units: at most this many channels of a block or classes, spread evenly.
        seed: decides the noise at the start.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: for a unit that does not exist, data that does not fit the network, or a count below 1.
    """
    counts = {"max_images": max_images, "max_units": max_units}
    check_counts(steps=steps, size=size, diversity=diversity, examples=examples, **counts)
    net, info = load_or_check(net)
    target = parse_unit(unit, net, info.classes)
    size = size or info.input.size
    net.check_size(size, size)
    resolved = resolve_device(device)
    units = units_of(target, info.classes, max_units)
    probe = Probe(net, target.layer).to(resolved)
    check_cell(target, probe, torch.zeros(1, info.input.channels, size, size, device=resolved))
    split = None if data is None else _images(info, data, data_dir, max_images, skip_unreadable=skip_unreadable)
    found: dict[str, Any] = {}
    if split is not None:
        found = _most_exciting(net, info, probe, units, split, examples, device)
    canvas = Canvas(info.input, size, _colors(split, info.input.channels), seed, resolved)
    signs = (1, -1) if negative else (1,)
    with progress(f"visualizing {target.name}", steps * len(units) * len(signs)) as bar:
        made = [_optimize(net, probe, units, sign, canvas, steps, diversity, bar) for sign in signs]
    branches = branches_of(net, target.layer)
    parts = tuple(next((name for name, part in branches.items() if each.is_in(part)), "") for each in units)
    names = tuple(each.name for each in units)
    return Visualization(target.name, names, parts, *made[0], *(made[1] if negative else ()), **found)


class Canvas:
    """Images as sums of waves, in colors without covariance."""

    def __init__(self, spec: InputSpec, size: int, colors: Tensor, seed: int, device: torch.device) -> None:
        """`colors` is the root of a covariance, (C, C)."""
        self.size, self.device, self.channels = size, device, spec.channels
        self.generator = torch.Generator().manual_seed(seed)
        down, right = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None, :]
        # Amplitudes of natural images fall with the frequency (Field 1987); a quarter keeps the first image gray
        self.amplitudes = (0.25 / (down.square() + right.square()).sqrt().clamp(min=1 / size)).to(device)
        self.colors = (colors / colors.norm(dim=0).max().clamp(min=1e-6)).to(device)
        self.mean = torch.tensor(spec.mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(spec.std, device=device).view(-1, 1, 1)
        self.start = self.mean.clamp(0.1, 0.9).logit()

    def noise(self, count: int) -> Tensor:
        """Waves to start from: (count, C, size, size // 2 + 1, 2), real and imaginary parts."""
        shape = (count, self.channels, *self.amplitudes.shape, 2)
        return (0.01 * torch.randn(shape, generator=self.generator)).to(self.device).requires_grad_()

    def pixels(self, waves: Tensor) -> Tensor:
        """Waves to images (N, C, size, size), 0 to 1."""
        spectrum = torch.view_as_complex(waves) * self.amplitudes
        images = torch.fft.irfft2(spectrum, s=(self.size, self.size), norm="ortho")
        return torch.sigmoid(torch.einsum("nchw,dc->ndhw", images, self.colors) + self.start)

    def normalized(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..1 as the network wants them."""
        return (pixels - self.mean) / self.std

    def disturbed(self, inputs: Tensor) -> Tensor:
        """Each image shifted, scaled and rotated at random; what comes in from outside has the mean color."""
        count = len(inputs)

        def uniform(limit: float, *shape: int) -> Tensor:
            return limit * (2 * torch.rand(count, *shape, generator=self.generator) - 1)

        angle, scale = torch.deg2rad(uniform(ROTATION)), 1 + uniform(SCALE)
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
        affine = torch.cat([rotation / scale.view(-1, 1, 1), uniform(2 * SHIFT, 2, 1)], 2).to(self.device)
        grid = F.affine_grid(affine, list(inputs.shape), align_corners=False)
        return F.grid_sample(inputs, grid, align_corners=False)


def _optimize(
    net: GoogLeNet, probe: Probe, units: list[Unit], sign: int, canvas: Canvas, steps: int, diversity: int,
    bar: ProgressBar,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Images uint8 (U, K, C, size, size) and their activations (U, K)."""
    precision = resolve_precision("auto", canvas.device)
    is_half = precision == "bf16"  # gradients would need scaling in fp16
    fast = Probe(net, units[0].layer, DTYPES[precision]).to(canvas.device) if is_half else probe
    images, activations = [], []
    together = max(1, PIXELS_AT_ONCE // (diversity * canvas.size**2))
    for first in range(0, len(units), together):
        group = units[first : first + together]
        waves = canvas.noise(len(group) * diversity)
        optimizer = torch.optim.Adam([waves], LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        for _ in range(steps):
            maps = fast.maps(canvas.disturbed(canvas.normalized(canvas.pixels(waves))))
            excitement = _activations(group, fast.head(maps), diversity, sign, LEAK)
            loss = -excitement.sum()
            if diversity > 1:
                # Relative to the excitement, so that the weight means the same for every unit
                scales = DIVERSITY * excitement.detach().abs().sum(dim=1)
                pairs = zip(scales, maps.split(diversity), strict=True)
                loss = loss + torch.stack([scale * similarity(part) for scale, part in pairs]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.advance(len(group))
        with torch.no_grad():
            pixels = (255 * canvas.pixels(waves)).round().to(torch.uint8)
            values = _activations(group, probe(canvas.normalized(pixels / 255)), diversity, sign)
        images.append(pixels.unflatten(0, (len(group), diversity)).cpu())
        activations.append(values.cpu())
    return torch.cat(images), torch.cat(activations)


def _activations(units: list[Unit], maps: Tensor, each: int, sign: int, slope: float = 0.0) -> Tensor:
    """Of each unit for its own images, which follow each other: (U * each, C, ...) -> (U, each)."""
    parts = zip(units, maps.split(each), strict=True)
    return torch.stack([unit.activation(part, sign=sign, slope=slope) for unit, part in parts])


def _images(
    info: ModelInfo, data: EvalData, data_dir: str | Path | None, most: int | None, *, skip_unreadable: bool
) -> ImageSplit:
    """The data to search: the test images of a data set; the images of a folder, whatever their classes."""
    if not (isinstance(data, str | Path) and is_folder(data)):
        split = eval_split(info, data, data_dir, skip_unreadable=skip_unreadable)
        return split if most is None else split.spread(most)
    spec, files = info.input, list(image_files([expand(data)]))
    if most is not None and most < len(files):
        files = [files[number * len(files) // most] for number in range(most)]
    decoded = decode_images(files, spec.channels, spec.decoded_size, spec.resize)
    check_unreadable({files[number]: error for number, error in decoded.errors.items()}, skip_unreadable)
    readable = torch.tensor([number for number in range(len(files)) if number not in decoded.errors])
    if not len(readable):
        raise UserError(f"no image in {data} can be read: name another folder")
    return ImageSplit(decoded.images, torch.zeros(len(files), dtype=torch.int64), list(map(str, files))).subset(
        readable
    )


def _most_exciting(
    net: GoogLeNet, info: ModelInfo, probe: Probe, units: list[Unit], split: ImageSplit, count: int, device: str
) -> dict[str, Any]:
    """The fields of `Visualization` about images of the data."""

    def forward(x: Tensor) -> Tensor:
        maps = probe(x.float())
        return torch.stack([unit.activation(maps) for unit in units], dim=1)

    at_once = max(1, PIXELS_AT_ONCE // info.input.size**2)
    values = run_on_split(
        net, info, split, device=device, precision="fp32", batch_size=min(256, at_once), forward=forward
    )
    best, order = values.T.topk(min(count, len(split)), dim=1)
    images = torch.stack([split.__getitems__(row)[0] for row in order])
    files = tuple(tuple(split.files[index] for index in row) for row in order.tolist())
    return {"examples": images, "example_activations": best, "example_files": files}


def _colors(split: ImageSplit | None, channels: int) -> Tensor:
    """The root of the covariance of colors, (C, C): of up to 200 images, or ImageNet's; no covariance if unknown."""
    if split is None or channels == 1:
        return torch.tensor(IMAGENET_COLORS) if channels == 3 else torch.eye(channels)
    images = split.spread(200).images if len(split) > 200 else split.images
    pixels = images.transpose(0, 1).flatten(1).double() / 255
    values, vectors = torch.linalg.eigh(torch.cov(pixels))
    return (vectors * values.clamp(min=0).sqrt()).float()

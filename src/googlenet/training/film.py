"""A film of a run: what its network sees, one frame per evaluation, as an animated WebP in the run folder."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from googlenet.console import log
from googlenet.data.dataset import ImageSplit
from googlenet.errors import RunError
from googlenet.evaluation.heat_maps import hide, masked_gradients, normalize
from googlenet.evaluation.metrics import collect_logits, eval_mode
from googlenet.evaluation.plots import drawing, shorten
from googlenet.files import atomic_write, disk_errors
from googlenet.model.googlenet import GoogLeNet
from googlenet.training.run_folder import Row, RunFolder
from googlenet.training.setup import Trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = 10  # that each frame shows: one of each class, if there are no more classes
MOST_FILTERS = 64
FRAME_MS, LAST_FRAME_MS = 500, 3000
RIGHT, WRONG = "#15803D", "#C2410C"


class Film:
    """The frames of one run: `film/STEP.png` in its folder, and `film.webp` made from them.

    Recording leaves the network as it is, and each training step starts its own random stream, so the run is the same
    with and without it. A frame's name is its step: a resumed run writes the frames after its checkpoint again, and
    keeps those before it. What cannot be written is a `RunError`, or with `folder.goes_on` omitted with one warning.
    """

    def __init__(self, trainer: Trainer, folder: RunFolder) -> None:
        """The first frame, before any step, is recorded at once."""
        self._goes_on, self._is_failing = folder.goes_on, False
        self.trainer, self.frames, self.path = trainer, folder.path / "film", folder.path / "film.webp"
        split = trainer.validation if trainer.eval_split == "validation" else trainer.dataset.test
        assert split is not None
        self.images: ImageSplit = split.spread(IMAGES)
        self.rewind()
        if trainer.state.step == 0:
            self.record(None)

    def rewind(self) -> None:
        """Drop the frames of steps that the run will take again."""
        for frame in self._recorded():
            if int(frame.stem) > self.trainer.state.step:
                with self._failures(), disk_errors(frame):
                    frame.unlink()

    def record(self, row: Row | None) -> None:
        """Add the frame of an evaluation, whose row of metrics.jsonl this is."""
        trainer, images, labels = self.trainer, self.images, self.images.labels
        net, classes = trainer.net if trainer.ema is None else trainer.ema.module, trainer.dataset.classes
        logits = collect_logits(net, images, trainer.input_spec, device=trainer.device, precision="fp32")
        confidence, predicted = (values.tolist() for values in logits.softmax(dim=1).max(dim=1))
        title = "before training"
        if row is not None:
            title = f"epoch {row['epoch']}, {row['split']} accuracy {row['accuracy']:.1%}"
        with self._failures(), drawing(self.frames / f"{trainer.state.step:09}.png", 10.5, 3.9) as figure:
            parts = figure.add_gridspec(1, 3, width_ratios=(4, 6, 3.4))
            axes = figure.add_subplot(parts[0])
            axes.imshow(_filters(net), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[], title="filters of the first layer")
            grid = parts[1].subgridspec(2, -(-len(labels) // 2))
            for index, label in enumerate(labels.tolist()):
                cell = figure.add_subplot(grid[divmod(index, grid.ncols)])
                _show(cell, images[index][0])
                name = shorten(classes[predicted[index]], 14)
                color = RIGHT if predicted[index] == label else WRONG
                cell.set_title(f"{name}\n{confidence[index]:.0%}", fontsize=8, color=color)
            if isinstance(net, GoogLeNet):
                self._draw_heat(figure.add_subplot(parts[2]), net)
            figure.suptitle(title, fontsize=12, fontweight="bold", ha="left", x=0.01)

    def write(self) -> None:
        """Write the animation of all frames."""
        frames = [Image.open(frame).convert("RGB") for frame in self._recorded()]
        if not frames:
            return
        durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
        options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
        with self._failures():
            with atomic_write(self.path) as temporary:
                frames[0].save(temporary, "WEBP", quality=80, **options)
            log.info("film of %d frames: %s", len(frames), self.path)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """What a `RunError` within it means."""
        try:
            yield
        except RunError as error:
            if not self._goes_on:
                raise
            if not self._is_failing:
                log.warning(f"{error}: training goes on, and the film has only what can be written")
            self._is_failing = True

    def _recorded(self) -> list[Path]:
        return sorted(self.frames.glob("[0-9]*.png"))

    def _draw_heat(self, axes: Axes, net: nn.Module) -> None:
        """The heat map of the first image, for its true class, in float32."""
        trainer, spec, (image, label) = self.trainer, self.trainer.input_spec, self.images[0]
        # accelerate replaces `forward` for half precision, whose small gradients would be 0
        forward = getattr(net, "_original_forward", net)
        x = spec.prepare(image[None].to(trainer.device))
        with eval_mode(net):
            evidence = masked_gradients(forward, x, hide(x, spec), int(label))
        heat = normalize(evidence[0]).cpu()
        top, left, height, width = spec.window(*image.shape[1:])
        seen = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)  # of the image, in its pixels
        _show(axes, image)
        axes.imshow(heat.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.6, extent=seen, interpolation="bilinear")
        axes.set_title(f"evidence for {shorten(trainer.dataset.classes[int(label)], 20)}", fontsize=10)


def start_film(trainer: Trainer, folder: RunFolder) -> Film | None:
    """The film of a run, in its first process; None if the recipe wants none."""
    return Film(trainer, folder) if trainer.recipe.film and trainer.accelerator.is_main_process else None


def _filters(net: nn.Module) -> NDArray[np.float32]:
    """The kernels of the first convolution in a grid: (H, W) or (H, W, 3), 0 to 1; a weight of 0 is 0.5."""
    convolution = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is None:
        return np.full((1, 1), 0.5, np.float32)
    weights = convolution.weight.detach().float().cpu()[:MOST_FILTERS]
    if weights.shape[1] != 3:
        weights = weights.mean(dim=1, keepdim=True)
    scale = weights.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    tiles = nn.functional.pad(0.5 + weights / (2 * scale), (0, 1, 0, 1), value=1.0)  # white lines between them
    count, channels, height, width = tiles.shape
    across = math.ceil(math.sqrt(count))
    down = -(-count // across)
    grid = torch.ones(down * across, channels, height, width)
    grid[:count] = tiles
    pixels = grid.view(down, across, channels, height, width).permute(0, 3, 1, 4, 2)
    return pixels.reshape(down * height, across * width, channels).squeeze(2).numpy()


def _show(axes: Axes, image: torch.Tensor) -> None:
    """uint8 (C, H, W)"""
    pixels = image.permute(1, 2, 0).numpy()
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()

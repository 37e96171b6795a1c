"""A visualization as one PNG: the images of a unit in rows, or a contact sheet of many units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.evaluation.plots import drawing, shorten
from googlenet.explanation.visualize import Visualization

WIDTH, LEAST_WIDTH = 1080, 620  # pixels of a sheet, if one unit's images are not wider; room for the headings
TILE, SMALL_TILE = 170, 92  # sides of an image: of one unit; of many
EXAMPLES = 3  # images of the data next to each unit of many
GAP, LABEL, HEADING = 8, 17, 34
INK, GRAY = "#222222", "#666666"
DPI = 110  # of `drawing`


class _Cell(NamedTuple):
    label: str
    images: Tensor  # uint8 (N, C, H, W), from left to right


def draw_visualization(result: Visualization, path: Path) -> None:
    """Write one PNG. Below each image stands how much it excites the unit. Raises `RunError` if it cannot."""
    sections = _one_unit(result) if len(result.units) == 1 else _many_units(result)
    tile = TILE if len(result.units) == 1 else SMALL_TILE
    placed: list[tuple[int, int, Tensor]] = []
    texts: list[tuple[int, int, str, str]] = []
    top = GAP
    for heading, cells in sections:
        texts.append((GAP, top + HEADING - 12, heading, "heading"))
        top += HEADING
        width = max(len(cell.images) * (tile + 2) for cell in cells) + GAP
        columns = max(1, (WIDTH - GAP) // width)
        for number, cell in enumerate(cells):
            row, column = divmod(number, columns)
            y, x = top + row * (tile + LABEL + GAP), GAP + column * width
            placed += [(y, x + index * (tile + 2), image) for index, image in enumerate(_tiles(cell.images, tile))]
            texts.append((x, y + tile + LABEL - 4, shorten(cell.label, max(10, width // 6)), "label"))
        top += -(-len(cells) // columns) * (tile + LABEL + GAP)
    right = max(x for _, x, _ in placed) + tile + GAP
    wide = max(right, LEAST_WIDTH)
    canvas = torch.full((top + GAP, wide, 3), 255, dtype=torch.uint8)
    for y, x, image in placed:
        canvas[y : y + tile, x : x + tile] = image
    with drawing(path, wide / DPI, len(canvas) / DPI) as figure:
        figure.set_layout_engine("none")  # one image for the whole figure, pixel for pixel
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(canvas.numpy(), aspect="auto", interpolation="none", extent=(0, wide, len(canvas), 0))
        axes.set_axis_off()
        for x, y, text, kind in texts:
            is_heading = kind == "heading"
            size, weight = (11, "bold") if is_heading else (7.5, "normal")
            axes.text(x, y, text, fontsize=size, fontweight=weight, color=INK if is_heading else GRAY)


def _one_unit(result: Visualization) -> list[tuple[str, list[_Cell]]]:
    name = shorten(result.units[0], 60)
    sections = [(f"Made to excite {name}", _cells(result.images[0], result.activations[0]))]
    if result.negative is not None and result.negative_activations is not None:
        cells = _cells(result.negative[0], -result.negative_activations[0])
        sections.append(("Made to do the opposite", cells))
    if result.examples is not None and result.example_activations is not None:
        cells = _cells(result.examples[0], result.example_activations[0])
        sections.append(("Found in the data", cells))
    return sections


def _cells(images: Tensor, activations: Tensor) -> list[_Cell]:
    return [_Cell(f"{value:.3g}", image[None]) for image, value in zip(images, activations.tolist(), strict=True)]


def _many_units(result: Visualization) -> list[tuple[str, list[_Cell]]]:
    parts = ["made to excite each"]
    groups: dict[str, list[_Cell]] = {}
    parts += ["made to do the opposite"] if result.negative is not None else []
    parts += ["found in the data"] if result.examples is not None else []
    for number, name in enumerate(result.units):
        images = [result.images[number]]
        images += [] if result.negative is None else [result.negative[number]]
        images += [] if result.examples is None else [result.examples[number][:EXAMPLES]]
        label = f"{name.rpartition(':')[2]}   {float(result.activations[number].max()):.3g}"
        groups.setdefault(result.branches[number], []).append(_Cell(label, torch.cat(images)))
    headings = (f"{result.unit}{f', branch {name}' if name else ''}: {', '.join(parts)}" for name in groups)
    return list(zip(headings, groups.values(), strict=True))


def _tiles(images: Tensor, side: int) -> Sequence[Tensor]:
    """uint8 (N, C, H, W) -> N tensors (side, side, 3)."""
    resized = F.interpolate(images.float(), size=(side, side), mode="bicubic", antialias=True)
    pixels = resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return list(pixels if pixels.shape[3] == 3 else pixels[..., :1].expand(-1, -1, -1, 3))

"""The network on one page, in the manner of the paper's figure 3, drawn from the architecture's table.

The left column runs from the image to block 4c, the right one from 4d to the classifier; between them go the way from
the one to the other and the auxiliary heads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from googlenet.errors import UserError
from googlenet.files import atomic_write
from googlenet.model.architecture import TABLE_1, VARIANTS, Architecture, InceptionRow

_IMAGE, _POOL, _NORM, _HEAD = "#e7ebf0", "#f7c9b4", "#dccff0", "#f9e5a6"
_KERNELS = {1: "#d6e6f6", 3: "#9cc6ec", 5: "#4f8fce", 7: "#2f6aa8"}

_ROW, _ARROW, _LAYER, _SIDE = 26, 24, 240, 140
_CELL, _CELL_GAP, _TITLE_STRIP, _PADDING, _BAR = 98, 8, 28, 10, 20
_BLOCK = _TITLE_STRIP + 4 * _CELL + 3 * _CELL_GAP + _PADDING
_MARGIN, _TOP = 24, 118


class Layer(NamedTuple):
    """A layer as it is drawn."""

    text: str
    color: str
    shape: str = ""
    """Of what it gives; empty where the drawing need not say."""


class Block(NamedTuple):
    """An Inception block as it is drawn."""

    row: InceptionRow
    third_branch_kernel: int
    shape: str


def write_drawing(variant: str, path: Path, **settings: Any) -> None:
    """Write the picture to a file. Settings and errors are those of `draw`; `RunError` where it cannot be written."""
    picture = draw(variant, **settings)
    with atomic_write(path) as temporary:
        temporary.write_text(picture, encoding="utf-8")


def draw(variant: str, *, input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000) -> str:
    """The drawing of a variant, as SVG.

    Args:
        variant: `bn`, `tutorial`, `paper` or `torchvision`.
        input_size: (C, H, W); the shapes beside the arrows are those of this input.
        num_classes: classes.

    Raises:
        UserError: for an unknown variant, or an input that it cannot take.
    """
    channels, *sides = input_size
    net = dataclasses.replace(VARIANTS[variant], in_channels=channels, num_classes=num_classes)
    if min(sides) < net.smallest_input():
        raise UserError(
            f"an input of {sides[0]}x{sides[1]} pixels is too small for variant {variant!r}: "
            f"the smallest is {net.smallest_input()}x{net.smallest_input()}"
        )
    canvas = Canvas()
    gap = _SIDE + 84 if net.auxiliary else 64
    left = _Column(canvas, _MARGIN + _BLOCK / 2, _TOP)
    right = _Column(canvas, left.center + _BLOCK + gap, _TOP)
    _title(canvas, net, input_size)
    left_parts, right_parts = _plan(net, input_size)
    for column, parts, towards_gap in ((left, left_parts, 1), (right, right_parts, -1)):
        for part in parts:
            column.add(part)
            if net.auxiliary and isinstance(part, Block) and part.row.name in ("4a", "4d"):
                _auxiliary_head(canvas, net, column, towards_gap, sides)
    _way_over(canvas, left, right, around_heads=net.auxiliary)
    bottom = max(left.y + _ARROW, right.y + 190)
    _legend(canvas, right.center - _BLOCK / 2, bottom - 140, net)
    return canvas.to_svg(2 * (_MARGIN + _BLOCK) + gap, bottom + _MARGIN, f"GoogLeNet, variant {variant}")


def _plan(net: Architecture, input_size: tuple[int, int, int]) -> tuple[list[Layer | Block], list[Layer | Block]]:
    """What stands in the two columns, from top to bottom."""
    high, wide = (net.spatial_sizes(side) for side in input_size[1:])

    def shape(channels: int, after: str) -> str:
        return f"{channels} × {high[after]} × {wide[after]}"

    def pool(channels: int, name: str, kernel: int = 3) -> Layer:
        return Layer(f"{kernel}×{kernel} max pool / 2", _POOL, shape(channels, name))

    def block(name: str) -> Block:
        row = next(row for row in TABLE_1 if row.name == name)
        # Maps keep their size from one pool to the next
        return Block(row, net.third_branch_kernel, shape(row.out_channels, f"maxpool{int(name[0]) - 1}"))

    norm = [Layer("local response normalization", _NORM)] if net.normalization == "lrn" else []
    left: list[Layer | Block] = [
        Layer("image", _IMAGE, " × ".join(map(str, input_size))),
        _convolution(7, 64, shape(64, "conv1"), net.stem_stride),
        pool(64, "maxpool1"),
        *norm,
        _convolution(1, 64, shape(64, "maxpool1")),
        _convolution(3, 192, shape(192, "maxpool1")),
        *norm,
        pool(192, "maxpool2"),
        *map(block, ("3a", "3b")),
        pool(480, "maxpool3"),
        *map(block, ("4a", "4b", "4c")),
    ]
    right: list[Layer | Block] = [
        *map(block, ("4d", "4e")),
        pool(832, "maxpool4", net.last_pool_kernel),
        *map(block, ("5a", "5b")),
        Layer("global average pool", _POOL, str(TABLE_1[-1].out_channels)),
        *_classifier(net.dropout, net.num_classes),
    ]
    return left, right


def _convolution(kernel: int, channels: int, shape: str = "", stride: int = 1) -> Layer:
    return Layer(f"{kernel}×{kernel} · {channels}" + (f" / {stride}" if stride > 1 else ""), _KERNELS[kernel], shape)


def _classifier(dropout: float, num_classes: int) -> list[Layer]:
    return [
        Layer(f"dropout {dropout:.0%}", _HEAD),
        Layer(f"fully connected · {num_classes}", _HEAD),
        Layer("softmax", _HEAD),
    ]


@dataclass
class _Column:
    """Draws one part below the other; `y` is how far it has come."""

    canvas: Canvas
    center: float
    y: float
    begun: bool = False

    def add(self, part: Layer | Block, *, width: float = _LAYER, arrow: float = _ARROW) -> None:
        if self.begun:
            self.canvas.line((self.center, self.y), (self.center, self.y + arrow), arrow=True)
            self.y += arrow
        self.begun = True
        if isinstance(part, Block):
            self._block(part)
        else:
            self._box(self.center, self.y, width, part)
            self.y += _ROW
        self.canvas.words(self.center + 10, self.y + arrow / 2 - 1, part.shape, size=11, color=MUTED, anchor="start")

    def _block(self, block: Block) -> None:
        """Four branches of one input, and the bar that they are put together in, shared as the channels are."""
        row, left = block.row, self.center - _BLOCK / 2
        upper = self.y + 24
        lower = upper + _ROW + 14
        bar = lower + _ROW + 20
        height = bar + _BAR + _PADDING - self.y
        self.canvas.box(left, self.y, _BLOCK, height, "#f6f8fa", radius=8, edge="#d9e0e8")
        self.canvas.words(left + 15, self.y + height / 2, f"inception {row.name}", bold=True, upwards=True)
        reduced = (None, _convolution(1, row.branch2[0]), _convolution(1, row.branch3[0]), Layer("3×3 max pool", _POOL))
        last = (
            _convolution(1, row.branch1),
            _convolution(3, row.branch2[1]),
            _convolution(block.third_branch_kernel, row.branch3[1]),
            _convolution(1, row.branch4),
        )
        channels = (row.branch1, row.branch2[1], row.branch3[1], row.branch4)
        segment, scale = left + _TITLE_STRIP, (4 * _CELL + 3 * _CELL_GAP) / row.out_channels
        for number, (above, below, count) in enumerate(zip(reduced, last, channels, strict=True)):
            middle = left + _TITLE_STRIP + number * (_CELL + _CELL_GAP) + _CELL / 2
            self.canvas.curve((self.center, self.y), (middle, upper), arrow=above is not None)
            if above:
                self._box(middle, upper, _CELL, above)
            self.canvas.line((middle, upper + _ROW if above else upper), (middle, lower), arrow=True)
            self._box(middle, lower, _CELL, below)
            share = count * scale
            self.canvas.curve((middle, lower + _ROW), (segment + share / 2, bar))
            color = _POOL if number == 3 else below.color
            self._box(segment + share / 2, bar, share - 2, Layer(str(count), color), height=_BAR, size=11)
            segment += share
        self.y += height

    def _box(
        self, middle: float, y: float, width: float, layer: Layer, *, height: float = _ROW, size: float = 13
    ) -> None:
        color = "white" if layer.color in (_KERNELS[5], _KERNELS[7]) else INK
        self.canvas.box(middle - width / 2, y, width, height, layer.color)
        self.canvas.words(middle, y + height / 2, layer.text, size=size, color=color)


def _auxiliary_head(canvas: Canvas, net: Architecture, column: _Column, towards_gap: int, sides: list[int]) -> None:
    """The head that reads what the column has come to, beside it in the gap."""
    edge = column.center + towards_gap * _BLOCK / 2
    middle = edge + towards_gap * (22 + _SIDE / 2)
    y = column.y - _PADDING - _BAR / 2
    canvas.line((edge, y), (middle, y), (middle, y + 34), arrow=True)
    # 5x5 with stride 3 makes 4x4 of 14x14; other sizes are pooled on to that
    fits = net.auxiliary_pool == "average" and all(net.spatial_sizes(side)["maxpool3"] == 14 for side in sides)
    head = _Column(canvas, middle, y + 34)
    pool = Layer("5×5 average pool / 3" if fits else "average pool to 4×4", _POOL)
    hidden = Layer("fully connected · 1024", _HEAD)
    for layer in (pool, _convolution(1, 128), hidden, *_classifier(net.auxiliary_dropout, net.num_classes)):
        head.add(layer, width=_SIDE + 16, arrow=14)
    canvas.words(middle, head.y + 16, "auxiliary head,", size=11, color=MUTED)
    canvas.words(middle, head.y + 31, "in training only", size=11, color=MUTED)


def _way_over(canvas: Canvas, left: _Column, right: _Column, *, around_heads: bool) -> None:
    """From the foot of the left column to the head of the right one."""
    below, above, between = left.y + _ARROW, _TOP - _ARROW - 4, (left.y + _TOP) / 2
    if around_heads:  # the first head stands low on the left, the second one high on the right
        lower, upper = right.center - _BLOCK / 2 - 20, left.center + _BLOCK / 2 + 20
        climb = [(lower, below), (lower, between), (upper, between), (upper, above)]
    else:
        middle = (left.center + right.center) / 2
        climb = [(middle, below), (middle, above)]
    start, end = (left.center, left.y), (right.center, _TOP)
    canvas.line(start, (left.center, below), *climb, (right.center, above), end, arrow=True)


def _title(canvas: Canvas, net: Architecture, input_size: tuple[int, int, int]) -> None:
    follows = "batch normalization and ReLU" if net.normalization == "batch" else "ReLU"
    size = " × ".join(map(str, input_size))
    canvas.words(_MARGIN, 38, f"GoogLeNet, variant {net.variant}", size=24, bold=True, anchor="start")
    canvas.words(
        _MARGIN,
        66,
        f"From an image of {size} to {net.num_classes} classes. After every convolution: {follows}.",
        color=MUTED,
        anchor="start",
    )


def _legend(canvas: Canvas, x: float, y: float, net: Architecture) -> None:
    swatches = [(_KERNELS[kernel], f"{kernel}×{kernel} convolution") for kernel in _KERNELS]
    swatches += [(_POOL, "pooling"), (_HEAD, "classifier")]
    if net.normalization == "lrn":
        swatches.append((_NORM, "normalization"))
    for number, (color, text) in enumerate(swatches):
        column, row = divmod(number, 4)
        canvas.box(x + 170 * column, y + 22 * row, 26, 14, color, radius=3)
        canvas.words(x + 170 * column + 34, y + 22 * row + 7, text, size=12, anchor="start")
    notes = (
        "3×3 · 128 / 2: kernel, output channels, stride",
        "480 × 28 × 28: channels, height and width of what passes there",
        "The bar below four branches: their channels, side by side",
    )
    for number, text in enumerate(notes):
        canvas.words(x, y + 98 + 18 * number, text, size=12, color=MUTED, anchor="start")


INK, MUTED, LINE = "#1f2933", "#5f6c7b", "#8a97a6"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


class Canvas:
    """Collects what is drawn, later things over earlier ones."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, *, radius: float = 5, edge: str = "none"
    ) -> None:
        """A rectangle with round corners; (x, y) is the upper left one."""
        self._elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
            f'stroke="{edge}"/>'
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        color: str = INK,
        bold: bool = False,
        anchor: str = "middle",
        upwards: bool = False,
    ) -> None:
        """One line whose middle height is at y; `anchor` says whether x is its start, middle or end."""
        turned = f' transform="rotate(-90 {x:g} {y:g})"' if upwards else ""
        weight = ' font-weight="600"' if bold else ""
        # The baseline is set by hand, since not every viewer knows dominant-baseline
        self._elements.append(
            f'<text x="{x:g}" y="{y + 0.35 * size:g}" font-size="{size:g}" fill="{color}" text-anchor="{anchor}"'
            f"{weight}{turned}>{escape(text)}</text>"
        )

    def line(self, *points: tuple[float, float], arrow: bool = False, radius: float = 8) -> None:
        """From point to point along straight lines, with round corners."""
        (x, y), *rest = points
        path = [f"M{x:g} {y:g}"]
        for (x1, y1), (x2, y2) in pairwise(rest):
            before, after = _towards((x1, y1), (x, y), radius), _towards((x1, y1), (x2, y2), radius)
            path.append(f"L{before[0]:g} {before[1]:g}Q{x1:g} {y1:g} {after[0]:g} {after[1]:g}")
            x, y = x1, y1
        path.append(f"L{rest[-1][0]:g} {rest[-1][1]:g}")
        self._stroke("".join(path), arrow)

    def curve(self, start: tuple[float, float], end: tuple[float, float], *, arrow: bool = False) -> None:
        """From one point to another lower down, leaving and arriving upright."""
        (x1, y1), (x2, y2) = start, end
        middle = (y1 + y2) / 2
        self._stroke(f"M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}", arrow)

    def to_svg(self, width: float, height: float, title: str) -> str:
        """The whole picture on a white ground."""
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
                f'height="{height:g}" role="img" font-family="{_FONT}">',
                f"<title>{escape(title)}</title>",
                '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path d="M0 0.5L8 4L0 7.5z" fill="{LINE}"/></marker></defs>',
                f'<rect width="{width:g}" height="{height:g}" rx="10" fill="white"/>',
                *self._elements,
                "</svg>\n",
            )
        )

    def _stroke(self, path: str, arrow: bool) -> None:
        head = ' marker-end="url(#arrow)"' if arrow else ""
        self._elements.append(f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.4"{head}/>')


def _towards(corner: tuple[float, float], point: tuple[float, float], distance: float) -> tuple[float, float]:
    """The point so far from a corner on the way to another point, or half of the way where that is short."""
    dx, dy = point[0] - corner[0], point[1] - corner[1]
    share = min(distance / max((dx * dx + dy * dy) ** 0.5, 1e-9), 0.5)
    return corner[0] + share * dx, corner[1] + share * dy

"""The network on one page as SVG, in the style of the paper's figure 3, drawn from the architecture's table.

The left column has the layers from the image to block 4c, the right one from 4d to the classifier. Between them are the
connection of the two columns and the auxiliary heads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple
from xml.sax.saxutils import escape

from googlenet.errors import UserError, plural
from googlenet.model.architecture import TABLE_1, VARIANTS, Architecture, InceptionRow

INK, MUTED, LINE = "#1f2933", "#5f6c7b", "#8a97a6"
IMAGE, POOL, NORM, HEAD = "#e7ebf0", "#f7c9b4", "#dccff0", "#f9e5a6"
KERNELS = {1: "#d6e6f6", 3: "#9cc6ec", 5: "#4f8fce", 7: "#2f6aa8"}
BOLD = ' font-weight="600"'
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
NOTES = (
    "3×3 · 128 / 2: kernel, output channels, stride",
    "480 × 28 × 28: channels, height and width at this point",
    "The bar below the branches: their output channels, concatenated",
)

# Sizes in pixels
ROW, ARROW, LAYER_WIDTH, HEAD_WIDTH = 26, 24, 240, 140
BRANCH_WIDTH, BRANCH_GAP, TITLE_STRIP, PADDING, BAR = 98, 8, 28, 10, 20
BRANCHES_WIDTH = 4 * BRANCH_WIDTH + 3 * BRANCH_GAP
BLOCK_WIDTH = TITLE_STRIP + BRANCHES_WIDTH + PADDING
MARGIN, TOP = 24, 118

Point = tuple[float, float]


class Layer(NamedTuple):
    """A box with text; or with `row`, an Inception block."""

    text: str
    color: str = ""
    output: str = ""  # its shape, to be written at the arrow below
    row: InceptionRow | None = None


def draw(variant: str, *, input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000) -> str:
    """The drawing of a variant as SVG, with the shapes for an input of (C, H, W).

    Raises `UserError` for an unknown variant, or an input that is too small.
    """
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; use one of: {', '.join(VARIANTS)}")
    channels, *sides = input_size
    net = dataclasses.replace(VARIANTS[variant], in_channels=channels, num_classes=num_classes)
    if min(sides) < (smallest := net.smallest_input()):
        raise UserError(
            f"input of {sides[0]}x{sides[1]} pixels is too small for variant {variant!r}: "
            f"the minimum is {smallest}x{smallest}"
        )
    gap = HEAD_WIDTH + 84 if net.auxiliary else 64
    canvas = Canvas()
    left = Column(canvas, net, MARGIN + BLOCK_WIDTH / 2, TOP)
    right = Column(canvas, net, left.center + BLOCK_WIDTH + gap, TOP)
    follows = "batch normalization and ReLU" if net.normalization == "batch" else "ReLU"
    subtitle = (
        f"From an image of {_shape(*input_size)} to {plural(num_classes, 'class')}. After every convolution: {follows}."
    )
    canvas.text(MARGIN, 38, f"GoogLeNet, variant {variant}", size=24, anchor="start", more=BOLD)
    canvas.text(MARGIN, 66, subtitle, color=MUTED, anchor="start")
    for column, layers, direction in zip((left, right), _layers(net, input_size), (1, -1), strict=True):
        for layer in layers:
            column.add(layer)
            if net.auxiliary and layer.text in ("4a", "4d"):
                _draw_auxiliary_head(column, direction, sides)
    _connect_columns(canvas, left, right)
    bottom = max(left.y + ARROW, right.y + 190)
    _draw_legend(canvas, right.center - BLOCK_WIDTH / 2, bottom - 140, net)
    width, height = 2 * (MARGIN + BLOCK_WIDTH) + gap, bottom + MARGIN
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" \
role="img" font-family="{FONT}">
<title>GoogLeNet, variant {variant}</title>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0.5L8 4L0 7.5z" fill="{LINE}"/></marker></defs>
<rect width="{width:g}" height="{height:g}" rx="10" fill="white"/>
{canvas}
</svg>
"""


def _shape(*sides: int) -> str:
    return " × ".join(map(str, sides))


def _layers(net: Architecture, input_size: tuple[int, int, int]) -> tuple[list[Layer], list[Layer]]:
    """The contents of the two columns, from top to bottom."""
    heights, widths = (net.spatial_sizes(side) for side in input_size[1:])

    def shape(channels: int, after: str) -> str:
        return _shape(channels, heights[after], widths[after])

    def pool(channels: int, name: str, kernel: int = 3) -> Layer:
        return Layer(f"{kernel}×{kernel} max pool / 2", POOL, shape(channels, name))

    def blocks(*names: str) -> list[Layer]:
        rows = (row for row in net.blocks if row.name in names)  # maps keep their size from one pool to the next
        return [Layer(row.name, "", shape(row.out_channels, f"maxpool{int(row.name[0]) - 1}"), row) for row in rows]

    norm = [Layer("local response normalization", NORM)] if net.normalization == "lrn" else []
    left = [
        Layer("image", IMAGE, _shape(*input_size)),
        _convolution(7, 64, shape(64, "conv1"), net.stem_stride),
        pool(64, "maxpool1"),
        *norm,
        _convolution(1, 64, shape(64, "maxpool1")),
        _convolution(3, 192, shape(192, "maxpool1")),
        *norm,
        pool(192, "maxpool2"),
        *blocks("3a", "3b"),
        pool(480, "maxpool3"),
        *blocks("4a", "4b", "4c"),
    ]
    right = [
        *blocks("4d", "4e"),
        pool(832, "maxpool4", net.last_pool_kernel),
        *blocks("5a", "5b"),
        Layer("global average pool", POOL, str(TABLE_1[-1].out_channels)),
        *_classifier(net.dropout, net.num_classes),
    ]
    return left, right


def _convolution(kernel: int, channels: int, output: str = "", stride: int = 1) -> Layer:
    return Layer(f"{kernel}×{kernel} · {channels}" + (f" / {stride}" if stride > 1 else ""), KERNELS[kernel], output)


def _classifier(dropout: float, num_classes: int) -> list[Layer]:
    texts = (f"dropout {dropout:.0%}", f"fully connected · {num_classes}", "softmax")
    return [Layer(text, HEAD) for text in texts]


@dataclass
class Column:
    """Layers and blocks from top to bottom, connected by arrows; `y` is the bottom of the last one."""

    canvas: Canvas
    net: Architecture
    center: float
    y: float
    empty: bool = True

    def add(self, layer: Layer, *, width: float = LAYER_WIDTH, arrow: float = ARROW) -> None:
        if not self.empty:
            self.canvas.line((self.center, self.y), (self.center, self.y + arrow), arrow=True)
            self.y += arrow
        self.empty = False
        if layer.row is None:
            self.canvas.layer(self.center, self.y, width, layer)
            self.y += ROW
        else:
            self._add_block(layer.row)
        self.canvas.text(self.center + 10, self.y + arrow / 2 - 1, layer.output, size=11, color=MUTED, anchor="start")

    def _add_block(self, row: InceptionRow) -> None:
        """Four branches, and below them a bar divided like the output channels."""
        canvas, left, upper = self.canvas, self.center - BLOCK_WIDTH / 2, self.y + 24
        lower = upper + ROW + 14
        bar = lower + ROW + 20
        height = bar + BAR + PADDING - self.y
        canvas.box(left, self.y, BLOCK_WIDTH, height, "#f6f8fa", radius=8, edge="#d9e0e8")
        x, y = left + 15, self.y + height / 2
        canvas.text(x, y, f"inception {row.name}", more=f'{BOLD} transform="rotate(-90 {x:g} {y:g})"')
        branches = (
            (None, _convolution(1, row.branch1)),
            (_convolution(1, row.branch2[0]), _convolution(3, row.branch2[1])),
            (_convolution(1, row.branch3[0]), _convolution(self.net.third_branch_kernel, row.branch3[1])),
            (Layer("3×3 max pool", POOL), _convolution(1, row.branch4)),
        )
        middle, segment = left + TITLE_STRIP + BRANCH_WIDTH / 2, left + TITLE_STRIP
        for (first, last), channels in zip(branches, row.branch_channels, strict=True):
            canvas.curve((self.center, self.y), (middle, upper), arrow=first is not None)
            if first:
                canvas.layer(middle, upper, BRANCH_WIDTH, first)
            canvas.line((middle, upper + ROW if first else upper), (middle, lower), arrow=True)
            canvas.layer(middle, lower, BRANCH_WIDTH, last)
            width = channels * BRANCHES_WIDTH / row.out_channels
            canvas.curve((middle, lower + ROW), (segment + width / 2, bar))
            part = Layer(str(channels), POOL if first and first.color == POOL else last.color)
            canvas.layer(segment + width / 2, bar, width - 2, part, height=BAR, size=11)
            middle, segment = middle + BRANCH_WIDTH + BRANCH_GAP, segment + width
        self.y += height


def _draw_auxiliary_head(column: Column, direction: int, sides: list[int]) -> None:
    """The head that reads the last block of the column, in the gap between the columns."""
    canvas, net, y = column.canvas, column.net, column.y - PADDING - BAR / 2
    edge = column.center + direction * BLOCK_WIDTH / 2
    middle = edge + direction * (22 + HEAD_WIDTH / 2)
    canvas.line((edge, y), (middle, y), (middle, y + 34), arrow=True)
    # A 5x5 pool with stride 3 reduces 14x14 to 4x4; other sizes are then pooled to 4x4
    fits = net.auxiliary_pool == "average" and all(net.spatial_sizes(side)["maxpool3"] == 14 for side in sides)
    pool = Layer("5×5 average pool / 3" if fits else "average pool to 4×4", POOL)
    hidden = Layer("fully connected · 1024", HEAD)
    head = Column(canvas, net, middle, y + 34)
    for layer in (pool, _convolution(1, 128), hidden, *_classifier(net.auxiliary_dropout, net.num_classes)):
        head.add(layer, width=HEAD_WIDTH + 16, arrow=14)
    canvas.text(middle, head.y + 16, "auxiliary head,", size=11, color=MUTED)
    canvas.text(middle, head.y + 31, "in training only", size=11, color=MUTED)


def _connect_columns(canvas: Canvas, left: Column, right: Column) -> None:
    """An arrow from the bottom of the left column to the top of the right one."""
    below, above, between = left.y + ARROW, TOP - ARROW - 4, (left.y + TOP) / 2
    lower = upper = (left.center + right.center) / 2
    climb = [(lower, below), (upper, above)]
    if left.net.auxiliary:  # around the heads: the first is low on the left, the second high on the right
        lower, upper = right.center - BLOCK_WIDTH / 2 - 20, left.center + BLOCK_WIDTH / 2 + 20
        climb = [(lower, below), (lower, between), (upper, between), (upper, above)]
    start, end = (left.center, left.y), (right.center, TOP)
    canvas.line(start, (left.center, below), *climb, (right.center, above), end, arrow=True)


def _draw_legend(canvas: Canvas, x: float, y: float, net: Architecture) -> None:
    swatches = [(color, f"{kernel}×{kernel} convolution") for kernel, color in KERNELS.items()]
    swatches += [(POOL, "pooling"), (HEAD, "classifier")]
    swatches += [(NORM, "normalization")] if net.normalization == "lrn" else []
    for number, (color, text) in enumerate(swatches):
        column, row = divmod(number, 4)
        canvas.box(x + 170 * column, y + 22 * row, 26, 14, color, radius=3)
        canvas.text(x + 170 * column + 34, y + 22 * row + 7, text, size=12, anchor="start")
    for number, note in enumerate(NOTES):
        canvas.text(x, y + 98 + 18 * number, note, size=12, color=MUTED, anchor="start")


class Canvas:
    """Collects SVG elements, later ones on top."""

    def __init__(self) -> None:
        self.elements: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self.elements)

    def layer(self, middle: float, y: float, width: float, layer: Layer, height: float = ROW, size: float = 13) -> None:
        """A box with its text in the middle; (middle, y) is the middle of its top."""
        self.box(middle - width / 2, y, width, height, layer.color)
        color = "white" if layer.color in (KERNELS[5], KERNELS[7]) else INK
        self.text(middle, y + height / 2, layer.text, size=size, color=color)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, *, radius: float = 5, edge: str = "none"
    ) -> None:
        """A rectangle with round corners; (x, y) is its top left corner."""
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.elements.append(f'<rect {place} rx="{radius:g}" fill="{fill}" stroke="{edge}"/>')

    def text(
        self, x: float, y: float, text: str, *, size: float = 13, color: str = INK, anchor: str = "middle",
        more: str = "",
    ) -> None:  # fmt: skip
        """One line, vertically centered at y; x is its start, middle or end by `anchor`. `more`: SVG attributes."""
        # The baseline is shifted by hand, because not every viewer supports dominant-baseline
        style = f'font-size="{size:g}" fill="{color}" text-anchor="{anchor}"{more}'
        self.elements.append(f'<text x="{x:g}" y="{y + 0.35 * size:g}" {style}>{escape(text)}</text>')

    def line(self, *points: Point, arrow: bool = False) -> None:
        """Straight segments from point to point, with round corners."""
        corners = [complex(*point) for point in points]
        path = f"M{corners[0].real:g} {corners[0].imag:g}"
        for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
            enter, leave = (corner + 8 * (point - corner) / abs(point - corner) for point in (before, after))
            path += f"L{enter.real:g} {enter.imag:g}Q{corner.real:g} {corner.imag:g} {leave.real:g} {leave.imag:g}"
        self._stroke(f"{path}L{corners[-1].real:g} {corners[-1].imag:g}", arrow)

    def curve(self, start: Point, end: Point, *, arrow: bool = False) -> None:
        """From a point to a lower one, vertical at both ends."""
        (x1, y1), (x2, y2) = start, end
        middle = (y1 + y2) / 2
        self._stroke(f"M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}", arrow)

    def _stroke(self, path: str, arrow: bool) -> None:
        head = ' marker-end="url(#arrow)"' if arrow else ""
        self.elements.append(f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.4"{head}/>')

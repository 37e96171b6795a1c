"""The network on one page as SVG, in the style of the paper's figure 3, drawn from the architecture's tables.

The left column has the layers from the image on, the right one those to the classifier. Between them are the connection
of the two columns and the auxiliary heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from xml.sax.saxutils import escape

from googlenet.errors import UserError, plural
from googlenet.model.architecture import VARIANTS, Architecture, Version
from googlenet.model.tables import (
    Block,
    Branch,
    Conv,
    Head,
    Pool,
    ResponseNorm,
    Split,
    Step,
    channels_after,
    size_after,
)

INK, MUTED, LINE = "#1f2933", "#5f6c7b", "#8a97a6"
IMAGE, POOL, NORM, HEAD = "#e7ebf0", "#f7c9b4", "#dccff0", "#f9e5a6"
KERNELS = {1: "#d6e6f6", 3: "#9cc6ec", 5: "#4f8fce", 7: "#2f6aa8"}
BOLD = ' font-weight="600"'
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
RIGHT_COLUMN: dict[Version, str] = {1: "4d", 2: "4b", 3: "6d", 4: "6d"}  # Its first block
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
STEP_GAP, MARGIN, TOP = 14, 24, 118

Point = tuple[float, float]


class Layer(NamedTuple):
    """A box with text; or with `block`, an Inception block."""

    text: str
    color: str = ""
    output: str = ""  # its shape, to be written at the arrow below
    block: Block | None = None


def draw(variant: str, *, input_size: tuple[int, int, int] | None = None, num_classes: int = 1000) -> str:
    """The drawing of a variant as SVG, with the shapes for an input of (C, H, W), by default that of the paper.

    Raises `UserError` for an unknown variant, or an input that is too small.
    """
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; use one of: {', '.join(VARIANTS)}")
    side = VARIANTS[variant].usual_size
    channels, *sides = input_size or (3, side, side)
    net = dataclasses.replace(VARIANTS[variant], in_channels=channels, num_classes=num_classes)
    if min(sides) < (smallest := net.smallest_input()):
        raise UserError(
            f"input of {sides[0]}x{sides[1]} pixels is too small for variant {variant!r}: "
            f"the minimum is {smallest}x{smallest}"
        )
    name = f"GoogLeNet, variant {variant}" if net.version == 1 else f"Inception {variant}"
    gap = HEAD_WIDTH + 84 if net.auxiliary else 64
    canvas = Canvas()
    left = Column(canvas, net, MARGIN + BLOCK_WIDTH / 2, TOP)
    right = Column(canvas, net, left.center + BLOCK_WIDTH + gap, TOP)
    follows = "batch normalization and ReLU" if net.normalization == "batch" else "ReLU"
    subtitle = (
        f"From an image of {_shape(channels, *sides)} to {plural(num_classes, 'class')}. After every convolution: "
        f"{follows}."
    )
    canvas.text(MARGIN, 38, name, size=24, anchor="start", more=BOLD)
    canvas.text(MARGIN, 66, subtitle, color=MUTED, anchor="start")
    column, direction, heads = left, 1, {head.block: head for head in net.heads.values()}
    for layer in _layers(net, channels, sides):
        if layer.text == RIGHT_COLUMN[net.version]:
            column, direction = right, -1
        column.add(layer)
        if layer.text in heads:
            _draw_auxiliary_head(column, direction, heads[layer.text], sides)
    _connect_columns(canvas, left, right)
    bottom = max(left.y + ARROW, right.y + 190)
    _draw_legend(canvas, right.center - BLOCK_WIDTH / 2, bottom - 140, net)
    width, height = 2 * (MARGIN + BLOCK_WIDTH) + gap, bottom + MARGIN
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" \
role="img" font-family="{FONT}">
<title>{name}</title>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0.5L8 4L0 7.5z" fill="{LINE}"/></marker></defs>
<rect width="{width:g}" height="{height:g}" rx="10" fill="white"/>
{canvas}
</svg>
"""


def _shape(*sides: int) -> str:
    return " × ".join(map(str, sides))


def _layers(net: Architecture, channels: int, sides: list[int]) -> Iterator[Layer]:
    """All layers, from top to bottom."""
    yield Layer("image", IMAGE, _shape(channels, *sides))
    heights, widths = map(net.spatial_sizes, sides)
    for name, row in net.layers.items():
        channels = channels_after(row, channels)
        output = _shape(channels, heights[name], widths[name])
        match row:
            case Block():
                yield Layer(row.name, "", output, row)
            case ResponseNorm():
                if net.normalization == "lrn":
                    yield Layer("local response normalization", NORM)
            case _:
                yield _layer(row, output)
    yield Layer("global average pool", POOL, str(channels))
    yield from _classifier(net.dropout, net.num_classes)


def _layer(row: Conv | Pool, output: str = "") -> Layer:
    stride = f" / {row.stride}" if row.stride > 1 else ""
    if isinstance(row, Pool):
        return Layer(f"{row.kernel}×{row.kernel} {row.kind} pool{stride}", POOL, output)
    height, width = row.sides
    return Layer(f"{height}×{width} · {row.channels}{stride}", KERNELS[max(row.sides)], output)


def _classifier(dropout: float, num_classes: int) -> list[Layer]:
    texts = [f"dropout {dropout:.0%}"] if dropout else []
    return [Layer(text, HEAD) for text in (*texts, f"fully connected · {num_classes}", "softmax")]


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
        if layer.block is None:
            self.canvas.layer(self.center, self.y, width, layer)
            self.y += ROW
        else:
            self._add_block(layer.block)
        self.canvas.text(self.center + 10, self.y + arrow / 2 - 1, layer.output, size=11, color=MUTED, anchor="start")

    def _add_block(self, block: Block) -> None:
        """The branches, and below them a bar divided like the output channels."""
        canvas, left, upper = self.canvas, self.center - BLOCK_WIDTH / 2, self.y + 24
        rows, count = max(map(len, block.branches.values())), len(block.branches)
        bar = upper + rows * (ROW + STEP_GAP) + 6
        height = bar + BAR + PADDING - self.y
        canvas.box(left, self.y, BLOCK_WIDTH, height, "#f6f8fa", radius=8, edge="#d9e0e8")
        x, y = left + 15, self.y + height / 2
        canvas.text(x, y, f"inception {block.name}", more=f'{BOLD} transform="rotate(-90 {x:g} {y:g})"')
        segment = left + TITLE_STRIP
        middle = segment + (BRANCHES_WIDTH - (count - 1) * (BRANCH_WIDTH + BRANCH_GAP)) / 2
        for branch, channels in zip(block.branches.values(), block.branch_channels, strict=True):
            first = bar - 6 - len(branch) * (ROW + STEP_GAP)
            canvas.curve((self.center, self.y), (middle, upper), arrow=first == upper)
            if first > upper:
                canvas.line((middle, upper), (middle, first), arrow=True)
            width = channels * BRANCHES_WIDTH / block.out_channels
            bottoms = self._add_branch(branch, middle, first)
            for bottom in bottoms:
                canvas.curve((bottom, bar - 20), (segment + width / 2, bar))
            is_pooled = any(isinstance(step, Pool) for step in branch)
            part = Layer(str(channels), POOL if is_pooled else _color(branch[-1]))
            canvas.layer(segment + width / 2, bar, width - 2, part, height=BAR, size=11)
            middle, segment = middle + BRANCH_WIDTH + BRANCH_GAP, segment + width
        self.y += height

    def _add_branch(self, branch: Branch, middle: float, y: float) -> list[float]:
        """The steps of a branch from `y` down; returns the middles of the last ones."""
        canvas = self.canvas
        for number, step in enumerate(branch):
            if isinstance(step, Split):
                parts = [(part[0], side * BRANCH_WIDTH / 4) for part, side in zip(step.branches, (-1, 1), strict=True)]
                for part, shift in parts:
                    canvas.curve((middle, y - STEP_GAP), (middle + shift, y))
                    layer = _layer(part)  # type: ignore[arg-type]
                    layer = layer._replace(text=layer.text.replace(" ", ""))
                    canvas.layer(middle + shift, y, BRANCH_WIDTH / 2 - 2, layer, size=10)
                return [middle + shift for _, shift in parts]
            if number:
                canvas.line((middle, y - STEP_GAP), (middle, y), arrow=True)
            layer = _layer(step)
            canvas.layer(middle, y, BRANCH_WIDTH, layer, size=13 if len(layer.text) < 15 else 10.5)
            y += ROW + STEP_GAP
        return [middle]


def _color(step: Step) -> str:
    return _color(step.branches[0][0]) if isinstance(step, Split) else _layer(step).color


def _draw_auxiliary_head(column: Column, direction: int, head: Head, sides: list[int]) -> None:
    """The head that reads the last block of the column, in the gap between the columns."""
    canvas, net, y = column.canvas, column.net, column.y - PADDING - BAR / 2
    edge = column.center + direction * BLOCK_WIDTH / 2
    middle = edge + direction * (22 + HEAD_WIDTH / 2)
    canvas.line((edge, y), (middle, y), (middle, y + 34), arrow=True)
    maps = [net.spatial_sizes(side)[f"inception{head.block}"] for side in sides]
    # A 5x5 pool with stride 3; if its output does not have the size that the head needs, another pool follows
    pooled = [size_after(Pool("average", 5, 3, "valid"), side) for side in maps]
    needed = f"{head.grid}×{head.grid}"
    if head.last:  # what follows takes larger maps, too
        fits, other = all(side >= head.grid for side in pooled), f"pool to at least {needed}"
    else:
        fits, other = all(side == head.grid for side in pooled), f"average pool to {needed}"
    pool = Layer("5×5 average pool / 3" if fits and net.auxiliary_pool == "average" else other, POOL)
    layers = [pool, _layer(head.first)]
    layers += [_layer(head.last), Layer("global average pool", POOL)] if head.last else []
    layers += [Layer(f"fully connected · {head.hidden}", HEAD)] if head.hidden else []
    drawn = Column(canvas, net, middle, y + 34)
    for layer in (*layers, *_classifier(net.auxiliary_dropout, net.num_classes)):
        drawn.add(layer, width=HEAD_WIDTH + 16, arrow=14)
    canvas.text(middle, drawn.y + 16, "auxiliary head,", size=11, color=MUTED)
    canvas.text(middle, drawn.y + 31, "in training only", size=11, color=MUTED)


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

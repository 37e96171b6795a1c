"""Charts as inline SVG, and images as data URIs, for pages without other files.

Colors are the page's: its style sheet gives the classes `s0`, `s1`, ... one for light and one for dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image
from torch import Tensor

COLORS = 6  # the classes s0 to s5
THUMBNAIL = 96  # pixels, the longer side
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 260, 64, 12, 10, 44
_MOST_POINTS = 300  # of a line; more would not be visible
_MOST_CELLS = 200  # of a side of the reduced confusion matrix

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line, or with `markers` a line with a dot at each point; `color` is the number of its class."""

    name: str
    points: Sequence[Point]
    color: int
    markers: bool = False


class _Axes:
    """A chart's frame: from values to SVG coordinates, ticks with their labels, and the names of the axes."""

    def __init__(self, x_range: Point, y_range: Point, x_label: str, y_label: str) -> None:
        self.x_range, self.y_range = x_range, y_range
        self.parts: list[Markup] = []
        bottom, middle = _HEIGHT - _BOTTOM, (_TOP + _HEIGHT - _BOTTOM) / 2
        for value in ticks(*y_range):
            line = '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
            text = '<text class="end" x="{}" y="{:.1f}">{}</text>'
            self.add(line, _LEFT, _WIDTH - _RIGHT, y=self.y(value))
            self.add(text, _LEFT - 6, self.y(value) + 4, _label(value))
        for value in ticks(*x_range):
            self.add('<text class="middle" x="{:.1f}" y="{}">{}</text>', self.x(value), bottom + 17, _label(value))
        self.add('<line class="axis" x1="{}" x2="{}" y1="{y}" y2="{y}"/>', _LEFT, _WIDTH - _RIGHT, y=bottom)
        self.add('<text class="middle" x="{}" y="{}">{}</text>', (_LEFT + _WIDTH) / 2, _HEIGHT - 8, x_label)
        self.add('<text class="middle" transform="translate(12 {}) rotate(-90)">{}</text>', middle, y_label)

    def add(self, svg: str, *values: Any, **named: Any) -> None:
        self.parts.append(Markup(svg).format(*values, **named))  # noqa: S704  (format escapes the values)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def svg(self, description: str) -> Markup:
        frame = '<svg class="chart" role="img" viewBox="0 0 {} {}" aria-label="{}">{}</svg>'
        return Markup(frame).format(_WIDTH, _HEIGHT, description, Markup("").join(self.parts))  # noqa: S704


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, y_label: str, y_range: Point | None = None,
    x_range: Point | None = None,
) -> Markup:  # fmt: skip
    """A figure with a title, lines and, for more than one of them, a legend. Empty without points."""
    series = [each for each in series if each.points]
    if not series:
        return Markup()
    xs, ys = ([point[axis] for each in series for point in each.points] for axis in (0, 1))
    axes = _Axes(x_range or _range(xs, from_zero=True), y_range or _range(ys), x_label, y_label)
    for each in series:
        at = [(axes.x(x), axes.y(y)) for x, y in (each.points if each.markers else _thin(each.points))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        axes.add('<polyline class="line s{}" points="{}"/>', each.color, path)
        if each.markers or len(at) == 1:
            for (x, y), (step, value) in zip(at, each.points, strict=True):
                dot = '<circle class="s{}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>'
                axes.add(dot, each.color, x, y, f"{each.name}, {x_label} {step:,.6g}: {y_label} {value:,.4g}")
    ends = "; ".join(f"{each.name} from {each.points[0][1]:.4g} to {each.points[-1][1]:.4g}" for each in series)
    return _figure(title, axes.svg(f"{title}: {ends}"), series if len(series) > 1 else ())


def reliability_chart(bins: dict[str, list[float]]) -> Markup:
    """Accuracy (bars) by confidence, compared with perfect calibration (the diagonal); from `Reliability.to_dict()`."""
    axes = _Axes((0, 100), (0, 100), "confidence (%)", "accuracy (%)")
    count = len(bins["images"])
    for number, (images, confidence, accuracy) in enumerate(zip(*bins.values(), strict=True)):
        if images:
            left, right, top = axes.x(100 * number / count), axes.x(100 * (number + 1) / count), axes.y(100 * accuracy)
            bar = (
                '<rect class="s0" fill-opacity="{:.2f}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{}</title></rect>"
                '<line class="line s1" x1="{:.1f}" x2="{:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            text = f"{images:,.0f} images: confidence {confidence:.1%}, accuracy {accuracy:.1%}"
            opacity = 0.1 + 0.6 * (images / max(bins["images"])) ** 0.5
            edges = (opacity, left + 1, top, right - left - 2, axes.y(0) - top, text, left + 1, right - 1)
            axes.add(bar, *edges, y=axes.y(100 * confidence))
    ends = axes.x(0), axes.x(100), axes.y(0), axes.y(100)
    axes.add('<line class="diagonal" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>', *ends)
    legend = Series("accuracy; stronger color: more images", (), 0, markers=True), Series("mean confidence", (), 1)
    return _figure("Reliability", axes.svg("accuracy by confidence, in bins"), legend)


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """At most `most` round numbers from `low` to `high`."""
    least = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def matrix_image(matrix: Tensor) -> tuple[str, int]:
    """A picture of a confusion matrix (true, predicted), and the number of classes to a side of its cells.

    A cell is colored by its share of its row, mistakes relative to the most frequent one; it is transparent without
    images, so it fits light and dark pages.
    """
    size = math.ceil(len(matrix) / _MOST_CELLS)
    padded = np.zeros((math.ceil(len(matrix) / size) * size,) * 2)
    padded[: len(matrix), : len(matrix)] = matrix.numpy()
    counts = padded.reshape(len(padded) // size, size, -1, size).sum(axis=(1, 3))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(share), dtype=bool)
    share[~diagonal] /= max(share[~diagonal].max(), 1e-9)  # rare mistakes must be visible too
    pixels = np.empty((*share.shape, 4), np.uint8)
    pixels[..., :3] = np.where(diagonal[..., None], (64, 128, 224), (224, 112, 32))
    pixels[..., 3] = np.sqrt(share) * 255
    return _data_uri(Image.fromarray(pixels), "PNG"), size


def thumbnail(image: Tensor) -> str:
    """A data URI of an image, uint8 (C, H, W) with 1 or 3 channels, of at most 96 pixels to a side."""
    picture = Image.fromarray(image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())
    if max(picture.size) <= THUMBNAIL // 2:  # so few pixels that PNG is small, and JPEG visibly worse
        return _data_uri(picture, "PNG")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return _data_uri(picture, "JPEG")


def _figure(title: str, svg: Markup, legend: Sequence[Series]) -> Markup:
    item = Markup('<li><i class="s{}{}"></i>{}</li>')
    names = Markup("").join(item.format(each.color, " dot" * each.markers, each.name) for each in legend)
    return Markup("<figure><figcaption>{}</figcaption>{}<ul class=legend>{}</ul></figure>").format(title, svg, names)


def _data_uri(picture: Image.Image, format: str) -> str:
    content = io.BytesIO()
    picture.save(content, format, optimize=True, **({"quality": 82} if format == "JPEG" else {}))
    return f"data:image/{format.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 12):g}"


def _range(values: Sequence[float], *, from_zero: bool = False) -> Point:
    low, high = (0.0 if from_zero else min(values)), max(values)
    margin = 0.0 if from_zero and high > low else 0.05 * (high - low) or abs(high) / 2 or 1.0
    return (max(low - margin, 0.0) if low >= 0 and not from_zero else low - margin * (not from_zero)), high + margin


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    """Means of neighbors, if there are too many points to be seen."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]

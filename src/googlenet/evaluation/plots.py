"""Plots of training and evaluation. Each function writes one PNG file atomically, or raises `RunError`."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from googlenet.console import log
from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.data.decode import decode_resized
from googlenet.data.suspects import Suspect
from googlenet.data.transforms import Augmentation
from googlenet.errors import UserError, check_counts
from googlenet.evaluation.metrics import Evaluation
from googlenet.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CJK_FONT_FILES = (
    "NotoSansCJK-Regular.ttc", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "simhei.ttf",
)  # fmt: skip


@contextmanager
def drawing(path: Path, width: float, height: float, *, parse_math: bool = False) -> Iterator[Figure]:
    """A figure of `width` x `height` inches to draw on; at exit it is written to `path` as PNG.

    With `parse_math`, `$...$` is a formula, as in the labels of a logarithmic axis; names must be shown as they are.
    """
    import matplotlib  # here, because it takes 0.4 s, which training would wait for at its start
    from matplotlib.figure import Figure

    font_log = logging.getLogger("matplotlib.font_manager")
    level = font_log.level
    with matplotlib.rc_context({"text.parse_math": parse_math, "font.family": font_families()}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        try:
            font_log.setLevel(logging.ERROR)  # it would warn about CJK fonts without a bold face
            with atomic_write(path) as temporary, warnings.catch_warnings(record=True) as caught:
                figure.savefig(temporary, dpi=110, format="png")
        finally:
            font_log.setLevel(level)
    for warning in caught:
        if "missing from font" in str(warning.message):
            _log_missing_glyphs()
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@cache
def font_families() -> list[str]:
    """Matplotlib's default font and, if one is installed, a font with Chinese, Japanese and Korean glyphs."""
    from matplotlib import font_manager

    for file in font_manager.findSystemFonts():  # matplotlib's own list may be old
        if Path(file).name in _CJK_FONT_FILES:
            font_manager.fontManager.addfont(file)
            return ["DejaVu Sans", font_manager.get_font(file).family_name]
    return ["DejaVu Sans"]


@cache  # once per process
def _log_missing_glyphs() -> None:
    log.warning("no installed font has every character of the names: plots show boxes; install fonts-noto-cjk (Debian)")


def shorten(line: str, width: int) -> str:
    """Replace the middle of a line longer than `width` characters by an ellipsis; names often differ at the end."""
    half = (width - 1) // 2
    return line if len(line) <= width else f"{line[:half]}…{line[-half:]}"


def plot_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, accuracy and learning rate by step, from the rows of `metrics.jsonl`."""
    shown = (
        ("loss", 1, "loss per image (nats)"),
        ("accuracy", 100, "accuracy (%)"),
        ("learning_rate", 1, "learning rate"),
    )
    with drawing(path, 13, 3.8) as figure:
        for axes, (key, scale, title) in zip(figure.subplots(1, 3), shown, strict=True):
            for split in ("train",) if key == "learning_rate" else ("train", "validation", "test"):
                points = [(row["step"], scale * row[key]) for row in rows if row["split"] == split]
                if points:
                    style = {"linewidth": 1} if split == "train" else {"marker": "o"}
                    axes.plot(*zip(*points, strict=True), label=split, **style)
            axes.set(title=title, xlabel="step")
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend()


def plot_learning_rates(rates: Sequence[float], losses: Sequence[float], suggestion: float, path: Path) -> None:
    """The loss by learning rate, and the suggested rate."""
    with drawing(path, 7, 4, parse_math=True) as figure:
        axes = figure.subplots()
        axes.plot(rates, losses)
        axes.axvline(suggestion, color="tab:orange", label=f"suggested: {suggestion:.1e}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss per image (nats), smoothed")
        axes.set_ylim(top=min(max(losses), 1.5 * losses[0]))
        axes.grid(alpha=0.3)
        axes.legend()


def plot_confusion_matrix(matrix: Tensor, classes: Sequence[str], path: Path) -> None:
    """Counts by true class (row) and predicted class (column), colored by the fraction of the row."""
    fraction = (matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
    names = [shorten(name, 40) for name in classes]
    side = min(3 + 0.55 * len(names), 30)
    with drawing(path, side, side) as figure:
        axes = figure.subplots()
        axes.imshow(fraction, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="predicted", ylabel="true", title=f"accuracy {matrix.trace() / matrix.sum():.2%}")
        for row, column in matrix.nonzero().tolist() if len(names) <= 40 else ():
            color = "white" if fraction[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(matrix[row, column])), ha="center", va="center", color=color, fontsize=8)


def plot_reliability(evaluation: Evaluation, path: Path) -> None:
    """Accuracy by confidence, compared with perfect calibration; below, the images in each bin."""
    shown = [(evaluation, "tab:blue")]
    if evaluation.temperature != 1:
        shown.insert(0, (replace(evaluation, temperature=1.0), "tab:orange"))
    with drawing(path, 6.5, 8, parse_math=True) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        upper.plot([0, 1], [0, 1], color="tab:gray", linestyle="--", label="perfect calibration")
        for number, (each, color) in enumerate(shown):
            bins = each.reliability
            label = f"temperature {each.temperature:.3g}: error {bins.expected_calibration_error:.2%}"
            images, confidence, accuracy = bins.images.numpy(), bins.confidence.numpy(), bins.accuracy.numpy()
            upper.plot(confidence[images > 0], accuracy[images > 0], marker="o", color=color, label=label)
            width = 0.8 / len(images) / len(shown)
            middles = (np.arange(len(images)) + 0.5) / len(images) + (number - (len(shown) - 1) / 2) * width
            bars = lower.bar(middles, images, width=width, color=color)
            counts = [f"{count:,}" if count else "" for count in images]
            lower.bar_label(bars, labels=counts, rotation=90, fontsize=7, padding=3)
        upper.set(ylabel="accuracy", ylim=(0, 1.02), title=f"accuracy {evaluation.accuracy:.2%}")
        upper.legend(loc="upper left")
        upper.grid(alpha=0.3)
        lower.set(xlabel="confidence of the predicted class", ylabel="images", yscale="symlog", xlim=(0, 1))
        lower.margins(y=0.25)
        lower.grid(alpha=0.3)


def plot_coverage(evaluation: Evaluation, path: Path) -> None:
    """By confidence threshold: the fraction of images that is confident, and the accuracy on those."""
    curve = evaluation.coverage_curve
    with drawing(path, 6.5, 5) as figure:
        axes = figure.subplots()
        axes.plot(curve.confidence.numpy(), 100 * curve.accuracy.numpy(), label="accuracy on the confident images")
        axes.plot(curve.confidence.numpy(), 100 * curve.fraction.numpy(), label="coverage: confident images")
        if evaluation.confidence > 0:
            axes.axvline(evaluation.confidence, color="tab:gray", linestyle="--", label="--confidence")
        axes.set(xlabel="confidence threshold", ylabel="%", xlim=(0, 1), ylim=(0, 102))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left")


def plot_contact_sheet(
    images: Tensor, captions: Sequence[str], path: Path, *, title: str = "", columns: int = 8
) -> None:
    """Images, uint8 (N, C, H, W) with 1 or 3 channels, in a grid, each above its caption."""
    columns = min(columns, max(len(images), 4))  # at least wide enough for the title
    rows = max(1, math.ceil(len(images) / columns))
    aspect = images.shape[2] / images.shape[3]
    cell = aspect + 0.25  # in widths of an image; the rest is for the caption
    with drawing(path, 1.5 * columns, 1.5 * cell * rows + 0.3) as figure:
        axes = figure.subplots()  # one for all images, because creating axes is slow
        axes.axis("off")
        axes.set(title=title, xlim=(0, columns), ylim=(cell * rows, 0), aspect="equal")
        for number, (image, caption) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), captions, strict=True)):
            row, left = divmod(number, columns)
            bottom = cell * (row + 1)
            extent = (left + 0.04, left + 0.96, bottom, bottom - 0.92 * aspect)
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent)
            lines = "\n".join(shorten(line, 25) for line in caption.split("\n"))
            text = axes.text(left + 0.5, bottom - 0.94 * aspect, lines, fontsize=7, ha="center", va="bottom")
            text.set_in_layout(False)  # long captions must not shrink the images


def plot_sample(dataset: ImageDataset, path: Path, *, count: int, seed: int) -> None:
    """`count` random training images with their labels. Raises `UserError` for a count below 1."""
    check_counts(count=count)
    chosen = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))[:count]
    captions = [dataset.classes[label] for label in dataset.train.labels[chosen].tolist()]
    plot_contact_sheet(dataset.train.__getitems__(chosen)[0], captions, path, title=dataset.name, columns=10)


def plot_augmented(dataset: ImageDataset, augmentation: Augmentation, path: Path, *, count: int, seed: int) -> None:
    """Random training images, one per row: the original, then seven augmented versions; `count` images in all.

    Raises `UserError` for fewer than two rows, which mixup and CutMix need.
    """
    columns, names = 8, dataset.classes
    if count < 2 * columns:
        raise UserError(f"count must be {2 * columns} or more to show augmented images, not {count}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = torch.randperm(len(dataset.train))[: count // columns]
        images, labels = dataset.train.__getitems__(chosen)
        versions, captions = [images], [[names[label] for label in labels.tolist()]]
        for _ in range(columns - 1):
            mixed, targets = augmentation.mix(augmentation(images).float(), labels, len(names))
            versions.append(mixed.round().to(torch.uint8))
            captions.append([_mixture(target, names) for target in targets])
    by_row = [caption for row in zip(*captions, strict=True) for caption in row]
    sheet = torch.stack(versions, dim=1).flatten(0, 1)
    plot_contact_sheet(sheet, by_row, path, title="original, then augmented", columns=columns)


def _mixture(target: Tensor, names: Sequence[str]) -> str:
    """The classes of a mixed label (classes,) in percent; empty for a single class, and for a label ()."""
    shown = (target >= 0.005).nonzero().tolist() if target.ndim else []  # less would be shown as 0%
    return "\n".join(f"{float(target[label]):.0%} {names[label]}" for (label,) in shown) if len(shown) > 1 else ""


def plot_predictions(
    split: ImageSplit, captions: Sequence[str], path: Path, *, mistakes: Tensor | None = None, count: int = 32
) -> None:
    """Of the images of a split with `Evaluation.captions`, those with the indices `worst_mistakes`.

    Default: `count` images spread evenly over the split, which may be sorted by class.
    """
    chosen, title = mistakes, "most confident mistakes: predicted (confidence), true"
    if chosen is None:
        chosen, title = (
            torch.linspace(0, len(split) - 1, min(count, len(split))).long(),
            "predicted (confidence), true",
        )
    plot_contact_sheet(
        split.__getitems__(chosen)[0], [captions[number] for number in chosen.tolist()], path, title=title
    )


def plot_suspects(suspects: Sequence[Suspect], path: Path, *, count: int = 64) -> None:
    """The first `count` suspects, with the class of each, and the suggested class or the image it is like."""
    pixels, captions = [torch.empty(0, 3, 96, 96, dtype=torch.uint8)], []
    for suspect in suspects[:count]:
        pixels.append(decode_resized(suspect.path, 3, 96)[None])
        reason = f"like {suspect.other.name}" if suspect.other else f"{suspect.suggested}? {suspect.score:.2f}"
        captions.append(f"{suspect.path.name}\n{suspect.label}\n{reason}")
    title = f"{len(captions):,} of {len(suspects):,} suspects"
    plot_contact_sheet(torch.cat(pixels), captions, path, title=title)

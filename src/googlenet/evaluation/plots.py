"""Curves, confusion matrix, calibration, contact sheets. Each function writes one PNG, whole or not at all."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from torch import Tensor

from googlenet.data.dataset import ImageDataset
from googlenet.data.transforms import Augmentation
from googlenet.errors import UserError
from googlenet.evaluation.metrics import Evaluation
from googlenet.files import atomic_write


def plot_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, accuracy and learning rate over the steps, from the rows of `metrics.jsonl`."""
    with drawing(path, 13, 3.8) as figure:
        loss, accuracy, rate = figure.subplots(1, 3)
        for split, style in (("train", {"linewidth": 1}), ("validation", {"marker": "o"}), ("test", {"marker": "o"})):
            chosen = [row for row in rows if row["split"] == split]
            if not chosen:
                continue
            steps = [row["step"] for row in chosen]
            loss.plot(steps, [row["loss"] for row in chosen], label=split, **style)
            accuracy.plot(steps, [100 * row["accuracy"] for row in chosen], label=split, **style)
            if split == "train":
                rate.plot(steps, [row["learning_rate"] for row in chosen], color="tab:gray")
        for axes, title in ((loss, "loss per image (nats)"), (accuracy, "accuracy (%)"), (rate, "learning rate")):
            axes.set(title=title, xlabel="step")
            axes.grid(alpha=0.3)
        for axes in (loss, accuracy):
            if axes.lines:
                axes.legend()


def plot_learning_rates(rates: Sequence[float], losses: Sequence[float], suggestion: float, path: Path) -> None:
    """The loss over a growing learning rate, and the rate that is suggested."""
    with drawing(path, 7, 4, mathematics=True) as figure:
        axes = figure.subplots()
        axes.plot(rates, losses)
        axes.axvline(suggestion, color="tab:orange", label=f"suggested: {suggestion:.1e}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss per image (nats), smoothed")
        axes.set_ylim(top=min(max(losses), 1.5 * losses[0]))
        axes.grid(alpha=0.3)
        axes.legend()


def plot_confusion_matrix(evaluation: Evaluation, path: Path) -> None:
    """Each cell is how many images of the row's class were taken for the column's; the color is the row's share."""
    matrix = evaluation.confusion_matrix.numpy()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(evaluation.classes)
    side = min(3 + 0.55 * count, 30)
    with drawing(path, side, side) as figure:
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        names = [shortened(name, 40) for name in evaluation.classes]
        axes.set_xticks(range(count), names, rotation=45, ha="right")
        axes.set_yticks(range(count), names)
        axes.set(xlabel="predicted", ylabel="true", title=f"accuracy {evaluation.accuracy:.2%}")
        if count <= 40:
            for row, column in np.argwhere(matrix > 0):
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)


def plot_reliability(evaluation: Evaluation, path: Path) -> None:
    """Accuracy by confidence, beside that of a network that is right as often as it says; below, images a bin."""
    after, before = evaluation.reliability, evaluation.reliability_before
    shown = [(after, f"temperature {evaluation.temperature:.3g}", "tab:blue")]
    if evaluation.temperature != 1:
        shown.insert(0, (before, "temperature 1", "tab:orange"))
    bins = len(after.images)
    middles = (np.arange(bins) + 0.5) / bins
    with drawing(path, 6.5, 8, mathematics=True) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        upper.plot((0, 1), (0, 1), color="tab:gray", linestyle="--", label="right as often as it says")
        for number, (found, name, color) in enumerate(shown):
            images, some = found.images.numpy(), found.images.numpy() > 0
            error = f"{name}: calibration error {found.expected_calibration_error:.2%}"
            upper.plot(
                found.confidence.numpy()[some], found.accuracy.numpy()[some], marker="o", color=color, label=error
            )
            width = 0.8 / bins / len(shown)
            places = middles + (number - (len(shown) - 1) / 2) * width
            bars = lower.bar(places, images, width=width, color=color)
            counts = [f"{count:,}" if count else "" for count in images]
            lower.bar_label(bars, labels=counts, rotation=90, fontsize=7, padding=3)
        upper.set(ylabel="accuracy", ylim=(0, 1.02), title=f"accuracy {evaluation.accuracy:.2%}")
        upper.legend(loc="upper left")
        lower.set(xlabel="confidence: probability of the class said", ylabel="images", yscale="symlog", xlim=(0, 1))
        lower.margins(y=0.25)
        for axes in (upper, lower):
            axes.grid(alpha=0.3)


def plot_coverage(evaluation: Evaluation, path: Path) -> None:
    """Over the confidence that an answer must reach: the share of images answered, and how many answers are right."""
    curve = evaluation.coverage_curve
    threshold = curve.confidence.numpy()
    with drawing(path, 6.5, 5) as figure:
        axes = figure.subplots()
        axes.plot(threshold, 100 * curve.accuracy.numpy(), label="of the answers, right (precision)")
        axes.plot(threshold, 100 * curve.share.numpy(), label="of the images, answered (coverage)")
        if evaluation.confidence > 0:
            axes.axvline(evaluation.confidence, color="tab:gray", linestyle="--", label="confidence asked for")
        axes.set(xlabel='"don\'t know" below this confidence', ylabel="%", xlim=(0, 1), ylim=(0, 102))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left")


def plot_contact_sheet(
    images: Tensor, captions: Sequence[str], path: Path, *, title: str = "", columns: int = 8
) -> None:
    """DecodedImages in a grid, each with its caption: uint8 (N, C, H, W) with 1 or 3 channels."""
    columns = min(columns, max(len(images), 4))  # but wide enough for a title
    rows = max(1, math.ceil(len(images) / columns))
    tall = images.shape[2] / images.shape[3]
    cell = tall + 0.25  # in widths of a picture; the rest is for its caption
    with drawing(path, 1.5 * columns, 1.5 * cell * rows + 0.3) as figure:
        axes = figure.subplots()  # one for all pictures, since matplotlib takes longest for axes
        axes.axis("off")
        axes.set(title=title, xlim=(0, columns), ylim=(cell * rows, 0), aspect="equal")
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            row, left = divmod(number, columns)
            bottom, pixels = cell * (row + 1), image.permute(1, 2, 0).numpy()
            extent = (left + 0.04, left + 0.96, bottom, bottom - 0.92 * tall)
            axes.imshow(
                pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255, extent=extent
            )
            # Not in the layout: names are not to take the pictures' room
            lines = "\n".join(shortened(line, 25) for line in caption.split("\n"))
            text = axes.text(left + 0.5, bottom - 0.94 * tall, lines, fontsize=7)
            text.set(ha="center", va="bottom", in_layout=False)


def plot_sample(dataset: ImageDataset, path: Path, *, count: int, seed: int) -> None:
    """Training pictures drawn by `seed`, each with its label.

    Raises:
        UserError: for a count below 1.
    """
    if count < 1:
        raise UserError(f"a contact sheet shows 1 picture or more, not {count}")
    drawn = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))[:count]
    captions = [dataset.classes[label] for label in dataset.train.labels[drawn].tolist()]
    plot_contact_sheet(dataset.train.images[drawn], captions, path, title=dataset.name, columns=10)


def plot_augmented(dataset: ImageDataset, augmentation: Augmentation, path: Path, *, count: int, seed: int) -> None:
    """Training pictures drawn by `seed`, a row each: as it is, then as training may see it. `count` is that of all.

    Raises:
        UserError: for fewer than fill two rows, which mixing needs.
    """
    columns = 8
    if count < 2 * columns:
        raise UserError(f"a sheet of changed pictures shows {2 * columns} or more, not {count}")
    split, names = dataset.train, dataset.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = torch.randperm(len(split))[: count // columns]
        images, labels = split.images[drawn], split.labels[drawn]
        versions, captions = [images], [[names[label] for label in labels.tolist()]]
        for _ in range(columns - 1):
            mixed, targets = augmentation.mix(augmentation(images).float(), labels, len(names))
            versions.append(mixed.round().to(torch.uint8))
            captions.append(
                [_shares_in_words(target, names) for target in targets] if targets.ndim == 2 else [""] * len(labels)
            )
    sheet = torch.stack(versions, dim=1).flatten(0, 1)
    in_rows = [caption for row in zip(*captions, strict=True) for caption in row]
    plot_contact_sheet(sheet, in_rows, path, title="as it is, and as training may see it", columns=columns)


def _shares_in_words(target: Tensor, names: Sequence[str]) -> str:
    present = (target >= 0.005).nonzero().flatten().tolist()  # less would be shown as 0%
    return "\n".join(f"{float(target[label]):.0%} {names[label]}" for label in present) if len(present) > 1 else ""


def plot_mistakes(evaluation: Evaluation, images: Tensor, path: Path, *, count: int = 32) -> None:
    """The most confident mistakes: what the network said, how sure it was, and what is right."""
    worst = evaluation.worst_mistakes(count)
    captions = captions_of(evaluation, worst.tolist())
    plot_contact_sheet(images[worst], captions, path, title="most confident mistakes: said (confidence), right")


def plot_predictions(evaluation: Evaluation, images: Tensor, path: Path, *, count: int = 32) -> None:
    """The first images of the split and what the network said of each."""
    first = range(min(count, len(images)))
    plot_contact_sheet(
        images[: len(first)], captions_of(evaluation, first), path, title="first images: said (confidence), right"
    )


def captions_of(evaluation: Evaluation, indices: Iterable[int]) -> list[str]:
    """For each image: the predicted class and its probability, and the true class below."""
    confidence, said = evaluation.probabilities.max(dim=1)
    names, right = evaluation.classes, evaluation.labels
    return [f"{names[int(said[i])]} ({float(confidence[i]):.0%})\n{names[int(right[i])]}" for i in indices]


_OWN = "DejaVu Sans"
_EASTERN = (
    "NotoSansCJK-Regular.ttc", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "simhei.ttf",
)  # fmt: skip
"""Files of fonts for the signs that matplotlib's own lacks."""


@contextmanager
def drawing(path: Path, width: float, height: float, *, mathematics: bool = False) -> Iterator[Figure]:
    """A figure to draw on, so many inches wide and high; at the end it is written to `path`, as PNG.

    Names of classes and files are no mathematics, whatever signs are in them; the numbers of a logarithmic axis are.

    Raises:
        RunError: where the file cannot be written.
    """
    with matplotlib.rc_context({"text.parse_math": mathematics, "font.family": fonts()}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with atomic_write(path) as temporary, _told_of_missing_signs():
            figure.savefig(temporary, dpi=110, format="png")


def shortened(line: str, longest: int) -> str:
    """With its middle left out, if it has more signs than that: what a name ends with is what tells it from others."""
    half = (longest - 1) // 2
    return line if len(line) <= longest else f"{line[:half]}…{line[-half:]}"


@cache
def fonts() -> list[str]:
    """Matplotlib's own font, and one that is installed here for the signs that it lacks."""
    installed = {Path(file).name: file for file in font_manager.findSystemFonts()}  # its own list may be an old one
    for name in _EASTERN:
        if name in installed:
            font_manager.fontManager.addfont(installed[name])
            logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # or it says that none of it is bold
            return [_OWN, font_manager.get_font(installed[name]).family_name]
    return [_OWN]


@contextmanager
def _told_of_missing_signs() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if "missing from font" in str(warning.message):
            _say_that_signs_are_missing()
        else:
            warnings.warn(warning.message, stacklevel=2)


@cache
def _say_that_signs_are_missing() -> None:
    """Once, however many pictures there are."""
    print(
        "googlenet: no font here has all signs of the names: in pictures, boxes stand for them; install one, "
        "as Debian's fonts-noto-cjk",
        file=sys.stderr,
    )

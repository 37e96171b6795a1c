"""Two models on the same images: which one is better, and how certain that is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from googlenet.console import log
from googlenet.data.dataset import CATALOG, ImageSplit
from googlenet.errors import UserError
from googlenet.evaluation.metrics import Evaluation
from googlenet.evaluation.report import eval_split
from googlenet.evaluation.scores import Z, interval_of
from googlenet.files import write_columns, write_json
from googlenet.weights.model_file import ModelInfo


@dataclass(frozen=True)
class Comparison:
    """The evaluations of two models, A and B, on the same images in the same order."""

    a: Evaluation
    b: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """The result, ready for JSON. The difference is that of the accuracies, B - A."""
        a, b, images = self.a.correct, self.b.correct, len(self.a.labels)
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        return {
            "images": images,
            "a": _accuracy(self.a, only_a),
            "b": _accuracy(self.b, only_b),
            "difference": (only_b - only_a) / images,
            "difference_interval": paired_interval(only_a, only_b, images),
            "mcnemar_p": mcnemar(only_a, only_b),
            "both_correct": int((a & b).sum()),
            "neither_correct": int((~a & ~b).sum()),
            "different_predictions": len(self.differences()["file"]),
        }

    def differences(self) -> dict[str, list[Any]]:
        """Columns with a value for each image whose predicted class differs, like those of `Evaluation.predictions`.

        `correct` is A, B or neither.
        """
        chosen = (self.a.logits.argmax(dim=1) != self.b.logits.argmax(dim=1)).nonzero().squeeze(1)
        a, b = self.a.predictions(chosen), self.b.predictions(chosen)
        ranks = zip(a["rank"], b["rank"], strict=True)
        columns = {name: a.pop(name) for name in ("file", "class")}
        columns["correct"] = ["A" if of_a == 1 else "B" if of_b == 1 else "neither" for of_a, of_b in ranks]
        for name in ("predicted", "probability", "loss", "rank"):
            columns |= {f"{name}_a": a.pop(name), f"{name}_b": b.pop(name)}
        for name in ("confident", "known"):
            a.pop(name, None)
        # The rest comes from a table of files
        return columns | {f"{name} (data)" if name in columns else name: values for name, values in a.items()}

    def write(self, folder: Path) -> None:
        """Write `comparison.json` (`to_dict`) and `comparison.csv` (`differences`). Raises `RunError` if it cannot."""
        write_json(folder / "comparison.json", self.to_dict())
        write_columns(folder / "comparison.csv", self.differences())


def _accuracy(evaluation: Evaluation, only_correct: int) -> dict[str, Any]:
    correct = int(evaluation.correct.sum())
    return {
        "accuracy": evaluation.accuracy,
        "accuracy_interval": interval_of(correct, len(evaluation.labels)),
        "loss": evaluation.loss,
        "only_correct": only_correct,
    }


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided p-value of the exact test whether two models are equally often correct on the same images.

    Of the images for which only one of the models is correct, each is as likely to have either. McNemar 1947, "Note on
    the Sampling Error of the Difference Between Correlated Proportions or Percentages", Psychometrika 12.
    """
    count, term, tail = only_a + only_b, 1, 0
    for k in range(min(only_a, only_b) + 1):  # integers: exact for any count
        tail += term  # a sum of binomial coefficients
        term = term * (count - k) // (k + 1)
    return min(1.0, 2 * tail / 2**count)


def paired_interval(only_a: int, only_b: int, images: int) -> list[float]:
    """95% interval of accuracy B - accuracy A on the same images.

    Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired
    Data", J. Educ. Behav. Stat. 37: not too narrow if the models differ on few images.
    """
    total = images + 2
    share_a, share_b = (only_a + 1) / total, (only_b + 1) / total
    difference = share_b - share_a
    margin = Z * math.sqrt((share_a + share_b - difference**2) / total)
    return [max(-1.0, difference - margin), min(1.0, difference + margin)]


def same_images(
    split: ImageSplit, a: ModelInfo, b: ModelInfo, data: str | None = None, data_dir: str | None = None, *,
    skip_unreadable: bool = False, crops: int = 1,
) -> ImageSplit:  # fmt: skip
    """The images of `split`, which was loaded for model A with these arguments of `evaluate`, in the size that B needs.

    A warning says how many of them B may have been trained on: those that it would not be evaluated on. Raises
    `UserError` if the models have other classes or channels.
    """
    for name, of_a, of_b in (
        ("classes", a.classes, b.classes),
        ("number of channels", a.input.channels, b.input.channels),
    ):
        if of_a != of_b:
            raise UserError(f"the two models differ in the {name}: compare models for the same images and classes")
    given, data = data, data or a.recipe.get("data")
    is_decoded_alike = (a.input.decoded_size, a.input.resize) == (b.input.decoded_size, b.input.resize)
    is_split_alike = all(a.recipe.get(name) == b.recipe.get(name) for name in ("data", "also", "seed"))
    if data is None or data in CATALOG or (is_decoded_alike and is_split_alike):
        return split
    own = eval_split(b, data, data_dir, skip_unreadable=skip_unreadable, crops=crops)
    positions = {file: position for position, file in enumerate(own.files)}
    if missing := len(set(split.files) - positions.keys()):
        log.warning("model B may have been trained on %s of the %s images", f"{missing:,}", f"{len(split):,}")
        as_a = replace(b, recipe=a.recipe, data_digest=a.data_digest)
        return eval_split(as_a, given, data_dir, skip_unreadable=skip_unreadable, crops=crops)
    return own.subset(torch.tensor([positions[file] for file in split.files]))

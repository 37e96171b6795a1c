"""An evaluation as a person reads it, and as the files that it leaves."""

from __future__ import annotations

import json
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from googlenet.data.dataset import ImageSplit
from googlenet.evaluation.evaluate import Evaluation
from googlenet.evaluation.plots import plot_confusion_matrix, plot_coverage, plot_mistakes, plot_reliability
from googlenet.files import writing


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row a class, and the figures over all in the caption."""
    figures = evaluation.to_dict()
    table = Table()
    table.add_column("class")
    for heading in ("images", "precision", "recall", "F1"):
        table.add_column(heading, justify="right")
    for name, row in figures["per_class"].items():
        shares = (f"{row[key]:.2%}" for key in ("precision", "recall", "f1"))
        table.add_row(escape(name), f"{row['images']:,}", *shares)
    table.caption = (
        f"{figures['images']:,} images: accuracy {figures['accuracy']:.2%}, top 3 {figures['top_3_accuracy']:.2%}\n"
        f"loss {figures['loss']:.4f}, calibration error {figures['expected_calibration_error']:.2%}, "
        f"{figures['images_per_second']:,.0f} images/s"
        + _temperature_in_words(evaluation)
        + _answers_in_words(evaluation)
    )
    table.caption_justify = "left"
    return table


def write_report(evaluation: Evaluation, split: ImageSplit, folder: Path) -> None:
    """`evaluation.json` and the pictures in `folder`, which is made if need be."""
    with writing(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n", encoding="utf-8")
    plot_confusion_matrix(evaluation, folder / "confusion_matrix.png")
    plot_mistakes(evaluation, split.images, folder / "mistakes.png")
    plot_reliability(evaluation, folder / "reliability.png")
    plot_coverage(evaluation, folder / "coverage.png")


def _temperature_in_words(evaluation: Evaluation) -> str:
    if evaluation.temperature == 1:
        return ""
    before = evaluation.reliability_before.expected_calibration_error
    return f"\nat temperature {evaluation.temperature:.3g};\nwithout it the calibration error is {before:.2%}"


def _answers_in_words(evaluation: Evaluation) -> str:
    if evaluation.confidence == 0:
        return ""
    answers = evaluation.answers
    answered, share = int(answers.answered), float(answers.share)
    right = f"{float(answers.accuracy):.2%} of the answers right" if answered else "none to be right"
    return f"\nat confidence {evaluation.confidence:g} and above: {answered:,} answered ({share:.2%}),\n{right}"

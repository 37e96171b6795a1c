"""Tables of an evaluation, and of the comparison of two, for the terminal. A dash is a score that is undefined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from googlenet.errors import plural
from googlenet.evaluation.comparison import Comparison
from googlenet.evaluation.metrics import Evaluation
from googlenet.files import printable

_MISTAKES, _VALUES = 10, 50  # rows at most


def evaluation_table(evaluation: Evaluation) -> Table:
    """One row per class, and the overall metrics in the caption."""
    metrics = evaluation.to_dict()
    accuracy, top_3, balanced = (
        _percent(metrics[name], metrics[f"{name}_interval"], 2)
        for name in ("accuracy", "top_3_accuracy", "balanced_accuracy")
    )
    auc, precision = (_decimal(metrics[name]) for name in ("roc_auc", "average_precision"))
    crops = "" if evaluation.crops == 1 else f", {evaluation.crops} crops of each"
    caption = (
        f"{plural(metrics['images'], 'image')}{crops}: accuracy {accuracy}, top 3 {top_3}\n"
        f"balanced accuracy {balanced}, AUC {auc}, AP {precision}\n"
        f"loss {metrics['loss']:.4f}, calibration error {metrics['expected_calibration_error']:.2%}, "
        f"{metrics['images_per_second']:,.0f} images/s"
    )
    if evaluation.temperature != 1:
        before = metrics["calibration"]["expected_calibration_error_before"]
        caption += f"\ntemperature {evaluation.temperature:.3g}; calibration error without it {before:.2%}"
    if evaluation.confidence > 0:
        images, _, fraction, of_confident = metrics["coverage"].values()
        of_those = "no accuracy" if of_confident is None else f"accuracy {of_confident:.2%}"
        caption += f"\nconfidence {evaluation.confidence:g} or more: {images:,} images ({fraction:.2%}), {of_those}"
    if (known := metrics.get("known")) is not None:
        caption += _known_lines(known)
    caption += "\nin parentheses: 95% intervals; AUC: ROC AUC, AP: average precision, of one class against all others"
    table = _table("class", "images", "precision", "recall", "F1", "AUC", "AP", caption=caption)
    for name, row in metrics["per_class"].items():
        counted = (_percent(row[key], row[f"{key}_interval"]) for key in ("precision", "recall"))
        ranked = (_decimal(row[key]) for key in ("roc_auc", "average_precision"))
        table.add_row(_text(name), f"{row['images']:,}", *counted, _percent(row["f1"]), *ranked)
    return table


def _known_lines(known: dict[str, Any]) -> str:
    """What the rule says about images of the classes, and of none of them."""
    lines = ""
    if "fraction" in known:
        share = _percent(known["fraction"], known["fraction_interval"], 2)
        fitted = "these same images" if known["fitted_on_these_images"] else f"{_text(known['fitted_on'])} images"
        lines += f"\nknown: {share} of the images, by a threshold fitted on {fitted}"
    if (unknown := known.get("unknown")) is not None:
        low, high = unknown["roc_auc_interval"]
        rejected = "no rule to reject them"
        if "rejected" in unknown:
            rejected = f"rejected {_percent(unknown['rejected'], unknown['rejected_interval'], 2)}"
        area = f"AUC against the known ones {unknown['roc_auc']:.3f} ({low:.3f}-{high:.3f})"
        lines += f"\n{unknown['images']:,} unknown images: {rejected}, {area}"
    return lines


def mistakes_table(evaluation: Evaluation) -> Table:
    """The most confident mistakes, by file name."""
    table = _table("most confident mistakes", "probability", "predicted", "true class")
    for row in evaluation.worst(_MISTAKES):
        table.add_row(_text(row["file"]), _percent(row["probability"]), _text(row["predicted"]), _text(row["class"]))
    return table


def slices_table(evaluation: Evaluation, column: str) -> Table:
    """Accuracy by the value of a column of the data, the most frequent values first."""
    values = evaluation.by(column)
    more = len(values) - _VALUES
    caption = f"and {more:,} more values, in evaluation.json" if more > 0 else ""
    table = _table(printable(column), "images", "accuracy", caption=caption)
    for row in values[:_VALUES]:
        accuracy = _percent(row["accuracy"], row["accuracy_interval"], 2)
        table.add_row(_text(row["value"]), f"{row['images']:,}", accuracy)
    return table


def comparison_table(comparison: Comparison, names: Sequence[str]) -> Table:
    """One row per model, whose `names` are given, and the difference in the caption."""
    result = comparison.to_dict()
    low, high = result["difference_interval"]
    caption = (
        f"difference, B - A: {result['difference']:+.2%} (95% interval {low:+.2%} to {high:+.2%})\n"
        f"exact McNemar test: p = {result['mcnemar_p']:.3g}; {result['both_correct']:,} images are correct with both, "
        f"{result['neither_correct']:,} with neither\n"
        f"the predicted class differs for {result['different_predictions']:,} of {result['images']:,} images"
    )
    table = _table("model", "accuracy", "loss", "correct only here", caption=caption)
    for key, name in zip("ab", names, strict=True):
        row = result[key]
        accuracy = _percent(row["accuracy"], row["accuracy_interval"], 2)
        table.add_row(_text(f"{key.upper()}: {name}"), accuracy, f"{row['loss']:.4f}", f"{row['only_correct']:,}")
    return table


def _table(first: str, *headings: str, caption: str = "") -> Table:
    """A table whose other columns are numbers."""
    table = Table(_text(first), caption=caption, caption_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("predicted", "true class") else "right")
    return table


def _text(name: str) -> str:
    return escape(printable(name))


def _percent(value: float | None, interval: Sequence[float] | None = None, digits: int = 1) -> str:
    """A fraction and its interval as 91.3% (90.1-92.4)."""
    if value is None:
        return "-"
    bounds = "-".join(f"{100 * end:.{digits - 1}f}" for end in interval or ())
    return f"{value:.{digits}%}" + (f" ({bounds})" if bounds else "")


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""An evaluation as a person reads it, and as the files that it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from googlenet.data import folder as image_folder
from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.data.decode import Progress
from googlenet.data.loader import entry, is_folder
from googlenet.errors import UserError
from googlenet.evaluation.metrics import Evaluation
from googlenet.evaluation.plots import plot_confusion_matrix, plot_coverage, plot_mistakes, plot_reliability
from googlenet.files import atomic_write
from googlenet.weights.model_file import ModelInfo


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
    with atomic_write(folder / "evaluation.json") as temporary:
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


def load_eval_data(
    info: ModelInfo,
    data: str | None = None,
    data_dir: str | Path | None = None,
    *,
    skip_unreadable: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> ImageDataset:
    """A data set whose labels are the model's classes.

    Of the folder that the model was trained on, wherever it lies now, the same pictures are held out as then; of
    another one that has no test pictures of its own, every picture is judged.

    Args:
        info: of the model.
        data: a name from the catalog or a folder; left out, what the model was trained on.
        data_dir: the folder with the files of a data set of the catalog.
        skip_unreadable: leave picture files out that cannot be read, as is done in any case where the training did.
        say: gets what was found in a folder, line by line.
        progress: see `parallel.Progress`.

    Raises:
        UserError: where the model does not say what it was trained on, that is gone, or the data are of other classes.
    """
    trained_on = info.recipe.get("data")
    name = data or trained_on
    if name is None:
        raise UserError("the model file does not say what it was trained on: name the data with --data")
    if data is None and Path(name).is_absolute() and not is_folder(name):
        raise UserError(
            f"{name}, which the model was trained on, is not there any more; name where it is with --data, or pictures "
            "to export with by --calibration"
        )
    if not is_folder(name):
        known = entry(name).load(data_dir or (info.recipe.get("data_dir") if name == trained_on else None))
        numbers = tuple(map(str, range(len(known.classes))))  # of weights that came in without names
        if info.classes not in (known.classes, numbers):
            raise UserError(f"{name} has other classes than the model, or in another order; name other data")
        return known
    read = partial(
        image_folder.load,
        name,
        size=info.input.decoded_size,
        resize=info.input.resize,
        seed=info.recipe.get("seed", 0),
        skip_unreadable=skip_unreadable or info.recipe.get("skip_unreadable", False),
        channels=info.input.channels,
        classes=info.classes,
        progress=progress,
    )
    same = trained_on is not None and Path(name).resolve() == Path(trained_on).resolve()
    dataset = read(say=say) if same else read(say=say, test_fraction=1.0)
    if same and info.data_digest not in ("", dataset.digest):
        say("the folder has changed since the training: what was learned from may be among the pictures judged")
    if not same and info.data_digest == dataset.digest:
        say("the folder holds the pictures of the training: those are judged that were held out then")
        return dataset if len(dataset.train) else read()
    return dataset

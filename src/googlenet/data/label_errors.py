"""Likely label errors, from predictions for images that the network was not trained on.

cleanlab finds them by confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068).
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from googlenet.data.folder import Listing
from googlenet.errors import UserError, plural, reason_of
from googlenet.files import printable

PREFIX = "probability:"
"""`out_of_fold.csv` has a column `probability:CLASS` for each class, after `file` and `class`."""
_TOLERANCE = 0.01  # of the sum of a row: probabilities may be rounded


class OutOfFold(NamedTuple):
    """Out-of-fold predictions: those for each image are from a network that was not trained on it."""

    paths: list[Path]
    labels: np.ndarray[Any, Any]  # given class, int64 (N,)
    probabilities: np.ndarray[Any, Any]  # float64 (N, classes), in the order of the folder's classes


class LabelError(NamedTuple):
    """An image whose label is probably wrong."""

    path: Path
    label: int
    suggested: int  # the most probable class
    score: float  # 0 to 1; the highest is the most suspicious


def read_out_of_fold(path: Path, listing: Listing) -> OutOfFold:
    """Read `out_of_fold.csv`: `file` (relative to the folder), `class` (its label), `probability:CLASS` of each class.

    Images of the folder without a row are allowed. Raises `UserError`, with the row, for anything that does not fit the
    folder as it is now.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse(csv.reader(file, strict=True), path, listing)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason_of(error)}") from error
    except (UnicodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({reason_of(error)}); write it again") from error


def _parse(rows: Iterator[list[str]], path: Path, listing: Listing) -> OutOfFold:
    columns = _columns(next(rows, []), path, listing.classes)
    images = {
        printable(image.relative_to(listing.folder).as_posix()): (image, label) for image, label, _ in listing.files
    }
    paths: list[Path] = []
    labels: list[int] = []
    probabilities: list[list[float]] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        place = f"{path}, row {number}"
        if len(row) != len(columns):
            raise UserError(f"{place}: {len(row)} values instead of {len(columns)}; write the file again")
        values = dict(zip(columns, row, strict=True))
        name = values["file"]
        if name not in images:
            raise UserError(f"{place}: {listing.folder} has no image {printable(name)!r}; predict again")
        if name in seen:
            raise UserError(f"{place}: a second row for {name!r}; remove one of them")
        seen.add(name)
        image, label = images[name]
        if values["class"] != listing.classes[label]:
            given = printable(values["class"])
            raise UserError(
                f"{place}: {name!r} was in {given!r} and is in {listing.classes[label]!r} now; predict again"
            )
        paths.append(image)
        labels.append(label)
        probabilities.append(_probabilities([values[PREFIX + each] for each in listing.classes], f"{place}, {name!r}"))
    if len(set(labels)) < 2:
        raise UserError(
            f"{path} has predictions for images of {plural(len(set(labels)), 'class')}; at least two are needed"
        )
    return OutOfFold(paths, np.array(labels), np.array(probabilities))


def _columns(header: list[str], path: Path, classes: Sequence[str]) -> list[str]:
    needed = ["file", "class", *(PREFIX + name for name in classes)]
    if missing := [name for name in needed if name not in header]:
        raise UserError(f"{path}, row 1: the column {printable(missing[0])!r} is missing; write it with train --folds")
    if unknown := [name for name in header if name.startswith(PREFIX) and name not in needed]:
        name = printable(unknown[0].removeprefix(PREFIX))
        raise UserError(f"{path}, row 1: the folder has no class {name!r}; its classes are {', '.join(classes)}")
    if len(set(header)) < len(header):
        raise UserError(f"{path}, row 1: two columns have the same name; remove one of them")
    return header


def _probabilities(texts: list[str], place: str) -> list[float]:
    try:
        values = [float(text) for text in texts]
    except ValueError as error:
        raise UserError(f"{place}: {printable(reason_of(error))}") from error
    if not all(0 <= value <= 1 for value in values):  # not for NaN either
        raise UserError(f"{place}: a probability is not from 0 to 1; these must be after softmax")
    if abs(sum(values) - 1) > _TOLERANCE:
        raise UserError(f"{place}: the probabilities add up to {sum(values):.4g} instead of 1")
    return [value / sum(values) for value in values]


def find_label_errors(predictions: OutOfFold) -> list[LabelError]:
    """Likely label errors, the most suspicious first. Needs the package cleanlab."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    paths, labels, probabilities = predictions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with few images, by number
        order = find_label_issues(
            labels, probabilities, filter_by="low_self_confidence", return_indices_ranked_by="self_confidence", n_jobs=1
        )
    scores = 1 - get_label_quality_scores(labels, probabilities, method="self_confidence")
    suggested = probabilities.argmax(axis=1)
    return [LabelError(paths[n], int(labels[n]), int(suggested[n]), float(scores[n])) for n in order]

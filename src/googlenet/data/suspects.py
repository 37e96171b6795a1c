"""Images that a person should look at: near duplicates and likely label errors, as lines, CSV, Label Studio tasks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from googlenet.data.folder import FolderReport, ImageFile
from googlenet.data.label_errors import OutOfFold, find_label_errors
from googlenet.data.near_duplicates import Fingerprint, near_duplicates
from googlenet.files import printable, write_json, write_table

COLUMNS = ("file", "class", "kind", "suggested_class", "score", "other_file")
_SHOWN = 20  # lines for each kind; the files have all suspects


class Suspect(NamedTuple):
    """An image, and what is suspicious about it."""

    path: Path
    label: str  # its class
    kind: Literal["near-duplicate", "label"]
    suggested: str  # the most probable class; empty for a near duplicate
    score: float  # the correlation with `other`, or 1 minus the probability of the label
    other: Path | None  # the image that a near duplicate is most like


class Group(NamedTuple):
    """Images that look the same."""

    suspects: list[Suspect]
    is_leak: bool  # in different splits
    is_contradiction: bool  # in different classes


@dataclass(frozen=True)
class Suspects:
    """Near duplicates and likely label errors of a folder."""

    folder: Path
    groups: list[Group] | None
    """Leaks first, then contradictions. None: not searched. Of files with the same content, the first can be in one."""
    blank: list[Path]  # images without enough contrast to be compared
    label_errors: list[Suspect] | None  # the most suspicious first; None: no predictions
    predicted: int  # images that have predictions

    @property
    def has_leaks(self) -> bool:
        """Whether near duplicates are in different splits."""
        return any(group.is_leak for group in self.groups or ())

    def rows(self) -> list[Suspect]:
        """All of them: label errors, then near duplicates."""
        return [*(self.label_errors or ()), *(suspect for group in self.groups or () for suspect in group.suspects)]

    def lines(self) -> list[str]:
        """One line for each finding."""
        lines = []
        if self.groups is None:
            lines.append("near duplicates: not searched; pip install imagehash")
        if self.blank:
            lines.append(f"almost blank, not compared: {len(self.blank):,}, for example {printable(self.blank[0])}")
        if self.groups:
            kinds = Counter("leak" if group.is_leak else "" for group in self.groups)
            contradictions = sum(group.is_contradiction for group in self.groups)
            lines.append(f"near duplicates: {len(self.groups):,} groups; {contradictions:,} in more than one class")
            if kinds["leak"]:
                lines.append(
                    f"leakage: {kinds['leak']:,} of them in more than one split (the test accuracy will be too high)"
                )
            names = (", ".join(printable(suspect.path) for suspect in group.suspects) for group in self.groups)
            lines += _first([f"look the same: {each}" for each in names])
        if self.label_errors is not None:
            lines.append(
                f"likely label errors: {len(self.label_errors):,} of {self.predicted:,} images with predictions"
            )
            lines += _first([
                f"in {suspect.label}, looks like {suspect.suggested}: {printable(suspect.path)}"
                for suspect in self.label_errors
            ])  # fmt: skip
        return lines

    def to_dict(self) -> dict[str, Any]:
        """For JSON; None for what was not searched."""
        groups = None if self.groups is None else [
            {
                "files": [printable(suspect.path) for suspect in group.suspects],
                "is_leak": group.is_leak, "is_contradiction": group.is_contradiction,
            }
            for group in self.groups
        ]  # fmt: skip
        errors = None if self.label_errors is None else [
            {
                "file": printable(suspect.path), "class": suspect.label, "suggested_class": suspect.suggested,
                "score": suspect.score,
            }
            for suspect in self.label_errors
        ]  # fmt: skip
        blank = [printable(path) for path in self.blank]
        return {"near_duplicates": groups, "almost_blank": blank, "label_errors": errors, "predicted": self.predicted}


def find_suspects(
    report: FolderReport, decodable: Collection[Path], fingerprints: Mapping[Path, Fingerprint | None] | None,
    predictions: OutOfFold | None,
) -> Suspects:  # fmt: skip
    """What is suspicious among the decodable images of a folder, by fingerprints and by predictions, if given."""
    classes, errors, groups = report.listing.classes, None, None
    if predictions is not None:
        errors = [
            Suspect(path, classes[label], "label", classes[suggested], score, None)
            for path, label, suggested, score in find_label_errors(predictions)
            if path in decodable
        ]
    if fingerprints is not None:
        groups = sorted(
            _groups(report, fingerprints), key=lambda group: (not group.is_leak, not group.is_contradiction)
        )
    blank = [path for path, value in (fingerprints or {}).items() if value is None]
    predicted = len(predictions.paths) if predictions else 0
    return Suspects(report.listing.folder, groups, blank, errors, predicted)


def _groups(report: FolderReport, fingerprints: Mapping[Path, Fingerprint | None]) -> Iterable[Group]:
    classes = report.listing.classes
    firsts: dict[bytes, ImageFile] = {}
    for file in report.files:
        firsts.setdefault(file.digest, file)
    compared = [(file, value) for file in firsts.values() if (value := fingerprints.get(file.path)) is not None]
    for group in near_duplicates([value for _, value in compared]):
        files = [compared[match.number][0] for match in group]
        suspects = [
            Suspect(file.path, classes[file.label], "near-duplicate", "", score, compared[nearest][0].path)
            for file, (_, nearest, score) in zip(files, group, strict=True)
        ]
        yield Group(suspects, len({file.split for file in files}) > 1, len({file.label for file in files}) > 1)


def write_csv(suspects: Suspects, path: Path) -> None:
    """A row for each suspect. File names are relative to the folder. Raises `RunError` as `atomic_write` does."""
    rows = []
    for each in suspects.rows():
        name, other = (printable(_relative(suspects, file)) for file in (each.path, each.other))
        rows.append((name, each.label, each.kind, each.suggested, f"{each.score:.4f}", other))
    write_table(path, COLUMNS, rows)


def write_label_studio(suspects: Suspects, path: Path, image_root: str | None = None) -> None:
    """Tasks for Label Studio's template "Image Classification", with the suggested class as prediction.

    An image's address is `image_root` and its path relative to the folder. Default: Label Studio's local file server,
    whose root is the parent of the folder. Format: https://labelstud.io/guide/predictions
    """
    root = f"/data/local-files/?d={quote(suspects.folder.resolve().name)}/" if image_root is None else image_root
    tasks = []
    for each in suspects.rows():
        name, other = _relative(suspects, each.path), _relative(suspects, each.other)
        data = {"image": root + quote(os.fsencode(name)), "file": printable(name), "class": each.label}
        choice = {"choices": [each.suggested or each.label]}
        result = {"from_name": "choice", "to_name": "image", "type": "choices", "value": choice}
        prediction = {"model_version": "googlenet data check", "score": each.score, "result": [result]}
        data |= {"kind": each.kind, "other_file": printable(other)}
        tasks.append({"data": data, "predictions": [prediction]})
    write_json(path, tasks)


def _relative(suspects: Suspects, path: Path | None) -> str:
    return "" if path is None else path.relative_to(suspects.folder).as_posix()


def _first(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - _SHOWN:,} more; --suspects writes all"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *more]

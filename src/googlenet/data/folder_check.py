"""Decode every image of a folder: what is wrong with it, what looks suspicious, and where bad files were moved."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from googlenet.data.dataset import list_files
from googlenet.data.decode import decode_image, map_threads
from googlenet.data.folder import FolderReport, ImageFile, scan
from googlenet.data.label_errors import read_out_of_fold
from googlenet.data.near_duplicates import Fingerprint, fingerprint
from googlenet.data.suspects import Suspects, find_suspects
from googlenet.device import require
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import check_writable, expand, printable


@dataclass(frozen=True)
class FolderCheck:
    """What `check_folder` found."""

    report: FolderReport  # also of files that cannot be decoded
    moved: dict[Path, Path]  # unreadable files, and their new paths
    suspects: Suspects

    @property
    def unreadable(self) -> dict[Path, str]:
        """Files that cannot be decoded and folders that cannot be listed, and why."""
        return self.report.unreadable

    @property
    def empty_classes(self) -> list[str]:
        """Class folders without an image that can be decoded."""
        return self.report.listing.classes_without(self.unreadable)

    @property
    def _left(self) -> set[Path]:
        return self.unreadable.keys() - self.moved.keys()

    @property
    def is_clean(self) -> bool:
        """Whether no problem is left, now that files have been moved. Near duplicates in several splits are one."""
        groups = (*self.report.leaks, *self.report.contradictions)
        is_exact = any(len({file.path for file in group} - self.moved.keys()) > 1 for group in groups)
        return not (self._left or is_exact or self.empty_classes or self.suspects.has_leaks)

    def lines(self) -> list[str]:
        """One line for each finding, and for each unreadable file."""
        sides = [sorted(file.header.size) for file in self.report.files]
        counts = {
            "at most 32 pixels on the shorter side": sum(shorter <= 32 for shorter, _ in sides),
            "more than 5 times as long as wide": sum(longer > 5 * shorter for shorter, longer in sides),
            "animated (the first frame is used)": sum(file.header.frames > 1 for file in self.report.files),
        }
        lines = self.report.lines()
        lines += [f"{kind}: {count:,}" for kind, count in counts.items() if count]
        lines += [f"same content: {', '.join(_names(group))}" for group in self.report.duplicates]
        lines += self.suspects.lines()
        lines += [f"cannot be read: {reason}" for reason in self.unreadable.values()]
        lines += [f"moved: {printable(path)} to {printable(target)}" for path, target in self.moved.items()]
        if self._left:
            return [*lines, "fix or remove the unreadable files (--quarantine moves them), or use --skip-unreadable"]
        return [*lines, "no problems" if self.is_clean else "these should be fixed; training works without"]

    def to_dict(self) -> dict[str, Any]:
        report, listing = self.report, self.report.listing
        groups = {"duplicates": report.duplicates, "leaks": report.leaks, "contradictions": report.contradictions}
        return {
            "folder": str(listing.folder),
            "classes": dict(zip(listing.classes, listing.counts(), strict=True)),
            "images": len(listing.files),
            "empty_classes": self.empty_classes,
            "notes": list(listing.notes),
            "other_files": list(map(printable, listing.other_files)),
            **{kind: list(map(_names, found)) for kind, found in groups.items()},
            "unreadable": {printable(path): reason for path, reason in self.unreadable.items()},
            "moved": {printable(path): printable(target) for path, target in self.moved.items()},
            **self.suspects.to_dict(),
            "is_clean": self.is_clean,
        }


def check_folder(
    folder: str | Path, quarantine: str | Path | None = None, predictions: str | Path | None = None
) -> FolderCheck:
    """Decode every image of a folder or table, and move unreadable files to `quarantine`, under their relative paths.

    Near duplicates are searched if the package imagehash is installed, likely label errors if `predictions` is a file
    of out-of-fold predictions (see `read_out_of_fold`).

    Raises `UserError` as `list_folder` and `read_out_of_fold`, or for a quarantine inside the folder; `RunError` if a
    file cannot be moved.
    """
    aside = None if quarantine is None else expand(quarantine)
    if predictions is not None:
        require("cleanlab", "--predictions")
    listing = list_files(folder)
    if aside is not None and listing.is_table:
        raise UserError("--quarantine is for a folder: a table would name files that are gone")
    top = listing.folder
    if aside is not None:
        check_outside(aside, top, "--quarantine")
        check_writable(aside / listing.files[0][0].relative_to(top))
    predicted = None if predictions is None else read_out_of_fold(expand(predictions), listing)
    report = scan(listing)
    paths = [path for path, *_ in listing.files]
    has_imagehash = find_spec("imagehash") is not None
    decoded = dict(zip(paths, map_threads(partial(_decode, has_imagehash), paths, "decoding images"), strict=True))
    undecodable = {path: error for path, error in decoded.items() if isinstance(error, str)}
    fingerprints = {path: value for path, value in decoded.items() if not isinstance(value, str)}
    suspects = find_suspects(report, fingerprints.keys(), fingerprints if has_imagehash else None, predicted)
    moved = {path: _move(path, aside / path.relative_to(top)) for path in undecodable} if aside is not None else {}
    return FolderCheck(replace(report, unreadable=report.unreadable | undecodable), moved, suspects)


def check_outside(path: Path, folder: Path, option: str) -> None:
    """Raises `UserError` for a path inside the folder that is checked."""
    if path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{option} {path} is inside {folder}: its files would become training images")


def _decode(has_imagehash: bool, path: Path) -> Fingerprint | str | None:
    """The fingerprint of an image, or why it cannot be decoded."""
    try:
        image = decode_image(path, 3)
    except UserError as error:
        return str(error)
    return fingerprint(image) if has_imagehash else None


def _move(path: Path, target: Path) -> Path:
    """Move a file, to another name if that one is taken. Returns its new path."""
    free, number = target, 2
    while os.path.lexists(free):
        free, number = target.with_stem(f"{target.stem}-{number}"), number + 1
    try:
        free.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, free)
    except OSError as error:
        raise RunError(f"cannot move {path} to {free}: {reason_of(error)}") from error
    return free


def _names(group: list[ImageFile]) -> list[str]:
    return [printable(file.path) for file in group]

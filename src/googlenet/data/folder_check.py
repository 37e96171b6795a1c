"""Decode every image of a folder: what is wrong with it, and where bad files were moved."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from googlenet.data.decode import decode_image, map_threads
from googlenet.data.folder import FolderReport, ImageFile, list_folder, scan
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import check_writable, expand, printable


@dataclass(frozen=True)
class FolderCheck:
    """What `check_folder` found."""

    report: FolderReport  # also of files that cannot be decoded
    moved: dict[Path, Path]  # unreadable files, and their new paths

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
        """Whether no problem is left, now that files have been moved."""
        groups = (*self.report.leaks, *self.report.contradictions)
        are_moved = all(len({file.path for file in group} - self.moved.keys()) < 2 for group in groups)
        return are_moved and not self._left and not self.empty_classes

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
            "is_clean": self.is_clean,
        }


def check_folder(folder: str | Path, quarantine: str | Path | None = None) -> FolderCheck:
    """Decode every image of a folder, and move unreadable files to `quarantine`, under their relative paths.

    Raises `UserError` as `list_folder`, or for a quarantine inside the folder; `RunError` if a file cannot be moved.
    """
    top, aside = expand(folder), None if quarantine is None else expand(quarantine)
    if aside is not None and aside.resolve().is_relative_to(top.resolve()):
        raise UserError(f"--quarantine {aside} is inside {top}: its files would become training images again")
    listing = list_folder(top)
    if aside is not None:
        check_writable(aside / listing.files[0][0].relative_to(top))
    report = scan(listing)
    paths = [path for path, *_ in listing.files]
    errors = zip(paths, map_threads(_decoding_error, paths, "decoding images"), strict=True)
    undecodable = {path: error for path, error in errors if error}
    moved = {path: _move(path, aside / path.relative_to(top)) for path in undecodable} if aside is not None else {}
    return FolderCheck(replace(report, unreadable=report.unreadable | undecodable), moved)


def _decoding_error(path: Path) -> str:
    try:
        decode_image(path, 3)
    except UserError as error:
        return printable(str(error))
    return ""


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

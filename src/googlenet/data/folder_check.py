"""Every picture of a folder read to its end: what is wrong with it, and where it was moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from googlenet.data.decode import Progress, decode_image, on_all_cores
from googlenet.data.folder import FolderReport, inspect, list_folder
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write, check_writable, printable

_TINY = 32
_LONGEST_SHAPE = 5


@dataclass(frozen=True)
class FolderCheck:
    """What `check` found."""

    report: FolderReport
    unreadable: dict[Path, str]
    """And why."""
    moved: dict[Path, Path]
    """Those of them that were moved, and to where."""

    @property
    def is_clean(self) -> bool:
        return not (self._left or self._standing(self.report.leaks) or self._standing(self.report.contradictions))

    def _standing(self, groups: Sequence[tuple[Path, ...]]) -> bool:
        """Whether any of these copies are still where they were, two or more."""
        return any(len(set(group) - self.moved.keys()) > 1 for group in groups)

    @property
    def _left(self) -> set[Path]:
        """Files that cannot be read and are where they were."""
        return self.unreadable.keys() - self.moved.keys()

    def lines(self) -> list[str]:
        """A line a finding; every file that cannot be read has its own."""
        found = [line for line in self.report.lines() if "cannot be opened" not in line]
        headers = self.report.headers
        odd = {
            f"{_TINY} pixels or less on a side": [header for header in headers if min(header.size) <= _TINY],
            f"more than {_LONGEST_SHAPE} times as long as wide": [
                header for header in headers if max(header.size) > _LONGEST_SHAPE * min(header.size)
            ],
            "animated, of which the first frame counts": [header for header in headers if header.frames > 1],
        }
        found += [f"{what}: {len(those):,}" for what, those in odd.items() if those]
        found += [f"the same picture: {', '.join(map(printable, group))}" for group in self.report.duplicates]
        found += [f"cannot be read: {reason}" for reason in self.unreadable.values()]
        found += [f"moved: {printable(path)} to {printable(target)}" for path, target in self.moved.items()]
        if self._left:
            return [*found, "googlenet train wants --skip-unreadable, or these mended"]
        return [*found, "nothing to mend" if self.is_clean else "worth mending; googlenet train takes them as they are"]

    def to_dict(self) -> dict[str, Any]:
        listing = self.report.listing
        return {
            "folder": str(listing.folder),
            "classes": dict(zip(listing.classes, listing.counts(), strict=True)),
            "pictures": len(self.report.facts),
            "other_files": list(map(printable, listing.others)),
            "duplicates": [list(map(printable, group)) for group in self.report.duplicates],
            "leaks": [list(map(printable, group)) for group in self.report.leaks],
            "contradictions": [list(map(printable, group)) for group in self.report.contradictions],
            "unreadable": {printable(path): reason for path, reason in self.unreadable.items()},
            "moved": {printable(path): printable(target) for path, target in self.moved.items()},
            "is_clean": self.is_clean,
        }

    def write(self, path: Path) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def check(folder: Path, quarantine: Path | None = None, progress: Progress = lambda *_: None) -> FolderCheck:
    """Read every picture to its end.

    Args:
        folder: as for training.
        quarantine: where files that cannot be read are moved, under the path that they had in the folder.
        progress: called with what is done.

    Raises:
        UserError: for a folder that will not do, or a quarantine inside of it.
        RunError: where a file cannot be moved.
    """
    if quarantine is not None and quarantine.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{quarantine} lies in {folder}: its files would be training pictures again")
    listing = list_folder(folder)
    if quarantine is not None:
        check_writable(quarantine / listing.files[0][0].relative_to(folder))
    report = inspect(listing, progress)
    unreadable = _unreadable([facts.path for facts in report.facts], progress)
    moved = {}
    for path in unreadable if quarantine is not None else ():
        target = _free(quarantine / path.relative_to(folder))  # type: ignore[operator]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
        except OSError as error:
            raise RunError(f"{path} cannot be moved to {target}: {reason_of(error)}") from error
        moved[path] = target
    return FolderCheck(report, unreadable, moved)


def _unreadable(paths: Sequence[Path], progress: Progress) -> dict[Path, str]:
    def read(path: Path) -> str | None:
        try:
            decode_image(path, 3)
        except UserError as error:
            return printable(str(error))
        return None

    reasons = on_all_cores(read, paths, "reading every picture", progress)
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}


def _free(path: Path) -> Path:
    target, number = path, 2
    while target.exists():
        target, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return target

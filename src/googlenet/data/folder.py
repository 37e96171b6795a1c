"""A folder of images as a dataset. `folder_layout.py` decides which folders are splits and which are classes.

FOLDER/CLASS/*.jpg                    the seed decides which images of each class are for the test
FOLDER/{train,val,test}/CLASS/*.jpg   the folders decide; without a test folder, val is the test
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from googlenet.data import decode
from googlenet.data.decode import Header, is_dir, is_ignored, walk
from googlenet.data.folder_layout import SPLITS as SPLITS, SplitName, class_name, find_layout
from googlenet.data.formats import SUFFIXES
from googlenet.data.imagenet import images_folder, names_of, sort_validation
from googlenet.data.store import FileIndex, file_times
from googlenet.errors import UserError, plural, reason_of
from googlenet.files import expand, printable

_CLASSES = 100  # that a report names


@dataclass(frozen=True)
class Listing:
    """The files of a folder, before any of them is opened."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int, SplitName | None], ...]
    """Path, class index and split of each image; split None: the seed decides."""
    other_files: tuple[Path, ...]  # without the suffix of an image, or not in a class folder
    unlistable: tuple[Path, ...]  # folders whose files cannot be listed
    empty_classes: tuple[str, ...] = ()  # class folders without an image: CLASS or SPLIT/CLASS
    notes: tuple[str, ...] = ()  # what a user should know about the layout, one line each
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What else a table says about each of `files`; empty for a folder."""
    is_table: bool = False
    has_label_file: bool = False  # that says which class some images of a folder have

    @property
    def labels(self) -> set[int]:
        """Numbers of the classes that have images."""
        return {label for _, label, _ in self.files}

    def counts(self) -> list[int]:
        """Number of images of each class."""
        counts = Counter(label for _, label, _ in self.files)
        return [counts[label] for label in range(len(self.classes))]

    def classes_without(self, unreadable: Collection[Path]) -> list[str]:
        """The empty class folders, and the classes of which every file is in `unreadable`."""
        present = self.labels
        present -= {label for path, label, _ in self.files if path not in unreadable}
        return [*self.empty_classes, *(self.classes[label] for label in sorted(present))]


def list_folder(folder: str | Path, classes: Sequence[str] | None = None, *, min_classes: int = 2) -> Listing:
    """Find the image files and their classes: `classes` in their order, or those found, sorted.

    Raises `UserError` for a folder that is missing, whose layout is ambiguous, or that has less than `min_classes`
    classes with images, or others than `classes`.
    """
    top = images_folder(expand(folder))
    try:
        inside = _folders_in(top)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot list the folder {top}: {reason_of(error)}") from error
    runs: list[Path] = []
    entries = [(path, _parts(path, top)) for path in walk(top, runs)]
    moved = sort_validation([parts for path, parts in entries if path.suffix.lower() in SUFFIXES], top)
    entries = [(path, moved.get(parts, parts)) for path, parts in entries]
    layout = find_layout(
        top,
        set(inside) - {_parts(run, top)[0] for run in runs},
        (parts for path, parts in entries if path.suffix.lower() in SUFFIXES and len(parts) > 1),
        classes,
    )
    images: list[tuple[Path, str, SplitName | None]] = []
    others: list[Path] = []
    unlistable: list[Path] = []
    used: set[tuple[str, ...]] = set()  # class folders
    for path, parts in entries:
        depth = next((depth for depth in range(3) if parts[:depth] in layout.roots), len(parts))
        if path.suffix.lower() in SUFFIXES and len(parts) > depth + 1:
            images.append((path, class_name(parts[depth]), layout.roots[parts[:depth]]))
            used.add(parts[: depth + 1])
        else:
            (unlistable if is_dir(path) else others).append(path)
    found = sorted({name for _, name, _ in images})
    if names := names_of(found, classes):
        found, images = list(names.values()), [(path, names[name], split) for path, name, split in images]
    labels = {class_name(name): label for label, name in enumerate(classes or found)}
    if unknown := [name for name in found if name not in labels]:
        raise UserError(
            f"{top} has a class {unknown[0]!r}, which the model does not have; it has {', '.join(classes or ())}"
        )
    classes = tuple(classes or found)
    if not found or len(classes) < min_classes:
        is_class = not found and any(path.suffix.lower() in SUFFIXES for path in others)
        content = "images of one class only" if found else "images, but no class folders" if is_class else "no images"
        hint = f"; if {top.name} is a class, use the folder above it" if is_class else ""
        if len(found) == 1 and classes == (found[0],):
            hint = "; to add this class to a trained network, set --weights and --also OLD_IMAGES"
        if found and () in layout.roots and len({parts[:2] for _, parts in entries if len(parts) > 2}) > 1:
            hint = f"; if the folders in {found[0]} are classes, use {top / found[0]}"
        raise UserError(f"{top} has {content}; FOLDER/CLASS/*.jpg with at least two classes is needed{hint}")
    if bad := [printable(name) for name in classes if not name.isprintable() and printable(name) != name]:
        raise UserError(f"{top} has a class '{bad[0]}', whose name is not one line of UTF-8; rename the folder")

    class_folders = [(*root, name) for root in layout.roots for name in _folders_in(top.joinpath(*root))]
    elsewhere = {_parts(path, top)[:depth] for path in (*runs, *unlistable) for depth in (1, 2, 3)}
    empty = [printable("/".join(parts)) for parts in class_folders if parts not in used | elsewhere]
    files = tuple((path, labels[name], split) for path, name, split in images)
    notes = (*layout.notes, *_notes_on(found, [printable(run.relative_to(top)) for run in runs]))
    return Listing(
        top, classes, files, tuple(others), tuple(unlistable), tuple(empty), notes, has_label_file=bool(moved)
    )


def _folders_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not is_ignored(path.name) and is_dir(path))


def _parts(path: Path, top: Path) -> tuple[str, ...]:
    return path.parts[len(top.parts) :]


def _notes_on(classes: list[str], runs: list[str]) -> list[str]:
    """Lines about classes that differ only in case, and about folders of runs."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[name.casefold()].append(name)
    notes = [
        f"warning: the classes {' and '.join(group)} differ only in case; if they are one class, rename a folder"
        for group in groups.values()
        if len(group) > 1
    ]
    if runs:
        notes.append(f"folders with a trained model, ignored: {len(runs):,}, for example {runs[0]}")
    return notes


class ImageFile(NamedTuple):
    """An image file that can be opened, before its pixels are decoded."""

    path: Path
    label: int
    split: SplitName | None
    number: int  # in `Listing.files`
    digest: bytes
    header: Header


@dataclass(frozen=True)
class FolderReport:
    """What a folder contains, before the pixels are decoded."""

    listing: Listing
    files: tuple[ImageFile, ...]  # those that can be opened
    unreadable: dict[Path, str]  # Files that cannot be read and folders that cannot be listed, and why

    @property
    def channels(self) -> int:
        """1 if every image is gray, else 3."""
        modes = {file.header.mode for file in self.files}
        return 1 if all(mode in ("1", "L", "LA", "F") or mode.startswith("I") for mode in modes) else 3

    @cached_property
    def duplicates(self) -> list[list[ImageFile]]:
        """Groups of files with the same content."""
        groups: dict[bytes, list[ImageFile]] = defaultdict(list)
        for file in self.files:
            groups[file.digest].append(file)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def leaks(self) -> list[list[ImageFile]]:
        """Duplicates in different splits: the test has images that were trained on."""
        return [group for group in self.duplicates if len({file.split for file in group}) > 1]

    @property
    def contradictions(self) -> list[list[ImageFile]]:
        """Duplicates in different classes: one of their labels is wrong."""
        return [group for group in self.duplicates if len({file.label for file in group}) > 1]

    @property
    def digest(self) -> str:
        """SHA-256 over the relative paths and the digests of the files, and what a table or a file of labels says."""
        folder, columns, content = self.listing.folder, self.listing.columns, sha256()
        for file in self.files:
            content.update(os.fsencode(f"{file.path.relative_to(folder).as_posix()}\0{file.digest.hex()}\n"))
            if self.listing.is_table or self.listing.has_label_file:  # else the path says it all
                about = (
                    self.listing.classes[file.label],
                    file.split or "",
                    *(v[file.number] for v in columns.values()),
                )
                content.update(os.fsencode("\0".join(about)) + b"\n")
        return content.hexdigest()

    def lines(self) -> list[str]:
        """One line for each finding."""
        counts = self.listing.counts()
        rows = [f"{name} {count:,}" for name, count in zip(self.listing.classes, counts, strict=True)]
        if (more := len(rows) - _CLASSES) > 0:
            rows[_CLASSES:] = [f"and {more:,} more with {min(counts[_CLASSES:]):,} to {max(counts[_CLASSES:]):,} each"]
        lines = [f"{plural(len(self.listing.files), 'image')} in {plural(len(counts), 'class')}: {', '.join(rows)}"]
        if self.files:
            sides = sorted(min(file.header.size) for file in self.files)
            modes = Counter(file.header.mode for file in self.files).most_common()
            shares = ", ".join(f"{mode} {count:,}" for mode, count in modes)
            lines.append(f"shorter side {sides[0]} to {sides[-1]} pixels, median {sides[len(sides) // 2]}; {shares}")
        if (ratio := max(counts) / max(min(counts), 1)) >= 3:
            lines.append(f"imbalance: the largest class is {ratio:.0f} times the smallest; consider --balance loss")
        if self.duplicates:
            count = sum(len(group) - 1 for group in self.duplicates)
            lines.append(f"duplicates: {count:,}, for example {printable(self.duplicates[0][1].path)}")
        for groups, name, place in (
            (self.leaks, "leakage", "split (the test accuracy will be too high)"),
            (self.contradictions, "contradictions", "class"),
        ):
            if groups:
                example = " and ".join(printable(file.path) for file in groups[0][:2])
                lines.append(f"{name}: {len(groups):,} images in more than one {place}, for example {example}")
        if line := decode.ignored(self.listing.other_files):
            lines.append(line)
        if empty := self.listing.classes_without(self.unreadable):
            lines.append(f"class folders without an image that can be read: {', '.join(empty)}")
        return [*lines, *self.listing.notes]


def scan(listing: Listing) -> FolderReport:
    """Read every file and its header, without decoding pixels. Files that were read before and have not changed since
    are not read again."""
    index = FileIndex()
    known = index.known([path for path, *_ in listing.files])

    def read(path: Path) -> tuple[tuple[int, int, int] | None, bytes, Header] | str:
        try:
            decode.check_regular_file(path)
            times, content = file_times(path), path.read_bytes()
            return times, sha256(content).digest(), decode.read_header(path, content)
        except OSError as error:
            return f"{printable(path)}: {reason_of(error)}"
        except UserError as error:
            return str(error)

    unreadable = {path: f"{printable(path)}: this folder cannot be listed" for path in listing.unlistable}
    unknown, added = [path for path, *_ in listing.files if path not in known], []
    results = decode.map_threads(read, unknown, "scanning images") if unknown else ()
    for path, result in zip(unknown, results, strict=True):
        if isinstance(result, str):
            unreadable[path] = result
        else:
            times, digest, header = result
            known[path] = digest, header
            if times is not None:
                added.append((path, times, digest, header))
    index.add(added)
    files = tuple(
        ImageFile(path, label, split, number, *known[path])
        for number, (path, label, split) in enumerate(listing.files)
        if path in known
    )
    return FolderReport(listing, files, unreadable)

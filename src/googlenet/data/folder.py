"""A folder of images as a dataset.

    FOLDER/CLASS/*.jpg                           the seed decides which images of each class are for the test
    FOLDER/{train,validation,test}/CLASS/*.jpg   the folders decide; without a test folder, validation is the test

Other names of the splits are training, val, valid and testing. Class folders may have folders inside.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from googlenet.data import decode
from googlenet.data.decode import Header, is_dir, walk
from googlenet.data.formats import SUFFIXES
from googlenet.errors import UserError, reason_of
from googlenet.files import expand, printable

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
_SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """The files of a folder, before any of them is opened."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int, SplitName | None], ...]
    """Path, class index and split of each image; split None: the seed decides."""
    other_files: tuple[Path, ...]  # without the suffix of an image, or not in a class folder
    unlistable: tuple[Path, ...]  # folders whose files cannot be listed

    def counts(self) -> list[int]:
        """Number of images of each class."""
        counts = Counter(label for _, label, _ in self.files)
        return [counts[label] for label in range(len(self.classes))]


def list_folder(folder: str | Path, classes: Sequence[str] | None = None) -> Listing:
    """Find the image files and their classes: `classes` in their order, or those found, sorted.

    Raises `UserError` for a folder that is missing, has less than two classes with images, or others than `classes`.
    """
    top = expand(folder)
    try:
        inside = sorted(path for path in top.iterdir() if not path.name.startswith(".") and is_dir(path))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot list the folder {top}: {reason_of(error)}") from error
    roots = {path: _SPLIT_FOLDERS.get(path.name.lower()) for path in inside}
    if "train" not in roots.values():
        roots = {top: None}
    elif unknown := [path.name for path, split in roots.items() if split is None]:
        raise UserError(f"{top} has a folder {unknown[0]!r} next to train; rename it to val or test, or move it")
    elif set(roots.values()) == {"train"}:
        roots = dict.fromkeys(roots)
    images: list[tuple[Path, str, SplitName | None]] = []
    others: list[Path] = []
    unlistable: list[Path] = []
    for root, split in roots.items():
        for path in walk(root):
            parts = path.relative_to(root).parts
            if path.suffix.lower() in SUFFIXES and len(parts) > 1:
                images.append((path, parts[0], split))
            else:
                (unlistable if is_dir(path) else others).append(path)
    found = sorted({name for _, name, _ in images})
    if classes is not None and (unknown := sorted(set(found) - set(classes))):
        raise UserError(f"{top} has a class {unknown[0]!r}, which the model does not have: {', '.join(classes)}")
    classes = tuple(classes or found)
    if not found or len(classes) < 2:
        is_class = not found and any(path.suffix.lower() in SUFFIXES for path in others)
        content = "images of one class only" if found else "images, but no class folders" if is_class else "no images"
        hint = f"; if {top.name} is a class, use the folder above it" if is_class else ""
        raise UserError(f"{top} has {content}; FOLDER/CLASS/*.jpg with at least two classes is needed{hint}")
    if bad := [printable(name) for name in classes if not name.isprintable() and printable(name) != name]:
        raise UserError(f"{top} has a class '{bad[0]}', whose name is not one line of UTF-8; rename the folder")
    labels = {name: label for label, name in enumerate(classes)}
    files = tuple((path, labels[name], split) for path, name, split in images)
    return Listing(top, classes, files, tuple(others), tuple(unlistable))


class ImageFile(NamedTuple):
    """An image file that can be opened, before its pixels are decoded."""

    path: Path
    label: int
    split: SplitName | None
    digest: bytes
    header: Header


@dataclass(frozen=True)
class FolderReport:
    """What a folder contains, before the pixels are decoded."""

    listing: Listing
    files: tuple[ImageFile, ...]  # those that can be opened
    unreadable: dict[Path, str]  # Files that cannot be opened and folders that cannot be listed, and why

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
        """SHA-256 over the relative paths and the digests of the files."""
        folder = self.listing.folder
        lines = (f"{file.path.relative_to(folder).as_posix()}\0{file.digest.hex()}\n" for file in self.files)
        return sha256(os.fsencode("".join(lines))).hexdigest()

    def lines(self) -> list[str]:
        """One line for each finding."""
        counts = self.listing.counts()
        classes = ", ".join(f"{name} {count:,}" for name, count in zip(self.listing.classes, counts, strict=True))
        lines = [f"{len(self.listing.files):,} images in {len(counts)} classes: {classes}"]
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
        return lines


def scan(listing: Listing) -> FolderReport:
    """Read every file and its header, without decoding pixels."""

    def read(entry: tuple[Path, int, SplitName | None]) -> ImageFile | str:
        try:
            decode.check_regular_file(path := entry[0])
            content = path.read_bytes()
            return ImageFile(*entry, sha256(content).digest(), decode.read_header(path, content))
        except OSError as error:
            return f"{printable(path)}: {reason_of(error)}"
        except UserError as error:
            return printable(str(error))

    files = []
    unreadable = {path: f"{printable(path)}: this folder cannot be listed" for path in listing.unlistable}
    results = decode.map_threads(read, listing.files, "scanning images")
    for (path, *_), result in zip(listing.files, results, strict=True):
        if isinstance(result, str):
            unreadable[path] = result
        else:
            files.append(result)
    return FolderReport(listing, tuple(files), unreadable)

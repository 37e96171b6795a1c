"""Which pictures a folder holds, and what each says of itself before its pixels are decoded."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from googlenet.data.decode import SUFFIXES, Header, check_ordinary, read_header, walk
from googlenet.data.parallel import Progress, on_all_cores
from googlenet.errors import UserError, reason_of
from googlenet.files import printable

SplitName = Literal["train", "validation", "test"]
_SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Listing:
    """The files of a folder, before any is opened."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int, SplitName | None], ...]
    """Each picture, its class's number, and the split that its folder stands for; None: the seed decides."""
    others: tuple[Path, ...]
    """Files that are no pictures, by their suffix."""

    def counts(self) -> list[int]:
        """Pictures of each class."""
        counted = Counter(label for _, label, _ in self.files)
        return [counted[label] for label in range(len(self.classes))]


@dataclass(frozen=True)
class Facts:
    """One picture file as its bytes and its first lines show it."""

    path: Path
    label: int
    split: SplitName | None
    digest: bytes
    header: Header | str
    """What it says of itself, or why it cannot be opened."""


@dataclass(frozen=True)
class FolderReport:
    """What was found in a folder, for a person to read before training starts."""

    listing: Listing
    facts: tuple[Facts, ...]
    duplicates: tuple[tuple[Path, ...], ...] = field(default=())
    """Files with the same content, together."""
    leaks: tuple[tuple[Path, ...], ...] = field(default=())
    """Those of them that lie in different splits, so that the test has pictures that training has seen."""
    contradictions: tuple[tuple[Path, ...], ...] = field(default=())
    """Those of them that lie in different classes, so that one of their labels is wrong."""

    @property
    def unreadable(self) -> dict[Path, str]:
        return {facts.path: facts.header for facts in self.facts if isinstance(facts.header, str)}

    @property
    def headers(self) -> list[Header]:
        return [facts.header for facts in self.facts if isinstance(facts.header, Header)]

    def lines(self) -> list[str]:
        """A line a finding."""
        counts = self.listing.counts()
        named = ", ".join(f"{name} {count:,}" for name, count in zip(self.listing.classes, counts, strict=True))
        found = [f"{len(self.facts):,} pictures in {len(counts)} classes: {named}"]
        if headers := self.headers:
            sides = sorted(min(header.size) for header in headers)
            modes = ", ".join(f"{mode} {count:,}" for mode, count in Counter(h.mode for h in headers).most_common())
            found.append(
                f"shorter side {sides[0]} to {sides[-1]} pixels, half of them {sides[len(sides) // 2]} or less; {modes}"
            )
        if max(counts) >= 3 * max(min(counts), 1):
            found.append(
                f"imbalance: the largest class has {max(counts) / max(min(counts), 1):.0f} times the pictures of the "
                f"smallest; --balance loss or --balance sampling evens it out"
            )
        if self.duplicates:
            spare = sum(len(group) - 1 for group in self.duplicates)
            found.append(f"exact copies of others: {spare:,}, {printable(self.duplicates[0][1])} for one")
        if self.leaks:
            one = printable(self.leaks[0][0])
            found.append(
                f"leakage, pictures in more than one split: {len(self.leaks):,}, {one} for one; "
                f"the accuracy will look better than it is"
            )
        if self.contradictions:
            found.append(
                f"contradiction, pictures in more than one class: {len(self.contradictions):,}, "
                f"{' and '.join(map(printable, self.contradictions[0][:2]))} for one"
            )
        if self.unreadable:
            found.append(f"cannot be opened as pictures: {len(self.unreadable):,}")
        if self.listing.others:
            kinds = Counter(path.suffix.lower() or path.name for path in self.listing.others)
            named = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common(5))
            found.append(f"other files, left alone: {len(self.listing.others):,} ({named})")
        return found


def list_folder(folder: str | Path, classes: tuple[str, ...] | None = None) -> Listing:
    """Which pictures there are, and of which classes: those found, or those that are named.

    Raises:
        UserError: for a folder that is missing, holds no two classes with pictures, or others than are named.
    """
    top = Path(folder)
    if not top.is_dir():
        raise UserError(f"there is no folder {top}")
    inside = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    splits = {path: _SPLIT_NAMES.get(path.name.lower()) for path in inside}
    roots: list[tuple[Path, SplitName | None]] = [(top, None)]
    if "train" in splits.values():
        if odd := [path.name for path, split in splits.items() if split is None]:
            raise UserError(f"{top} has {odd[0]!r} beside train, which is neither val nor test: rename it")
        roots = [(path, split) for path, split in splits.items() if split is not None]
        if {split for _, split in roots} == {"train"}:  # nothing to test on: the seed decides
            roots = [(path, None) for path, _ in roots]
    found: list[tuple[Path, str, SplitName | None]] = []
    others: list[Path] = []
    for root, split in roots:
        for path in walk(root):
            if path.suffix.lower() not in SUFFIXES:
                others.append(path)
            elif len(parts := path.relative_to(root).parts) > 1:
                found.append((path, parts[0], split))
            else:
                others.append(path)
    there = sorted({name for _, name, _ in found})
    if classes is not None and (strange := set(there) - set(classes)):
        raise UserError(f"{top} has a class {min(strange)!r}; the model knows: {', '.join(classes)}")
    classes = classes or tuple(there)
    if not there or len(classes) < 2:
        loose = sum(path.suffix.lower() in SUFFIXES for path in others)
        held = "pictures of one class" if there else f"pictures in no folder of a class ({loose:,})" if loose else ""
        way = f"; if {top.name} is a class itself, name the folder above it" if loose and not there else ""
        raise UserError(
            f"{top} holds {held or 'no pictures'}; it needs a folder for each class, FOLDER/CLASS/*.jpg, and two "
            f"classes or more{way}"
        )
    for name in classes:
        if printable(name) != name:
            raise UserError(
                f"the name of the class {printable(name)} in {top} is not UTF-8, or not one line: rename the folder"
            )
    numbers = {name: number for number, name in enumerate(classes)}
    files = tuple((path, numbers[name], split) for path, name, split in found)
    return Listing(top, classes, files, tuple(others))


def inspect(listing: Listing, progress: Progress = lambda *_: None) -> FolderReport:
    """Look at every file: its first lines, its content's digest, who shares it."""

    def look(entry: tuple[Path, int, SplitName | None]) -> Facts:
        path, label, split = entry
        digest = b""
        try:
            check_ordinary(path)
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            return Facts(path, label, split, digest, read_header(path, content))
        except OSError as error:
            return Facts(path, label, split, b"", f"{printable(path)}: {reason_of(error)}")
        except UserError as error:
            return Facts(path, label, split, digest, printable(str(error)))

    facts = list(on_all_cores(look, listing.files, "looking at the pictures", progress))
    groups: dict[bytes, list[Facts]] = defaultdict(list)
    for fact in facts:
        if isinstance(fact.header, Header):
            groups[fact.digest].append(fact)
    same = [group for group in groups.values() if len(group) > 1]
    return FolderReport(
        listing,
        tuple(facts),
        duplicates=_paths(same),
        leaks=_paths(group for group in same if len({fact.split for fact in group}) > 1),
        contradictions=_paths(group for group in same if len({fact.label for fact in group}) > 1),
    )


def _paths(groups: Iterable[list[Facts]]) -> tuple[tuple[Path, ...], ...]:
    return tuple(tuple(fact.path for fact in group) for group in groups)

"""Which pictures a folder holds, and what each says of itself before its pixels are decoded."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.data.decode import (
    SUFFIXES,
    Header,
    Progress,
    Resize,
    check_ordinary,
    decode_images,
    on_all_cores,
    read_header,
    walk,
)
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
        """DecodedImages of each class."""
        counted = Counter(label for _, label, _ in self.files)
        return [counted[label] for label in range(len(self.classes))]


@dataclass(frozen=True)
class ImageFile:
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
    facts: tuple[ImageFile, ...]
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

    def look(entry: tuple[Path, int, SplitName | None]) -> ImageFile:
        path, label, split = entry
        digest = b""
        try:
            check_ordinary(path)
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            return ImageFile(path, label, split, digest, read_header(path, content))
        except OSError as error:
            return ImageFile(path, label, split, b"", f"{printable(path)}: {reason_of(error)}")
        except UserError as error:
            return ImageFile(path, label, split, digest, printable(str(error)))

    facts = list(on_all_cores(look, listing.files, "looking at the pictures", progress))
    groups: dict[bytes, list[ImageFile]] = defaultdict(list)
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


def _paths(groups: Iterable[list[ImageFile]]) -> tuple[tuple[Path, ...], ...]:
    return tuple(tuple(fact.path for fact in group) for group in groups)


TEST_SHARE = 0.2
"""Of each class, where the folder has no test pictures of its own."""


def load(
    folder: str | Path,
    *,
    size: int,
    resize: Resize = "stretch",
    seed: int = 0,
    skip_unreadable: bool = False,
    channels: int | None = None,
    classes: tuple[str, ...] | None = None,
    test_fraction: float = TEST_SHARE,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> ImageDataset:
    """Every picture, decoded once and made square.

    Args:
        folder: see the top of this file.
        size: height and width in pixels.
        resize: how a picture of another shape is made square.
        seed: which pictures are held out, where the folder does not say.
        skip_unreadable: leave files out that cannot be read; they are named in the data set's provenance.
        channels: 1 or 3; left out, 1 where every picture is gray, else 3.
        classes: their names in the order wanted; left out, those found, sorted.
        test_fraction: of each class, held out where the folder has no test pictures of its own; 1: all.
        say: gets what was found, line by line.
        progress: see `Progress`.

    Raises:
        UserError: for a folder that will not do (see `list_folder`), or a file that cannot be read.
        RunError: where the disk has no room for the pixels.
    """
    listing = list_folder(folder, classes)
    report = inspect(listing, progress)
    for line in report.lines():
        say(line)
    _refuse(report.unreadable, skip_unreadable, "; the others have not been read to their ends yet")
    channels = channels or (1 if all(header.is_gray for header in report.headers) else 3)
    unreadable = dict(report.unreadable)
    good = [facts for facts in report.facts if facts.path not in unreadable]
    decoded = {}
    for name, members in _split(good, seed, test_fraction).items():
        paths, what = [facts.path for facts in members], f"decoding: {name}"
        pictures = decode_images(paths, channels, size, resize=resize, what=what, progress=progress)
        errors = {paths[number]: text for number, text in pictures.errors.items()}
        _refuse(errors, skip_unreadable)
        unreadable.update(errors)
        split = ImageSplit(pictures.images, torch.tensor([facts.label for facts in members], dtype=torch.int64))
        kept = [number for number in range(len(members)) if number not in pictures.errors]
        decoded[name] = split.subset(torch.tensor(kept, dtype=torch.int64)) if errors else split
    nothing = ImageSplit(torch.empty(0, channels, size, size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    for name in ("train", "test"):
        if not len(decoded.setdefault(name, nothing)) and not (name == "train" and test_fraction == 1):
            raise UserError(f"{folder} leaves no picture to {'learn from' if name == 'train' else 'test with'}")
    if classes is None:
        _check_all_learnt(decoded["train"], listing)
    return ImageDataset(
        name=listing.folder.resolve().name,
        classes=listing.classes,
        train=decoded["train"],
        test=decoded["test"],
        validation=decoded["validation"] if len(decoded.get("validation", nothing)) else None,
        source=str(folder),
        digest=_digest(good, listing.folder),
        note=f"{len(unreadable):,} files that cannot be read are left out" if unreadable else "",
        skipped=tuple(map(printable, unreadable.values())),
    )


def _refuse(unreadable: dict[Path, str], skip: bool, so_far: str = "") -> None:
    if unreadable and not skip:
        first = next(iter(unreadable.values())) + ("; ..." if len(unreadable) > 1 else "")
        raise UserError(
            f"{len(unreadable):,} of the files cannot be read: {first}{so_far}; "
            f"googlenet data check names them all, --skip-unreadable leaves them out"
        )


def _check_all_learnt(train: ImageSplit, listing: Listing) -> None:
    counts = torch.bincount(train.labels, minlength=len(listing.classes)).tolist()
    for name, count in zip(listing.classes, counts, strict=True):
        if not count:
            raise UserError(
                f"{listing.folder} has no picture of {name!r} to learn from; a class has the same name in every split"
            )


def _split(facts: Sequence[ImageFile], seed: int, test_fraction: float) -> dict[SplitName, list[ImageFile]]:
    """By folder where the folders say, else a share of each class for the test; copies of a picture stay together."""
    splits: dict[SplitName, list[ImageFile]] = defaultdict(list)
    undecided: dict[int, list[ImageFile]] = defaultdict(list)
    for fact in facts:
        if fact.split is None:
            undecided[fact.label].append(fact)
        else:
            splits[fact.split].append(fact)
    held_out: set[bytes] = set()
    for label, members in sorted(undecided.items()):
        digests = list(dict.fromkeys(fact.digest for fact in members))
        # An order that a picture added or taken away leaves as it is, so that the others stay on their side
        digests.sort(key=partial(_drawn, f"{seed} {label} ".encode()))
        held_out.update(digests[: round(test_fraction * len(digests))])
    for members in undecided.values():
        for fact in members:
            splits["test" if fact.digest in held_out else "train"].append(fact)
    if "test" not in splits and "validation" in splits:  # train and val alone: val is what the model is judged on
        splits["test"] = splits.pop("validation")
    return splits


def _drawn(start: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(start + digest).digest()


def _digest(facts: Iterable[ImageFile], folder: Path) -> str:
    whole = hashlib.sha256()
    for fact in facts:
        whole.update(os.fsencode(f"{fact.path.relative_to(folder).as_posix()}\0{fact.digest.hex()}\n"))
    return whole.hexdigest()

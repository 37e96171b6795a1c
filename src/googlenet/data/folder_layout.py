"""Which folders of a dataset are splits and which are classes, from their names and from what is inside.

    FOLDER/CLASS/*.jpg
    FOLDER/SPLIT/CLASS/*.jpg           SPLIT: train, val, test and their like, such as Training, valid_set, seg_test
    FOLDER/SPLIT/SPLIT/CLASS/*.jpg     as some archives unpack

Class folders may have folders inside. A folder named `train` that has images but no folders is a class.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from unicodedata import normalize

from googlenet.errors import UserError
from googlenet.files import printable

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
Parts = tuple[str, ...]  # of a path, relative to the folder of the dataset

_FILLER = "(?:seg|sets?|data|splits?|images?|imgs?)*"
_NAMES: dict[SplitName, str] = {
    "train": "train(?:ing)?",
    "validation": "val(?:id(?:ation)?)?|dev(?:el(?:opment)?)?",
    "test": "test(?:ing)?|eval(?:uation)?",
}


def split_of(name: str) -> SplitName | None:
    """The split that a folder's name means, if any: case, separators and numbers do not matter.

    `Train`, `train_images`, `seg_train`, `trainset` and `train2017` are train; `test_tube` is not a split.
    """
    letters = re.sub(r"[-_ .\d]", "", name.casefold())
    matches = (split for split, names in _NAMES.items() if re.fullmatch(f"{_FILLER}(?:{names}){_FILLER}", letters))
    return next(matches, None)


def class_name(folder: str) -> str:
    """The class of a folder. Systems write the same name with different code points, so it is normalized to NFC."""
    return normalize("NFC", folder)


class Layout(NamedTuple):
    """The folders that contain the class folders, with their splits, and one line for each decision to report."""

    roots: dict[Parts, SplitName | None]  # split None: the seed decides; (): the folder of the dataset itself
    notes: list[str]


@dataclass(frozen=True)
class _Folder:
    """A folder directly inside the folder of the dataset."""

    root: Parts  # (name,), or (name, name) if it contains only a folder of the same name
    split: SplitName | None  # by its name
    loose: int  # images directly inside
    labeled: int  # images in folders inside
    classes: frozenset[str]  # folders inside that have images

    @property
    def name(self) -> str:
        return printable(self.root[0])

    @property
    def why_not(self) -> str:
        """Why it cannot be a split."""
        return f"images: {self.loose:,}, but no class folders" if self.loose else "no images"


def find_layout(
    top: Path, folders: Collection[str], images: Iterable[Parts], classes: Collection[str] | None = None
) -> Layout:
    """Decide which of the `folders` directly in `top` are splits, given the `images` of all of them.

    If they all are among `classes` and not all named like splits, none is a split. Raises `UserError` if the layout is
    ambiguous.
    """
    inside: dict[str, list[Parts]] = defaultdict(list)
    for parts in images:
        inside[parts[0]].append(parts[1:])
    every = [_examine((name,), inside[name]) for name in sorted({*folders, *inside})]
    used = [folder for folder in every if folder.loose or folder.labeled]
    unknown = [folder for folder in used if folder.split is None]
    is_known = {class_name(folder.root[0]) for folder in used} <= set(map(class_name, classes or ()))
    if not used or (is_known and unknown):
        return Layout({(): None}, [])
    train = [folder for folder in used if folder.split == "train" and folder.classes]
    is_sure = len({folder.split for folder in every} - {None}) > 1
    if train and (is_sure or not unknown or not any(folder.loose for folder in train)):
        return _splits(top, every, is_sure)
    if not unknown:
        raise _no_train(top, used)
    _check_different(top, used)
    notes = [f"{folder.name} is read as a class, not as a split" for folder in used if folder.split]
    return Layout({(): None}, notes)


def _examine(root: Parts, images: list[Parts]) -> _Folder:
    """Count what is in a folder, given the paths of its images below it."""
    name, split = root[-1], split_of(root[0])
    counts = Counter(class_name(parts[0]) if len(parts) > 1 else "" for parts in images)
    loose = counts.pop("", 0)
    if len(root) == 1 and not loose and len(counts) == 1:
        inner = images[0][0]
        if inner == name or (split and split_of(inner) == split):
            return _examine((name, inner), [parts[1:] for parts in images])
    return _Folder(root, split, loose, counts.total(), frozenset(counts))


def _splits(top: Path, folders: list[_Folder], is_sure: bool) -> Layout:
    """The layout of splits. `is_sure`: more than one folder is named like a split."""
    members: dict[SplitName, list[_Folder]] = defaultdict(list)
    for folder in folders:
        if folder.split and folder.classes:
            members[folder.split].append(folder)
        elif folder.split is None and (folder.classes or (folder.loose and not is_sure)):
            train = members["train"][0].name if members["train"] else "train"
            raise UserError(
                f"{top} has a folder {folder.root[0]!r} next to {train}; rename it to val or test, or move it. "
                f"If {train} is a class, put its images directly into it"
            )
    notes = []
    for folder in folders:
        if not folder.classes:
            source = "" if "test" in members else members["validation" if "validation" in members else "train"][0].name
            effect = f"; the test images come from {source}" if source and folder.split else ""
            notes.append(f"ignored: {folder.name} ({folder.why_not}){effect}")
    for split, group in members.items():
        if len(group) > 1:
            notes.append(f"{' and '.join(folder.name for folder in group)} are one split: {split}")
    roots = {folder.root: split for split, group in members.items() for folder in group}
    return Layout(dict(roots) if len(members) > 1 else dict.fromkeys(roots), notes)


def _no_train(top: Path, folders: list[_Folder]) -> UserError:
    """What to do about folders that are all named like splits, if none of them can be trained on."""
    names = " and ".join(folder.name for folder in folders)
    if labeled := [folder for folder in folders if folder.classes]:
        alone = top.joinpath(*labeled[-1].root)
        return UserError(f"{top} has no train folder with class folders, only {names}; add one, or use {alone} alone")
    return UserError(
        f"{top} has images in {names}, but no class folders; FOLDER/train/CLASS/*.jpg with at least two classes is "
        f"needed. If {folders[0].name} is a class, rename it"
    )


def _check_different(top: Path, folders: list[_Folder]) -> None:
    """Raises `UserError` if all folders have the same folders inside, which are the classes then."""
    first, *others = folders
    same = all(folder.classes == first.classes and not folder.loose for folder in folders)
    if not others or not same or len(first.classes) < 2:
        return
    classes = sorted(map(printable, first.classes))
    inside = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    problem = f"{top} has the same folders ({inside}) in {first.name} and {others[0].name}"
    if all(map(split_of, first.classes)):
        raise UserError(f"{problem}; put the splits above the classes: FOLDER/{classes[-1]}/{first.name}/*.jpg")
    raise UserError(
        f"{problem}; if {first.name} and {others[0].name} are splits, name them train and test; if they are sources of "
        f"the same classes, use FOLDER/{classes[0]}/{first.name}/*.jpg; if they are classes, put their images "
        "directly into them"
    )

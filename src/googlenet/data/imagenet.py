"""ImageNet as people have it: folders named by WordNet numbers, and validation images that lie in one folder.

ILSVRC/Data/CLS-LOC/{train/n01440764/*.JPEG,val/*.JPEG}    as Kaggle packs it, with LOC_val_solution.csv
{train/n01440764/*.JPEG,val/*.JPEG}                        with the ground truth of the development kit
{train,val}/n01440764/*.JPEG                               sorted, as torchvision wants it: nothing to do
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from googlenet.data.decode import is_dir
from googlenet.data.folder_layout import Parts, split_of
from googlenet.errors import UserError, reason_of

_PACKED = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")  # the images in Kaggle's archive, or a part of it
_NUMBER = re.compile(r"ILSVRC2012_val_0*(\d+)", re.IGNORECASE)
_KAGGLE = "LOC_val_solution.csv"
_OFFICIAL = "ILSVRC2012_validation_ground_truth.txt"
_OFFICIAL_PLACES = (_OFFICIAL, f"data/{_OFFICIAL}", f"ILSVRC2012_devkit_t12/data/{_OFFICIAL}")


class Synset(NamedTuple):
    """One of the 1,000 classes."""

    wnid: str  # its number in WordNet 3.0, the name of its folder
    number: int  # ILSVRC2012_ID in the development kit, from 1
    name: str


@functools.cache
def synsets() -> tuple[Synset, ...]:
    """The 1,000 classes in the order of published networks: sorted by WordNet number.

    The name is the first lemma of the synset, followed by what it is if two classes would have the same name. The
    numbers are those of `map_clsloc.txt` and `meta.mat` in the development kit.
    """
    text = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8")
    rows = (line.split(" ", 2) for line in text.splitlines())
    return tuple(Synset(wnid, int(number), name) for wnid, number, name in rows)


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1,000 classes, in the order of published networks."""
    return tuple(synset.name for synset in synsets())


def names_of(folders: Collection[str], classes: Sequence[str] | None = None) -> dict[str, str]:
    """The names of class folders that all are WordNet numbers, sorted by number; empty for any other folders.

    A model whose `classes` are the numbers themselves keeps them.
    """
    known = {synset.wnid: synset.name for synset in synsets()}
    if not folders or not known.keys() >= set(folders) or not set(folders).isdisjoint(classes or ()):
        return {}
    return {wnid: known[wnid] for wnid in sorted(folders)}


def images_folder(folder: Path) -> Path:
    """The folder with train and val, if this one is what Kaggle's archive or a part of it unpacks to."""
    return next((folder / inside for inside in _PACKED if is_dir(folder / inside / "train")), folder)


def sort_validation(images: Collection[Parts], folder: Path) -> dict[Parts, Parts]:
    """Validation images that lie in one folder, and where they would be if they were sorted: `val/n01440764/NAME`.

    Args:
        images: paths of all images, relative to `folder`.
        folder: the one with train and val, or val itself.

    Raises `UserError` if no file says which class they have, or it lacks one of them.
    """
    depth = max(map(len, images), default=0)
    found = {
        parts: match
        for parts in images
        if (depth == 1 or (len(parts) == 2 and split_of(parts[0]) == "validation"))
        and (match := _NUMBER.match(parts[-1]))
    }
    if not found:
        return {}
    labels, source = _validation_labels(folder.absolute())
    if missing := [parts for parts, match in found.items() if int(match[1]) not in labels]:
        raise UserError(f"{source} does not say which class {folder.joinpath(*missing[0])} has")
    return {parts: (*parts[:-1], labels[int(match[1])], parts[-1]) for parts, match in found.items()}


def _validation_labels(folder: Path) -> tuple[dict[int, str], Path]:
    """The WordNet number of each validation image by its number, and the file that says so."""
    places = (folder, *folder.parents[:4])  # Kaggle's file is next to ILSVRC/Data/CLS-LOC/val
    for place in places:
        for name in (_KAGGLE, *_OFFICIAL_PLACES):
            if (file := place / name).is_file():
                try:
                    text = file.read_text(encoding="utf-8-sig")
                    return _read_kaggle(text) if name == _KAGGLE else _read_official(text), file
                except (OSError, ValueError, csv.Error) as error:
                    raise UserError(f"cannot read the classes of the images in {file}: {reason_of(error)}") from error
    raise UserError(
        f"the validation images in {folder} are not in folders of their classes: put {_KAGGLE} (from Kaggle) or "
        f"{_OFFICIAL} (from the development kit) into it, or into a folder above it"
    )


def _read_kaggle(text: str) -> dict[int, str]:
    """Rows such as `ILSVRC2012_val_00048981,n03995372 85 1 499 272`: a class and boxes, in any order."""
    wnids = {synset.wnid for synset in synsets()}
    labels = {}
    for line, row in enumerate(csv.reader(text.splitlines(), strict=True), start=1):
        if not row or row[0] == "ImageId":
            continue
        match, wnid = _NUMBER.match(row[0]), row[1].split(" ")[0] if len(row) == 2 else ""
        if match is None or wnid not in wnids:
            raise ValueError(f"line {line} is not an image and its class")
        labels[int(match[1])] = wnid
    return labels


def _read_official(text: str) -> dict[int, str]:
    """A line for each image, in their order: the number of its class in the development kit."""
    wnids = {str(synset.number): synset.wnid for synset in synsets()}
    labels = {}
    for line, number in enumerate(text.split(), start=1):
        if number not in wnids:
            raise ValueError(f"line {line} is not a number from 1 to {len(wnids):,}")
        labels[line] = wnids[number]
    return labels

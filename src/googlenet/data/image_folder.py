"""A folder of pictures as a data set: found, looked at, split, decoded.

Either `FOLDER/CLASS/...` (a fifth of each class is held out for the test, by the seed), or `FOLDER/train/CLASS/...`
with `val` or `test` beside it, as torchvision's and Ultralytics' tools have them. Folders within a class belong to it.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.data.decode import Resize
from googlenet.data.folder_listing import Facts, Listing, SplitName, inspect, list_folder
from googlenet.data.parallel import Progress
from googlenet.data.pictures import read_pictures
from googlenet.errors import UserError
from googlenet.files import printable

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
    test_share: float = TEST_SHARE,
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
        channels: 1 or 3; left out, 1 where every picture is grey, else 3.
        classes: their names in the order wanted; left out, those found, sorted.
        test_share: of each class, held out where the folder has no test pictures of its own; 1: all.
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
    channels = channels or (1 if all(header.is_grey for header in report.headers) else 3)
    unreadable = dict(report.unreadable)
    good = [facts for facts in report.facts if facts.path not in unreadable]
    decoded = {}
    for name, members in _split(good, seed, test_share).items():
        paths, what = [facts.path for facts in members], f"decoding: {name}"
        pictures = read_pictures(paths, channels, size, resize=resize, what=what, progress=progress)
        errors = {paths[number]: text for number, text in pictures.errors.items()}
        _refuse(errors, skip_unreadable)
        unreadable.update(errors)
        split = ImageSplit(pictures.images, torch.tensor([facts.label for facts in members], dtype=torch.int64))
        kept = [number for number in range(len(members)) if number not in pictures.errors]
        decoded[name] = split.subset(torch.tensor(kept, dtype=torch.int64)) if errors else split
    nothing = ImageSplit(torch.empty(0, channels, size, size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    for name in ("train", "test"):
        if not len(decoded.setdefault(name, nothing)) and not (name == "train" and test_share == 1):
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
        left_out=tuple(map(printable, unreadable.values())),
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


def _split(facts: Sequence[Facts], seed: int, test_share: float) -> dict[SplitName, list[Facts]]:
    """By folder where the folders say, else a share of each class for the test; copies of a picture stay together."""
    splits: dict[SplitName, list[Facts]] = defaultdict(list)
    undecided: dict[int, list[Facts]] = defaultdict(list)
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
        held_out.update(digests[: round(test_share * len(digests))])
    for members in undecided.values():
        for fact in members:
            splits["test" if fact.digest in held_out else "train"].append(fact)
    if "test" not in splits and "validation" in splits:  # train and val alone: val is what the model is judged on
        splits["test"] = splits.pop("validation")
    return splits


def _drawn(start: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(start + digest).digest()


def _digest(facts: Iterable[Facts], folder: Path) -> str:
    whole = hashlib.sha256()
    for fact in facts:
        whole.update(os.fsencode(f"{fact.path.relative_to(folder).as_posix()}\0{fact.digest.hex()}\n"))
    return whole.hexdigest()

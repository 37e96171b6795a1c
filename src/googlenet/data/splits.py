"""Which images are held out: files that go to the test split, and images that go to the validation split.

A unit is what must stay together: images with the same content or of one group.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet.data.folder import SPLITS, ImageFile, SplitName


def find_units(files: Sequence[ImageFile], groups: Sequence[str] | None = None) -> dict[Path, int]:
    """Which files must stay in one split: those with the same content or in the same group, and so on. A number each.

    `groups` has one for each file of the listing; an empty one is no group.
    """
    parents: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = parents[parent]
            node = parent
        return node

    for file in files:
        if groups is not None and (group := groups[file.number]):
            parents[root(file.digest)] = root(("group", group))
    numbers: dict[Any, int] = {}
    return {file.path: numbers.setdefault(root(file.digest), len(numbers)) for file in files}


def split_files(
    files: Sequence[ImageFile], units: Mapping[Path, int], seed: int, test_fraction: float, *, grouped: bool = False,
    ranks: Mapping[int, int] | None = None,
) -> dict[SplitName, list[ImageFile]]:  # fmt: skip
    """The files of each split. Files of one unit stay together; `grouped` ones may have several classes.

    `ranks` are the places of the labels among the names of the classes with files, sorted, so that the same files are
    held out whatever other classes there are. Default: the labels.
    """
    splits: dict[SplitName, list[ImageFile]] = {name: [] for name in SPLITS}
    # By class and unit: the contents, of which the smallest names the unit
    contents: dict[int, dict[int, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    names: dict[int, bytes] = {}
    for file in files:
        if file.split is None:
            unit = units[file.path]
            contents[file.label][unit].add(file.digest)
            names[unit] = min(names.get(unit, file.digest), file.digest)
    test: set[int] = set()
    for label, members in contents.items():
        # Ordered by a hash, so that adding or removing an image does not move the others to another split
        salt = (f"{seed} " if grouped else f"{seed} {ranks[label] if ranks else label} ").encode()
        sizes = {unit: len(members[unit]) for unit in sorted(members, key=lambda u: sha256(salt + names[u]).digest())}
        quota = round(test_fraction * sum(sizes.values()))
        test |= _hold_out(sizes, quota, test if grouped else ())
    decided = {units[file.path]: file.split for file in files if file.split is not None} if grouped else {}
    for file in files:
        unit = units[file.path]
        splits[file.split or decided.get(unit) or ("test" if unit in test else "train")].append(file)
    if not splits["test"] and splits["validation"]:  # train and validation only: validation is the test split
        splits["test"], splits["validation"] = splits["validation"], []
    return splits


def choose_held_out(labels: Tensor, units: Tensor, fraction: float, seed: int, *, grouped: bool) -> Tensor:
    """Which images to hold out of a split, about a `fraction` of every class: a mask, bool (N,).

    `labels` and `units` are int64 (N,). `grouped` units may be many images of several classes.
    """
    generator = torch.Generator().manual_seed(seed)
    if not grouped:
        held_out = torch.zeros(len(labels), dtype=torch.bool)
        for label in labels.unique():
            members = torch.nonzero(labels == label).squeeze(1)
            chosen = torch.randperm(len(members), generator=generator)[: round(fraction * len(members))]
            held_out[members[chosen]] = True
        firsts: dict[int, int] = {}
        return held_out[[firsts.setdefault(unit, n) for n, unit in enumerate(units.tolist())]]
    names = units.unique()
    order = names[torch.randperm(len(names), generator=generator)].tolist()
    held: set[int] = set()
    for label in labels.unique():
        counts = Counter(units[labels == label].tolist())
        sizes = {unit: counts[unit] for unit in order if unit in counts}
        held |= _hold_out(sizes, fraction * sum(sizes.values()), held, leave=1)
    return torch.isin(units, torch.tensor(sorted(held), dtype=units.dtype))


def _hold_out(sizes: Mapping[int, int], quota: float, held: Collection[int], leave: int = 0) -> set[int]:
    """Units of one class to hold out, besides those that are `held` already: in their order, as long as each brings
    the number of images nearer to the quota. The last `leave` are never taken."""
    taken, chosen = sum(size for unit, size in sizes.items() if unit in held), set()
    free = [unit for unit in sizes if unit not in held]
    for unit in free[: len(free) - leave]:
        if taken + sizes[unit] / 2 > quota:
            break
        taken += sizes[unit]
        chosen.add(unit)
    return chosen

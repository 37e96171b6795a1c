"""Datasets of the Hugging Face Hub, by name: `hf:cifar10`, `hf:owner/name`, `hf:owner/name@revision`.

Only their description is read here. Their images stay on the Hub and are read as other shards are.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from typing import Any, NamedTuple

from googlenet.console import log
from googlenet.data.folder import SplitName
from googlenet.data.folder_layout import split_of
from googlenet.data.shard_scan import find_splits
from googlenet.data.shards import SUFFIXES
from googlenet.data.storage import Storage
from googlenet.errors import UserError
from googlenet.weights.hub import clear_errors, hub_api

PREFIX = "hf:"
CONVERTED = "refs/convert/parquet"  # where the Hub keeps the Parquet version of datasets in other formats
_NAME = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?:@(\S+))?")


class Known(NamedTuple):
    """A dataset with a short name. Columns that are None are found by their type."""

    repository: str
    description: str
    label: str | None = None


KNOWN = {
    "mnist": Known("ylecun/mnist", "70,000 digits, 28x28, gray, 10 classes"),
    "fashion-mnist": Known("zalando-datasets/fashion_mnist", "70,000 clothes, 28x28, gray, 10 classes"),
    "cifar10": Known("uoft-cs/cifar10", "60,000 images, 32x32, 10 classes"),
    "cifar100": Known("uoft-cs/cifar100", "60,000 images, 32x32, 100 classes", "fine_label"),
    "beans": Known("AI-Lab-Makerere/beans", "1,295 leaves, 500x500, 3 classes"),
    "food101": Known("ethz/food101", "101,000 dishes, up to 512x512, 101 classes"),
    "cats-vs-dogs": Known("microsoft/cats_vs_dogs", "23,400 photos, 2 classes"),
    "tiny-imagenet": Known("zh-plus/tiny-imagenet", "110,000 images, 64x64, 200 classes"),
    "imagenet-1k": Known("ILSVRC/imagenet-1k", "1,331,167 images, 1,000 classes; needs its license to be accepted"),
}  # fmt: skip
"""Well-known datasets for image classification, by short names."""


class HubShards(NamedTuple):
    """Where the shards of a dataset are."""

    storage: Storage
    sizes: dict[str, int]
    splits: dict[SplitName, list[str]]
    label: str | None


def find_on_hub(name: str) -> HubShards:
    """The shards of a dataset on the Hub.

    Raises `UserError` for an unknown name, a dataset that is not public, or one without Parquet or tar files, and
    `RunError` if the Hub cannot be reached.
    """
    if (match := _NAME.fullmatch(name)) is None or ("/" not in match[1] and match[1] not in KNOWN):
        raise UserError(f"no dataset {name!r}: use hf:owner/name, or one of {', '.join(PREFIX + key for key in KNOWN)}")
    known = KNOWN.get(match[1], Known(match[1], ""))
    api, revision = hub_api(name), match[2]
    from huggingface_hub.errors import RevisionNotFoundError

    with clear_errors(api, known.repository):
        info = api.dataset_info(known.repository, revision=revision, files_metadata=True)
        files = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
        patterns = _patterns(info.card_data)
        if not any(file.endswith(SUFFIXES) for file in files):
            with contextlib.suppress(RevisionNotFoundError):
                info = api.dataset_info(known.repository, revision=CONVERTED, files_metadata=True)
                files = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
                patterns = {}
                log.info(f"{name} is in another format: reading the Hub's Parquet version of it")
    shards = sorted(file for file in files if file.endswith(SUFFIXES))
    splits = _by_pattern(shards, patterns) if patterns else find_splits(_of_one_configuration(name, shards))
    if any("partial-" in file for names in splits.values() for file in names):
        log.warning(f"the Hub's Parquet version of {name} has a part of its images only")
    if not splits:
        raise UserError(f"{name} has no Parquet or tar files with images")
    storage = Storage(
        f"hf://datasets/{known.repository}@{(info.sha or revision or 'main')}", endpoint=api.endpoint, token=api.token
    )
    return HubShards(storage, files, splits, known.label)


def _patterns(card: Any) -> dict[str, list[str]]:
    """The files of each split, as patterns, of the default configuration in the dataset's README, if it has any."""
    configurations = [entry for entry in (card or {}).get("configs") or () if entry.get("data_files")]
    if not configurations:
        return {}
    chosen = next((entry for entry in configurations if entry.get("default")), configurations[0])
    if len(configurations) > 1:
        others = ", ".join(str(entry.get("config_name")) for entry in configurations if entry is not chosen)
        log.info(f"using the configuration {chosen.get('config_name')}; the dataset has others: {others}")
    entries = chosen["data_files"]
    entries = entries if isinstance(entries, list) else [{"split": "train", "path": entries}]
    patterns: dict[str, list[str]] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            entry = {"split": "train", "path": entry}
        paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
        patterns.setdefault(str(entry["split"]), []).extend(map(str, paths))
    return patterns


def _by_pattern(shards: list[str], patterns: dict[str, list[str]]) -> dict[SplitName, list[str]]:
    splits: dict[SplitName, list[str]] = {}
    for name, paths in patterns.items():
        if (split := split_of(name)) is None:
            log.info(f"the split {name!r} is not used: it is not one of train, validation and test")
            continue
        found = [shard for shard in shards if any(fnmatch.fnmatchcase(shard, path) for path in paths)]
        if found:
            splits.setdefault(split, []).extend(found)
    return splits


def _of_one_configuration(name: str, shards: list[str]) -> list[str]:
    """The shards of the first of several folders at the top, unless these are splits or one of no meaning (`data`)."""
    folders = list(dict.fromkeys(shard.partition("/")[0] for shard in shards if "/" in shard))
    configurations = [folder for folder in folders if split_of(folder) is None]
    if len(configurations) < 2:
        return shards
    chosen = next((folder for folder in configurations if folder == "default"), configurations[0])
    log.info(f"using the configuration {chosen} of {name}; it has others: {', '.join(configurations)}")
    return [shard for shard in shards if shard.startswith(f"{chosen}/")]

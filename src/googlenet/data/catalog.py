"""The data sets that this package knows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from googlenet.data import fashion_mnist, image_folder
from googlenet.data.dataset import ImageDataset
from googlenet.data.parallel import Progress
from googlenet.errors import UserError


@dataclass(frozen=True)
class CatalogEntry:
    """One known data set: what it is, and how to have it."""

    name: str
    description: str
    load: Callable[[str | Path | None], ImageDataset]
    """From the folder named, or from the first place that has it."""
    fetch: Callable[[], Path]
    """Into the cache; returns the folder."""
    find: Callable[[], Path | None]
    """The folder on this machine that has it."""


CATALOG = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            "fashion-mnist",
            "60,000 + 10,000 grey 28x28 pictures of clothes in 10 classes (Xiao et al. 2017)",
            fashion_mnist.load,
            fashion_mnist.fetch,
            fashion_mnist.find,
        ),
    )
}


def entry(name: str) -> CatalogEntry:
    """The known data set of that name.

    Raises:
        UserError: for a name that is none.
    """
    if name not in CATALOG:
        raise UserError(f"there is no data set {name!r}, nor a folder of that name; data sets: {', '.join(CATALOG)}")
    return CATALOG[name]


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    size: int = 224,
    seed: int = 0,
    skip_unreadable: bool = False,
    channels: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> ImageDataset:
    """A data set in memory: one of the catalog, from `data_dir` or from the first place that has it; or a folder.

    What comes after `data_dir` is for folders of pictures: see `image_folder.load`.

    Raises:
        UserError: for a name that is neither, or files that are missing or damaged.
    """
    if not is_folder(name):
        return entry(name).load(data_dir)
    return image_folder.load(
        name,
        size=size,
        seed=seed,
        skip_unreadable=skip_unreadable,
        channels=channels,
        say=say,
        progress=progress,
    )


def is_folder(name: str) -> bool:
    """Whether that is no name of the catalog but a folder on this machine."""
    return name not in CATALOG and Path(name).is_dir()

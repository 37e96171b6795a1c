"""Data sets and folders of pictures."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from googlenet.cli.app import (
    DataDir,
    Json,
    Output,
    SkipUnreadable,
    data_app,
    print_json,
)
from googlenet.files import check_output, check_writable


@data_app.command(name="list")
def data_list(*, json: Json = False) -> int:
    """The data sets known by name, and where on this machine they are."""
    from googlenet.data.loader import CATALOG

    rows = [
        {"name": entry.name, "description": entry.description, "found": str(entry.find() or "")}
        for entry in CATALOG.values()
    ]
    if json:
        print_json(rows)
    for row in [] if json else rows:
        print(f"{row['name']}: {row['description']}")
        print(f"  found: {row['found'] or 'not yet; googlenet data fetch ' + row['name']}")
    return 0


@data_app.command(name="fetch")
def data_fetch(
    name: Annotated[str, Parameter(help="Name of a data set.")] = "fashion-mnist", *, json: Json = False
) -> int:
    """Bring a data set into the cache folder, checked against its digests."""
    from googlenet.data.loader import entry

    folder = str(entry(name).fetch())
    if json:
        print_json({"name": name, "folder": folder})
    else:
        print(folder)
    return 0


@data_app.command(name="check")
def data_check(
    folder: Annotated[Path, Parameter(help="FOLDER/CLASS/*.jpg, or FOLDER/train/CLASS/*.jpg and so on.")],
    *,
    output: Annotated[Path | None, Output, Parameter(help="Report to write as JSON.")] = None,
    quarantine: Annotated[
        Path | None, Parameter(help="Folder to move files to that cannot be read; nothing is deleted.")
    ] = None,
    json: Json = False,
) -> int:
    """Read every picture of a folder to its end and say what is wrong. The exit code is 1 where something is left."""
    from googlenet.console import FileProgress
    from googlenet.data.folder_check import check

    if output is not None:
        check_writable(output)
    with redirect_stdout(sys.stderr) if json else nullcontext(), FileProgress() as progress:
        found = check(folder, quarantine, progress.show)
    if json:
        print_json(found.to_dict())
    else:
        print("\n".join(found.lines()))
    if output is not None:  # last: what was moved has been said, whether or not this can be written
        found.write(output)
    return 0 if found.is_clean else 1


@data_app.command(name="show")
def data_show(
    name: Annotated[str, Parameter(help="Name of a data set, or a folder of pictures.")] = "fashion-mnist",
    *,
    output: Annotated[Path | None, Output, Parameter(help="Contact sheet to write; left out: NAME.png here.")] = None,
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    count: Annotated[int, Parameter(help="DecodedImages on the sheet.")] = 80,
    seed: Annotated[int, Parameter(help="Which pictures.")] = 0,
    augment: Annotated[
        Literal["none", "light", "medium", "strong"] | None,
        Parameter(help="Show a few of them, each beside what this setting of training makes of it."),
    ] = None,
    json: Json = False,
) -> int:
    """A contact sheet of training pictures with their labels, and the count of each class."""
    from googlenet.console import FileProgress
    from googlenet.data.loader import load_dataset
    from googlenet.data.transforms import Augmentation
    from googlenet.evaluation.plots import plot_augmented, plot_sample
    from googlenet.recipe import AUGMENT

    if output is not None:
        check_output(output, ".png")
    with redirect_stdout(sys.stderr), FileProgress() as progress:
        dataset = load_dataset(
            name, data_dir, skip_unreadable=skip_unreadable, say=progress.say, progress=progress.show
        )
    sheet = output or Path(f"{dataset.name}.png")
    if augment is None:
        plot_sample(dataset, sheet, count=count, seed=seed)
    else:
        plot_augmented(dataset, Augmentation(**AUGMENT[augment]), sheet, count=count, seed=seed)
    counts = dataset.class_counts()
    if json:
        print_json({"sheet": str(sheet), **dataset.provenance(), "classes": counts})
        return 0
    if dataset.note:
        print(f"note: {dataset.note}")
    print(f"{dataset.name} from {dataset.source}")
    width = max(map(len, counts))
    for label, row in counts.items():
        print(f"  {label:<{width}} {row['train']:>7,} training  {row['test']:>7,} test")
    print(f"contact sheet: {sheet}")
    return 0

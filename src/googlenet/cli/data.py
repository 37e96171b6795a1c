"""`googlenet data`: datasets and folders of images."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.errors import UserError, check_counts, plural
from googlenet.files import check_output, check_writable, expand, write_json


@options.data_app.command(name="list")
def data_list(*, json: options.Json = False) -> int:
    """List the datasets known by name, and where they are: on this machine, or on the Hugging Face Hub."""
    from googlenet.data.dataset import CATALOG
    from googlenet.data.hub_data import KNOWN, PREFIX

    found = {name: str(dataset.find() or "") for name, dataset in CATALOG.items()}
    rows = [{"name": name, "description": CATALOG[name].DESCRIPTION, "found": place} for name, place in found.items()]
    rows += [
        {
            "name": f"{PREFIX}{name}",
            "description": known.description,
            "found": f"https://huggingface.co/datasets/{known.repository}",
        }
        for name, known in KNOWN.items()
    ]
    if json:
        options.print_json(rows)
        return 0
    for row in rows:
        place = row["found"] or f"not yet; googlenet data fetch {row['name']}"
        print(f"{row['name']}: {row['description']}\n  found: {place}")
    return 0


@options.data_app.command(name="fetch")
def data_fetch(
    name: Annotated[str, Parameter(help="Name of a dataset.")] = "fashion-mnist", *, json: options.Json = False
) -> int:
    """Download a dataset into the cache folder and verify it."""
    from googlenet.console import on_stderr
    from googlenet.data.dataset import catalog_entry

    with on_stderr():
        folder = str(catalog_entry(name).fetch())
    options.print_json({"name": name, "folder": folder}) if json else print(folder)
    return 0


@options.data_app.command(name="check")
def data_check(
    folder: Annotated[
        Path, Parameter(help="Folder of images: FOLDER/CLASS/*.jpg or FOLDER/train/CLASS/*.jpg; or a table of files.")
    ],
    *,
    output: Annotated[Path | None, options.Output, Parameter(help="Report to write as JSON; default: none.")] = None,
    quarantine: Annotated[
        Path | None, Parameter(help="Folder to move unreadable files to; default: leave them.")
    ] = None,
    predictions: Annotated[
        Path | None,
        Parameter(
            help="Out-of-fold predictions, to find likely label errors: a CSV file with the columns file, class and "
            "probability:CLASS; default: none."
        ),
    ] = None,
    suspects: Annotated[
        Path | None,
        Parameter(
            help="Folder to write near duplicates and likely label errors to: suspects.csv, suspects.png and "
            "label_studio.json; default: none."
        ),
    ] = None,
    image_root: Annotated[
        str | None,
        Parameter(
            help="What precedes file names in label_studio.json; default: /data/local-files/?d= and FOLDER's name."
        ),
    ] = None,
    json: options.Json = False,
) -> int:
    """Decode every image of a folder and report problems. The exit code is 1 if there are any.

    Near duplicates are searched if the package imagehash is installed. Suspects are a problem only if images that look
    the same are in different splits.
    """
    from googlenet.console import on_stderr
    from googlenet.data.folder_check import check_folder, check_outside
    from googlenet.data.suspects import write_csv, write_label_studio
    from googlenet.device import require
    from googlenet.evaluation.plots import plot_suspects

    if output is not None:
        check_writable(output)
    if image_root is not None and suspects is None:
        raise UserError("--image-root is for label_studio.json; set --suspects FOLDER too")
    if suspects is not None:
        suspects = expand(suspects)
        require("imagehash", "--suspects")
        check_outside(suspects, expand(folder), "--suspects")
        check_writable(suspects / "suspects.csv")
    with on_stderr(json):
        check = check_folder(folder, quarantine, predictions)
    options.print_json(check.to_dict()) if json else print("\n".join(check.lines()))
    if output is not None:  # last: what was moved is printed even if this fails
        write_json(output, check.to_dict())
    if suspects is not None:
        write_csv(check.suspects, suspects / "suspects.csv")
        write_label_studio(check.suspects, suspects / "label_studio.json", image_root)
        plot_suspects(check.suspects.rows(), suspects / "suspects.png")
    return 0 if check.is_clean else 1


@options.data_app.command(name="pack")
def data_pack(
    source: Annotated[
        Path,
        Parameter(
            name="FOLDER", help="Folder of images: FOLDER/CLASS/*.jpg or FOLDER/train/CLASS/*.jpg; or a table of files."
        ),
    ],
    /,
    *,
    to: Annotated[Path, options.Folder, Parameter(help="New folder to write the shards to.")],
    seed: Annotated[int, Parameter(help="Decides which images are for the test, and the order for training.")] = 0,
    test_fraction: Annotated[
        float, Parameter(help="Fraction of each class for the test if FOLDER has no test or validation split.")
    ] = 0.2,
    shard_mb: Annotated[int, Parameter(help="Megabytes at which a shard ends.")] = 256,
    skip_unreadable: options.SkipUnreadable = False,
    json: options.Json = False,
) -> int:
    """Write a folder or table of images as shards, which train --data reads from a disk, a web server or S3.

    Shards are Parquet files, in splits, which Hugging Face's datasets reads too. Image files are copied as they are.
    """
    from googlenet.console import log, on_stderr
    from googlenet.data.pack import pack

    if not 0 < test_fraction < 1:
        raise UserError(f"--test-fraction must be between 0 and 1, not {test_fraction}")
    check_counts(shard_mb=shard_mb)
    with on_stderr():
        packed = pack(
            source, to, seed=seed, test_fraction=test_fraction, skip_unreadable=skip_unreadable,
            shard_bytes=shard_mb * 1_000_000,
        )  # fmt: skip
        for line in packed.skipped:
            log.warning("skipped: %s", line)
    if json:
        options.print_json(packed.to_dict())
        return 0
    images = ", ".join(f"{count:,} {split}" for split, count in packed.images.items())
    print(
        f"{packed.folder}: {images} images in {plural(packed.shards, 'shard')}, {packed.bytes / 1e6:,.1f} MB, "
        f"{packed.images_per_second:,.0f} images/s"
    )
    return 0


@options.data_app.command(name="cache")
def data_cache(
    *, clear: Annotated[bool, Parameter(help="Delete them all.", negative="")] = False, json: options.Json = False
) -> int:
    """List the decoded images that are stored for the next run, or delete them.

    They may take $GOOGLENET_CACHE_GB gigabytes together (default: 20); those not used for the longest time go first.
    """
    from googlenet.data.store import clear_stores, limit_bytes, list_stores

    if clear:
        freed = clear_stores()
        options.print_json({"freed_bytes": freed}) if json else print(f"freed {freed / 1e6:,.1f} MB")
        return 0
    stores, limit = list_stores(), limit_bytes()
    if json:
        rows = [{**store._asdict(), "path": str(store.path), "decoding": store.decoding._asdict()} for store in stores]
        options.print_json({"limit_bytes": limit, "stores": rows})
        return 0
    for store in stores:
        channels, size, resize = store.decoding
        used = datetime.fromtimestamp(store.used)
        print(
            f"{store.path.name}  {store.images:,} images {channels}x{size}x{size} ({resize})  "
            f"{store.bytes / 1e6:,.1f} MB  used {used:%Y-%m-%d %H:%M}  from {store.source}"
        )
    total = sum(store.bytes for store in stores)
    print(f"{total / 1e9:.2f} of {limit / 1e9:g} GB ($GOOGLENET_CACHE_GB)")
    return 0


@options.data_app.command(name="show")
def data_show(
    name: Annotated[str, Parameter(help="Name of a dataset, or a folder of images.")] = "fashion-mnist",
    *,
    output: Annotated[Path | None, options.Output, Parameter(help="PNG file to write; default: NAME.png.")] = None,
    data_dir: options.DataDir = None,
    skip_unreadable: options.SkipUnreadable = False,
    count: Annotated[int, Parameter(help="Number of images in the plot.")] = 80,
    seed: Annotated[int, Parameter(help="Decides which images.")] = 0,
    augment: Annotated[
        Literal["none", "light", "medium", "strong"] | None,
        Parameter(help="Show versions of a few images under this augmentation; default: different images."),
    ] = None,
    json: options.Json = False,
) -> int:
    """Plot training images with their labels, and count the images of each class."""
    from googlenet.console import on_stderr
    from googlenet.data.dataset import load_dataset
    from googlenet.data.transforms import Augmentation
    from googlenet.evaluation.plots import plot_augmented, plot_sample
    from googlenet.recipe import AUGMENT

    if output is not None:
        check_output(output, ".png")
    with on_stderr():
        dataset = load_dataset(name, data_dir, skip_unreadable=skip_unreadable, on_demand=True)
    sheet = output or Path(f"{dataset.name}.png")
    if augment is None:
        plot_sample(dataset, sheet, count=count, seed=seed)
    else:
        plot_augmented(dataset, Augmentation(**AUGMENT[augment]), sheet, count=count, seed=seed)
    counts = dataset.class_counts()
    if json:
        options.print_json({"sheet": str(sheet), **dataset.provenance(), "classes": counts})
        return 0
    if dataset.note:
        print(f"note: {dataset.note}")
    print(f"{dataset.name} from {dataset.source}")
    width = max(map(len, counts))
    for label, row in counts.items():
        print(f"  {label:<{width}} {row['train']:>7,} training  {row['test']:>7,} test")
    print(f"plot: {sheet}")
    return 0

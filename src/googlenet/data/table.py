"""A table of image files as a dataset: a CSV or Parquet file with a row for each image.

    file,class,split,group,camera
    2024/a.jpg,cat,train,patient 7,left

`file` (absolute, or relative to the table) and `class` are required. `split` is train, validation or test (or what
folders of those are called); without it, or if it is empty, the seed decides. Rows of one `group` stay in one split.
Other columns are kept: an evaluation can be broken down by them.
"""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from googlenet.data.folder import SPLITS, Listing, SplitName
from googlenet.data.folder_layout import split_of
from googlenet.device import require
from googlenet.errors import UserError, reason_of
from googlenet.files import expand, printable

SUFFIXES = (".csv", ".parquet")


def is_table(path: str | Path) -> bool:
    """Whether this is an existing file with the suffix of a table."""
    file = expand(path)
    return file.suffix.lower() in SUFFIXES and os.path.isfile(file)  # noqa: PTH113


def list_table(table: str | Path, classes: Sequence[str] | None = None, *, min_classes: int = 2) -> Listing:
    """The files of a table and their classes: `classes` in their order, or those found, sorted.

    Raises `UserError` for a table that cannot be read, lacks a column or a value, names a file twice, a file that does
    not exist, an unknown split, fewer than `min_classes` classes, or classes other than `classes`.
    """
    path = expand(table)
    header, rows = _read(path)
    for name in ("file", "class"):
        if name not in header:
            raise UserError(
                f"{path} has no column {name!r}, only {', '.join(map(printable, header))}; add or rename one"
            )
    if len(set(header)) < len(header):
        raise UserError(f"{path} has two columns of the same name: {', '.join(map(printable, header))}; rename one")
    others = [name for name in header if name not in ("file", "class", "split")]
    columns: dict[str, list[str]] = {name: [] for name in others}
    images: list[tuple[Path, str, SplitName | None]] = []
    lines: dict[str, int] = {}
    missing: list[str] = []
    folder = path.absolute().parent
    for line, values in rows:
        if len(values) != len(header):
            raise UserError(
                f"{path}, row {line}: {len(values)} values for {len(header)} columns; put a value with commas in quotes"
            )
        row = dict(zip(header, values, strict=True))
        if not row["file"] or not row["class"]:
            raise UserError(
                f"{path}, row {line}: {'file' if not row['file'] else 'class'} is empty; remove the row or fill it"
            )
        if "\0" in row["file"]:
            raise UserError(f"{path}, row {line}: {row['file']!r} cannot be the name of a file; correct it")
        file = _normalize(os.path.join(folder, os.fsdecode(row["file"].encode("utf-8", "surrogateescape"))))  # noqa: PTH118
        if (first := lines.setdefault(file, line)) != line:
            raise UserError(f"{path}, row {line}: {printable(file)} is in row {first} already; remove one of them")
        split = split_of(row["split"]) if row.get("split") else None
        if row.get("split") and split is None:
            raise UserError(f"{path}, row {line}: unknown split {row['split']!r}; splits: {', '.join(SPLITS)}")
        if not os.path.isfile(file):  # noqa: PTH113
            missing.append(f"{printable(file)} (row {line})")
        images.append((Path(file), unicodedata.normalize("NFC", row["class"]), split))
        for name in others:
            columns[name].append(row[name])
    if missing:
        raise UserError(
            f"{path} names {len(missing):,} files that do not exist, such as {missing[0]}; paths start at its folder"
        )
    found = sorted({name for _, name, _ in images})
    if classes is not None and (unknown := sorted(set(found) - set(classes))):
        raise UserError(
            f"{path} has a class {unknown[0]!r}, which the model does not have; it has {', '.join(classes)}"
        )
    classes = tuple(classes or found)
    if not images or len(classes) < min_classes:
        raise UserError(f"{path} has {'one class only' if images else 'no rows'}; at least two classes are needed")
    if bad := [printable(name) for name in classes if not name.isprintable() and printable(name) != name]:
        raise UserError(f"{path} has a class '{bad[0]}', whose name is not one line of text; rename it")
    try:
        top = Path(os.path.commonpath({os.path.dirname(file) for file in lines}))  # noqa: PTH120
    except ValueError as error:  # two drives of Windows
        raise UserError(f"{path} names files on different drives; put them on one") from error
    if "split" in header:  # for all or some of the rows
        decided = {split for *_, split in images}
        if decided <= {"train", None} and "train" in decided and None not in decided:
            images = [(file, name, None) for file, name, _ in images]  # as for a folder with train only
    found_splits: dict[str, SplitName] = {}
    for group, (_, _, split) in zip(columns.get("group", ()), images, strict=False):
        if group and split and found_splits.setdefault(group, split) != split:
            raise UserError(f"{path} has the group {group!r} in {found_splits[group]} and in {split}; use one split")
    labels = {name: label for label, name in enumerate(classes)}
    files = tuple((file, labels[name], split) for file, name, split in images)
    by_name = {name: tuple(values) for name, values in columns.items()}
    return Listing(top, classes, files, (), (), columns=by_name, is_table=True)


def _read(path: Path) -> tuple[list[str], Iterable[tuple[int, list[str]]]]:
    """The names of the columns, and the values of each row with its number: the header is row 1."""
    try:
        if path.suffix.lower() == ".parquet":
            require("pyarrow", "a .parquet table")
            import pyarrow
            from pyarrow import parquet

            try:
                file = parquet.ParquetFile(path)
                _check_size(path, file.metadata)
                content = file.read()
                values = [[_text(value) for value in column.to_pylist()] for column in content.columns]
            except pyarrow.ArrowException as error:
                raise ValueError(reason_of(error)) from error
            return content.column_names, list(enumerate(map(list, zip(*values, strict=True)), start=2))
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except UserError:
        raise
    except (OSError, csv.Error, ValueError) as error:
        raise UserError(f"cannot read the table {path}: {reason_of(error)}") from error
    if not rows:
        raise UserError(f"{path} is empty; it needs the columns file and class")
    return [name.strip() for name in rows[0][1]], rows[1:]


def _check_size(path: Path, metadata: Any) -> None:
    """Raises `UserError` for a Parquet file whose content is much larger than itself: each row names another file."""
    size = path.stat().st_size
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    if metadata.num_rows > 10_000 + 10 * size or sum(group.total_byte_size for group in groups) > 2**24 + 50 * size:
        raise UserError(f"{path} has {metadata.num_rows:,} rows in {size:,} bytes, which are too few for their files")


def _normalize(file: str) -> str:
    """The same for every spelling of a path. What `link/..` means depends on where the link leads."""
    folder, name = os.path.split(file)
    return os.path.normpath(os.path.join(os.path.realpath(folder), name) if ".." in file else file)  # noqa: PTH118


def _text(value: Any) -> str:
    return "" if value is None else str(value)

"""Sort image files into a folder per predicted class, as links or copies."""

from __future__ import annotations

import filecmp
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from itertools import tee
from pathlib import Path
from typing import Any

from googlenet.choices import Crops
from googlenet.console import log, progress
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import disk_errors, expand, printable, write_json
from googlenet.inference.predictor import Predictor
from googlenet.inference.writers import check_made_with

UNSURE, UNKNOWN = "_unsure", "_unknown"
_RECORD = ".googlenet.json"
_IS_WINDOWS = os.name == "nt"


def sort_images(
    predictor: Predictor, files: Iterable[Path], folder: str | Path, *, copy: bool = False, total: int | None = None,
    batch_size: int = 32, confidence: float = 0.0, crops: Crops = 1,
) -> dict[str, int]:  # fmt: skip
    """Put a link to each image file, or a copy, into `folder/CLASS`, or into `folder/_unsure` below the confidence, or
    into `folder/_unknown` if the model has a rule for images of none of the classes, and this is one.

    Files that are there already stay; another file of the same name becomes `name-2.jpg`. A file that cannot be read
    stays. What the folder was made with is recorded, so several processes may sort into one folder, and
    another run continues it.

    Returns how many were `sorted`, how many of these are `unsure` or `unknown`, and how many `failed`.

    Raises:
        UserError: for a folder that holds something else or was sorted by another model or confidence, a file in this
            folder, or class names that cannot be folders.
        RunError: if a link or a copy cannot be made.
    """
    folder = expand(folder)
    folders = _class_folders(predictor.info.classes)
    files, sources = tee(files)
    # Checks its arguments
    predictions = predictor.predict(files, top=1, batch_size=batch_size, confidence=confidence, crops=crops)
    _prepare(folder, {"model_sha256": predictor.digest, "confidence": confidence, "crops": crops})
    counts, taken, real = {"sorted": 0, "unsure": 0, "unknown": 0, "failed": 0}, set[Path](), folder.resolve()
    with progress("sorting", total) as bar:
        for source, prediction in zip(sources, predictions, strict=True):
            check_apart(source, real)
            if prediction.error is not None:
                counts["failed"] += 1
                log.warning("%s: %s", prediction.file, prediction.error)
            else:
                name = folders[prediction.classes[0]] if prediction.confident else UNSURE
                name = UNKNOWN if prediction.known is False else name
                taken.add(_put(source, folder / name, taken, copy=copy))
                counts["sorted"] += 1
                counts["unsure"] += name == UNSURE
                counts["unknown"] += name == UNKNOWN
            bar.advance()
    return counts


def check_apart(path: Path, folder: Path) -> None:
    """Raises `UserError` if a file or folder to predict is in the folder to sort into, or the other way round: the next
    run would read what this one wrote. `folder` has no links in it."""
    is_folder = path.is_dir()
    real = path.resolve() if is_folder else path.parent.resolve()
    if real.is_relative_to(folder) or (is_folder and folder.is_relative_to(real)):
        raise UserError(f"--sort-into {folder} and {printable(path)} overlap: sort into a folder outside of the images")


def _class_folders(classes: tuple[str, ...]) -> dict[str, str]:
    """A name for each class's folder."""
    folders = {name: _folder_name(name) for name in classes}
    by_folder: dict[str, str] = {}
    for name, folder in folders.items():
        if folder.startswith(".") or folder in (UNSURE, UNKNOWN) or not folder.strip():
            raise UserError(f"the class {name!r} cannot be a folder: write a table with --output FILE.csv instead")
        other = by_folder.setdefault(folder.casefold(), name)
        if other != name:
            raise UserError(
                f"the classes {other!r} and {name!r} would have the same folder: use --output FILE.csv instead"
            )
    return folders


def _folder_name(name: str) -> str:
    folder = re.sub(r"[/\\]", "_", printable(name))
    if not _IS_WINDOWS:
        return folder
    folder = re.sub(r'[<>:"|?*]|[. ]$', "_", folder)  # `a:b` would be a hidden part of the file `a`
    return f"_{folder}" if re.fullmatch(r"(?i)(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?", folder) else folder


def _prepare(folder: Path, made_with: dict[str, Any]) -> None:
    """Make the folder with its record, or check those that exist."""
    record = folder / _RECORD
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if record.exists():
            check_made_with(folder, record, made_with, "use another folder")
        elif any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty, and --sort-into did not make it: name another folder")
        else:
            write_json(record, made_with)


def _put(source: Path, folder: Path, taken: set[Path], *, copy: bool) -> Path:
    """Link or copy a file into a folder, under a name that no other file has. Returns where it is."""
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    number = 1
    while True:
        target = folder / (source.name if number == 1 else f"{source.stem}-{number}{source.suffix}")
        number += 1
        if target in taken:
            continue
        if os.path.lexists(target):
            if _is_same(source, target, copy=copy):
                return target
            continue
        try:
            (_copy if copy else _link)(source, target)
            return target
        except FileExistsError:  # by another process
            continue
        except OSError as error:
            hint = "" if copy else "; --copy copies instead of linking"
            raise RunError(f"cannot write {printable(target)}: {reason_of(error)}{hint}") from error


def _is_same(source: Path, target: Path, *, copy: bool) -> bool:
    """Whether an earlier run has put this file there."""
    if target.is_symlink() or not copy:
        return target.is_symlink() and target.readlink() == source.absolute()
    return target.is_file() and filecmp.cmp(source, target, shallow=False)


def _link(source: Path, target: Path) -> None:
    target.symlink_to(source.absolute())


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        shutil.copy2(source, temporary)
        try:
            os.link(temporary, target)  # unlike renaming, never replaces a file
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links, such as exFAT
            if os.path.lexists(target):
                raise FileExistsError from None
            temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)

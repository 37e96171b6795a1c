"""Writing files so that nothing half-written ever has its final name, reading those of anyone, and where caches are."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import secrets
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from googlenet.errors import RunError, UserError, printable as printable, reason_of

HALF_WRITTEN = ".*.tmp"
"""The names that `atomic_write` writes to, which a kill leaves behind."""


def expand(path: str | Path) -> Path:
    """The path with a leading `~` replaced by the home folder, which the shell does not do in `--output=~/x`."""
    with contextlib.suppress(RuntimeError):  # no home folder: the path stays as it is
        return Path(path).expanduser()
    return Path(path)


def cache_dir() -> Path:
    """The folder for downloads, compiled code and decoded images: `$XDG_CACHE_HOME/googlenet`, on any system, else the
    system's own; one for temporary files if the user has no home folder."""
    if (named := Path(os.environ.get("XDG_CACHE_HOME", ""))).is_absolute():
        return named / "googlenet"
    with contextlib.suppress(RuntimeError, KeyError, OSError):
        folder = Path(platformdirs.user_cache_dir("googlenet", appauthor=False))
        if folder.is_absolute():
            return folder
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"googlenet-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Compiled code is loaded from there: another user must not have made it
    return folder if folder.stat().st_uid == user else Path(tempfile.mkdtemp(prefix="googlenet-"))


def check_output(path: Path, suffix: str) -> None:
    """Raises `UserError` if the name does not end in `suffix`, and whatever `check_writable` raises."""
    if path.suffix.lower() != suffix:
        raise UserError(f"{path}: the output is {suffix[1:].upper()}; use a name that ends in {suffix}")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Before long work: raises `RunError` if its result could not be written to `path`."""
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        parent = next((folder for folder in path.absolute().parents if folder.exists()), None)
        if parent is None or not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{parent or path.parent} is not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"no permission to write to the folder {parent}")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """While `path` is written: turns an `OSError` (full disk, no permission) into a `RunError` that names it."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason_of(error)}") from error


def reserve_space(descriptor: int, size: int) -> None:
    """Give an open file its bytes on the disk, where the system can: mapped into memory, a file for which the disk has
    no room later kills the process. Raises `OSError` if there is no room now."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # macOS, Windows
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):  # some file systems
            raise


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary name next to `path` to write to. It becomes `path` at the end, or is deleted after an error.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:  # Windows flushes only files open for writing
                os.fsync(file.fileno())  # else a crash soon after could leave an empty file under the final name
            temporary.replace(path)
            flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Make the names of its files survive a crash of the machine. Not every system opens a folder, or has to."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def parse_json(text: str) -> Any:
    """`json.loads` for a file of anyone: raises `ValueError` for values that are nested too deeply, too."""
    return _parsed(json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """`tomllib.loads` for a file of anyone: raises `ValueError` for values that are nested too deeply, too."""
    return _parsed(tomllib.loads, text)


def _parsed(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically; errors as in `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically; a bool is `true` or `false`. Raises `RunError` as `atomic_write` does.

    Names of files keep bytes that are not UTF-8.
    """
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([str(v).lower() if isinstance(v, bool) else v for v in row] for row in rows)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Raises `RunError` as `atomic_write` does."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """`write_table` for columns of equal length."""
    write_table(path, tuple(columns), zip(*columns.values(), strict=True))

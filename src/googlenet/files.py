"""Writing files so that nothing half-written ever stands under its final name."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from googlenet.errors import RunError, UserError, reason_of


def printable(path: str | Path) -> str:
    """A file's name as text that can be written anywhere, in one line: control characters, and bytes of it that are no
    UTF-8, appear as \\xNN."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def check_output(path: Path, suffix: str) -> None:
    """Raises `UserError` for a name that would say something else than what is written under it, and what
    `check_writable` raises."""
    if path.suffix.lower() != suffix:
        raise UserError(f"{path}: this is written as {suffix[1:].upper()}; end its name in {suffix}")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Before what may take long is done, whether its outcome can be written. Raises `RunError` where not."""
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        there = next((folder for folder in path.absolute().parents if folder.exists()), None)
        if there is None or not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"there is no folder {there or path.parent}")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"the folder {there} cannot be written to")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """While `path` is written. Raises `RunError` where the disk is full or the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {reason_of(error)}") from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` at the end, or goes away where writing failed.

    Raises:
        RunError: where the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())  # else a crash soon after could leave an empty file under the final name
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

"""Fetching one file over HTTP: with progress, resumed where it broke off, kept only if its digest is right.

The standard library's, because it needs no more than this and pooch, the usual choice, cannot resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from googlenet.errors import RunError, UserError

CONNECT_SECONDS = 10
_CHUNK = 1 << 16


class DownloadError(RunError):
    """A file could not be had from an address: one line that says why."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def download(url: str, target: Path, verify: Callable[[Path], object]) -> None:
    """Fetch `url` into `target`; what is there under that name is always whole and verified.

    A transfer that breaks off leaves `target.part`, and the next call goes on from there. Processes that want files of
    one folder wait for each other.

    Args:
        verify: called with the fetched file before it gets its name; raises `UserError` where the file is wrong,
            which is then deleted.

    Raises:
        DownloadError: where the address does not answer, says no, breaks off, or has another file, or where the
            folder cannot be written.
    """
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if not target.exists():  # else another process has fetched it meanwhile
                _fetch(url, target, verify)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url} answered {error.code} {error.reason}") from error
    except UserError as error:
        raise DownloadError(f"{url} answered with another file than the one wanted") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DownloadError(f"{url}: {getattr(error, 'reason', error)}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While other processes that want it wait; where there can be no locks, without."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(url: str, target: Path, verify: Callable[[Path], object]) -> None:
    part, final = target.with_name(f"{target.name}.part"), target.with_name(f".checking-{target.name}")
    _transfer(url, part)
    part.replace(final)
    try:
        verify(final)
        final.replace(target)
    finally:
        final.unlink(missing_ok=True)


def _transfer(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=CONNECT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # "range not satisfiable": all of it was there already
            raise
        return
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(part.name.removesuffix(".part"), total=total, completed=have)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and part.stat().st_size < total:
        raise http.client.IncompleteRead(b"", total - part.stat().st_size)

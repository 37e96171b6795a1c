"""Download one file over HTTP: with progress, resumed after a broken transfer, kept only if its digest is right.

With the standard library, since it is enough, and the usual library (pooch) cannot resume.
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

from googlenet.console import progress
from googlenet.errors import RunError, UserError


class DownloadError(RunError):
    """A file could not be downloaded from an address."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def download(url: str, target: Path, verify: Callable[[Path], object]) -> None:
    """Download `url` to `target`, unless it exists; it is always complete and verified.

    A broken transfer leaves `target.part`, from which the next call resumes. Processes that download to the same folder
    wait for each other. If `verify` raises `UserError` for the downloaded file, the file is deleted. Raises
    `DownloadError` if there is no such file to be had, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent):
            if not target.exists():
                _download(url, target, verify)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url} answered {error.code} {error.reason}") from error
    except UserError as error:
        raise DownloadError(f"{url} answered with a different file: its SHA-256 is not the expected one") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DownloadError(f"{url}: {getattr(error, 'reason', error)}") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other processes, if its file system has locks."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(url: str, target: Path, verify: Callable[[Path], object]) -> None:
    part, unverified = target.with_name(f"{target.name}.part"), target.with_name(f".checking-{target.name}")
    _transfer(url, part)
    part.replace(unverified)
    try:
        verify(unverified)
        unverified.replace(target)
    finally:
        unverified.unlink(missing_ok=True)


def _transfer(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `url`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=10)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # "range not satisfiable": the part is the whole file
            return
        raise
    have = have if response.status == 206 else 0
    with response, part.open("ab" if have else "wb") as file:
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        description = f"downloading {part.name.removesuffix('.part')} (MB)"
        with progress(description, total and total / 1e6, have / 1e6) as bar:
            while chunk := response.read(1 << 16):
                file.write(chunk)
                bar.advance(len(chunk) / 1e6)
    if total is not None and part.stat().st_size < total:
        raise http.client.IncompleteRead(b"", total - part.stat().st_size)

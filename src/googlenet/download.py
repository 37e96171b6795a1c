"""Download one file over HTTP: with progress, resumed after a broken transfer, kept only if its digest is right.

With the standard library, since it is enough, and the usual library (pooch) cannot resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from googlenet.console import progress
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import expand

_MAX_BYTES = 2**31  # no file that we download has half of it


class DownloadError(RunError):
    """A file could not be downloaded from an address."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def mirrored(url: str) -> str:
    """Where to get the file of an address: at `$GOOGLENET_MIRROR`, a base address or a folder, if that is set."""
    mirror = os.environ.get("GOOGLENET_MIRROR")
    return f"{mirror.rstrip('/')}/{url.rpartition('/')[2]}" if mirror else url


def download(url: str, target: Path, verify: Callable[[Path], object]) -> None:
    """Download `url`, an address or a local file, to `target`, unless it is there; it is always complete and verified.

    A broken transfer leaves a file `*.part.*`, from which the next call resumes. Processes that download to the same
    folder wait for each other. A file for which `verify` raises `UserError` is replaced if it was there, and deleted if
    it was downloaded. Raises `DownloadError` if the file cannot be had, or the folder cannot be written.
    """
    part = target.with_stem(f"{target.stem}.part")
    lock = FileLock(target.parent.with_name(f".{target.parent.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks
            lock.acquire()
        if not _is_right(target, verify):  # another process may have downloaded it meanwhile
            is_resumed = part.exists()
            _transfer(url, part)
            if is_resumed and not _is_right(part, verify):  # the part was of another file
                part.unlink()
                _transfer(url, part)
            verify(part)
            part.replace(target)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url} answered {error.code} {error.reason}") from error
    except UserError as error:
        part.unlink(missing_ok=True)
        raise DownloadError(f"{url} answered with a different file: its SHA-256 is not the expected one") from error
    except PermissionError as error:
        place = error.filename or target.parent
        raise DownloadError(
            f"cannot write {place}: {reason_of(error)}; set XDG_CACHE_HOME to a folder of yours"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DownloadError(f"{url}: {getattr(error, 'reason', None) or reason_of(error)}") from error
    finally:
        lock.release()


def _is_right(path: Path, verify: Callable[[Path], object]) -> bool:
    """Whether a file exists, and `verify` has no objection to it."""
    if not path.exists():
        return False
    try:
        verify(path)
    except UserError:
        return False
    return True


def _transfer(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `url`."""
    if "://" not in url:
        shutil.copyfile(expand(url), part)
        return
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=10)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # "range not satisfiable": the part is the whole file
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":  # of a proxy or a login page
            raise DownloadError(f"{url} answered with a web page instead of the file: log in to the network")
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = progress(f"downloading {url.rpartition('/')[2]} (MB)", total and total / 1e6, have / 1e6)
        with part.open("ab" if have else "wb") as file, bar as moved:
            while chunk := response.read(1 << 16):
                if file.tell() + len(chunk) > _MAX_BYTES:
                    raise DownloadError(f"{url} answered with more than {_MAX_BYTES:,} bytes")
                file.write(chunk)
                moved.advance(len(chunk) / 1e6)
    if total is not None and (have := part.stat().st_size) < total:
        raise DownloadError(f"{url}: the transfer broke off after {have:,} of {total:,} bytes; try again to continue")

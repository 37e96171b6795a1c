"""Files in a folder, or at an address that fsspec can read (https, s3, hf, ...): their names, and any part of one."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from googlenet.device import require
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import expand

_PACKAGES = {
    "http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs",
    "abfs": "adlfs", "hf": "huggingface_hub",
}  # fmt: skip
"""What fsspec needs for an address that starts with these."""
_PAUSES = (1, 5)  # seconds between tries: a run of a week outlives a server that restarts
_TIMEOUT = 60  # seconds without an answer


def is_address(source: str | Path) -> bool:
    return isinstance(source, str) and "://" in source


class Storage:
    """The files of a folder or an address. Processes that are forked open their own connections."""

    def __init__(self, source: str | Path, **options: Any) -> None:
        """`options` are for fsspec. Raises `UserError` if the address needs a package that is not installed."""
        self.source = source.rstrip("/") if isinstance(source, str) and is_address(source) else str(expand(source))
        self.is_remote = is_address(self.source)
        self._options, self._system, self._process = options, None, 0
        if self.is_remote:
            self._connect()

    def path(self, name: str) -> str:
        return f"{self.source}/{name}" if self.is_remote else str(Path(self.source) / name)

    def list(self) -> dict[str, int]:
        """Size in bytes of each file in the folder and below, by its name relative to the folder, sorted.

        Raises `UserError` or `RunError` if it cannot be listed.
        """
        if not self.is_remote:
            files = (path for path in sorted(Path(self.source).rglob("*")) if path.is_file())
            return {path.relative_to(self.source).as_posix(): path.stat().st_size for path in files}
        with self._errors(self.source):
            system = self._connect()
            top = system._strip_protocol(self.source).rstrip("/")
            found = system.find(self.source, detail=True)
            return {
                name.removeprefix(top).lstrip("/"): int(about["size"] or 0) for name, about in sorted(found.items())
            }

    def size(self, name: str) -> int:
        """Bytes. Raises `UserError` if there is no such file, `RunError` if the server cannot be reached."""
        path = self.path(name)
        with self._errors(path):
            size = self._connect().info(path)["size"] if self.is_remote else os.stat(path).st_size  # noqa: PTH116
        if size is None:
            raise UserError(f"{path}: the server does not say how large it is, so no part of it can be read")
        return int(size)

    def changed(self, name: str) -> int:
        """When a file was changed, in nanoseconds; 0 at an address, whose servers need not know it."""
        return 0 if self.is_remote else (Path(self.source) / name).stat().st_mtime_ns

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The content of a file, or the part of it from byte `start` to before `stop`.

        Raises `UserError` if the file is missing or shorter, `RunError` if it cannot be read, after three tries.
        """
        path = self.path(name)
        for pause in (*_PAUSES, None):
            try:
                content = self._read(path, start, stop)
            except RunError:
                if pause is None or not self.is_remote:
                    raise
                time.sleep(pause)
            else:
                break
        if stop is not None and len(content) != stop - start:
            way_out = "copy it again" if len(content) < stop - start else "the server ignores ranges: use another one"
            raise UserError(
                f"{path}: {len(content):,} bytes instead of {stop - start:,} from byte {start:,}: {way_out}"
            )
        return content

    def _read(self, path: str, start: int, stop: int | None) -> bytes:
        with self._errors(path):
            if self.is_remote:
                part = {} if stop is None else {"start": start, "end": stop}
                return bytes(self._connect().cat_file(path, **part))
            with Path(path).open("rb") as file:
                file.seek(start)
                return file.read(-1 if stop is None else stop - start)

    def _connect(self) -> Any:
        if self._system is None or self._process != os.getpid():
            protocol = self.source.partition("://")[0]
            package = _PACKAGES.get(protocol, "fsspec")
            for needed in ("fsspec", package):
                require(needed, self.source)
            import fsspec

            options = dict(self._options)
            if package == "aiohttp":
                import aiohttp

                options["client_kwargs"] = {
                    "timeout": aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=_TIMEOUT)
                }
            if self._process not in (0, os.getpid()):  # forked: the threads of the parent are not here
                fsspec.asyn.reset_lock()
            try:
                self._system = fsspec.filesystem(protocol, skip_instance_cache=True, **options)
            except (ValueError, ImportError) as error:
                raise UserError(f"{self.source}: {reason_of(error)}") from error
            self._process = os.getpid()
        return self._system

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except (UserError, RunError):
            raise
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file") from error
        except Exception as error:  # each kind of server has its own errors
            raise RunError(f"cannot read {path}: {reason_of(error)}") from error


class RangeFile(io.RawIOBase):
    """A file of a storage, opened for reading, of which only the parts that are asked for are read."""

    def __init__(self, storage: Storage, name: str, size: int) -> None:
        self._storage, self._name, self._size, self._position = storage, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(offset + (0, self._position, self._size)[whence], 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self._size)
        if stop <= self._position:
            return 0
        content = self._storage.read(self._name, self._position, stop)
        view[: len(content)] = content
        self._position = stop
        return len(content)

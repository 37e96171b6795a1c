"""Images per second from shards on a disk and on a web server, compared with a folder and its stored images.

python -m benchmarks.shards [IMAGES]
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import torch

import googlenet
from benchmarks.data import write_jpegs
from googlenet.data.pack import pack

_DIFFERENT = 100  # images; the others have the same pixels and another content
_SIZE, _BATCH, _ROUNDS = 224, 64, 3


def main(images: int = 2000) -> None:
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        os.environ["XDG_CACHE_HOME"] = scratch
        files = write_jpegs(Path("different"), (375, 500), _DIFFERENT)
        for label in "ab":
            Path("images", label).mkdir(parents=True)
            for number in range(images // 2):
                content = files[number % _DIFFERENT].read_bytes()
                Path("images", label, f"{number}.jpg").write_bytes(content + f"{label}{number}".encode())
        figures: dict[str, list[tuple[float, float]]] = {}

        def measure(name: str, work: Callable[[], int]) -> None:
            started, used = time.perf_counter(), time.process_time()
            count = work()
            figures.setdefault(name, []).append(
                (count / (time.perf_counter() - started), count / (time.process_time() - used))
            )

        measure("data pack", lambda: sum(pack("images", "shards").images.values()))
        on_demand = googlenet.load_dataset("images", size=_SIZE, on_demand=True).train
        measure("decode a folder into the store", lambda: images * bool(googlenet.load_dataset("images", size=_SIZE)))
        with _serving(Path("shards")) as address:
            with mock.patch.dict(os.environ, GOOGLENET_CACHE_GB="0"):  # no copy
                remote = googlenet.load_dataset(address, size=_SIZE).train
            sources = {
                "stored images of the folder": googlenet.load_dataset("images", size=_SIZE).train,
                "folder, decoded in each pass": on_demand,
                "shards on the disk": googlenet.load_dataset("shards", size=_SIZE).train,
                "shards on a web server on this machine": remote,
            }
            for epoch in range(_ROUNDS):
                for name, split in sources.items():
                    measure(name, lambda split=split, epoch=epoch: _read(split, epoch))  # type: ignore[misc]
        print("| | images/s | images per second of processor time |\n|---|---|---|")
        for name, rates in figures.items():
            wall, processor = (statistics.median(column) for column in zip(*rates, strict=True))
            print(f"| {name} | {wall:,.0f} | {processor:,.0f} |")


def _read(split: googlenet.ImageSplit, epoch: int) -> int:
    """One pass in random batches, without training: the number of images."""
    order = split.shuffled(torch.Generator().manual_seed(epoch), _BATCH, buffer=1024)
    return sum(len(images) for images, _ in split.batches(order.split(_BATCH)))


class _Ranges(SimpleHTTPRequestHandler):
    """Serves parts of files, which Python's own server does not."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, header = Path(self.translate_path(self.path)), self.headers.get("Range")
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        start, stop = 0, size
        if header is not None:
            first, _, last = header.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, size) if last else size
        self.send_response(206 if header else 200)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            self.wfile.write(file.read(stop - start))

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """The address of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: _Ranges(*given, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

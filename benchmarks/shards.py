"""Images per second from shards on a disk and on a web server, compared with a folder and its stored images.

python -m benchmarks.shards [IMAGES]
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

import googlenet
from benchmarks.data import write_jpegs

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
        packed = _command("data", "pack", "images", "--to", "shards", "--json")
        print(f"pack: {packed['images_per_second']:,.0f} images/s, {packed['bytes'] / images / 1000:.0f} kB an image")
        on_demand = googlenet.load_dataset("images", size=_SIZE, on_demand=True).train
        started = time.perf_counter()
        stored = googlenet.load_dataset("images", size=_SIZE).train
        print(f"decoding the folder into the store, once: {images / (time.perf_counter() - started):,.0f} images/s")
        with _serving(Path("shards")) as address:
            sources: dict[str, googlenet.ImageSplit] = {
                "stored images of the folder": stored,
                "folder, decoded in each pass": on_demand,
                "shards on the disk": googlenet.load_dataset("shards", size=_SIZE).train,
                "shards on a web server on this machine": googlenet.load_dataset(address, size=_SIZE).train,
            }
            rates: dict[str, list[float]] = {name: [] for name in sources}
            for epoch in range(_ROUNDS):
                for name, split in sources.items():
                    rates[name].append(_rate(split, epoch))
        for name, measured in rates.items():
            print(f"{name}: {statistics.median(measured):,.0f} images/s ({min(measured):,.0f} to {max(measured):,.0f})")


def _rate(split: googlenet.ImageSplit, epoch: int) -> float:
    """Images per second of one pass in random batches, without training."""
    started, generator = time.perf_counter(), torch.Generator().manual_seed(epoch)
    order = split.shuffled(generator, _BATCH, buffer=1024)
    count = sum(len(images) for images, _ in split.batches(order.split(_BATCH)))
    return count / (time.perf_counter() - started)


def _command(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "googlenet", *arguments]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


class _Ranges(SimpleHTTPRequestHandler):
    """Serves parts of files, as every web server but Python's own does."""

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

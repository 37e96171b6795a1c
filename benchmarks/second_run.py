"""How long a run on a folder of JPEGs takes to the end of its first step: decoding, then twice from the stored images.

python -m benchmarks.second_run [IMAGES]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import googlenet
from benchmarks.data import write_jpegs

_DIFFERENT = 100  # images; the others have the same pixels and another content


def main(images: int = 10_000) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, os.environ["XDG_CACHE_HOME"] = Path(scratch) / "images", scratch
        files = write_jpegs(Path(scratch) / "different", (375, 500), _DIFFERENT)
        for label in "ab":
            (folder / label).mkdir(parents=True)
            for number in range(images // 2):
                content = files[number % _DIFFERENT].read_bytes()
                (folder / label / f"{number}.jpg").write_bytes(content + f"{label}{number}".encode())
        time.sleep(3)  # files that have just been written are read again
        for run in range(3):
            moments: list[float] = []

            def note_time(_: Any, moments: list[float] = moments) -> None:
                moments.append(time.perf_counter())

            started = time.perf_counter()
            settings: dict[str, Any] = {"max_steps": 1, "max_test_images": 2, "plots": False}
            googlenet.train(data=folder, output=Path(scratch) / f"run-{run}", on_step=note_time, **settings)
            print(f"run {run + 1}: {moments[0] - started:.1f} s to the end of the first step")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

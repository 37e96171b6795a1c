"""Images in memory compared with files: `Predictor.predict` on paths, PIL images and arrays, and the decoding alone.

python -m benchmarks.in_memory [IMAGES] [ROUNDS]

The target: PIL images take at most 5% more than paths less their decoding. Processor time of all threads is compared,
since decoding and the network run at the same time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

import googlenet
from benchmarks.data import write_jpegs
from benchmarks.inference import SIZE
from benchmarks.measuring import Table

_SHAPE, _DIFFERENT = (375, 500), 50


def main(images: int = 1000, rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        files = write_jpegs(Path(scratch) / "images", _SHAPE, _DIFFERENT)
        files = [files[number % _DIFFERENT] for number in range(images)]
        net = googlenet.create_model("bn", num_classes=10)
        spec = googlenet.InputSpec(3, SIZE, (0.5,) * 3, (0.5,) * 3)
        net.info = googlenet.ModelInfo(net.architecture, tuple("abcdefghij"), spec)
        predictor = googlenet.Predictor(net)
        pil = [_open(file) for file in files]
        arrays = [np.asarray(image) for image in pil]
        runs: dict[str, Callable[[], Any]] = {
            "paths": lambda: predictor.predict(files),
            "opening and decoding alone": lambda: [_open(file) for file in files],
            "PIL images": lambda: predictor.predict(pil),
            "arrays": lambda: predictor.predict(arrays),
        }
        predictor.predict(files[:64])
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(rounds):  # in turn, so that whatever slows the machine down slows all of them
            for name, run in runs.items():
                started = time.perf_counter(), time.process_time()
                run()
                seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    elapsed, busy = ({name: statistics.median(pair[i] for pair in seconds[name]) for name in runs} for i in (0, 1))
    less_decoding = busy["paths"] - busy["opening and decoding alone"]
    rows = [
        {"": name, "s": elapsed[name], "processor s": busy[name], "of paths less decoding": busy[name] / less_decoding}
        for name in runs
    ]  # fmt: skip
    title = f"{images:,} JPEGs of {_SHAPE[1]}x{_SHAPE[0]}, bn at {SIZE}x{SIZE}, batch 32, medians of {rounds}"
    Console(width=120).print(Table(title, rows).to_rich())


def _open(file: Path) -> Image.Image:
    with Image.open(file) as image:
        image.load()
        return image


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

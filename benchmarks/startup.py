"""From a cold start to the first answer: whole commands, timed as a person waits for them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tables import Table
from benchmarks.timing import alternate
from googlenet.data.transforms import InputSpec
from googlenet.model.googlenet import create_model
from googlenet.weights.model_file import ModelInfo, save


def measure_startup(rounds: int) -> Iterator[Table]:
    """Each command beside what no command of Python, or of PyTorch, can be faster than."""
    with tempfile.TemporaryDirectory() as folder:
        model, picture = Path(folder) / "model.safetensors", Path(folder) / "picture.png"
        net = create_model("bn", num_classes=10, in_channels=1)
        save(net, ModelInfo(net.architecture, tuple("abcdefghij"), InputSpec(1, 28, (0.0,), (1.0,)), {}, {}), model)
        Image.fromarray(np.zeros((28, 28), np.uint8)).save(picture)
        command = (sys.executable, "-m", "googlenet")
        commands = {
            "python -c pass (the limit)": (sys.executable, "-c", "pass"),
            "googlenet --help": (*command, "--help"),
            "python -c 'import torch' (the limit)": (sys.executable, "-c", "import torch"),
            "googlenet summary": (*command, "summary"),
            "googlenet predict, first answer": (*command, "predict", str(model), str(picture)),
        }
        run = partial(subprocess.run, check=True, capture_output=True)
        timings = alternate({name: partial(run, words) for name, words in commands.items()}, rounds, warmup=1)
    rows: list[dict[str, Any]] = [
        {"command": name, "seconds": timing.median, "slowest": max(timing.seconds)} for name, timing in timings.items()
    ]
    yield Table("start-up", rows)

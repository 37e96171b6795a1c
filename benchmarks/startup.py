"""From a cold start to the first output: whole commands, timed as a user waits for them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import googlenet
from benchmarks.measuring import Table, alternate


def measure_startup(rounds: int) -> Iterator[Table]:
    """Each command next to what no Python command, or no PyTorch command, can be faster than."""
    with tempfile.TemporaryDirectory() as folder:
        model, image = Path(folder) / "model.safetensors", Path(folder) / "image.png"
        torch.manual_seed(0)
        net = googlenet.create_model("bn", num_classes=10, in_channels=1)
        spec = googlenet.InputSpec(1, 28, (0.0,), (1.0,))
        googlenet.save(net, googlenet.ModelInfo(net.architecture, tuple("0123456789"), spec), model)
        Image.fromarray(np.zeros((28, 28), np.uint8)).save(image)
        command = (sys.executable, "-m", "googlenet")
        commands = {
            "python -c pass (the limit)": (sys.executable, "-c", "pass"),
            "googlenet --help": (*command, "--help"),
            "python -c 'import torch' (the limit)": (sys.executable, "-c", "import torch"),
            "googlenet summary": (*command, "summary"),
            "googlenet predict, one image": (*command, "predict", str(model), str(image)),
        }
        run = partial(subprocess.run, check=True, capture_output=True)
        timings = alternate({name: partial(run, words) for name, words in commands.items()}, rounds, warmup=1)
    rows: list[dict[str, Any]] = [
        {"command": name, "seconds": timing.median, "slowest": max(timing.seconds)} for name, timing in timings.items()
    ]
    yield Table("start-up", rows)

"""Versions 1 and 3 on Fashion-MNIST, each trained for as much processor time, with the same settings.

    OMP_NUM_THREADS=1 python -m experiments.family.training --seconds 100 --output results.json

Each network first takes three steps to find what a step costs; the number of steps, over which the learning rate rises
and falls, follows from it. Processor time is counted instead of time on the clock, because other programs share the
machine; so PyTorch must use one thread. Images are 40x40 and the first convolution has stride 1, because version 3
needs 39 pixels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import googlenet

VARIANTS = ("bn", "v3")
SETTINGS: dict[str, Any] = {
    "image_size": 40, "stem_stride": 1, "whiten": False, "batch_size": 32, "epochs": 1000, "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.0, "dropout": 0.0, "hflip": True, "data_dir": "bundled", "precision": "fp32", "device": "cpu",
    "max_test_images": 1000, "plots": False, "auxiliary": False, "checkpoint_every": 100_000,
}  # fmt: skip


def train(variant: str, steps: int, **settings: Any) -> tuple[googlenet.TrainingResult, list[float]]:
    """The result, and the processor time at the start and after each step."""
    times = [time.process_time()]
    with tempfile.TemporaryDirectory() as folder:
        result = googlenet.train(
            output=Path(folder) / "run", on_step=lambda _: times.append(time.process_time()),
            **{**SETTINGS, "variant": variant, "max_steps": steps, **settings},
        )  # fmt: skip
    return result, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100, help="processor time of each run")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, rows = SETTINGS["image_size"], []
    for variant in VARIANTS:
        _, times = train(variant, 3, max_test_images=1)
        steps = round(arguments.seconds * 2 / (times[-1] - times[-3]))
        result, times = train(variant, steps)
        net = googlenet.create_model(variant, num_classes=10, in_channels=1, stem_stride=1, auxiliary=False)
        row = {
            "variant": variant, "steps": steps, "images": steps * SETTINGS["batch_size"],
            "seconds": times[-1] - times[1],  # without the first step, which also loads parts of PyTorch
            "test_accuracy": result.metrics["test"]["accuracy"],
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "multiply_adds": googlenet.summarize(net, (1, size, size)).multiply_adds,
        }  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
        arguments.output.write_text(json.dumps({"settings": SETTINGS, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()

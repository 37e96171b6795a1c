"""Peak memory of a training step and of inference, each in a process of its own, and the size of the model file."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference import eager_inference
from benchmarks.peak_memory import in_own_process, measurable, peak_of
from benchmarks.tables import Table
from benchmarks.training import training_steps
from googlenet.data.transforms import InputSpec
from googlenet.device import keep_freed_memory
from googlenet.model.googlenet import create_model
from googlenet.weights.model_file import ModelInfo, save

_SIZE = 224
_BATCH = 64
_FORMS = ("plain", "googlenet")


def measure_memory(device: torch.device) -> Iterator[Table]:
    """Memory above that of the imports, where it can be known: resident on a CPU, the allocator's on a GPU."""
    for what in ("training step", "inference") if measurable(device) else ():
        peaks = {form: in_own_process("benchmarks.memory", what, form, str(device)) for form in _FORMS}
        rows: list[dict[str, Any]] = [
            {"form": form, "peak MiB": peak / 2**20, "times plain": peak / peaks["plain"]}
            for form, peak in peaks.items()
        ]
        yield Table(f"peak memory: {what}, tutorial, {_SIZE}x{_SIZE}, batch {_BATCH}", rows)
    yield Table("file of the tutorial's network, 10 classes", [_file_sizes()])


def _file_sizes() -> dict[str, Any]:
    net = create_model("tutorial", num_classes=10, in_channels=1)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "model.safetensors", Path(folder) / "model.pt"
        info = ModelInfo(net.architecture, tuple("0123456789"), InputSpec(1, _SIZE, (0.0,), (1.0,)), {}, {})
        save(net, info, ours)
        torch.save(net.state_dict(), theirs)
        return {
            "model.safetensors, MiB": ours.stat().st_size / 2**20,
            "torch.save, MiB": theirs.stat().st_size / 2**20,
        }


def _prepared(what: str, form: str, device: torch.device) -> Callable[[], object]:
    net = create_model("tutorial", num_classes=10, in_channels=1, initialization="he").to(device)
    images = torch.rand(_BATCH, 1, _SIZE, _SIZE, device=device)
    if what == "inference":
        return eager_inference(net, images)[form][0]
    if form == "googlenet" and device.type == "cpu":
        keep_freed_memory()
    return training_steps(net, images, torch.arange(_BATCH, device=device) % 10)[form][0]


if __name__ == "__main__":
    where = torch.device(sys.argv[3])
    print(peak_of(partial(_prepared, sys.argv[1], sys.argv[2], where), where))

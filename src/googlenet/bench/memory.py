"""Peak memory of a training step and of inference, each in a process of its own, and the size of the model file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from googlenet.bench.report import Table
from googlenet.errors import RunError

_SIZE = 224
_BATCH = 64
_FORMS = ("plain", "googlenet")


def measure_memory(device: torch.device) -> Iterator[Table]:
    """Memory above that of the imports: resident on a CPU, the allocator's on a GPU."""
    for what in ("training step", "inference"):
        peaks = {form: _peak_in_own_process(what, form, device) for form in _FORMS}
        rows: list[dict[str, Any]] = [
            {"form": form, "peak MiB": peak / 2**20, "times plain": peak / peaks["plain"]}
            for form, peak in peaks.items()
        ]
        yield Table(f"peak memory: {what}, tutorial, {_SIZE}x{_SIZE}, batch {_BATCH}", rows)
    yield Table("file of the tutorial's network, 10 classes", [_file_sizes()])


def _file_sizes() -> dict[str, Any]:
    from googlenet.artifact.model_file import ModelInfo, save
    from googlenet.data.input_spec import InputSpec
    from googlenet.network.googlenet import create_model

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


def _peak_in_own_process(what: str, form: str, device: torch.device) -> int:
    child = [sys.executable, "-m", "googlenet.bench.memory", what, form, str(device)]
    done = subprocess.run(child, capture_output=True, text=True)
    if done.returncode != 0:
        raise RunError(f"measuring the memory of {what}, {form}, failed: {done.stderr.strip().splitlines()[-1:]}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def _peak(what: str, form: str, device: torch.device) -> int:
    """Bytes at the most, above those after the imports."""
    from googlenet.bench.inference import eager_inference
    from googlenet.bench.training import training_steps
    from googlenet.machine import keep_freed_memory, memory_now, memory_peak
    from googlenet.network.googlenet import create_model

    before = memory_now()
    net = create_model("tutorial", num_classes=10, in_channels=1, initialization="he").to(device)
    images = torch.rand(_BATCH, 1, _SIZE, _SIZE, device=device)
    if what == "training step":
        if form == "googlenet" and device.type == "cpu":
            keep_freed_memory()
        step = training_steps(net, images, torch.arange(_BATCH, device=device) % 10)[form][0]
    else:
        step = eager_inference(net, images)[form][0]
    for _ in range(3):
        step()
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else memory_peak() - before


if __name__ == "__main__":
    print(_peak(sys.argv[1], sys.argv[2], torch.device(sys.argv[3])))

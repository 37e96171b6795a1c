"""Peak memory of training and of inference, each in its own process, and the size of the model file."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import googlenet
from benchmarks.inference import SIZE, ours, plain, save_network
from benchmarks.measuring import Table, can_measure_memory, in_own_process, peak_memory
from benchmarks.training import run_short, training_step

_BATCH_SIZE = 64
_METHODS = ("plain", "googlenet")


def measure_memory(device: torch.device) -> Iterator[Table]:
    """Memory above that of the imports: resident on a CPU, the allocator's on a GPU."""
    for work in ("training", "inference") if can_measure_memory(device) else ():
        peaks = {method: in_own_process("benchmarks.memory", work, method, str(device)) for method in _METHODS}
        rows: list[dict[str, Any]] = [
            {"method": method, "peak MiB": peak / 2**20, "times plain": peak / peaks["plain"]}
            for method, peak in peaks.items()
        ]
        note = "googlenet: a whole short run, with its data" if work == "training" else ""
        yield Table(f"peak memory: {work}, tutorial, {SIZE}x{SIZE}, batch {_BATCH_SIZE}", rows, note)
    yield Table("file of the tutorial's network, 10 classes", [_file_sizes()])


def _file_sizes() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model, pickle = save_network(Path(folder) / "model.safetensors"), Path(folder) / "model.pt"
        torch.save(googlenet.load(model).state_dict(), pickle)
        return {
            "model.safetensors, MiB": model.stat().st_size / 2**20,
            "torch.save, MiB": pickle.stat().st_size / 2**20,
        }


def _training(method: str, device: torch.device, batch_size: int = _BATCH_SIZE, size: int = SIZE) -> Callable[[], Any]:
    net = googlenet.create_model("tutorial", num_classes=10, in_channels=1, initialization="he")
    if method == "googlenet":
        return lambda: run_short(copy.deepcopy(net), 2, None, batch_size, size, device)
    images, labels = torch.rand(batch_size, 1, size, size, device=device), torch.arange(batch_size, device=device) % 10
    return training_step(net.to(device), images, labels, "fp32")


def _inference(method: str, device: torch.device, batch_size: int = _BATCH_SIZE, size: int = SIZE) -> Callable[[], Any]:
    images = torch.randint(0, 256, (batch_size, 1, size, size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        model = save_network(Path(folder) / "model.safetensors")
        return (plain if method == "plain" else ours)(model, images, device).run


if __name__ == "__main__":
    where = torch.device(sys.argv[3])
    prepare = _training if sys.argv[1] == "training" else _inference
    prepare(sys.argv[2], where, batch_size=4, size=64)()  # imports everything that the measured calls import
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    print(peak_memory(lambda: prepare(sys.argv[2], where), where))

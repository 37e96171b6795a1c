"""A training step as the tutorial's code does it against one as `googlenet train` does it, in turn in one process.

Plain: float32, contiguous memory, every layer as PyTorch computes it. Ours: channels-last, bf16 where there is bf16,
the 1x1 convolutions of a block merged. Forward, loss, backward and update each time; the median of the steps counts.

usage: python benchmarks/training_step.py [--variant tutorial] [--size 224] [--batch 16] [--steps 9] [--device auto]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from googlenet import create_model
from googlenet.machine import autocast, describe, resolve_device, resolve_precision
from googlenet.network import fused


def step_of(net: torch.nn.Module, batch: torch.Tensor, labels: torch.Tensor, precision: str) -> Callable[[], None]:
    """One whole training step, waited for."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=precision != "fp32")

    def step() -> None:
        with autocast(batch.device, precision):
            logits = net(batch)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if batch.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(variant: str, size: int, batch: int, steps: int, device: torch.device) -> dict[str, Any]:
    torch.manual_seed(0)
    net = create_model(variant, num_classes=10, in_channels=1, auxiliary=False, initialization="he").to(device).train()
    images = torch.rand(batch, 1, size, size, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    plain = step_of(copy.deepcopy(net), images, labels, "fp32")
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = resolve_precision("auto", device)
    ours = step_of(net, images.contiguous(memory_format=torch.channels_last), labels, precision)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(steps + 2):
        with fused.plain():
            first = timed(plain)
        second = timed(ours)
        if turn >= 2:  # the first two warm up
            seconds["plain"].append(first)
            seconds["ours"].append(second)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "variant": variant,
        "size": size,
        "batch": batch,
        "steps": steps,
        "precision": precision,
        "images_per_second": {name: round(batch / value, 1) for name, value in median.items()},
        "spread": {name: [round(batch / max(v), 1), round(batch / min(v), 1)] for name, v in seconds.items()},
        "ratio": round(median["plain"] / median["ours"], 2),
        "machine": describe(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="tutorial")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    given = parser.parse_args()
    found = measure(given.variant, given.size, given.batch, given.steps, resolve_device(given.device))
    table = Table(
        title=f"{given.variant}, {given.size}x{given.size}, batch {given.batch}, {found['machine']['processor']}"
    )
    for heading in ("step", "images/s", "slowest to fastest"):
        table.add_column(heading)
    for name in ("plain", "ours"):
        low, high = found["spread"][name]
        table.add_row(name, str(found["images_per_second"][name]), f"{low} to {high}")
    Console().print(table, f"ours is {found['ratio']} times as fast ({found['precision']})")
    if given.output:
        given.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

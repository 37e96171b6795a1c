"""Training on ImageNet with 1, 8, 64 and 1,000 GPUs: time, memory, network and input rate, calculated from what
`python -m benchmarks` measured on one GPU and one core. Nothing here is measured on several GPUs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import googlenet

RESULTS = Path(__file__).with_name("results")
GPUS = (1, 8, 64, 1000)
PER_HOST = 8  # GPUs
IMAGES, TRAIN_BYTES = 1_281_167, 147_897_477_120  # of ILSVRC2012_img_train.tar, whose headers are under 1%
STORED = 256 * 256 * 3  # bytes of a decoded image, for the recipe's image_size / crop_pct


@dataclass(frozen=True)
class Measured:
    """What the tables below are calculated from."""

    rates: dict[int, float]  # training images/s of one GPU by batch size, 224x224
    gpu: str
    decoded: dict[str, float]  # images/s of one core, JPEG of 500x375 to a batch, by processor
    stored: dict[str, float]  # the same for images that are decoded and stored
    cpu_memory: float  # MiB of a training step per image at batch 64
    parameters: int  # of the recipe's network

    def rate(self, batch: float) -> float:
        """Images/s of one GPU: that of the largest measured batch up to this one. A step with fewer images than in the
        smallest takes as long as the smallest."""
        smallest = min(self.rates)
        if batch < smallest:
            return self.rates[smallest] * batch / smallest
        return self.rates[max(size for size in self.rates if size <= batch)]


def read_measured() -> Measured:
    """From the results in `benchmarks/results`."""

    def rows(results: dict[str, Any], measure: str, title: str) -> list[dict[str, Any]]:
        return next(table["rows"] for table in results["measures"][measure] if table["title"] == title)

    def value(table: list[dict[str, Any]], name: str, unit: str = "images/s") -> float:
        return float(next(row[unit] for row in table if name in row.values()))

    gpu, zen5, zen4 = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("gpu", "cpu", "cpu-zen4"))
    title = "training step: tutorial, 224x224, batch {}"
    rates = {size: value(rows(gpu, "training", title.format(size)), "googlenet") for size in (16, 64, 128)}
    jpegs = "data path on one core: a folder of 500x375 JPEGs to batches at 224x224"
    first, others = "googlenet, first epoch (decodes)", "googlenet, every other epoch"
    tables = {"Zen 5": rows(zen5, "data", jpegs), "Zen 4": rows(zen4, "data", jpegs)}
    memory = rows(zen5, "memory", "peak memory: training step, tutorial, 224x224, batch 64")
    net = googlenet.create_model(googlenet.load_recipe("imagenet").variant)
    return Measured(
        rates, gpu["machine"]["device_name"], {name: value(table, first) for name, table in tables.items()},
        {name: value(table, others) for name, table in tables.items()}, value(memory, "googlenet", "peak MiB") / 64,
        sum(parameter.numel() for parameter in net.parameters()),
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A run on some GPUs."""

    measured: Measured
    gpus: int
    batch: int  # images per step, over all GPUs
    epochs: float

    @property
    def share(self) -> float:
        """Images per GPU and step."""
        return self.batch / self.gpus

    @property
    def rate(self) -> float:
        """Images/s of all GPUs together, if they never wait for each other or for images."""
        return self.measured.rate(self.share) * self.gpus

    @property
    def steps(self) -> int:
        return round(math.ceil(IMAGES / self.batch) * self.epochs)

    @property
    def hours(self) -> float:
        return IMAGES * self.epochs / self.rate / 3600

    @property
    def memory(self) -> float:
        """GiB of activations in a GPU."""
        return self.share * self.measured.cpu_memory / 1024

    @property
    def gradients(self) -> float:
        """Bytes/s that each GPU sends if every step takes no longer: a ring sends 2 (n - 1) / n times the gradient."""
        return 2 * (self.gpus - 1) / self.gpus * 4 * self.measured.parameters * self.rate / self.batch

    @property
    def compressed(self) -> float:
        """Bytes/s of JPEGs, of all GPUs."""
        return self.rate * TRAIN_BYTES / IMAGES

    @property
    def hosts(self) -> int:
        return math.ceil(self.gpus / PER_HOST)


def cases(measured: Measured, epochs: float) -> list[Case]:
    """With the recipe's batch of 1,024; and with 128 images for each GPU, where a step keeps it busy."""
    batch = googlenet.load_recipe("imagenet").batch_size
    fixed = [Case(measured, gpus, batch, epochs) for gpus in GPUS]
    return fixed + [Case(measured, gpus, 128 * gpus, epochs) for gpus in GPUS if gpus * 128 > batch]


def _short(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def render(measured: Measured, epochs: float) -> str:
    """The tables of docs/scaling.md."""
    everything = cases(measured, epochs)
    time = [
        (f"{case.gpus:,}", f"{case.batch:,}", f"{case.share:,.4g}", f"{case.rate:,.0f}", f"{case.steps:,}",
         _short(case.hours), f"{case.memory:.1f}", f"{case.gradients / 1e9:.2f}")
        for case in everything
    ]  # fmt: skip
    data = [
        (f"{case.gpus:,}", f"{case.batch:,}", f"{case.compressed / 1e6:,.0f}", f"{case.rate * STORED / 1e6:,.0f}",
         _cores(case, measured.decoded), _cores(case, measured.stored))
        for case in everything
    ]  # fmt: skip
    rates = ", ".join(f"{rate:,.0f} images/s at batch {size}" for size, rate in measured.rates.items())
    cores = ", ".join(
        f"{name} {measured.decoded[name]:,.0f} JPEGs/s or {measured.stored[name]:,.0f} stored images/s"
        for name in measured.decoded
    )
    lines = [
        *_table(
            ("GPUs", "batch", "of a GPU", "images/s", "steps", f"{epochs:g} epochs", "activations, GiB per GPU",
             "gradients, GB/s per GPU"), time,
        ), "",
        *_table(
            ("GPUs", "batch", "JPEGs, MB/s", "stored pixels, MB/s", "cores per host to decode",
             "cores per host with stored pixels"), data,
        ), "",
        f"{measured.gpu}: {rates}. One core: {cores}. Memory: {measured.cpu_memory:.0f} MiB per image. "
        f"Parameters: {measured.parameters:,}.",
    ]  # fmt: skip
    return "\n".join(lines)


def _cores(case: Case, rates: Mapping[str, float]) -> str:
    fewest, most = (math.ceil(case.rate / case.hosts / rate) for rate in (max(rates.values()), min(rates.values())))
    return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    default = googlenet.load_recipe("imagenet").epochs
    parser.add_argument("--epochs", type=float, default=default, help=f"default: {default:g}, as the recipe imagenet")
    print(render(read_measured(), parser.parse_args(words).epochs))


if __name__ == "__main__":
    main()

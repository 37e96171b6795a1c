"""From the disk to batches on the device: Fashion-MNIST, and a folder of JPEGs at 224x224."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import googlenet
from benchmarks.measuring import Table, Timing, alternate, synchronize

_BATCH_SIZE = 128
_IMAGES = 256  # with fewer, the fixed cost of a run, such as its file index, would weigh more than in a real folder
_EPOCHS = 10
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHAPES = {"500x375": (375, 500), "1600x1200": (1200, 1600)}


def measure_data(device: torch.device, rounds: int) -> Iterator[Table]:
    """Images per second on one core."""
    with one_core():
        yield _fashion_mnist(device, rounds)
        for name, shape in _SHAPES.items():
            yield _folder_of_jpegs(name, shape, device, rounds)


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one core: one PyTorch thread, and other threads share that core."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


class OnePixel(nn.Module):
    """The smallest network that can be trained: (N, C, H, W) -> (N, num_classes), from one pixel. What is left of a
    training step is the data path."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images[:, :, 0, 0])


def train_rate(steps: int, batch_size: int, device: torch.device, *, channels: int, **settings: Any) -> float:
    """Images per second that `googlenet.train` brings to a network, the median of this many steps. An epoch must have
    three or more: between epochs it evaluates."""
    moments: list[float] = []

    def note_time(_trainer: googlenet.Trainer) -> None:
        synchronize(device)
        moments.append(time.perf_counter())

    settings |= {"batch_size": batch_size, "max_steps": steps + 1, "epochs": 1000, "device": str(device)}
    settings |= {"precision": "fp32", "optimizer": "sgd", "hflip": True, "plots": False, "max_test_images": 1}
    with tempfile.TemporaryDirectory() as folder:
        net = OnePixel(channels, settings.pop("num_classes"))
        googlenet.train("fast", model=net, output=Path(folder) / "run", on_step=note_time, **settings)
    return batch_size / statistics.median(after - before for before, after in pairwise(moments))


def _fashion_mnist(device: torch.device, rounds: int) -> Table:
    split = googlenet.load_dataset("fashion-mnist", "bundled").train
    part = split.subset(torch.arange(4096))
    rows: list[dict[str, Any]] = []
    for size in (28, 224):
        loader = DataLoader(_OneByOne(part, size), batch_size=_BATCH_SIZE, shuffle=True)
        settings: dict[str, Any] = {"data_dir": "bundled", "image_size": size, "channels": 1, "num_classes": 10}
        one_by_one, ours = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            for images, _labels in loader:
                images.to(device)
            one_by_one.append((time.perf_counter() - started) / len(part))
            ours.append(1 / train_rate(len(part) // _BATCH_SIZE, _BATCH_SIZE, device, **settings))
        rows.append({"path": f"{size}x{size}, one image at a time", **Timing(tuple(one_by_one)).rates(1)})
        rows.append({"path": f"{size}x{size}, googlenet", **Timing(tuple(ours)).rates(1)})
    note = "one image at a time: resized, scaled and collated as by the tutorial's transforms"
    return Table(f"data path on one core: Fashion-MNIST in memory to batches of {_BATCH_SIZE}", rows, note)


def _folder_of_jpegs(name: str, shape: tuple[int, int], device: torch.device, rounds: int) -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = [file for label in "ab" for file in write_jpegs(folder / "train" / label, shape, _IMAGES // 2)]
        for label in "ab":
            write_jpegs(folder / "test" / label, shape, 1)
        runs: dict[str, Callable[[], object]] = {
            "torchvision's recipe with Pillow": partial(_torchvision_epoch, files, device),
            "googlenet, decoding": partial(_decode_anew, folder),
        }
        timings = alternate(runs, rounds, device, warmup=1)
        settings: dict[str, Any] = {"data": folder, "image_size": 224, "crop_scale": 0.08}
        rates = [train_rate(20, 16, device, channels=3, num_classes=2, **settings) for _ in range(rounds)]
        kib = sum(file.stat().st_size for file in files) / len(files) / 1024
    timings["googlenet, an epoch from memory"] = Timing(tuple(len(files) / rate for rate in rates))
    theirs, decoding, epoch = (timing.median for timing in timings.values())
    rows: list[dict[str, Any]] = [
        {"path": path, **timing.rates(len(files)), "times torchvision's": theirs / timing.median}
        for path, timing in timings.items()
    ]
    run = decoding / _EPOCHS + epoch
    total = {"images/s": len(files) / run, "slowest": "", "fastest": "", "times torchvision's": theirs / run}
    rows.append({"path": f"googlenet, a run of {_EPOCHS} epochs", **total})
    note = f"{len(files)} JPEGs of {kib:,.0f} KiB each"
    return Table(f"data path on one core: a folder of {name} JPEGs to batches at 224x224", rows, note)


def _decode_anew(folder: Path) -> None:
    """As in the first run on a folder: with an empty cache."""
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, XDG_CACHE_HOME=cache):
        googlenet.load_dataset(folder, size=224, splits=("train",))


def _torchvision_epoch(files: Sequence[Path], device: torch.device) -> list[Tensor]:
    loader = DataLoader(_TorchvisionRecipe(files), batch_size=32, shuffle=True)
    return [images.to(device) for images in loader]


class _OneByOne(Dataset[tuple[Tensor, Tensor]]):
    """One image at a time, as the tutorial's transforms hand them out: float (C, size, size)."""

    def __init__(self, split: googlenet.ImageSplit, size: int) -> None:
        self.split, self.size = split, size

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.split[index]
        pixels = F.interpolate(image[None] / 255, (self.size, self.size), mode="bilinear", antialias=True)
        return pixels[0], label


class _TorchvisionRecipe(Dataset[Tensor]):
    """What torchvision's `ImageFolder` and the transforms of its reference script do with an image, through Pillow.

    Written out because torchvision cannot be imported next to every build of PyTorch: open, convert, random resized
    crop, flip, to a float tensor, normalize.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.mean, self.std = torch.tensor(_MEAN)[:, None, None], torch.tensor(_STD)[:, None, None]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with self.files[index].open("rb") as file:
            image = Image.open(file).convert("RGB")
        side = (image.width * image.height * float(torch.empty(1).uniform_(0.08, 1))) ** 0.5
        width, height = min(round(side), image.width), min(round(side), image.height)
        left = int(torch.randint(0, image.width - width + 1, (1,)))
        top = int(torch.randint(0, image.height - height + 1, (1,)))
        image = image.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BILINEAR)
        if float(torch.rand(1)) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.float().div(255).sub(self.mean).div(self.std)


def write_jpegs(folder: Path, shape: tuple[int, int], count: int) -> list[Path]:
    """JPEGs that take as long to decode as photographs: noise whose spectrum falls with frequency like nature's."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(list("/".join(folder.parts[-2:]).encode()))  # equal images would be decoded once
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]
    spectrum = 1 / np.maximum(np.hypot(rows, columns), 1 / max(shape))
    files = []
    for number in range(count):
        noise = np.fft.fft2(random.standard_normal((3, *shape)))
        light = np.fft.ifft2(noise * spectrum).real
        light = light[:1] + 0.25 * light  # colors vary less than brightness
        light = 128 + 48 * light / light.std()
        files.append(folder / f"{number}.jpg")
        pixels = np.moveaxis(light, 0, -1).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(files[-1], quality=90)
    return files

"""From the disk to a batch on the device: Fashion-MNIST, and a folder of JPEGs at 224."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.tables import Table
from benchmarks.timing import alternate
from googlenet.data.dataset import ImageSplit
from googlenet.data.decode import decode_images
from googlenet.data.loader import ShuffledBatches, load_dataset, training_loader
from googlenet.data.transforms import Augmentation, InputSpec
from googlenet.device import keep_freed_memory

_PICTURES = 64
_BATCH = 128
_EPOCHS = 10
_IMAGENET = InputSpec(3, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SHAPES = {"500x375": (375, 500), "1600x1200": (1200, 1600)}


def measure_data_path(device: torch.device, rounds: int) -> Iterator[Table]:
    """Images a second on one core: one thread, no other process beside it."""
    if device.type == "cpu":
        keep_freed_memory()  # as training does; which serves every contender
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield _fashion_mnist(device, rounds)
        for name, shape in _SHAPES.items():
            with tempfile.TemporaryDirectory() as folder:
                yield _folder_of_jpegs(name, make_photographs(Path(folder), shape, _PICTURES), device, rounds)
    finally:
        torch.set_num_threads(threads)


def _fashion_mnist(device: torch.device, rounds: int) -> Table:
    split = load_dataset("fashion-mnist").train.subset(torch.arange(4096))
    one_by_one = DataLoader(_OneByOne(split), batch_size=_BATCH, shuffle=True)
    rows = []
    candidates: dict[str, Callable[[], object]] = {}
    for size in (28, 224):
        spec = InputSpec(1, size, (0.286,), (0.353,))
        candidates[f"{size}x{size}, each image by itself"] = partial(_resized_one_by_one, one_by_one, spec, device)
        candidates[f"{size}x{size}, googlenet"] = partial(_ours, split, spec, device)
    for name, timing in alternate(candidates, rounds, device, warmup=1).items():
        rows.append({"path": name, **timing.rates(len(split))})
    note = "each image by itself: an item an image, resized, scaled and collated, as the tutorial's transforms do it"
    return Table("data path on one core: Fashion-MNIST in memory to batches of 128", rows, note)


def _folder_of_jpegs(name: str, paths: Sequence[Path], device: torch.device, rounds: int) -> Table:
    candidates = {
        "torchvision's recipe with Pillow": lambda: [
            batch.to(device) for batch in DataLoader(_TorchvisionRecipe(paths), batch_size=32, shuffle=True)
        ],
        "googlenet, first epoch (decodes)": lambda: _ours(_decoded(paths), _IMAGENET, device, crop_scale=0.08),
    }
    decoded = _decoded(paths)
    candidates["googlenet, every other epoch"] = lambda: _ours(decoded, _IMAGENET, device, crop_scale=0.08)
    timings = alternate(candidates, rounds, device, warmup=1)
    theirs, first, other = (timing.median for timing in timings.values())
    rows: list[dict[str, Any]] = [
        {"path": path, **timing.rates(len(paths)), "times torchvision's": theirs / timing.median}
        for path, timing in timings.items()
    ]
    run = (first + (_EPOCHS - 1) * other) / _EPOCHS
    rows.append(
        {
            "path": f"googlenet, a run of {_EPOCHS} epochs",
            "images/s": len(paths) / run,
            "slowest": "",
            "fastest": "",
            "times torchvision's": theirs / run,
        }
    )
    note = f"{len(paths)} JPEGs of {sum(path.stat().st_size for path in paths) / len(paths) / 1024:,.0f} KiB each"
    return Table(f"data path on one core: a folder of {name} JPEGs to batches at 224x224", rows, note)


def _decoded(paths: Sequence[Path]) -> ImageSplit:
    images = decode_images(paths, 3, 224, threads=1).images
    return ImageSplit(images, torch.zeros(len(images), dtype=torch.int64))


def _ours(split: ImageSplit, spec: InputSpec, device: torch.device, *, crop_scale: float = 1.0) -> list[Tensor]:
    """What a step of training does before the forward pass: mirrored, and cropped where torchvision's recipe does."""
    augmentation = Augmentation(flip=True, crop_scale=crop_scale)
    loader = training_loader(split, ShuffledBatches(len(split), min(_BATCH, len(split)), 0), 0, pin=False)
    return [spec.prepare(augmentation(images.to(device))) for images, _ in loader]


def _resized_one_by_one(
    loader: DataLoader[tuple[Tensor, Tensor]], spec: InputSpec, device: torch.device
) -> list[Tensor]:
    return [torch.cat([spec.prepare(image[None]) for image in images]).to(device) for images, _ in loader]


class _OneByOne(Dataset[tuple[Tensor, Tensor]]):
    """The same images without the method that hands out whole batches."""

    def __init__(self, split: ImageSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.split[index]


class _TorchvisionRecipe(Dataset[Tensor]):
    """What torchvision's `ImageFolder` and its reference script's transforms do with a picture, through Pillow.

    Written out here because torchvision cannot be imported beside every build of PyTorch: open, convert, a random
    resized crop, a flip, to a float tensor, normalize.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.mean, self.std = torch.tensor(_IMAGENET.mean)[:, None, None], torch.tensor(_IMAGENET.std)[:, None, None]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with self.paths[index].open("rb") as file:
            picture = Image.open(file).convert("RGB")
        side = (picture.width * picture.height * float(torch.empty(1).uniform_(0.08, 1))) ** 0.5
        width, height = min(round(side), picture.width), min(round(side), picture.height)
        left = int(torch.randint(0, picture.width - width + 1, (1,)))
        top = int(torch.randint(0, picture.height - height + 1, (1,)))
        picture = picture.crop((left, top, left + width, top + height))
        picture = picture.resize((224, 224), Image.Resampling.BILINEAR)
        if float(torch.rand(1)) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return pixels.float().div(255).sub(self.mean).div(self.std)


def make_photographs(folder: Path, shape: tuple[int, int], count: int) -> list[Path]:
    """JPEGs that cost as much to decode as photographs: their spectrum falls with frequency as that of nature does."""
    random = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]
    fall = 1 / np.maximum(np.hypot(rows, columns), 1 / max(shape))
    paths = []
    for number in range(count):
        noise = np.fft.fft2(random.standard_normal((3, *shape)))
        light = np.fft.ifft2(noise * fall).real
        light = light[:1] + 0.25 * light  # colors differ less than brightness does
        light = 128 + 48 * light / light.std()
        paths.append(folder / f"{number}.jpg")
        pixels = np.moveaxis(light, 0, -1).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths

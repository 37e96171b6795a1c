"""A trained network on picture files: decoded, made to fit what the network was trained on, classified in batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet.artifact.model_file import description, load
from googlenet.data.decode import SUFFIXES, decode_image
from googlenet.errors import UserError
from googlenet.machine import autocast, resolve_device, resolve_precision
from googlenet.network.googlenet import GoogLeNet


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, or why there are none."""

    file: str
    classes: tuple[str, ...] = ()
    """The likeliest first."""
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Predictor:
    """Classifies picture files with one model.

    Args:
        model: a model file, or a network that `googlenet.load` or `googlenet.import_weights` returned.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto, fp32, bf16, fp16; of the computation.

    Raises:
        UserError: for a model that does not say what its input is, or a device that is not there.
    """

    def __init__(self, model: str | Path | GoogLeNet, *, device: str = "auto", precision: str = "auto") -> None:
        net = model if isinstance(model, GoogLeNet) else load(model)
        self.info = description(net)
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.net = net.eval().to(self.device)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def predict(self, files: Iterable[str | Path], *, top: int = 3, batch_size: int = 32) -> Iterator[Prediction]:
        """One prediction a file, in order. A file that cannot be read has its `error` instead of classes.

        Raises:
            UserError: for a `top` or `batch_size` below 1.
        """
        if top < 1 or batch_size < 1:
            raise UserError(f"top and batch_size are 1 or more, not {top} and {batch_size}")
        return self._predict(files, min(top, len(self.info.classes)), batch_size)

    def _predict(self, files: Iterable[str | Path], top: int, batch_size: int) -> Iterator[Prediction]:
        remaining = iter(files)
        while batch := tuple(islice(remaining, batch_size)):
            read = [self._read(file) for file in batch]
            images = [image for image in read if isinstance(image, Tensor)]
            answers = self._classify(torch.cat(images), top) if images else iter(())
            for file, image in zip(batch, read, strict=True):
                yield (
                    Prediction(str(file), error=image) if isinstance(image, str) else self._named(file, *next(answers))
                )

    def _read(self, file: str | Path) -> Tensor | str:
        """The network's input for one file, (1, C, H, W), or what is wrong with the file."""
        try:
            return self.info.input.prepare(decode_image(file, self.info.input.channels)[None])
        except UserError as error:
            return str(error)

    @torch.inference_mode()
    def _classify(self, images: Tensor, top: int) -> Iterator[tuple[Sequence[float], Sequence[int]]]:
        inputs = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            logits = self.net(inputs)
        best = logits.float().softmax(dim=1).topk(top, dim=1)
        return zip(best.values.tolist(), best.indices.tolist(), strict=True)

    def _named(self, file: str | Path, probabilities: Sequence[float], indices: Sequence[int]) -> Prediction:
        return Prediction(str(file), tuple(self.info.classes[index] for index in indices), tuple(probabilities))


def picture_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files named, and those in the folders named that have a picture's suffix, sorted.

    Raises:
        UserError: for a folder without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            Path(folder) / name
            for folder, _, names in os.walk(path)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES
        ]
        if not inside:
            raise UserError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        found += sorted(inside)
    return found

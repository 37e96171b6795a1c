"""Real pictures to calibrate and to verify an exported file with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from googlenet.artifact.model_file import ModelInfo
from googlenet.data.decode import decode_image, picture_files
from googlenet.data.pictures import read_pictures
from googlenet.errors import UserError
from googlenet.evaluation.judged_data import judged_data

CALIBRATION_IMAGES = 300
VERIFIED_IMAGES = 64


@dataclass(frozen=True)
class Sample:
    """Real pictures, the same ones at each call."""

    pictures: list[Tensor]
    """As the model's caller has them: uint8 (N, C, H, W), one size each."""
    calibration: Tensor
    """More of them, each made square as the model's input is: uint8 (N, C, side, side)."""
    test_images: Tensor | None = None
    """uint8 (N, C, H, W), kept for judging alone; None where the pictures have no labels."""
    test_labels: Tensor | None = None
    """int64 (N,)."""


def take_sample(info: ModelInfo, folder: Path | None, data_dir: str | None = None) -> Sample:
    """From a folder of pictures, without labels; where none is named, from the data that the model was trained on.

    Raises:
        UserError: where there are no pictures, or one cannot be read.
    """
    if folder is not None:
        files = list(picture_files([folder]))
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
        chosen = [files[number] for number in order[:CALIBRATION_IMAGES].tolist()]
        spec = info.input
        square = read_pictures(chosen, spec.channels, spec.decoded_size, resize=spec.resize)
        for error in square.errors.values():
            raise UserError(error)
        # whole pictures, of which each may take a hundred megabytes, only as many as show that sizes do not matter
        return Sample([decode_image(file, spec.channels)[None] for file in chosen[:VERIFIED_IMAGES]], square.images)
    if "data" not in info.recipe:
        raise UserError("the model file does not say what it was trained on: name a folder of pictures: --calibration")
    data = judged_data(info, data_dir=data_dir)
    if data.classes != info.classes:
        raise UserError(f"{data.name} has other classes than the model; name a folder of pictures: --calibration")
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    chosen_images = data.train.images[order[:CALIBRATION_IMAGES]]
    return Sample([chosen_images[:VERIFIED_IMAGES]], chosen_images, data.test.images, data.test.labels)

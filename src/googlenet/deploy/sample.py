"""Real pictures to calibrate and to verify an exported file with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from googlenet.artifact.model_file import ModelInfo
from googlenet.data.decode import decode_image, picture_files
from googlenet.data.input_spec import InputSpec
from googlenet.errors import UserError
from googlenet.evaluation.judged_data import judged_data

CALIBRATION_IMAGES = 300


@dataclass(frozen=True)
class Sample:
    """Pictures as the model's caller has them."""

    pictures: list[Tensor]
    """uint8 (N, C, H, W), one size each; enough of them to calibrate with."""
    test_images: Tensor | None = None
    """uint8 (N, C, H, W), kept for judging alone; None where the pictures have no labels."""
    test_labels: Tensor | None = None
    """int64 (N,)."""

    def prepared(self, spec: InputSpec) -> list[Tensor]:
        """The pictures as the network takes them, float32 (N, C, size, size), in batches."""
        return [spec.prepare(batch) for batch in self.pictures]


def take_sample(info: ModelInfo, folder: Path | None, data_dir: str | None = None) -> Sample:
    """From a folder of pictures, without labels; where none is named, from the data that the model was trained on.

    Raises:
        UserError: where there are no pictures, or one cannot be read.
    """
    if folder is not None:
        files = list(picture_files([folder]))
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
        chosen = [files[number] for number in order[:CALIBRATION_IMAGES].tolist()]
        return Sample([decode_image(file, info.input.channels)[None] for file in chosen])
    if "data" not in info.recipe:
        raise UserError("the model file does not say what it was trained on: name a folder of pictures: --calibration")
    data = judged_data(info, data_dir=data_dir)
    if data.classes != info.classes:
        raise UserError(f"{data.name} has other classes than the model; name a folder of pictures: --calibration")
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    chosen_images = data.train.images[order[:CALIBRATION_IMAGES]]
    return Sample(list(chosen_images.split(10)), data.test.images, data.test.labels)

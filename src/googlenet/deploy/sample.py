"""Real pictures to calibrate and to verify an exported file with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    square: Tensor
    """Each made square as the model's input is: uint8 (N, C, side, side); enough of them to calibrate with."""
    files: tuple[Path, ...] = ()
    """The same as they lie on the disk; none where the data are no picture files."""
    test_images: Tensor | None = None
    """uint8 (N, C, H, W), kept for judging alone; None where the pictures have no labels."""
    test_labels: Tensor | None = None
    """int64 (N,)."""

    def whole(self) -> Iterator[Tensor]:
        """Pictures as the model's caller has them, uint8 (1, C, H, W), one size each. One at a time: each may take a
        hundred megabytes."""
        for file in self.files:
            yield decode_image(file, self.square.shape[1])[None]
        if not self.files:
            yield from self.square.split(1)


def take_sample(
    info: ModelInfo,
    folder: Path | None,
    data_dir: str | None = None,
    *,
    count: int,
    skip_unreadable: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Sample:
    """From a folder of pictures, without labels; where none is named, from the data that the model was trained on.

    Args:
        info: of the model.
        folder: of pictures.
        data_dir: the folder with the files of the data that the model was trained on.
        count: pictures at the most, test images not counted.
        skip_unreadable: leave pictures of that data out that cannot be read.
        say: gets what is found there, line by line.

    Raises:
        UserError: where there are no pictures, or one cannot be read.
    """
    if folder is not None:
        files = list(picture_files([folder]))
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
        chosen = [files[number] for number in order[:count].tolist()]
        spec = info.input
        square = read_pictures(chosen, spec.channels, spec.decoded_size, resize=spec.resize)
        for error in square.errors.values():
            raise UserError(error)
        return Sample(square.images, tuple(chosen))
    if "data" not in info.recipe:
        raise UserError("the model file does not say what it was trained on: name a folder of pictures: --calibration")
    data = judged_data(info, data_dir=data_dir, skip_unreadable=skip_unreadable, say=say)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    return Sample(data.train.images[order[:count]], test_images=data.test.images, test_labels=data.test.labels)

"""Several crops of each image at evaluation, whose predictions are averaged.

1     the image as the network expects it (`InputSpec`)
2     and its mirror image
10    the corners and the middle of a larger square, and their mirror images: Krizhevsky, Sutskever, Hinton 2012,
      "ImageNet Classification with Deep Convolutional Neural Networks", section 4.1
144   four sizes, three squares of each, six crops of each, and their mirror images: Szegedy et al. 2014, "Going
      Deeper with Convolutions", section 7
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import get_args

import torch
from torch import Tensor

from googlenet.choices import Crops
from googlenet.data.dataset import ImageSplit
from googlenet.data.decode import center_crop, make_square
from googlenet.data.transforms import InputSpec
from googlenet.device import available_cores
from googlenet.errors import UserError

# Shorter sides that images are resized to, for crops of 224; in proportion for other sizes
_SIZE, _LARGER, _SCALES = 224, 256, (256, 288, 320, 352)
_MOST_AHEAD = 16  # images whose crops wait in memory, 21 MiB each for 144 of 224x224 in color


def check_crops(crops: int) -> None:
    """Raises `UserError` unless there is a rule for this many crops."""
    if crops not in get_args(Crops):
        raise UserError(f"crops must be one of {', '.join(map(str, get_args(Crops)))}, not {crops}")


def side_for(spec: InputSpec, crops: int) -> int:
    """Height and width in pixels of the largest square that crops are cut from."""
    return spec.decoded_size if crops <= 2 else _scaled(spec, _LARGER if crops == 10 else _SCALES[-1])


def cut_crops(image: Tensor, spec: InputSpec, crops: int) -> Tensor:
    """The crops of an image, uint8 (C, H, W) -> (crops, C, size, size); the second half mirrors the first.

    For 1, 2 and 10, an image of another shape is made square by the network's own rule, for 144 as in the paper.
    """
    images, size = image[None], spec.size
    if crops <= 2:
        square = make_square(images, spec.decoded_size, spec.resize)
        cut = center_crop(square, size) if spec.resize == "crop" else square
    elif crops == 10:
        cut = _five(make_square(images, _scaled(spec, _LARGER), spec.resize), size)
    else:
        # Cut before resizing: resized as a whole, a long thin image would take gigabytes
        squares = _three(images)
        cut = torch.cat(
            [
                torch.cat([_five(square, size), make_square(square, size, "stretch")])
                for scale in _SCALES
                for square in make_square(squares, _scaled(spec, scale), "stretch").split(1)
            ]
        )
    return cut if crops == 1 else torch.cat([cut, cut.flip(3)])


def _scaled(spec: InputSpec, side: int) -> int:
    return max(spec.size, round(spec.size * side / _SIZE))


def _five(square: Tensor, size: int) -> Tensor:
    """The corners and the middle of one image, (1, C, S, S) -> (5, C, size, size)."""
    last, middle = square.shape[2] - size, (square.shape[2] - size) // 2
    places = ((0, 0), (0, last), (last, 0), (last, last), (middle, middle))
    return torch.cat([square[:, :, top : top + size, left : left + size] for top, left in places])


def _three(image: Tensor) -> Tensor:
    """The left, middle and right square of one image (or top, middle, bottom): (1, C, H, W) -> (3, C, S, S)."""
    height, width = image.shape[2:]
    side, axis = min(height, width), 3 if width >= height else 2
    last = max(height, width) - side
    return torch.cat([image.narrow(axis, first, side) for first in (0, last // 2, last)])


def crops_of(split: ImageSplit, spec: InputSpec, crops: int) -> Iterator[Tensor]:
    """The crops of each image of a split, uint8 (crops, C, size, size), cut on all cores a few images ahead."""
    cores, min_side = available_cores(), 2 * side_for(spec, crops)

    def cut(number: int) -> Tensor:
        return cut_crops(split.original(number, min_side), spec, crops)

    waiting: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for number in range(len(split)):
            waiting.append(pool.submit(cut, number))
            if len(waiting) > min(cores, _MOST_AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def average(logits: Tensor) -> Tensor:
    """One row of logits for the crops of an image, (N, crops, classes) -> (N, classes).

    Their softmax is the mean of that of the crops (Szegedy et al. 2014, section 7), and so is their log-sum-exp, which
    tells known images from unknown ones.
    """
    energy = logits.logsumexp(2, keepdim=True)
    shares = (logits - energy).logsumexp(1) - torch.tensor(logits.shape[1]).log()
    return shares + energy.mean(1)

"""What a trained network expects of its input, and the one function that makes a batch so."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.data.decode import Resize


class Window(NamedTuple):
    """A part of a picture, in pixels of it; whole pixels or not."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class InputSpec:
    """Channels, size and scale of the images that a network was trained on. Travels in the model file."""

    channels: int
    size: int
    """Height and width in pixels."""
    mean: tuple[float, ...]
    """Of each channel, for pixels in 0..1; subtracted."""
    std: tuple[float, ...]
    """Of each channel, for pixels in 0..1; divided by."""
    resize: Resize = "stretch"
    """How a picture of another shape is made square: stretched, or its shorter side resized and the middle cut out."""
    crop_pct: float = 1.0
    """With `crop`: the share of the resized shorter side that is cut out, 224 / 256 = 0.875 for ImageNet."""

    @property
    def decoded_size(self) -> int:
        """Height and width in pixels of the square that `decode.decode_resized` makes of a picture, by the rule
        `resize`, for `prepare` to leave at most its border out."""
        return self.size if self.resize == "stretch" else self._resized_side

    @property
    def _resized_side(self) -> int:
        return round(self.size / self.crop_pct)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> InputSpec:
        return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 images of one size (N, C, H, W) to the network's float32 input (N, C, size, size), on their device.

        Resizing is bilinear, with antialiasing where it makes smaller.
        """
        shift = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        scale = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        whole = torch.tensor(255, dtype=torch.float32, device=images.device)
        # In place on a tensor of its own: reading and writing memory is what takes the time
        return self._resized((images / whole).sub_(shift).div_(scale))

    def window(self, height: int, width: int) -> Window:
        """The part of a picture of `height` x `width` pixels that `prepare` leaves for the network to see."""
        if self.resize == "stretch":
            return Window(0, 0, height, width)
        side = min(height, width)
        resized = self._resized_side
        margin = (resized - self.size) // 2 * side / resized
        seen = self.size * side / resized
        return Window((height - side) // 2 + margin, (width - side) // 2 + margin, seen, seen)

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.resize == "stretch":
            return _interpolated(images, self.size, self.size)
        # The middle square first: a long thin picture would become gigabytes on the way to its middle.
        square = _middle(images, min(height, width))
        return _middle(_interpolated(square, self._resized_side, self._resized_side), self.size)


def _middle(images: Tensor, side: int) -> Tensor:
    top, left = (images.shape[2] - side) // 2, (images.shape[3] - side) // 2
    return images[:, :, top : top + side, left : left + side]


def _interpolated(images: Tensor, height: int, width: int) -> Tensor:
    if (height, width) == tuple(images.shape[2:]):
        return images
    smaller = height < images.shape[2] or width < images.shape[3]
    return F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=smaller)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image. Randomness comes from torch's global generator of the CPU.

    Attributes:
        flip: mirror each image left to right with probability one half.
        crop_padding: shift each image by up to this many pixels each way; what comes in repeats the border.
        crop_scale: cut a rectangle out of each image and stretch it to the whole; its area is at least this share of
            the image's, its shape up to 4:3 or 3:4 (Szegedy et al. 2014, section 6: a share of 0.08). 1: none.
        color: change brightness, contrast and saturation of each image, each by a factor of 1 - color to 1 + color.
        erasing: put noise over a rectangle of each image with this probability (Zhong et al. 2017,
            https://arxiv.org/abs/1708.04896).
        mixup: alpha of mixup, 0: none; see `mixing.mix`.
        cutmix: alpha of cutmix, 0: none.
    """

    flip: bool = False
    crop_padding: int = 0
    crop_scale: float = 1.0
    color: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), of the same type."""
        if self.flip:
            mirrored = (torch.rand(len(images)) < 0.5).to(images.device)
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        if self.crop_padding:
            images = _shifted(images, self.crop_padding)
        if self.crop_scale < 1:
            images = _cropped(images, self.crop_scale)
        if self.color:
            images = _colored(images, self.color)
        if self.erasing:
            images = _erased(images, self.erasing)
        return images

    def mix(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """What `mixing.mix` gives of images (N, C, H, W) and labels (N,); both as they are where nothing is mixed."""
        if self.mixup == self.cutmix == 0:
            return images, labels
        return mix(images, labels, num_classes, mixup=self.mixup, cutmix=self.cutmix)


def _shifted(images: Tensor, padding: int) -> Tensor:
    count, _, height, width = images.shape
    # replication is not there for integers on every device, so the border is repeated by index
    rows = torch.arange(-padding, height + padding).clamp(0, height - 1)
    columns = torch.arange(-padding, width + padding).clamp(0, width - 1)
    tops = torch.randint(0, 2 * padding + 1, (count, 1)) + torch.arange(height)
    lefts = torch.randint(0, 2 * padding + 1, (count, 1)) + torch.arange(width)
    batch = torch.arange(count).view(-1, 1, 1)
    where = (batch, rows[tops].view(count, height, 1), columns[lefts].view(count, 1, width))
    return images.permute(0, 2, 3, 1)[tuple(index.to(images.device) for index in where)].permute(0, 3, 1, 2)


def _cropped(images: Tensor, smallest: float) -> Tensor:
    rectangles = _rectangles(images, smallest)
    return _stretched_one_by_one(images, rectangles) if images.device.type == "cpu" else _stretched(images, rectangles)


def _rectangles(images: Tensor, smallest: float) -> Tensor:
    """For each image (top, left, height, width) in pixels: (N, 4)."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(smallest, 1)
    # No longer than that a rectangle of that area lies in the image
    longest = (-area.log()).clamp(max=math.log(4 / 3))
    aspect = (torch.empty(count).uniform_(-1, 1) * longest).exp()
    rows = ((area / aspect).sqrt() * height).round().clamp(1, height)
    columns = ((area * aspect).sqrt() * width).round().clamp(1, width)
    tops = (torch.rand(count) * (height - rows + 1)).floor()
    lefts = (torch.rand(count) * (width - columns + 1)).floor()
    return torch.stack([tops, lefts, rows, columns], 1).long()


def _stretched_one_by_one(images: Tensor, rectangles: Tensor) -> Tensor:
    """A tenth of the time of `_stretched` on a CPU, whose resizing works in eight bits."""
    stretched = torch.empty_like(images)
    for image, result, (top, left, rows, columns) in zip(images, stretched, rectangles.tolist(), strict=True):
        part = image[None, :, top : top + rows, left : left + columns]
        result.copy_(F.interpolate(part, size=image.shape[1:], mode="bilinear")[0])
    return stretched


def _stretched(images: Tensor, rectangles: Tensor) -> Tensor:
    """Each rectangle as large as its image, bilinearly; they may differ by a level in the two ways."""
    sides = torch.tensor([images.shape[3], images.shape[2]])
    first, size = rectangles[:, [1, 0]], rectangles[:, [3, 2]]
    # Where the rectangle's middle lies, with the image going from -1 to 1, and its outermost pixels' middles
    middle, share = (2 * first + size) / sides - 1, size / sides
    least, most = (2 * first + 1) / sides - 1, (2 * (first + size) - 1) / sides - 1
    corners = torch.cat([torch.diag_embed(share), middle[:, :, None]], 2).to(images.device)
    grid = F.affine_grid(corners, list(images.shape), align_corners=False)
    # Held to the rectangle, as not every device's grid_sample can hold it to the image
    grid = grid.clamp(least[:, None, None].to(grid), most[:, None, None].to(grid))
    cut = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return cut.round().to(images.dtype)


def _colored(images: Tensor, strength: float) -> Tensor:
    def factors() -> Tensor:
        return torch.empty(len(images), 1, 1, 1).uniform_(1 - strength, 1 + strength).to(images.device)

    changed = images.float() * factors()
    middle = changed.mean(dim=(1, 2, 3), keepdim=True)
    changed = middle + (changed - middle) * factors()
    if images.shape[1] == 3:
        gray = changed.mean(dim=1, keepdim=True)
        changed = gray + (changed - gray) * factors()
    return changed.clamp(0, 255).round().to(images.dtype)


def _erased(images: Tensor, probability: float) -> Tensor:
    """A rectangle of 2 to 40% of the image, up to 3.3 times as long as wide, of noise."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(0.02, 0.4) * (torch.rand(count) < probability)
    aspect = torch.empty(count).uniform_(-math.log(3.3), math.log(3.3)).exp()
    rows = _stretch((area * aspect).sqrt(), height)
    columns = _stretch((area / aspect).sqrt(), width)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None].to(images.device)
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8).to(images.device)
    return torch.where(erased, noise, images)


def _stretch(share: Tensor, side: int) -> Tensor:
    """For each image, which pixels along one side lie in a stretch of that share of it, placed at random."""
    length = (share * side).round().clamp(max=side)
    first = (torch.rand(len(share)) * (side - length + 1)).floor()
    pixel = torch.arange(side)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])


def mix(images: Tensor, labels: Tensor, num_classes: int, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Each image of a batch mixed with another one of it, by the same share for all.

    Where both are on, each batch has one of them, chosen by a coin. Randomness comes from torch's global generator.

    Args:
        images: (N, C, H, W), floating point.
        labels: (N,).
        num_classes: of the data.
        mixup: alpha of the Beta distribution of the share, images blended (Zhang et al. 2017,
            https://arxiv.org/abs/1710.09412); 0: off.
        cutmix: the same, a rectangle of one laid over the other (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

    Returns:
        The images, and the share of each class in each of them, (N, num_classes).
    """
    patch = cutmix > 0 and (mixup == 0 or float(torch.rand(())) < 0.5)
    alpha = cutmix if patch else mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(images)).to(images.device)
    if patch:
        images, share = _patched(images, images[other], share)
    else:
        images = share * images + (1 - share) * images[other]
    targets = F.one_hot(labels, num_classes).to(torch.float32)
    return images, share * targets + (1 - share) * targets[other]


def _patched(images: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """`others` laid over a rectangle of `images`; the share of the latter that is left."""
    height, width = images.shape[2:]
    side = (1 - share) ** 0.5
    rows, columns = round(height * side), round(width * side)
    top = int(torch.randint(0, height - rows + 1, ()))
    left = int(torch.randint(0, width - columns + 1, ()))
    mixed = images.clone()
    mixed[:, :, top : top + rows, left : left + columns] = others[:, :, top : top + rows, left : left + columns]
    return mixed, 1 - rows * columns / (height * width)

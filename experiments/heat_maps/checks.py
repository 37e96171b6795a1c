"""What a true heat map must pass: deletion and insertion, the pointing game, and randomized weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from experiments.heat_maps.methods import Case

STEPS = 14
Box = tuple[int, int, int, int]  # top, bottom, left, right


def shown(evidence: Tensor, size: Sequence[int]) -> Tensor:
    """The heat (H, W): the positive part of the evidence (h, w), resized to the image."""
    return F.interpolate(evidence.relu()[None, None], size=tuple(size), mode="bilinear")[0, 0]


def deletion_and_insertion(case: Case, evidence: Tensor, gray: float) -> tuple[float, float]:
    """Area under the class's probability while pixels are hidden in gray, or shown, from the hottest on, in 14 steps.

    Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, section 4.3. Pixels as hot as each other are in random order.
    """
    x, spec = case.x, case.net.info.input
    fill = torch.stack([
        torch.full(x.shape[2:], (gray - mean) / std) for mean, std in zip(spec.mean, spec.std, strict=True)
    ])  # fmt: skip
    heat = shown(evidence, x.shape[2:]).flatten()
    shuffled = torch.randperm(len(heat), generator=torch.Generator().manual_seed(0))
    order = shuffled[heat[shuffled].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))).view(1, *x.shape[2:])
    counts = (torch.arange(STEPS + 1) * len(order) / STEPS).round().view(-1, 1, 1, 1)
    hot = (rank < counts).float()
    with torch.no_grad():
        images = torch.cat([torch.lerp(x, fill, hot), torch.lerp(fill[None], x, hot)])
        probability = torch.cat([case.net(each) for each in images.split(15)]).softmax(dim=1)[:, case.target]
    areas = [float((curve[1:] + curve[:-1]).mean() / 2) for curve in probability.chunk(2)]
    return areas[0], areas[1]


def on_clouds(image: Tensor, generator: torch.Generator) -> tuple[Tensor, Box]:
    """An object (uint8, (C, H, W)) at half of its size in a random place of a cloudy background; and its box.

    The object is what differs from the color of the image's border.
    """
    channels, height, width = image.shape
    pixels = image.float()
    border = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], dim=1)
    color = border.median(dim=1).values[:, None, None]
    spots = torch.rand(1, channels, 8, 8, generator=generator)
    clouds = F.interpolate(spots, size=(2 * height, 2 * width), mode="bilinear")[0]
    canvas = color + (127.5 - color) * 0.3 * clouds
    mask = (pixels - color).abs().amax(dim=0) > 25
    top, left = (int(torch.randint(side + 1, (), generator=generator)) for side in (height, width))
    canvas[:, top : top + height, left : left + width][:, mask] = pixels[:, mask]
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    box = top + int(rows[0]), top + int(rows[-1]), left + int(columns[0]), left + int(columns[-1])
    half = F.interpolate(canvas[None], size=(height, width), mode="bilinear", antialias=True)[0]
    return half.round().to(torch.uint8), (box[0] // 2, box[1] // 2, box[2] // 2, box[3] // 2)


def among_others(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Box]:
    """Four images (4, C, H, W) as quarters of one, the first in a random place; and its box."""
    order = torch.randperm(4, generator=generator)
    place = int((order == 0).nonzero())
    height, width = images.shape[2:]
    rows = [torch.cat(list(images[order[first : first + 2]]), dim=2) for first in (0, 2)]
    top, left = (place // 2) * height, (place % 2) * width
    return torch.cat(rows, dim=1), (top, top + height - 1, left, left + width - 1)


def is_hit(evidence: Tensor, size: Sequence[int], box: Box) -> bool:
    """Whether the hottest pixel is in the box; not if none is hot (Zhang et al. 2016, arXiv:1608.00507)."""
    heat = shown(evidence, size)
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return bool(heat.any()) and box[0] <= row <= box[1] and box[2] <= column <= box[3]


def rank_correlation(first: Tensor, second: Tensor, size: Sequence[int]) -> float:
    """Spearman's, of two heat maps; 0 if one of them is empty."""
    heats = [shown(evidence, size).flatten().numpy() for evidence in (first, second)]
    return float(spearmanr(*heats).statistic) if all(heat.any() for heat in heats) else 0.0

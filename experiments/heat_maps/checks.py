"""What a true heat map must pass: deletion and insertion, the pointing game, and randomized weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

import googlenet

STEPS = 20


def resized(evidence: Tensor, size: Sequence[int]) -> Tensor:
    """Heat (h, w) resized to the image; its positive part, as it is shown."""
    return F.interpolate(evidence.relu()[None, None], size=tuple(size), mode="bilinear")[0, 0]


def deletion_and_insertion(
    net: googlenet.GoogLeNet, x: Tensor, hidden: Tensor, evidence: Tensor, target: int
) -> tuple[float, float]:
    """Area under the class's probability while pixels are hidden, or shown, from the hottest on, a twentieth at a time.

    Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, section 4.3. Pixels as hot as each other are in random order.
    """
    heat = resized(evidence, x.shape[2:]).flatten()
    shuffled = torch.randperm(len(heat), generator=torch.Generator().manual_seed(0))
    order = shuffled[heat[shuffled].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))).view(1, *x.shape[2:])
    counts = (torch.arange(STEPS + 1) * len(order) / STEPS).round().view(-1, 1, 1, 1)
    first = (rank < counts).float()
    with torch.no_grad():
        images = torch.cat([torch.lerp(x, hidden, first), torch.lerp(hidden, x, first)])
        probability = torch.cat([net(each) for each in images.split(21)]).softmax(dim=1)[:, target]
    areas = [float((curve[1:] + curve[:-1]).mean() / 2) for curve in probability.chunk(2)]
    return areas[0], areas[1]


def on_background(image: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple[int, int, int, int]]:
    """An object of an image (C, H, W), 0 to 1, in a random place of a cloudy one with twice its sides; and its box.

    The object is what differs from the image's border. The box is (top, bottom, left, right).
    """
    channels, height, width = image.shape
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1).median(dim=1).values
    color = border[:, None, None]
    clouds = F.interpolate(torch.rand(1, channels, 8, 8, generator=generator), scale_factor=height / 4, mode="bilinear")
    canvas = color + (0.5 - color) * 0.8 * clouds[0]
    mask = (image - color).abs().amax(dim=0) > 0.1
    top, left = (int(torch.randint(side + 1, (), generator=generator)) for side in (height, width))
    part = canvas[:, top : top + height, left : left + width]
    part[:, mask] = image[:, mask]
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    return canvas, (top + int(rows[0]), top + int(rows[-1]), left + int(columns[0]), left + int(columns[-1]))


def is_hit(evidence: Tensor, size: Sequence[int], box: tuple[int, int, int, int]) -> bool:
    """Whether the hottest pixel is in the box; not if nothing is hot. Zhang et al. 2016, arXiv:1608.00507."""
    heat = resized(evidence, size)
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return bool(heat.any()) and box[0] <= row <= box[1] and box[2] <= column <= box[3]


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, of two heat maps as they are shown; 0 if one of them is empty."""
    shown = [evidence.relu().flatten().numpy() for evidence in (first, second)]
    return float(spearmanr(*shown).statistic) if all(each.any() for each in shown) else 0.0

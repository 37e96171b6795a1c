"""Where in an image a network sees a class: three ways to compute a heat map, and a test of how far to trust it.

Each way is a function of the network, its input (N, C, H, W), a hidden input of the same shape, in which nothing can be
seen, and the index of a class. It returns signed evidence for the class, (N, h, w): positive where the image supports
the class, negative where it speaks against it. docs/explanations.md compares these ways with others.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.data.transforms import InputSpec

Method = Literal["masked-gradients", "occlusion", "grad-cam"]
Network = Callable[[Tensor], Tensor]

CELLS = 28  # of a heat map per side, at most: finer ones follow single pixels, and hiding these proves little
BLUR = 1.5  # standard deviation in cells
MASK_CELLS = 10  # of a random mask per side
MASKS = 16
LARGE = 160 * 160  # pixels; larger images get half of the masks, which take as long
BATCH_PIXELS = 16 * 224 * 224  # pixels of the images that pass through the network at once
HOT_AREA = 0.2


class Trust(NamedTuple):
    """The explained class's probability if the hottest part of the image is hidden, and if as much elsewhere is."""

    area: float  # the part that was hidden, as a fraction of the input: a fifth, or less if fewer pixels are hot
    probability: float  # with nothing hidden
    without: float  # with the hottest pixels hidden
    elsewhere: float  # with the same pixels moved by half of the input's sides hidden instead; mean of 3 places

    @property
    def lost(self) -> float:
        """The part of the probability that is lost without the hottest pixels.

        0 if nothing changes, 1 if nothing is left. Negative if the probability rises: the part of the new one, to -1.
        """
        return _lost(self.probability, self.without)

    @property
    def lost_elsewhere(self) -> float:
        """The same with pixels elsewhere hidden."""
        return _lost(self.probability, self.elsewhere)

    def to_dict(self) -> dict[str, float]:
        """Every figure, ready for JSON."""
        return {**self._asdict(), "lost": self.lost, "lost_elsewhere": self.lost_elsewhere}


def _lost(before: float, after: float) -> float:
    return (before - after) / max(before, after, 1e-30)


def hide(x: Tensor, spec: InputSpec) -> Tensor:
    """The input (N, C, H, W) with everything hidden: each image in the median color of its border, if that is dark.

    Channels brighter than a medium gray become that gray: on white paper, maps of what gray hides passed the deletion
    test better than maps of what white hides.
    """
    gray = torch.tensor([(0.5 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)], device=x.device)
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], dim=2).median(dim=2).values
    return torch.minimum(border, gray)[:, :, None, None].expand_as(x)


def masked_gradients(net: Network, x: Tensor, hidden: Tensor, target: int) -> Tensor:
    """Gradients of the log-odds, averaged over images of which random parts are hidden, times what hiding changes.

    The average of what each pixel adds while any others are visible or not: integrated gradients (Sundararajan et al.
    2017, https://arxiv.org/abs/1703.01365), but from a hidden to the whole image over the masks of RISE (Petsiuk et al.
    2018, https://arxiv.org/abs/1806.07421) instead of over fading images. Each mask is used with its opposite. The
    masks are always the same, and so is the result.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = MASKS // 2 if x[0, 0].numel() <= LARGE else MASKS // 4
    keep = (torch.arange(pairs) + 0.5) / pairs
    masks = torch.cat([_random_mask(x.shape[2:], float(fraction), generator) for fraction in keep])
    masks = torch.cat([masks, 1 - masks]).to(x.device)
    evidence = []
    for image, nothing in zip(x, hidden, strict=True):
        total = torch.zeros_like(image)
        for some in masks.split(max(1, BATCH_PIXELS // image[0].numel())):
            seen = _lerp(nothing, image, some).requires_grad_()
            with torch.enable_grad():
                total += torch.autograd.grad(log_odds(net(seen), target).sum(), seen)[0].sum(dim=0)
        evidence.append((total / len(masks) * (image - nothing)).sum(dim=0))
    return _smooth(_pool(torch.stack(evidence)))


def occlusion(net: Network, x: Tensor, hidden: Tensor, target: int) -> Tensor:
    """What the log-odds lose with one square hidden, averaged over the squares that cover a cell.

    Zeiler and Fergus 2013, https://arxiv.org/abs/1311.2901, section 4.2. Squares have a fifth of the image's side,
    rounded up, and overlap by half: at most 121.
    """
    height, width = x.shape[2:]
    down, right = (-(-side // 10) for side in (height, width))
    corners = list(product(range(-down, height, down), range(-right, width, right)))
    at_once = max(1, BATCH_PIXELS // (height * width))
    evidence = []
    for image, nothing in zip(x, hidden, strict=True):
        total, covered = torch.zeros_like(image[0]), torch.zeros_like(image[0])
        with torch.no_grad():
            whole = log_odds(net(image[None]), target)
            for first in range(0, len(corners), at_once):
                some = corners[first : first + at_once]
                squares = torch.stack([_square(*corner, (2 * down, 2 * right), (height, width)) for corner in some])
                squares = squares.to(x)
                lost = whole - log_odds(net(_lerp(image, nothing, squares[:, None])), target)
                total += (lost[:, None, None] * squares).sum(dim=0)
                covered += squares.sum(dim=0)
        evidence.append(total / covered)
    return _pool(torch.stack(evidence))


def grad_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Maps of a block and the logit's gradients, (N, K, h, w) -> (N, h, w): the maps' sum, each weighted by its mean
    gradient (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3)."""
    return (gradients.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1)


def log_odds(logits: Tensor, target: int) -> Tensor:
    """Logits (N, classes) -> log(p / (1 - p)) of a class, (N,). With only one class, its logit.

    Unlike the logit, it depends on the evidence for the other classes; unlike the probability, it has a gradient where
    the network is certain.
    """
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return logits[:, target] - (others.logsumexp(dim=1) if others.shape[1] else 0)


def hide_hot_area(net: Network, x: Tensor, hidden: Tensor, target: int, heat: Tensor, temperature: float) -> Trust:
    """How much of a class's probability depends on the hottest pixels. One image (1, C, H, W), its heat (h, w).

    Only pixels with heat are hidden, so if there is none, nothing is.
    """
    height, width = x.shape[2:]
    pixels = F.interpolate(heat[None, None], size=(height, width), mode="bilinear").flatten()
    count = min(round(HOT_AREA * len(pixels)), int((pixels > 0).sum()))
    hot = torch.zeros_like(pixels).index_fill_(0, pixels.topk(count).indices, 1).view(1, 1, height, width)
    shifts = [(row * height // 2, column * width // 2) for row in range(2) for column in range(2)]
    masks = torch.cat([torch.zeros_like(hot), *(hot.roll(shift, dims=(2, 3)) for shift in shifts)])
    with torch.no_grad():
        images = _lerp(x, hidden, masks).split(max(1, BATCH_PIXELS // (height * width)))
        logits = torch.cat([net(each) for each in images])
    whole, without, *elsewhere = (logits / temperature).softmax(dim=1)[:, target].tolist()
    return Trust(count / len(pixels), whole, without, sum(elsewhere) / len(elsewhere))


def normalize(evidence: Tensor) -> Tensor:
    """Signed evidence (h, w) -> heat (h, w): the positive part, divided by its maximum; all 0 if there is none."""
    heat = F.relu(evidence)
    return heat / heat.max() if heat.any() else heat


def _lerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """In channels-last layout, in which a network takes two thirds of the time."""
    return torch.lerp(start, end, weight).detach().contiguous(memory_format=torch.channels_last)


def _random_mask(size: tuple[int, ...], keep: float, generator: torch.Generator) -> Tensor:
    """Soft spots in random places, 0 to 1, (1, 1, H, W); each is visible with probability `keep`."""
    cells = (torch.rand(1, 1, MASK_CELLS + 1, MASK_CELLS + 1, generator=generator) < keep).float()
    cell = [-(-side // MASK_CELLS) for side in size]
    mask = F.interpolate(cells, size=[(MASK_CELLS + 1) * side for side in cell], mode="bilinear")
    top, left = (int(torch.randint(side, (), generator=generator)) for side in cell)
    return mask[:, :, top : top + size[0], left : left + size[1]]


def _square(top: int, left: int, sides: tuple[int, int], size: tuple[int, int]) -> Tensor:
    square = torch.zeros(size)
    square[max(top, 0) : top + sides[0], max(left, 0) : left + sides[1]] = 1
    return square


def _pool(evidence: Tensor) -> Tensor:
    """The means of at most CELLS x CELLS cells, (N, H, W) -> (N, h, w)."""
    return F.adaptive_avg_pool2d(evidence, (min(CELLS, evidence.shape[1]), min(CELLS, evidence.shape[2])))


def _smooth(evidence: Tensor) -> Tensor:
    """Blurred by a Gaussian, (N, h, w)."""
    offsets = torch.arange(-4.0, 5.0, device=evidence.device)
    kernel = torch.exp(-(offsets**2) / (2 * BLUR**2))
    kernel /= kernel.sum()
    rows = F.conv2d(evidence[:, None], kernel.view(1, 1, -1, 1), padding=(4, 0))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1), padding=(0, 4))[:, 0]

"""Why a network said what it said of one picture: where it looked, and what each branch had to do with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from googlenet.artifact.model_file import description
from googlenet.data.input_spec import Window
from googlenet.errors import UserError
from googlenet.network.googlenet import GoogLeNet

LEGIBLE_SIDE = 7
"""The last block's map has 7x7 cells at 224x224. With fewer a heat map says little, and is often empty."""
PICTURE_SIDE = 1024
MOST_PIXELS_A_SIDE = 2048
"""Of a picture to decode for `explain`: more is not seen, and would take gigabytes."""


@dataclass(frozen=True)
class Explanation:
    """What `explain` found out about one picture."""

    image: Tensor
    """The picture, uint8 (C, H, W); a larger one made smaller, so that no side has more than 1024 pixels."""
    classes: tuple[str, ...]
    """All that the network knows, the likeliest first."""
    probabilities: tuple[float, ...]
    """At the temperature that the model file says."""
    explained: str
    """The class that `grad_cam` and `shares` are about."""
    block: str
    """The Inception block whose maps `grad_cam` is made of: 3a to 5b."""
    grad_cam: Tensor
    """float32, (h, w), 0 to 1: how much each cell of the block's maps speaks for the class, 1 the most in this picture.
    All 0 where none does."""
    window: Window
    """The part of `image` that the network saw, and that `grad_cam` lies over."""
    shares: dict[str, dict[str, float]]
    """For each block, the share of each of its four branches; they sum to 1, or are all 0 where no gradient arrives."""

    @property
    def probability(self) -> float:
        """Of the class explained."""
        return self.probabilities[self.classes.index(self.explained)]

    @property
    def heat(self) -> Tensor:
        """`grad_cam` laid over the whole picture: float32 (H, W), 0 to 1, and 0 where the network did not see."""
        height, width = self.image.shape[1:]
        top, left = round(self.window.top), round(self.window.left)
        bottom, right = round(self.window.top + self.window.height), round(self.window.left + self.window.width)
        size = (max(1, bottom - top), max(1, right - left))
        heat = torch.zeros(height, width)
        over = F.interpolate(self.grad_cam[None, None], size=size, mode="bilinear")[0, 0]
        heat[top:bottom, left:right] = over[: bottom - top, : right - left]
        return heat

    def to_dict(self) -> dict[str, Any]:
        """All but the picture itself, as JSON takes it. The window is in shares of the picture's height and width."""
        height, width = self.image.shape[1:]
        top, left, seen_height, seen_width = self.window
        return {
            "classes": self.classes,
            "probabilities": self.probabilities,
            "explained": self.explained,
            "block": self.block,
            "grad_cam": [[round(value, 4) for value in row] for row in self.grad_cam.tolist()],
            "window": {
                "top": top / height,
                "left": left / width,
                "height": seen_height / height,
                "width": seen_width / width,
            },
            "shares": self.shares,
        }


def explain(net: GoogLeNet, image: Tensor, *, class_name: str | None = None, block: str | None = None) -> Explanation:
    """Where in a picture a network saw a class, and how much each branch had to do with it.

    **Where: Grad-CAM** (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3). Each map A_k of a block
    is weighted with the mean over its cells of the gradient of the class's logit y; the sum of the weighted maps, where
    it is above 0, is the heat: ReLU(sum over k of mean(dy / dA_k) A_k), here divided by its maximum.

    **How much: gradient times activation.** A branch's share of its block is the sum of |A dy/dA| over all channels and
    cells of its output A, divided by the same sum over the whole block. To first order, A dy/dA is what the logit loses
    when that one value is silenced, so that the share says how much of the verdict hangs on the branch in this picture.
    The energy of the activations alone would count what the layers above ignore. Absolute values are taken so that
    evidence for and evidence against the class both count, instead of cancelling out. A share is not what the network
    could not do without: another branch may take over. That is what `ablate` measures.

    Both are computed in float32 and in eval mode, on the network's device; the network is left as it was.

    Args:
        net: a network that `googlenet.load` or `googlenet.import_weights` returned.
        image: the picture, uint8 (C, H, W) with the network's channels, of any size.
        class_name: the class to explain, upper or lower case; left out: the likeliest.
        block: the Inception block for Grad-CAM, `3a` to `5b`; left out: the last whose map has at least 7 cells a side.
            Where none has, which is so for inputs of 28x28 at the paper's stride, the last of those with the largest;
            where nothing in its map speaks for the class, the next one in which something does.

    Raises:
        UserError: for a network that does not say what its input and classes are, an image that is not as it must be,
            or a class or block that is not there.
    """
    info = description(net)
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != info.input.channels or not image.numel():
        raise UserError(
            f"a picture for this model is uint8 of shape ({info.input.channels}, H, W), "
            f"not {str(image.dtype).removeprefix('torch.')} of {tuple(image.shape)}"
        )
    rows = net.architecture.rows
    if block is not None and not net.architecture.has_block(block):
        raise UserError(f"there is no block {block!r}; there are: {', '.join(row.name for row in rows)}")
    asked = None if class_name is None else _index_of(class_name, info.classes)
    with _block_outputs(net) as outputs, torch.inference_mode(False), torch.enable_grad():
        logits = net(info.input.prepare(image[None].to(net.conv1.conv.weight.device)).requires_grad_())[0]
        target = int(logits.argmax()) if asked is None else asked
        gradients = torch.autograd.grad(logits[target], list(outputs.values()))
    found = {name: (maps.detach(), grad) for (name, maps), grad in zip(outputs.items(), gradients, strict=True)}
    block = block or _legible_block(found)
    probabilities, order = (logits.detach() / info.temperature).softmax(dim=0).sort(descending=True, stable=True)
    shown = _at_most(image.cpu(), PICTURE_SIDE)
    down, across = shown.shape[1] / image.shape[1], shown.shape[2] / image.shape[2]
    seen = info.input.window(*image.shape[1:])
    names = net.architecture.branch_names
    return Explanation(
        image=shown,
        classes=tuple(info.classes[index] for index in order.tolist()),
        probabilities=tuple(probabilities.tolist()),
        explained=info.classes[target],
        block=block,
        grad_cam=_grad_cam(*found[block]).cpu(),
        window=Window(seen.top * down, seen.left * across, seen.height * down, seen.width * across),
        shares={
            row.name: dict(zip(names, _shares(*found[row.name], row.branch_channels), strict=True)) for row in rows
        },
    )


@contextmanager
def _block_outputs(net: GoogLeNet) -> Iterator[dict[str, Tensor]]:
    """Within it, a forward pass is one in eval mode and leaves each block's output here, by the block's name."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        getattr(net, f"inception{row.name}").register_forward_hook(
            lambda _module, _inputs, output, name=row.name: outputs.__setitem__(name, output)
        )
        for row in net.architecture.rows
    ]
    was_training = net.training
    net.eval()
    try:
        yield outputs
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()


def _grad_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """(1, K, h, w) and the gradients at them -> (h, w), from 0 to 1."""
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    heat = F.relu((weights * maps).sum(dim=1))[0]
    highest = heat.max()
    return heat / highest if highest > 0 else heat


def _shares(maps: Tensor, gradients: Tensor, channels: tuple[int, ...]) -> list[float]:
    """The part of each branch in the block's sum of |activation times gradient|."""
    amounts = torch.stack([part.sum() for part in (maps * gradients).cpu().double().abs().split(channels, dim=1)])
    total = amounts.sum()
    return (amounts / total if total > 0 else amounts).tolist()


def _legible_block(found: dict[str, tuple[Tensor, Tensor]]) -> str:
    """The last block with cells enough; where nothing there speaks for the class, the next best where it does."""
    cells = {name: min(LEGIBLE_SIDE, *maps.shape[2:]) for name, (maps, _) in found.items()}
    by_worth = sorted(found, key=cells.__getitem__)[::-1]
    return next((name for name in by_worth if _grad_cam(*found[name]).any()), by_worth[0])


def _index_of(name: str, classes: tuple[str, ...]) -> int:
    alike = [index for index, known in enumerate(classes) if known.casefold() == name.casefold()]
    if not alike:
        more = ", ..." if len(classes) > 10 else ""
        raise UserError(f"the model knows no class {name!r}; it knows: {', '.join(classes[:10])}{more}")
    return next((index for index in alike if classes[index] == name), alike[0])


def _at_most(image: Tensor, side: int) -> Tensor:
    """The picture, uint8 (C, H, W), made smaller where its longer side has more than `side` pixels."""
    height, width = image.shape[1:]
    longer = max(height, width)
    if longer <= side:
        return image
    size = [max(1, round(length * side / longer)) for length in (height, width)]
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]

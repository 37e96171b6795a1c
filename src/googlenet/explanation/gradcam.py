"""Why a network said what it said of one picture: where it looked, and what each branch had to do with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from googlenet.data.transforms import Window
from googlenet.errors import UserError, check_counts
from googlenet.evaluation.plots import drawing, shortened
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import model_info

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
    info = model_info(net)
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


# Told apart by the color-blind too (Okabe and Ito 2008)
BRANCH_COLORS = ("#0072B2", "#E69F00", "#009E73", "#B8B8B8")
_QUIET = "#555555"


def draw_explanation(explanation: Explanation, path: Path, *, top: int = 5, name: str = "") -> None:
    """One PNG: the picture, Grad-CAM over it, the `top` likeliest classes, and each block's branches.

    Args:
        explanation: what `explain` found.
        path: the file to write.
        top: how many classes get a bar; the class explained gets one in any case.
        name: what to call the picture.

    Raises:
        UserError: for a `top` below 1.
        RunError: where the file cannot be written.
    """
    check_counts(top=top)
    with drawing(path, 12, 7.4) as figure:
        grid = figure.add_gridspec(2, 3, height_ratios=(1.25, 1), width_ratios=(1, 1, 1.1))
        _draw_picture(figure.add_subplot(grid[0, 0]), explanation, name)
        _draw_heat(figure.add_subplot(grid[0, 1]), explanation)
        _draw_classes(figure.add_subplot(grid[0, 2]), explanation, top)
        _draw_shares(figure.add_subplot(grid[1, :]), explanation)
        best, probability = shortened(explanation.classes[0], 40), explanation.probabilities[0]
        figure.suptitle(f"The network says: {best} ({probability:.1%} sure)", fontsize=16, fontweight="bold")


def _draw_picture(axes: Axes, explanation: Explanation, name: str) -> None:
    axes.imshow(_pixels(explanation.image))
    axes.set_title("The picture")
    axes.set_xlabel(shortened(name, 40), color=_QUIET)
    axes.set(xticks=[], yticks=[], anchor="N")


def heat_map_image(explanation: Explanation) -> NDArray[np.uint8]:
    """The picture in pale gray, warm where something speaks for the class explained; what the network did not see is
    darkened. (H, W, 3), 0 to 255."""
    gray = 0.25 + 0.6 * _pixels(explanation.image).mean(axis=2, keepdims=True)
    heat = explanation.heat.numpy()
    warmth = np.clip(1.4 * heat, 0, 0.75)[:, :, None]
    picture = gray * (1 - warmth) + matplotlib.colormaps["inferno"](heat)[:, :, :3] * warmth
    picture[~_seen(explanation)] *= 0.3
    return (255 * picture).round().astype(np.uint8)


def _draw_heat(axes: Axes, explanation: Explanation) -> None:
    axes.imshow(heat_map_image(explanation))
    axes.set_title(f"What speaks for {shortened(explanation.explained, 28)}")
    rows, columns = explanation.grad_cam.shape
    found = "the warmer, the more" if explanation.grad_cam.any() else "nothing that Grad-CAM finds"
    cut = "" if _seen(explanation).all() else "; dark: never seen"
    axes.set_xlabel(f"{found}{cut}\n(Grad-CAM, block {explanation.block}, {rows}x{columns} cells)", color=_QUIET)
    axes.set(xticks=[], yticks=[], anchor="N")


def _draw_classes(axes: Axes, explanation: Explanation, top: int) -> None:
    ranked = list(zip(explanation.classes, explanation.probabilities, strict=True))
    shown = ranked[:top]
    if explanation.explained not in explanation.classes[:top]:
        shown.append((explanation.explained, explanation.probability))
    for place, (name, probability) in enumerate(shown):
        explained = name == explanation.explained
        axes.barh(place, probability, height=0.5, color="#C2410C" if explained else "#9CA3AF")
        weight = "bold" if explained else "normal"
        axes.text(0, place - 0.32, shortened(name, 40), va="bottom", fontweight=weight)
        axes.text(1, place - 0.32, f"{probability:.1%}", va="bottom", ha="right", fontweight=weight)
    axes.set(xlim=(0, 1), ylim=(max(len(shown), 3) - 0.4, -0.8), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title("How sure it is")


def _draw_shares(axes: Axes, explanation: Explanation) -> None:
    blocks = list(explanation.shares)
    names = list(explanation.shares[blocks[0]])
    bottom = np.zeros(len(blocks))
    for name, color in zip(names, BRANCH_COLORS, strict=True):
        shares = np.array([explanation.shares[block][name] for block in blocks])
        axes.bar(blocks, shares, bottom=bottom, width=0.72, color=color, label=name, edgecolor="white")
        for place, (share, base) in enumerate(zip(shares, bottom, strict=True)):
            if share >= 0.08:
                ink = "white" if color == BRANCH_COLORS[0] else "black"
                axes.text(place, base + share / 2, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=9)
        bottom += shares
    axes.set(ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    explained = shortened(explanation.explained, 40)
    axes.set_title(
        f"How much each branch has to do with {explained}, in each Inception block from the first to the last"
    )
    axes.set_xlabel(
        "evidence for and against, taken together: each branch's share of |activation x gradient|", color=_QUIET
    )
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], title="branch", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _seen(explanation: Explanation) -> NDArray[np.bool_]:
    """(H, W): what of the picture the network saw."""
    top, left, height, width = explanation.window
    seen = np.zeros(explanation.image.shape[1:], dtype=bool)
    seen[round(top) : round(top + height), round(left) : round(left + width)] = True
    return seen


def _pixels(image: Tensor) -> NDArray[np.float64]:
    """uint8 (C, H, W) as matplotlib takes it: (H, W, 3), 0 to 1; gray where there are not three channels."""
    pixels = image.permute(1, 2, 0).numpy() / 255
    return pixels if pixels.shape[2] == 3 else pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)

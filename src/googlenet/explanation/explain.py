"""Why a network predicts a class for one image: a heat map and the share of each branch, in a figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from googlenet.data.decode import decode_image, decode_resized
from googlenet.data.transforms import Window
from googlenet.errors import UserError, check_counts
from googlenet.evaluation import heat_maps
from googlenet.evaluation.heat_maps import Method, Trust
from googlenet.evaluation.metrics import eval_mode
from googlenet.evaluation.plots import drawing, shorten
from googlenet.explanation.units import find_class, first_classes
from googlenet.model.features import find_block
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load_or_check

MIN_MAP_SIDE = 7  # as in the last block at 224x224; with fewer cells, a heat map is coarse and often empty
MAX_IMAGE_SIDE, MAX_DECODED_SIDE = 1024, 2048  # larger images are shown smaller: nobody would see the difference
BRANCH_COLORS = ("#0072B2", "#E69F00", "#009E73", "#B8B8B8")  # told apart by the color-blind (Okabe and Ito 2008)
GRAY = "#555555"


@dataclass(frozen=True)
class Explanation:
    """The result of `explain` for one image."""

    image: Tensor  # uint8 (C, H, W), reduced to at most 1024 pixels per side
    classes: tuple[str, ...]  # all classes, the most likely first
    probabilities: tuple[float, ...]  # of `classes`, at the temperature of the model file
    explained: str  # the class that `heat_map`, `trust` and `shares` are about
    method: Method  # how `heat_map` was computed
    block: str | None  # for Grad-CAM, the Inception block whose maps `heat_map` is computed from: 3a to 5b
    heat_map: Tensor
    """float32, (h, w), 0 to 1: the evidence for the class in each cell, 1 for the cell with the most. All 0 if there is
    none. At most 28x28 cells."""
    trust: Trust  # the class's probability if the hottest pixels are hidden
    window: Window  # the part of `image` that the network saw, which `heat_map` covers
    shares: dict[str, dict[str, float]]
    """By block and branch, see `explain`; each block's shares sum to 1, or are all 0 if no gradient arrives."""
    known: bool | None = None  # whether the image belongs to one of the classes; None if the model has no rule for that

    @property
    def probability(self) -> float:
        """The probability of the explained class."""
        return self.probabilities[self.classes.index(self.explained)]

    @property
    def heat(self) -> Tensor:
        """`heat_map` resized to the image: float32 (H, W), 0 to 1; 0 outside of the window."""
        heat = torch.zeros(self.image.shape[1:])
        top, left, height, width = map(round, self.window)
        rows, columns = self.seen
        resized = F.interpolate(self.heat_map[None, None], size=(max(1, height), max(1, width)), mode="bilinear")[0, 0]
        heat[rows, columns] = resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return heat

    @property
    def seen(self) -> tuple[slice, slice]:
        """The rows and columns of `image` in the window."""
        top, left, height, width = map(round, self.window)
        rows, columns = self.image.shape[1:]
        return slice(max(top, 0), min(top + height, rows)), slice(max(left, 0), min(left + width, columns))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image, ready for JSON. The window is in fractions of the image's height and width."""
        height, width = self.image.shape[1:]
        window = Window(*(value / side for value, side in zip(self.window, (height, width) * 2, strict=True)))
        names = ("classes", "probabilities", "explained", "method", "block", "shares")
        fields = {name: getattr(self, name) for name in names}
        heat_map = [[round(value, 4) for value in row] for row in self.heat_map.tolist()]
        known = {} if self.known is None else {"known": self.known}
        return {**fields, **known, "trust": self.trust.to_dict(), "heat_map": heat_map, "window": window._asdict()}


def explain(
    net: GoogLeNet | str | Path, image: Any, *, class_name: str | None = None, method: Method = "masked-gradients",
    block: str | None = None,
) -> Explanation:  # fmt: skip
    """Where in an image the network sees a class, how far to trust that, and how much each branch contributes.

    **Where: a heat map.** The positive part of the evidence that `method` finds, divided by its maximum:

    - `masked-gradients`: what each pixel contributes while random parts of the image are hidden, by its gradients.
    - `occlusion`: what is lost while one square at a time is hidden. It needs no gradients, and takes longer.
    - `grad-cam`: the maps of a block, weighted by their mean gradients. Coarse, and often wrong about the place.

    docs/explanations.md has the tests of these and other methods. **How far to trust it**: `trust` is the part of the
    class's probability that is lost when the hottest fifth of the input is hidden, and when a fifth elsewhere is.

    **How much: activation times gradient.** The share of a branch is the sum of |A dy/dA| over all channels and cells
    of its output A, divided by the sum over the whole block. To first order, A dy/dA is what the logit loses if that
    value is set to 0. Absolute values keep evidence for and against the class from canceling out. A branch with a large
    share may still be replaceable by another one: `googlenet.ablate` measures that.

    All are computed in float32 and eval mode on the network's device; the network is left as it was.

    Args:
        net: a network from `googlenet.load` or `googlenet.import_weights`, or the path of a model file or run folder.
        image: a path, the bytes of a file, a PIL image, a NumPy array (H, W) or (H, W, C), or a tensor (H, W) or
            (C, H, W); arrays and tensors are uint8. Any size.
        class_name: the class to explain, in upper or lower case. Default: the most likely.
        method: how to compute the heat map.
        block: the block for `grad-cam`, `3a` to `5b` in version 1. Default: the last with at least 7 cells per side, or
            if none has (inputs of 28x28 at stride 2), the last of those with the largest maps. If its maps hold no
            evidence for the class, the next best block whose maps do.

    Raises:
        UserError: if the image cannot be read, the class, method or block does not exist, the method takes no block, or
            the network has no `info`.
    """
    net, info = load_or_check(net)
    channels = info.input.channels
    if isinstance(image, Tensor) and image.ndim == 3 and len(image) == channels and image.dtype == torch.uint8:
        seen = image  # of any number of channels
    else:
        seen = decode_resized(image, channels, info.input.decoded_size, info.input.resize)  # as `Predictor` does
        image = decode_image(image, channels, max_side=MAX_DECODED_SIDE)
    if not image.numel():
        raise UserError(f"the image has no pixels: its shape is {tuple(image.shape)}")
    if block is not None:
        find_block(net.architecture, block)
        if method != "grad-cam":
            raise UserError(f"a block is for the method grad-cam, not {method}: omit it, or set --method grad-cam")
    if method not in get_args(Method):
        raise UserError(f"unknown method {method!r}; use one of: {', '.join(get_args(Method))}")
    target = None if class_name is None else _class_index(class_name, info.classes)
    with _block_outputs(net) as outputs, torch.inference_mode(False), torch.enable_grad():
        batch = info.input.prepare(seen[None].to(net.conv1.conv.weight.device)).requires_grad_()
        logits = net(batch)[0]
        target = int(logits.argmax()) if target is None else target
        gradients = torch.autograd.grad(logits[target], list(outputs.values()))
    maps = {name: (output.detach(), grad) for (name, output), grad in zip(outputs.items(), gradients, strict=True)}
    hidden = heat_maps.hide(batch.detach(), info.input)
    with eval_mode(net), torch.inference_mode(False):
        if method == "grad-cam":
            block = block or _default_block(maps)
            evidence = heat_maps.grad_cam(*maps[block])
        else:
            compute = heat_maps.masked_gradients if method == "masked-gradients" else heat_maps.occlusion
            evidence = compute(net, batch.detach(), hidden, target)
        heat = heat_maps.normalize(evidence[0])
        trust = heat_maps.hide_hot_area(net, batch.detach(), hidden, target, heat, info.temperature)
    probabilities, order = (logits.detach() / info.temperature).softmax(dim=0).sort(descending=True, stable=True)
    shown = _reduce(image.cpu(), MAX_IMAGE_SIDE)
    scales = 2 * tuple(after / before for after, before in zip(shown.shape[1:], image.shape[1:], strict=True))
    window = Window(*(v * scale for v, scale in zip(info.input.window(*image.shape[1:]), scales, strict=True)))
    shares = {
        row.name: dict(zip(row.branches, _shares(*maps[row.name], row.branch_channels), strict=True))
        for row in net.architecture.blocks
    }
    classes = tuple(info.classes[index] for index in order.tolist())
    known = None if info.known is None else bool(info.known.accepts(info.known.scores(logits.detach()[None])))
    return Explanation(
        shown, classes, tuple(probabilities.tolist()), info.classes[target], method, block, heat.cpu(), trust, window,
        shares, known,
    )  # fmt: skip


@contextmanager
def _block_outputs(net: GoogLeNet) -> Iterator[dict[str, Tensor]]:
    """Within it, the network is in eval mode, and a forward pass leaves each block's output here by its name."""
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(eval_mode(net))
        for row in net.architecture.blocks:
            block = getattr(net, f"inception{row.name}")
            hook = block.register_forward_hook(lambda _net, _x, output, name=row.name: outputs.update({name: output}))
            stack.enter_context(hook)
        yield outputs


def _shares(maps: Tensor, gradients: Tensor, channels: tuple[int, ...]) -> list[float]:
    """Each branch's share of the block's sum of |activation times gradient|."""
    sums = torch.stack([part.sum() for part in (maps * gradients).cpu().double().abs().split(channels, dim=1)])
    total = sums.sum()
    return (sums / total if total > 0 else sums).tolist()


def _default_block(maps: dict[str, tuple[Tensor, Tensor]]) -> str:
    """The last block with enough cells; if it holds no evidence for the class, the next best that does."""
    cells = {name: min(MIN_MAP_SIDE, *output.shape[2:]) for name, (output, _) in maps.items()}
    best_first = sorted(maps, key=cells.__getitem__)[::-1]
    return next((name for name in best_first if (heat_maps.grad_cam(*maps[name]) > 0).any()), best_first[0])


def _class_index(name: str, classes: tuple[str, ...]) -> int:
    index = find_class(name, classes)
    if index is None:
        raise UserError(f"unknown class {name!r}; classes of the model: {first_classes(classes)}")
    return index


def _reduce(image: Tensor, side: int) -> Tensor:
    """The image, uint8 (C, H, W), resized to at most `side` pixels per side."""
    longer = max(image.shape[1:])
    if longer <= side:
        return image
    size = [max(1, round(length * side / longer)) for length in image.shape[1:]]
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def draw_explanation(explanation: Explanation, path: Path, *, top: int = 5, name: str = "") -> None:
    """Write one PNG: the image, the heat map, the `top` probabilities (and that of the explained class), and the shares
    of the branches in each block."""
    check_counts(top=top)
    with drawing(path, 12, 7.6) as figure:
        grid = figure.add_gridspec(2, 3, height_ratios=(1.3, 1), width_ratios=(1, 1, 1.1))
        image, heat = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        image.imshow(_pixels(explanation.image))
        image.set(title="Image", xticks=[], yticks=[], anchor="N")
        image.set_xlabel(shorten(name, 40), color=GRAY)
        heat.imshow(heat_map_image(explanation))
        heat.set(title=f"Evidence for {shorten(explanation.explained, 28)}", xticks=[], yticks=[], anchor="N")
        scale = "brighter: more evidence" if explanation.heat_map.any() else f"{explanation.method} finds no evidence"
        rows, columns = explanation.seen
        whole = (rows.stop - rows.start, columns.stop - columns.start) == tuple(explanation.image.shape[1:])
        cropped = "" if whole else "; dark: cropped away"
        method = explanation.method + (f", block {explanation.block}" if explanation.block else "")
        trust = trust_line(explanation.trust).replace("; ", ";\n")
        heat.set_xlabel(f"{scale}{cropped} ({method})\n{trust}", color=GRAY, fontsize=9)
        _draw_classes(figure.add_subplot(grid[0, 2]), explanation, top)
        _draw_shares(figure.add_subplot(grid[1, :]), explanation)
        predicted, probability = shorten(explanation.classes[0], 40), explanation.probabilities[0]
        figure.suptitle(f"Predicted: {predicted} ({probability:.1%})", fontsize=16, fontweight="bold")


def trust_line(trust: Trust) -> str:
    """How far to trust a heat map, for people."""
    if not trust.area:
        return "no evidence for the class was found, so there is nothing to hide"

    def change(lost: float, after: float, probability: str) -> str:
        if lost < 0:
            return f"raises {probability} (from {100 * trust.probability:.3g}% to {100 * after:.3g}%)"
        return f"loses {lost:.0%} of {probability}"

    area = f"{trust.area:.0%}" if trust.area >= 0.01 else "pixels"
    return (
        f"hiding the hottest {area} {change(trust.lost, trust.without, 'the probability')}; "
        f"hiding as much elsewhere {change(trust.lost_elsewhere, trust.elsewhere, 'it')}"
    )


def heat_map_image(explanation: Explanation) -> NDArray[np.uint8]:
    """The image in pale gray, colored by `heat`, and dark outside of the window: (H, W, 3), 0 to 255."""
    gray = 0.25 + 0.6 * _pixels(explanation.image).mean(axis=2, keepdims=True)
    heat = explanation.heat.numpy()
    opacity = np.clip(1.4 * heat, 0, 0.75)[:, :, None]
    blended = gray * (1 - opacity) + matplotlib.colormaps["inferno"](heat)[:, :, :3] * opacity
    brightness = np.full_like(gray, 0.3)
    brightness[explanation.seen] = 1
    return (255 * blended * brightness).round().astype(np.uint8)


def _draw_classes(axes: Axes, explanation: Explanation, top: int) -> None:
    shown = list(zip(explanation.classes, explanation.probabilities, strict=True))[:top]
    if explanation.explained not in explanation.classes[:top]:
        shown.append((explanation.explained, explanation.probability))
    for row, (name, probability) in enumerate(shown):
        explained = name == explanation.explained
        axes.barh(row, probability, height=0.5, color="#C2410C" if explained else "#9CA3AF")
        weight = "bold" if explained else "normal"
        axes.text(0, row - 0.32, shorten(name, 40), va="bottom", fontweight=weight)
        axes.text(1, row - 0.32, f"{probability:.1%}", va="bottom", ha="right", fontweight=weight)
    axes.set(xlim=(0, 1), ylim=(max(len(shown), 3) - 0.4, -0.8), xticks=[], yticks=[], title="Probability")
    axes.spines[:].set_visible(False)


def _draw_shares(axes: Axes, explanation: Explanation) -> None:
    blocks = list(explanation.shares)
    bottom = np.zeros(len(blocks))
    longest = max(explanation.shares.values(), key=len)  # some blocks do not have all branches
    for branch, color in zip(longest, BRANCH_COLORS, strict=True):
        shares = np.array([explanation.shares[block].get(branch, 0) for block in blocks])
        bars = axes.bar(blocks, shares, bottom=bottom, width=0.72, color=color, label=branch, edgecolor="white")
        labels = [f"{share:.0%}" if share >= 0.08 else "" for share in shares]
        axes.bar_label(bars, labels, label_type="center", fontsize=9, color="w" if color == BRANCH_COLORS[0] else "k")
        bottom += shares
    axes.set(ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(f"Contribution of each branch to {shorten(explanation.explained, 40)}, by Inception block")
    axes.set_xlabel("share of |activation x gradient|: evidence for and against the class together", color=GRAY)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], title="branch", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _pixels(image: Tensor) -> NDArray[np.float64]:
    """uint8 (C, H, W) to (H, W, 3), 0 to 1; gray unless there are three channels."""
    pixels = image.permute(1, 2, 0).numpy() / 255
    return pixels if pixels.shape[2] == 3 else pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)

"""The heat maps that are compared. Each explains a `Case`, and returns the evidence for its class, (h, w)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Occlusion, Saliency
from torch import Tensor
from torch.nn import functional as F

import googlenet

MIN_SIDE = 7
STEPS = 16


@dataclass(frozen=True)
class Case:
    """A network, an image and the class to explain. `net.info.input.size` must be the size of the image."""

    net: googlenet.GoogLeNet
    image: Tensor  # uint8 (C, H, W)
    target: int

    @property
    def x(self) -> Tensor:
        """The input of the network, (1, C, H, W)."""
        return self.net.info.input.prepare(self.image[None])

    @property
    def hidden(self) -> Tensor:
        """The same with everything hidden, exactly as `googlenet.explain` does: in the color of the border, but no
        brighter than a medium gray."""
        x, spec = self.x, self.net.info.input
        gray = torch.tensor([(0.5 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)])
        border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], dim=2).median(dim=2).values
        return torch.minimum(border, gray)[:, :, None, None].expand_as(x)

    def log_odds(self, x: Tensor) -> Tensor:
        """Of the class, (N, 1)."""
        logits = self.net(x)
        others = [index for index in range(logits.shape[1]) if index != self.target]
        return logits[:, self.target, None] - logits[:, others].logsumexp(dim=1, keepdim=True)

    def seen_through(self, masks: Tensor) -> Tensor:
        """The class's logit and probability if only a part is visible, (N, 2), for masks (N, 1, H, W) from 0 to 1."""
        with torch.no_grad():
            logits = torch.cat([self.net(torch.lerp(self.hidden, self.x, each)) for each in masks.split(16)])
        return torch.stack([logits[:, self.target], logits.softmax(dim=1)[:, self.target]], dim=1)


Method = Callable[[Case], Tensor]


def shipped(method: str, case: Case) -> Tensor:
    name = case.net.info.classes[case.target]
    return googlenet.explain(case.net, case.image, class_name=name, method=method).heat_map  # type: ignore[arg-type]


def layer_cam(kind: str, case: Case) -> Tensor:
    maps, gradients = _maps(case)
    return ((gradients if kind == "hires" else gradients.relu()) * maps).sum(dim=0)


def score_cam(case: Case) -> Tensor:
    """The 64 maps that vary most, each weighted by the softmax of the logit of what it lets through."""
    maps, _ = _maps(case)
    maps = maps[maps.flatten(1).std(dim=1).topk(64).indices]
    masks = F.interpolate(maps[:, None], size=case.x.shape[2:], mode="bilinear")
    low, high = masks.amin(dim=(1, 2, 3), keepdim=True), masks.amax(dim=(1, 2, 3), keepdim=True)
    weights = case.seen_through((masks - low) / (high - low).clamp(min=1e-8))[:, 0].softmax(dim=0)
    return (weights[:, None, None] * maps).sum(dim=0)


def integrated_gradients(case: Case) -> Tensor:
    return IntegratedGradients(case.net).attribute(case.x, case.hidden, case.target, n_steps=STEPS)[0].sum(dim=0)


def smooth_grad(case: Case) -> Tensor:
    noise = 0.15 * float(case.x.max() - case.x.min())
    tunnel = NoiseTunnel(Saliency(case.net))
    gradients = tunnel.attribute(case.x, nt_samples=STEPS, stdevs=noise, target=case.target, abs=False)
    return gradients[0].abs().sum(dim=0)


def occlusion(case: Case) -> Tensor:
    """36 squares side by side, each hidden once: as many passes as masked gradients take forward and backward."""
    side = -(-case.x.shape[2] // 6)
    window = (case.x.shape[1], side, side)
    losses = Occlusion(case.log_odds).attribute(case.x, window, side, case.hidden, 0, perturbations_per_eval=STEPS)
    return losses[0].mean(dim=0)


def rise(case: Case) -> Tensor:
    """Random masks that show half of 7x7 cells: how a pixel's visibility goes with the probability."""
    generator = torch.Generator().manual_seed(0)
    height, width = case.x.shape[2:]
    cells = (torch.rand(128, 1, 8, 8, generator=generator) < 0.5).float()
    large = F.interpolate(cells, size=(height * 8 // 7 + 1, width * 8 // 7 + 1), mode="bilinear")
    shifts = [divmod(int(place), 7) for place in torch.randint(49, (128,), generator=generator)]
    corners = [(row * height // 49, column * width // 49) for row, column in shifts]
    masks = torch.stack([
        mask[:, top : top + height, left : left + width] for mask, (top, left) in zip(large, corners, strict=True)
    ])  # fmt: skip
    scores = case.seen_through(masks)[:, 1]
    return ((scores - scores.mean()).view(-1, 1, 1) * masks[:, 0]).mean(dim=0)


def blurred(method: Method, case: Case) -> Tensor:
    """With a Gaussian of 2 pixels in 28."""
    sigma = case.x.shape[2] / 14
    offsets = torch.arange(-int(3 * sigma), int(3 * sigma) + 1)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    rows = F.conv2d(method(case)[None, None], kernel.view(1, 1, -1, 1), padding="same")
    return F.conv2d(rows, kernel.view(1, 1, 1, -1), padding="same")[0, 0]


def _maps(case: Case) -> tuple[Tensor, Tensor]:
    """Maps, and the logit's gradients, (K, h, w), of the last block with at least 7 cells per side, or the most."""
    outputs: list[Tensor] = []
    blocks = [getattr(case.net, f"inception{block.name}") for block in case.net.architecture.blocks]
    hooks = [block.register_forward_hook(lambda _net, _x, output: outputs.append(output)) for block in blocks]
    logit = case.net(case.x.requires_grad_())[0, case.target]
    for hook in hooks:
        hook.remove()
    maps = max(reversed(outputs), key=lambda output: min(MIN_SIDE, *output.shape[2:]))
    return maps.detach()[0], torch.autograd.grad(logit, maps)[0][0]


METHODS: dict[str, Method] = {
    "random order": lambda case: torch.rand(case.x.shape[2:], generator=torch.Generator().manual_seed(0)),
    "difference from hidden": lambda case: (case.x - case.hidden).abs().sum(dim=1)[0],
    "Grad-CAM": partial(shipped, "grad-cam"),
    "HiResCAM": partial(layer_cam, "hires"),
    "LayerCAM": partial(layer_cam, "layer"),
    "Score-CAM": score_cam,
    "SmoothGrad": smooth_grad,
    "integrated gradients": integrated_gradients,
    "integrated gradients, blurred": partial(blurred, integrated_gradients),
    "occlusion, 36 squares": occlusion,
    "occlusion, 121 squares": partial(shipped, "occlusion"),
    "RISE, 128 masks": rise,
    "masked gradients": partial(shipped, "masked-gradients"),
}

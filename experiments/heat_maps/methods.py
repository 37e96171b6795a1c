"""The heat maps that are compared. Each takes an input (1, C, H, W), the same with everything hidden, and the index of
a class, and returns the evidence for it, (h, w)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Occlusion, Saliency
from torch import Tensor
from torch.nn import functional as F

import googlenet
from googlenet.explanation import heat_maps

Method = Callable[[Tensor, Tensor, int], Tensor]
BLOCKS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
MIN_SIDE = 7


def methods(net: googlenet.GoogLeNet) -> dict[str, Method]:
    """Every method by its name, for one network."""

    def odds(x: Tensor) -> Tensor:
        """Every class's log-odds, for captum."""
        logits = net(x)
        return torch.stack([heat_maps.log_odds(logits, index) for index in range(logits.shape[1])], dim=1)

    def integrated(x: Tensor, hidden: Tensor, target: int) -> Tensor:
        return IntegratedGradients(net).attribute(x, hidden, target, n_steps=16)[0].sum(dim=0)

    def smooth_gradients(x: Tensor, _: Tensor, target: int) -> Tensor:
        noise = 0.15 * float(x.max() - x.min())
        tunnel = NoiseTunnel(Saliency(net))
        return tunnel.attribute(x, nt_samples=16, stdevs=noise, target=target, abs=False)[0].abs().sum(dim=0)

    def occlusion(cells: int, x: Tensor, hidden: Tensor, target: int) -> Tensor:
        """`cells` x `cells` squares, each hidden once."""
        side = -(-x.shape[2] // cells)
        window = (x.shape[1], side, side)
        evidence = Occlusion(odds).attribute(x, window, side, hidden, target, perturbations_per_eval=16)
        return evidence[0].mean(dim=0)

    def camera(kind: str, x: Tensor, _: Tensor, target: int) -> Tensor:
        maps, gradients = _maps(net, x, target)
        weights = {"hires": gradients, "layer": gradients.relu()}
        return (weights[kind] * maps).sum(dim=1)[0] if kind in weights else heat_maps.grad_cam(maps, gradients)[0]

    def score_cam(x: Tensor, hidden: Tensor, target: int) -> Tensor:
        """The 64 maps that vary most, each weighted by the softmax of the logit of what it lets through."""
        maps = _maps(net, x, target)[0][0]
        maps = maps[maps.flatten(1).std(dim=1).topk(64).indices]
        masks = F.interpolate(maps[:, None], size=x.shape[2:], mode="bilinear")
        low, high = masks.amin(dim=(1, 2, 3), keepdim=True), masks.amax(dim=(1, 2, 3), keepdim=True)
        masks = (masks - low) / (high - low).clamp(min=1e-8)
        with torch.no_grad():
            logits = torch.cat([net(torch.lerp(hidden, x, each)) for each in masks.split(16)])
        return (logits[:, target].softmax(dim=0)[:, None, None] * maps).sum(dim=0)

    def random_masks(x: Tensor, hidden: Tensor, target: int) -> Tensor:
        """RISE, half of the cells visible: the covariance of a pixel's visibility and the probability."""
        generator = torch.Generator().manual_seed(0)
        masks = torch.cat([heat_maps._random_mask(x.shape[2:], 0.5, generator) for _ in range(128)])
        with torch.no_grad():
            logits = torch.cat([net(torch.lerp(hidden, x, each)) for each in masks.split(16)])
        score = logits.softmax(dim=1)[:, target]
        return ((score - score.mean()).view(-1, 1, 1, 1) * masks).mean(dim=(0, 1))

    def shipped(method: Callable[..., Tensor], x: Tensor, hidden: Tensor, target: int) -> Tensor:
        return method(net, x, hidden, target)[0]

    return {
        "random order": lambda x, _hidden, _target: torch.rand(x.shape[2:], generator=torch.Generator().manual_seed(0)),
        "difference from hidden": lambda x, hidden, _target: (x - hidden).abs().sum(dim=1)[0],
        "Grad-CAM": partial(camera, "grad"),
        "HiResCAM": partial(camera, "hires"),
        "LayerCAM": partial(camera, "layer"),
        "Score-CAM": score_cam,
        "integrated gradients": integrated,
        "integrated gradients, blurred": lambda *a: heat_maps._smooth(heat_maps._pool(integrated(*a)[None]))[0],
        "SmoothGrad": smooth_gradients,
        "occlusion, 36 squares": partial(occlusion, 6),
        "occlusion, 121 squares": partial(shipped, heat_maps.occlusion),
        "random masks (RISE)": random_masks,
        "masked gradients": partial(shipped, heat_maps.masked_gradients),
    }


def _maps(net: googlenet.GoogLeNet, x: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Maps, and the logit's gradients, of the last block with at least 7 cells per side, or with the most."""
    outputs: list[Tensor] = []
    blocks = [getattr(net, f"inception{name}") for name in BLOCKS]
    hooks = [block.register_forward_hook(lambda _net, _x, output: outputs.append(output)) for block in blocks]
    with torch.enable_grad():
        logit = net(x.detach().requires_grad_())[0, target]
    for hook in hooks:
        hook.remove()
    maps = max(reversed(outputs), key=lambda output: min(MIN_SIDE, *output.shape[2:]))
    return maps.detach(), torch.autograd.grad(logit, maps)[0]

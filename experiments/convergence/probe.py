"""What a network is like at one moment: how much of its input reaches each layer, and how much gradient."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.data.dataset import ImageDataset
from googlenet.data.loader import load_dataset
from googlenet.data.transforms import InputSpec
from googlenet.network import fused
from googlenet.recipe import load_recipe
from googlenet.training.setup import make_network

IMAGES = 16


@dataclass(frozen=True)
class LayerProbe:
    """One layer, from the stem to the classifier."""

    layer: str
    variance: float
    """Of all its outputs, over images, channels and places."""
    spread: float
    """Standard deviation over the images, of each output by itself; the root mean square of these."""
    gradient: float
    """Root mean square of the loss's gradient by the layer's kernels."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe_start(settings: dict[str, Any]) -> list[LayerProbe]:
    """`probe` of the network that a run with these settings starts from, over the recipe `tutorial`."""
    recipe = load_recipe("tutorial", **settings)
    dataset = load_dataset(recipe.data, recipe.data_dir)
    net, spec = make_network(recipe, dataset, dataset.train)
    return probe(net, spec, dataset)


def probe(net: nn.Module, spec: InputSpec, dataset: ImageDataset) -> list[LayerProbe]:
    """Pass the first training images through a copy of the network, and back.

    In training mode, since batch normalization then works with the batch's own statistics, but without dropout; in
    float64, so that what is small is not lost in rounding.
    """
    net = copy.deepcopy(net).cpu().double().train()
    net.zero_grad()
    outputs: dict[str, Tensor] = {}
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for name, child in net.named_children():
        if any(True for _ in child.parameters()) and not name.startswith("aux"):
            child.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output))
    images, labels = dataset.train.__getitems__(range(IMAGES))
    with fused.plain():
        output = net(spec.prepare(images).double())
        F.cross_entropy(output[0] if isinstance(output, tuple) else output, labels).backward()
    return [_layer(name, net.get_submodule(name), output.detach()) for name, output in outputs.items()]


def _layer(name: str, layer: nn.Module, output: Tensor) -> LayerProbe:
    kernels = [p.grad.flatten() for p in layer.parameters() if p.grad is not None and p.ndim > 1]
    return LayerProbe(
        name,
        variance=float(output.var()),
        spread=float(output.var(dim=0).mean().sqrt()),
        gradient=float(torch.cat(kernels).square().mean().sqrt()),
    )

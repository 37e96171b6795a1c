"""A network laid out and named as in the tutorial's text, from plain PyTorch layers, to compare ours with."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {
    "3a": (192, 64, (96, 128), (16, 32), 32),
    "3b": (256, 128, (128, 192), (32, 96), 64),
    "4a": (480, 192, (96, 208), (16, 48), 64),
    "4b": (512, 160, (112, 224), (24, 64), 64),
    "4c": (512, 128, (128, 256), (24, 64), 64),
    "4d": (512, 112, (144, 288), (32, 64), 64),
    "4e": (528, 256, (160, 320), (32, 128), 128),
    "5a": (832, 256, (160, 320), (32, 128), 128),
    "5b": (832, 384, (192, 384), (48, 128), 128),
}


class ReferenceBlock(nn.Module):
    def __init__(self, c: int, one: int, two: tuple[int, int], three: tuple[int, int], four: int) -> None:
        super().__init__()
        for name, layer in (
            ("branch1", nn.Conv2d(c, one, 1)),
            ("branch2_1", nn.Conv2d(c, two[0], 1)),
            ("branch2_2", nn.Conv2d(two[0], two[1], 3, padding=1)),
            ("branch3_1", nn.Conv2d(c, three[0], 1)),
            ("branch3_2", nn.Conv2d(three[0], three[1], 5, padding=2)),
            ("branch4_2", nn.Conv2d(c, four, 1)),
        ):
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        def path(value: Tensor, *names: str) -> Tensor:
            for name in names:
                value = F.relu(self.get_submodule(name)(value))
            return value

        pooled = F.max_pool2d(x, 3, stride=1, padding=1)
        outputs = [path(x, "branch1"), path(x, "branch2_1", "branch2_2"), path(x, "branch3_1", "branch3_2")]
        return torch.cat([*outputs, path(pooled, "branch4_2")], 1)


def reference_network() -> nn.Sequential:
    """For 224x224: children `conv1`, `conv2`, `inception_3a`, ..., `fc`, the average pool a fixed 7x7."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, padding=1)

    def block(name: str) -> nn.Module:
        return ReferenceBlock(*BLOCKS[name])  # type: ignore[arg-type]

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Sequential(nn.Conv2d(1, 64, 7, stride=2, padding=3), nn.ReLU(), pool())
    layers["conv2"] = nn.Sequential(
        nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(), pool()
    )
    for name in BLOCKS:
        if name in ("4a", "5a"):
            layers[f"pool_before_{name}"] = pool()
        layers[f"inception_{name}"] = block(name)
    layers["avg_pool"] = nn.AvgPool2d(7)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(0.4)
    layers["fc"] = nn.Linear(1024, 10)
    return nn.Sequential(layers)

"""Inception v2, v3 and v4 as other packages define them, in plain PyTorch; nothing here uses our network.

Each function computes its network and draws the weights that it meets, under the package's names.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def _draw(weights: Weights, name: str, *shape: int) -> Tensor:
    weights[name] = torch.randn(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return weights[name]


def _batch_norm(weights: Weights, name: str, x: Tensor, epsilon: float) -> Tensor:
    values = {"weight": torch.rand(x.shape[1]) + 0.5, "running_var": torch.rand(x.shape[1]) + 0.5}
    values |= {key: torch.randn(x.shape[1]) * 0.2 for key in ("bias", "running_mean")}
    weights |= {f"{name}.{key}": value for key, value in values.items()}
    weights[f"{name}.num_batches_tracked"] = torch.tensor(3)
    x = F.batch_norm(x, values["running_mean"], values["running_var"], values["weight"], values["bias"], eps=epsilon)
    return F.relu(x)


class Layers:
    """Units of the package: convolution, batch norm, ReLU. `pad` is torch's; kernels are `3` or `(1, 7)`."""

    def __init__(self) -> None:
        self.weights: Weights = {}

    def unit(
        self, x: Tensor, name: str, out: int, kernel: int | tuple[int, int], stride: int = 1,
        pad: int | tuple[int, int] = 0,
    ) -> Tensor:  # fmt: skip
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        x = F.conv2d(x, _draw(self.weights, f"{name}.conv.weight", out, x.shape[1], *sides), None, stride, pad)
        return _batch_norm(self.weights, f"{name}.bn", x, 0.001)

    def row(self, x: Tensor, name: str, out: int, side: int = 7) -> Tensor:
        return self.unit(x, name, out, (1, side), pad=(0, side // 2))

    def column(self, x: Tensor, name: str, out: int, side: int = 7) -> Tensor:
        return self.unit(x, name, out, (side, 1), pad=(side // 2, 0))

    def linear(self, x: Tensor, name: str, out: int) -> Tensor:
        weight = _draw(self.weights, f"{name}.weight", out, x.shape[1])
        self.weights[f"{name}.bias"] = torch.randn(out) * 0.1
        return F.linear(x, weight, self.weights[f"{name}.bias"])


def inception_v3(x: Tensor, num_classes: int) -> tuple[Weights, Tensor, Tensor | None]:
    """torchvision/models/inception.py: weights, logits, and those of the head, for maps that it takes."""
    layers = Layers()
    unit, row, column = layers.unit, layers.row, layers.column
    x = unit(unit(x, "Conv2d_1a_3x3", 32, 3, 2), "Conv2d_2a_3x3", 32, 3)
    x = F.max_pool2d(unit(x, "Conv2d_2b_3x3", 64, 3, pad=1), 3, 2)
    x = F.max_pool2d(unit(unit(x, "Conv2d_3b_1x1", 80, 1), "Conv2d_4a_3x3", 192, 3), 3, 2)
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        five = unit(unit(x, f"{name}.branch5x5_1", 48, 1), f"{name}.branch5x5_2", 64, 5, pad=2)
        double = unit(unit(x, f"{name}.branch3x3dbl_1", 64, 1), f"{name}.branch3x3dbl_2", 96, 3, pad=1)
        double = unit(double, f"{name}.branch3x3dbl_3", 96, 3, pad=1)
        pool = unit(F.avg_pool2d(x, 3, 1, 1), f"{name}.branch_pool", pooled, 1)
        x = torch.cat([unit(x, f"{name}.branch1x1", 64, 1), five, double, pool], 1)
    double = unit(unit(x, "Mixed_6a.branch3x3dbl_1", 64, 1), "Mixed_6a.branch3x3dbl_2", 96, 3, pad=1)
    double = unit(double, "Mixed_6a.branch3x3dbl_3", 96, 3, 2)
    x = torch.cat([unit(x, "Mixed_6a.branch3x3", 384, 3, 2), double, F.max_pool2d(x, 3, 2)], 1)
    for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        seven = row(unit(x, f"{name}.branch7x7_1", inner, 1), f"{name}.branch7x7_2", inner)
        seven = column(seven, f"{name}.branch7x7_3", 192)
        double = unit(x, f"{name}.branch7x7dbl_1", inner, 1)
        double = row(column(double, f"{name}.branch7x7dbl_2", inner), f"{name}.branch7x7dbl_3", inner)
        double = row(column(double, f"{name}.branch7x7dbl_4", inner), f"{name}.branch7x7dbl_5", 192)
        pool = unit(F.avg_pool2d(x, 3, 1, 1), f"{name}.branch_pool", 192, 1)
        x = torch.cat([unit(x, f"{name}.branch1x1", 192, 1), seven, double, pool], 1)
    head = None
    if x.shape[2] >= 17:
        head = unit(unit(F.avg_pool2d(x, 5, 3), "AuxLogits.conv0", 128, 1), "AuxLogits.conv1", 768, 5)
        head = layers.linear(head.mean((2, 3)), "AuxLogits.fc", num_classes)
    three = unit(unit(x, "Mixed_7a.branch3x3_1", 192, 1), "Mixed_7a.branch3x3_2", 320, 3, 2)
    seven = row(unit(x, "Mixed_7a.branch7x7x3_1", 192, 1), "Mixed_7a.branch7x7x3_2", 192)
    seven = unit(column(seven, "Mixed_7a.branch7x7x3_3", 192), "Mixed_7a.branch7x7x3_4", 192, 3, 2)
    x = torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)
    for name in ("Mixed_7b", "Mixed_7c"):
        three = unit(x, f"{name}.branch3x3_1", 384, 1)
        double = unit(unit(x, f"{name}.branch3x3dbl_1", 448, 1), f"{name}.branch3x3dbl_2", 384, 3, pad=1)
        sides = [row(three, f"{name}.branch3x3_2a", 384, 3), column(three, f"{name}.branch3x3_2b", 384, 3)]
        sides += [row(double, f"{name}.branch3x3dbl_3a", 384, 3), column(double, f"{name}.branch3x3dbl_3b", 384, 3)]
        pool = unit(F.avg_pool2d(x, 3, 1, 1), f"{name}.branch_pool", 192, 1)
        x = torch.cat([unit(x, f"{name}.branch1x1", 320, 1), *sides, pool], 1)
    return layers.weights, layers.linear(x.mean((2, 3)), "fc", num_classes), head


def inception_v4(x: Tensor, num_classes: int) -> tuple[Weights, Tensor]:
    """timm/models/inception_v4.py."""
    layers = Layers()
    unit, row, column = layers.unit, layers.row, layers.column

    def average(x: Tensor, name: str, out: int) -> Tensor:
        return unit(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), f"{name}.branch3.1", out, 1)

    f = "features"
    x = unit(unit(unit(x, f"{f}.0", 32, 3, 2), f"{f}.1", 32, 3), f"{f}.2", 64, 3, pad=1)
    x = torch.cat([F.max_pool2d(x, 3, 2), unit(x, f"{f}.3.conv", 96, 3, 2)], 1)
    short = unit(unit(x, f"{f}.4.branch0.0", 64, 1), f"{f}.4.branch0.1", 96, 3)
    long = column(row(unit(x, f"{f}.4.branch1.0", 64, 1), f"{f}.4.branch1.1", 64), f"{f}.4.branch1.2", 64)
    x = torch.cat([short, unit(long, f"{f}.4.branch1.3", 96, 3)], 1)
    x = torch.cat([unit(x, f"{f}.5.conv", 192, 3, 2), F.max_pool2d(x, 3, 2)], 1)
    for number in range(6, 10):
        name = f"{f}.{number}"
        one = unit(x, f"{name}.branch0", 96, 1)
        three = unit(unit(x, f"{name}.branch1.0", 64, 1), f"{name}.branch1.1", 96, 3, pad=1)
        double = unit(unit(x, f"{name}.branch2.0", 64, 1), f"{name}.branch2.1", 96, 3, pad=1)
        double = unit(double, f"{name}.branch2.2", 96, 3, pad=1)
        x = torch.cat([one, three, double, average(x, name, 96)], 1)
    double = unit(unit(x, f"{f}.10.branch1.0", 192, 1), f"{f}.10.branch1.1", 224, 3, pad=1)
    double = unit(double, f"{f}.10.branch1.2", 256, 3, 2)
    x = torch.cat([unit(x, f"{f}.10.branch0", 384, 3, 2), double, F.max_pool2d(x, 3, 2)], 1)
    for number in range(11, 18):
        name = f"{f}.{number}"
        one = unit(x, f"{name}.branch0", 384, 1)
        seven = row(unit(x, f"{name}.branch1.0", 192, 1), f"{name}.branch1.1", 224)
        seven = column(seven, f"{name}.branch1.2", 256)
        double = column(unit(x, f"{name}.branch2.0", 192, 1), f"{name}.branch2.1", 192)
        double = column(row(double, f"{name}.branch2.2", 224), f"{name}.branch2.3", 224)
        double = row(double, f"{name}.branch2.4", 256)
        x = torch.cat([one, seven, double, average(x, name, 128)], 1)
    three = unit(unit(x, f"{f}.18.branch0.0", 192, 1), f"{f}.18.branch0.1", 192, 3, 2)
    seven = column(row(unit(x, f"{f}.18.branch1.0", 256, 1), f"{f}.18.branch1.1", 256), f"{f}.18.branch1.2", 320)
    x = torch.cat([three, unit(seven, f"{f}.18.branch1.3", 320, 3, 2), F.max_pool2d(x, 3, 2)], 1)
    for number in range(19, 22):
        name = f"{f}.{number}"
        one, single = unit(x, f"{name}.branch0", 256, 1), unit(x, f"{name}.branch1_0", 384, 1)
        double = column(unit(x, f"{name}.branch2_0", 384, 1), f"{name}.branch2_1", 448, 3)
        double = row(double, f"{name}.branch2_2", 512, 3)
        sides = [row(single, f"{name}.branch1_1a", 256, 3), column(single, f"{name}.branch1_1b", 256, 3)]
        sides += [row(double, f"{name}.branch2_3a", 256, 3), column(double, f"{name}.branch2_3b", 256, 3)]
        x = torch.cat([one, *sides, average(x, name, 256)], 1)
    return layers.weights, layers.linear(x.mean((2, 3)), "last_linear", num_classes)


# name: 1x1, (reduce, 3x3), (reduce, double 3x3), pool projection; no 1x1: stride 2. Figure 5 of the second paper
_BN_INCEPTION = {
    "3a": (64, (64, 64), (64, 96), 32), "3b": (64, (64, 96), (64, 96), 64), "3c": (0, (128, 160), (64, 96), 0),
    "4a": (224, (64, 96), (96, 128), 128), "4b": (192, (96, 128), (96, 128), 128),
    "4c": (160, (128, 160), (128, 160), 128), "4d": (96, (128, 192), (160, 192), 128),
    "4e": (0, (128, 192), (192, 256), 0),
    "5a": (352, (192, 320), (160, 224), 128), "5b": (352, (192, 320), (192, 224), 128),
}  # fmt: skip


def bn_inception(x: Tensor, num_classes: int) -> tuple[Weights, Tensor]:
    """pretrainedmodels/models/bninception.py: convolutions have a bias, and the channels of `x` are BGR."""
    layers = Layers()

    def unit(x: Tensor, name: str, out: int, kernel: int, stride: int = 1) -> Tensor:
        weight = _draw(layers.weights, f"{name}.weight", out, x.shape[1], kernel, kernel)
        bias = layers.weights[f"{name}.bias"] = torch.randn(out) * 0.1
        return _batch_norm(layers.weights, f"{name}_bn", F.conv2d(x, weight, bias, stride, kernel // 2), 1e-5)

    x = F.max_pool2d(unit(x, "conv1_7x7_s2", 64, 7, 2), 3, 2, ceil_mode=True)
    x = F.max_pool2d(unit(unit(x, "conv2_3x3_reduce", 64, 1), "conv2_3x3", 192, 3), 3, 2, ceil_mode=True)
    for block, (one, three, double, project) in _BN_INCEPTION.items():
        name, stride = f"inception_{block}_", 1 if one else 2
        branches = [unit(x, f"{name}1x1", one, 1)] if one else []
        branches.append(unit(unit(x, f"{name}3x3_reduce", three[0], 1), f"{name}3x3", three[1], 3, stride))
        y = unit(unit(x, f"{name}double_3x3_reduce", double[0], 1), f"{name}double_3x3_1", double[1], 3)
        branches.append(unit(y, f"{name}double_3x3_2", double[1], 3, stride))
        if not one:
            pooled = F.max_pool2d(x, 3, 2, ceil_mode=True)
        elif block == "5b":
            pooled = F.max_pool2d(x, 3, 1, 1, ceil_mode=True)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1, ceil_mode=True)
        x = torch.cat([*branches, unit(pooled, f"{name}pool_proj", project, 1) if project else pooled], 1)
    return layers.weights, layers.linear(x.mean((2, 3)), "last_linear", num_classes)

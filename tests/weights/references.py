"""GoogLeNet as other projects define it, with random weights under their names and in their files.

Written from their definitions, in plain PyTorch; nothing here uses our network.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.model.tutorial_reference import BLOCKS

Weights = dict[str, Tensor]


class D2LBlock(nn.Module):
    """Section 8.4.1 of d2l.ai: `letter` is b, or p in editions before 2023."""

    def __init__(self, letter: str, one: int, two: tuple[int, int], three: tuple[int, int], four: int) -> None:
        super().__init__()
        self.letter = letter
        self.add_module(f"{letter}1_1", nn.LazyConv2d(one, kernel_size=1))
        self.add_module(f"{letter}2_1", nn.LazyConv2d(two[0], kernel_size=1))
        self.add_module(f"{letter}2_2", nn.LazyConv2d(two[1], kernel_size=3, padding=1))
        self.add_module(f"{letter}3_1", nn.LazyConv2d(three[0], kernel_size=1))
        self.add_module(f"{letter}3_2", nn.LazyConv2d(three[1], kernel_size=5, padding=2))
        self.add_module(f"{letter}4_1", nn.MaxPool2d(kernel_size=3, stride=1, padding=1))
        self.add_module(f"{letter}4_2", nn.LazyConv2d(four, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        def layer(name: str, value: Tensor) -> Tensor:
            return self.get_submodule(self.letter + name)(value)

        two, three = F.relu(layer("2_1", x)), F.relu(layer("3_1", x))
        branches = (layer("1_1", x), layer("2_2", two), layer("3_2", three), layer("4_2", layer("4_1", x)))
        return torch.cat([F.relu(branch) for branch in branches], dim=1)


class D2LNetwork(nn.Module):
    """Section 8.4.2 of d2l.ai: its layers are in `net`."""

    def __init__(self, letter: str = "b", num_classes: int = 10) -> None:
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        def blocks(*names: str) -> list[nn.Module]:
            return [D2LBlock(letter, *BLOCKS[name][1:]) for name in names]  # type: ignore[arg-type]

        self.net = nn.Sequential(
            nn.Sequential(nn.LazyConv2d(64, kernel_size=7, stride=2, padding=3), nn.ReLU(), pool()),
            nn.Sequential(nn.LazyConv2d(64, 1), nn.ReLU(), nn.LazyConv2d(192, 3, padding=1), nn.ReLU(), pool()),
            nn.Sequential(*blocks("3a", "3b"), pool()),
            nn.Sequential(*blocks("4a", "4b", "4c", "4d", "4e"), pool()),
            nn.Sequential(*blocks("5a", "5b"), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()),
            nn.LazyLinear(num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def _random(*shape: int) -> Tensor:
    """(out, in, ...), of a size that keeps activations in range; or biases."""
    return torch.randn(shape) * (math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1)


def same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Padded as `SAME` of TensorFlow and `same` of MindSpore: the odd pixel at the bottom and right.

    https://www.tensorflow.org/api_docs/python/tf/nn#same_padding
    """
    borders: list[int] = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        borders += [total // 2, total - total // 2]
    return F.pad(x, borders, value=value)


def _pool(x: Tensor, kernel: int, stride: int) -> Tensor:
    return F.max_pool2d(same(x, kernel, stride, -math.inf), kernel, stride)


def mindcv_weights(num_classes: int) -> Weights:
    """Parameters of mindcv/models/googlenet.py: convolutions without bias, no normalization."""
    weights = {"conv1.conv": _random(64, 3, 7, 7), "conv2.conv": _random(64, 64, 1, 1)}
    weights["conv3.conv"] = _random(192, 64, 3, 3)
    for name, (c, one, two, three, four) in BLOCKS.items():
        block = f"inception{name}"
        weights[f"{block}.b1.conv"] = _random(one, c, 1, 1)
        for branch, kernel, (reduced, out) in (("b2", 3, two), ("b3", 5, three)):
            weights[f"{block}.{branch}.0.conv"] = _random(reduced, c, 1, 1)
            weights[f"{block}.{branch}.1.conv"] = _random(out, reduced, kernel, kernel)
        weights[f"{block}.b4.1.conv"] = _random(four, c, 1, 1)
    weights = {f"{name}.weight": weight for name, weight in weights.items()}
    return weights | {"classifier.weight": _random(num_classes, 1024), "classifier.bias": _random(num_classes)}


def mindcv_forward(weights: Weights, x: Tensor) -> Tensor:
    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.conv.weight"]
        return F.relu(F.conv2d(same(x, weight.shape[2], stride), weight, stride=stride))

    x = _pool(conv(x, "conv1", stride=2), 3, 2)
    x = _pool(conv(conv(x, "conv2"), "conv3"), 3, 2)
    for name in BLOCKS:
        if name in ("4a", "5a"):
            x = _pool(x, 3 if name == "4a" else 2, 2)
        block = f"inception{name}"
        branches = [conv(x, f"{block}.b1")]
        branches += [conv(conv(x, f"{block}.{branch}.0"), f"{block}.{branch}.1") for branch in ("b2", "b3")]
        x = torch.cat([*branches, conv(_pool(x, 3, 1), f"{block}.b4.1")], dim=1)
    return F.linear(x.mean(dim=(2, 3)), weights["classifier.weight"], weights["classifier.bias"])


LRN = {"depth_radius": 5, "bias": 2.0, "alpha": 1e-4, "beta": 0.5}


def inception5h_weights(num_classes: int) -> Weights:
    """Constants of tensorflow_inception_graph.pb: HWIO convolutions, (in, out) matrices.

    Block 4a has 204 channels in its second branch instead of 208, block 5a reduces to 48 in its third instead of 32.
    """
    rows = dict(BLOCKS)
    rows["4a"] = (480, 192, (96, 204), (16, 48), 64)
    rows["4b"] = (508, *BLOCKS["4b"][1:])
    rows["5a"] = (832, 256, (160, 320), (48, 128), 128)
    layers = {"conv2d0": (64, 3, 7, 7), "conv2d1": (64, 64, 1, 1), "conv2d2": (192, 64, 3, 3)}
    for name, (c, one, two, three, four) in rows.items():
        layers |= {f"mixed{name}_1x1": (one, c, 1, 1), f"mixed{name}_pool_reduce": (four, c, 1, 1)}
        for kernel, (reduced, out) in ((3, two), (5, three)):
            layers[f"mixed{name}_{kernel}x{kernel}_bottleneck"] = (reduced, c, 1, 1)
            layers[f"mixed{name}_{kernel}x{kernel}"] = (out, reduced, kernel, kernel)
    for head, channels in ((0, 508), (1, 528)):
        layers[f"head{head}_bottleneck"] = (128, channels, 1, 1)
    weights = {f"{name}_w": _random(*shape).permute(2, 3, 1, 0) for name, shape in layers.items()}
    weights |= {f"{name}_b": _random(shape[0]) for name, shape in layers.items()}
    for name, (out, size) in {"nn0": (1024, 2048), "nn1": (1024, 2048), "softmax0": (num_classes, 1024),
                              "softmax1": (num_classes, 1024), "softmax2": (num_classes, 1024)}.items():  # fmt: skip
        weights |= {f"{name}_w": _random(out, size).T, f"{name}_b": _random(out)}
    return weights


def inception5h_forward(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of the network and of its two heads: (N, 3, H, W) -> 3 x (N, num_classes)."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}_w"].permute(3, 2, 0, 1)
        return F.relu(F.conv2d(same(x, weight.shape[2], stride), weight, weights[f"{name}_b"], stride))

    def lrn(x: Tensor) -> Tensor:  # https://www.tensorflow.org/api_docs/python/tf/nn/local_response_normalization
        radius = int(LRN["depth_radius"])
        sums = [x[:, max(0, c - radius) : c + radius + 1].square().sum(dim=1) for c in range(x.shape[1])]
        return x / (LRN["bias"] + LRN["alpha"] * torch.stack(sums, dim=1)) ** LRN["beta"]

    def head(x: Tensor, number: int) -> Tensor:
        x = conv(F.avg_pool2d(x, 5, 3), f"head{number}_bottleneck").permute(0, 2, 3, 1).flatten(1)
        x = F.relu(x @ weights[f"nn{number}_w"] + weights[f"nn{number}_b"])
        return x @ weights[f"softmax{number}_w"] + weights[f"softmax{number}_b"]

    heads: list[Tensor] = []
    x = lrn(_pool(conv(x, "conv2d0", stride=2), 3, 2))
    x = _pool(lrn(conv(conv(x, "conv2d1"), "conv2d2")), 3, 2)
    for name in BLOCKS:
        if name in ("4a", "5a"):
            x = _pool(x, 3, 2)
        block = f"mixed{name}_"
        branches = [conv(conv(x, f"{block}{kernel}_bottleneck"), f"{block}{kernel}") for kernel in ("3x3", "5x5")]
        x = torch.cat([conv(x, f"{block}1x1"), *branches, conv(_pool(x, 3, 1), f"{block}pool_reduce")], dim=1)
        if name in ("4a", "4d"):
            heads.append(head(x, len(heads)))
    return x.mean(dim=(2, 3)) @ weights["softmax2_w"] + weights["softmax2_b"], heads[0], heads[1]


def message(*fields: tuple[int, int | float | str | bytes]) -> bytes:
    """A protocol buffer: https://protobuf.dev/programming-guides/encoding/."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)

    def encoded(number: int, value: int | float | str | bytes) -> bytes:
        if isinstance(value, int):
            return varint(number * 8) + varint(value)
        if isinstance(value, float):
            return varint(number * 8 + 5) + np.float32(value).tobytes()
        data = value.encode() if isinstance(value, str) else value
        return varint(number * 8 + 2) + varint(len(data)) + data

    return b"".join(encoded(number, value) for number, value in fields)


def mindspore_checkpoint(weights: Weights, *, slices: int = 1) -> bytes:
    """What `mindspore.save_checkpoint` writes; it cuts large parameters into several entries."""
    values = []
    for name, tensor in weights.items():
        data = tensor.contiguous().numpy().tobytes()
        length = -(-len(data) // (4 * slices)) * 4
        for start in range(0, len(data), length):
            content = (*((1, side) for side in tensor.shape), (2, "Float32"), (3, data[start : start + length]))
            values.append((1, message((1, name), (2, message(*content)))))
    return message(*values)


def frozen_graph(weights: Weights) -> bytes:
    """A frozen TensorFlow graph with these constants, and nodes of other kinds."""

    def node(name: str, operation: str, **attributes: bytes) -> tuple[int, bytes]:
        pairs = [(5, message((1, key), (2, value))) for key, value in attributes.items()]
        return 1, message((1, name), (2, operation), *pairs)

    def constant(
        name: str, dtype: int, shape: tuple[int, ...], content: tuple[int, bytes | float]
    ) -> tuple[int, bytes]:
        sides = message(*((2, message((1, side))) for side in shape))
        return node(name, "Const", value=message((8, message((1, dtype), (2, sides), content))))

    nodes = [node("input", "Placeholder", dtype=message((6, 1)))]
    for name, tensor in weights.items():
        content = (4, tensor.contiguous().numpy().tobytes())
        nodes.append(constant(name, 1, tuple(tensor.shape), content))
    nodes.append(constant("mixed3a/concat_dim", 3, (), (7, message())))
    nodes.append(constant("keep", 1, (), (5, 0.5)))
    for number in (0, 1):
        values = {key: message((3 if isinstance(value, int) else 4, value)) for key, value in LRN.items()}
        nodes.append(node(f"localresponsenorm{number}", "LRN", **values))
    return message(*nodes)

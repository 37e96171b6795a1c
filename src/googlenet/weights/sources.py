"""Where weights come from: the names that each source gives them, and what its files do not show, as data.

Every source has the nine blocks of Table 1. What differs is the names, the layout, and how an image becomes an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from googlenet.model.architecture import TABLE_1, Variant
from googlenet.weights.readers import Weights

_BRANCHES = ("branch1.conv", "branch2.0.conv", "branch2.1.conv", "branch3.0.conv", "branch3.1.conv", "branch4.1.conv")
_FIRST = "inception3a.branch1.conv.weight"  # every network has it, and its names there tell sources apart
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Source(NamedTuple):
    """One source of weights."""

    name: str
    names: Mapping[str, str] = {_FIRST: _FIRST}  # its names -> ours; a name that is not here is ours already
    variant: Variant | None = None  # None: detected from names and shapes
    changes: Mapping[str, Any] = {}  # fields in which its architecture differs from the variant
    adapt: Callable[[Weights], dict[str, Any]] | None = None
    """Converts the layout of renamed weights, in place, and returns further changes of the architecture. Raises an
    error of Python for those of another network."""
    is_graph: bool = False  # whether its files hold other tensors too, which are not weights of a layer
    mean: tuple[float, ...] = (0.0,)  # of pixels in 0..1; one value, or one for each channel
    std: tuple[float, ...] = (1.0,)
    size: int = 224
    crop: bool = False  # whether it is evaluated on the central 224 of 256 pixels, or on stretched images

    @property
    def key(self) -> str:
        """The name of a weight that tells this source from the others."""
        return next(theirs for theirs, ours in self.names.items() if ours == _FIRST)


def _names(
    stem: Mapping[str, str], block: Callable[[str], str], branches: Iterable[str], weight: str, bias: str
) -> dict[str, str]:
    """All names of a source -> ours.

    `stem` has its layers outside the blocks, `block` gives its name of a block up to the branch, `branches` its names
    of the convolutions in a block in our order, `weight` and `bias` what it appends to a layer's name.
    """
    layers = dict(stem)
    for row in TABLE_1:
        for theirs, ours in zip(branches, _BRANCHES, strict=True):
            layers[block(row.name) + theirs] = f"inception{row.name}.{ours}"
    kinds = ((weight, ".weight"), (bias, ".bias"))
    return {theirs + end: ours + kind for theirs, ours in layers.items() for end, kind in kinds}


def _bgr_to_rgb(weights: Weights) -> dict[str, Any]:
    if weights["conv1.conv.weight"].shape[1] == 3:
        weights["conv1.conv.weight"] = weights["conv1.conv.weight"].flip(1)
    return {}


def _add_zero_biases(weights: Weights) -> dict[str, Any]:
    for name, tensor in list(weights.items()):
        if name.endswith(".conv.weight"):
            weights.setdefault(name.removesuffix("weight") + "bias", torch.zeros(len(tensor)))
    return {}


def _adapt_inception5h(weights: Weights) -> dict[str, Any]:
    """TensorFlow's layout -> PyTorch's, 204 channels -> Table 1's 208, and the constants of the graph."""
    constants = ("depth_radius", "alpha", "beta", "bias")
    first, second = ([weights.pop(f"lrn{number}/{key}", None) for key in constants] for number in (0, 1))
    if None in first or first != second:
        raise ValueError("localresponsenorm0 and localresponsenorm1 are missing or differ")
    radius, alpha, beta, k = (float(value) for value in first if value is not None)
    size = 2 * int(radius) + 1
    for name, tensor in list(weights.items()):
        if tensor.ndim == 4:
            weights[name] = tensor.permute(3, 2, 0, 1)  # height, width, in, out
        elif tensor.ndim == 2:
            weights[name] = tensor.T
        if name.endswith("fc1.weight"):  # of a 4x4 map in the order height, width, channels
            weights[name] = weights[name].unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2).flatten(1)
    # Block 4a has 204 channels in its second branch. Channels of zeros stay zero after a ReLU, and no layer reads them
    row = next(row for row in TABLE_1 if row.name == "4a")
    missing = row.branch2[1] - len(weights["inception4a.branch2.1.conv.bias"])
    if missing > 0:
        for kind in ("weight", "bias"):
            name = f"inception4a.branch2.1.conv.{kind}"
            weights[name] = torch.cat([weights[name], weights[name].new_zeros(missing, *weights[name].shape[1:])])
        first_missing = row.branch1 + row.branch2[1] - missing
        inputs = [f"inception4b.{_BRANCHES[branch]}.weight" for branch in (0, 1, 3, 5)]
        for name in [*inputs, "aux1.conv.conv.weight"]:
            if name in weights:
                before, after = weights[name].split((first_missing, weights[name].shape[1] - first_missing), dim=1)
                weights[name] = torch.cat([F.pad(before, (0, 0, 0, 0, 0, missing)), after], dim=1)
    reduction = len(weights["inception5a.branch3.0.conv.bias"])
    return {"lrn": (size, alpha * size, beta, k), "reduction_5a": reduction}


_AUX = {f"aux{number}.{layer}": f"aux{number}.{layer}" for number in (1, 2) for layer in ("conv.conv", "fc1", "fc2")}
_MINDCV_STEM = {f"conv{number}.conv": f"conv{number}.conv" for number in (1, 2, 3)}
_D2L_STEM = {"0.0": "conv1.conv", "1.0": "conv2.conv", "1.2": "conv3.conv", "5": "fc"}


def _d2l_names(letter: str) -> dict[str, str]:
    """`letter` is p up to 2022 and b since: `2.0.p1_1` or `2.0.b1_1`. Blocks 3a and 3b are 2.0 and 2.1, 4a is 3.0."""
    branches = (f"{letter}{part}" for part in ("1_1", "2_1", "2_2", "3_1", "3_2", "4_2"))
    return _names(
        _D2L_STEM, lambda row: f"{int(row[0]) - 1}.{ord(row[1]) - ord('a')}.", tuple(branches), ".weight", ".bias"
    )


OURS = Source("this package, or a network with its names")
# Published weights were trained on pixels in [-1, 1], which torchvision computes from ImageNet's normalization inside
# the network (transform_input=True).
TORCHVISION = Source("torchvision", mean=(0.5,), std=(0.5,), crop=True)
TUTORIAL = Source(
    "the tutorial",
    _names(
        {"conv1.0": "conv1.conv", "conv2.0": "conv2.conv", "conv2.2": "conv3.conv", "fc": "fc"},
        lambda row: f"inception_{row}.",
        ("branch1", "branch2_1", "branch2_2", "branch3_1", "branch3_2", "branch4_2"),
        ".weight",
        ".bias",
    ),
    "tutorial",
)
# https://d2l.ai/chapter_convolutional-modern/googlenet.html
D2L, D2L_BEFORE_2023 = (Source("d2l.ai", _d2l_names(letter), "tutorial", size=96) for letter in "bp")
# BVLC's Caffe model as in the ONNX model zoo: pixels of 0..255 minus ImageNet's mean color, in BGR
CAFFE = Source(
    "Caffe",
    _names(
        {
            "conv1/7x7_s2": "conv1.conv",
            "conv2/3x3_reduce": "conv2.conv",
            "conv2/3x3": "conv3.conv",
            "loss3/classifier": "fc",
        },
        lambda row: f"inception_{row}/",
        ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"),
        "_w_0",
        "_b_0",
    ),
    "paper",
    adapt=_bgr_to_rgb,
    is_graph=True,
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=(1 / 255,),
    crop=True,
)
# https://github.com/mindspore-lab/mindcv/blob/main/mindcv/models/googlenet.py: no normalization, no convolution bias,
# every layer padded with pad_mode="same", which for a pool on a map of even size is rounding its output size up
MINDCV = Source(
    "MindCV",
    _names(
        {**_MINDCV_STEM, "classifier": "fc", **_AUX},
        lambda row: f"inception{row}.",
        ("b1.conv", "b2.0.conv", "b2.1.conv", "b3.0.conv", "b3.1.conv", "b4.1.conv"),
        ".weight",
        ".bias",
    ),
    "tutorial",
    {"stem_padding": "same", "pool": "ceil", "last_pool_kernel": 2, "dropout": 0.2},
    _add_zero_biases,
    mean=_IMAGENET_MEAN,
    std=_IMAGENET_STD,
    crop=True,
)
# The graph in inception5h.zip, which DeepDream and Lucid use: pixels of 0..255 minus 117
INCEPTION5H = Source(
    "TensorFlow's inception5h",
    {
        **_names(
            {
                **{f"conv2d{number}": f"conv{number + 1}.conv" for number in (0, 1, 2)},
                **{f"head{number}_bottleneck": f"aux{number + 1}.conv.conv" for number in (0, 1)},
                **{f"nn{number}": f"aux{number + 1}.fc1" for number in (0, 1)},
                **{f"softmax{number}": f"aux{number + 1}.fc2" for number in (0, 1)},
                "softmax2": "fc",
            },
            lambda row: f"mixed{row}_",
            ("1x1", "3x3_bottleneck", "3x3", "5x5_bottleneck", "5x5", "pool_reduce"),
            "_w",
            "_b",
        ),
        **{
            f"localresponsenorm{number}/{key}": f"lrn{number}/{key}"
            for number in (0, 1)
            for key in ("depth_radius", "alpha", "beta", "bias")
        },
    },
    "paper",
    {"stem_padding": "same"},
    _adapt_inception5h,
    is_graph=True,
    mean=(117 / 255,),
    std=(1 / 255,),
    crop=True,
)
SOURCES = (OURS, TUTORIAL, D2L, D2L_BEFORE_2023, CAFFE, MINDCV, INCEPTION5H)

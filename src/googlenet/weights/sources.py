"""Where weights come from: the names that each source gives them, and what its files do not show, as data.

What differs between the sources of a version is the names, the layout, and how an image becomes an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from googlenet.model.architecture import VARIANTS, Variant
from googlenet.model.tables import TABLE_1, Block, Branch, Conv, Split
from googlenet.weights.readers import Weights

_BRANCHES = ("branch1.conv", "branch2.0.conv", "branch2.1.conv", "branch3.0.conv", "branch3.1.conv", "branch4.1.conv")
# Weights that tell sources apart: versions 1 and 2 have the first, versions 3 and 4 the second, under other names
_FIRST, _LATER = "inception3a.branch1.conv.weight", "inception6b.branch1.conv.weight"
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
    size: int | None = None  # default: the paper's
    crop: bool = False  # whether it is evaluated on the central 224 of 256 pixels, or on stretched images

    @property
    def key(self) -> str:
        """The name of a weight that tells this source from the others."""
        return next(theirs for theirs, ours in self.names.items() if ours in (_FIRST, _LATER))


_PLAIN = ((".weight", ".weight"), (".bias", ".bias"))
_OF_BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_NORMALIZED = tuple((end, end) for end in (".conv.weight", *(f".bn.{name}" for name in _OF_BN)))


def _names(
    stem: Mapping[str, str], block: Callable[[str], str], branches: Iterable[str], weight: str, bias: str
) -> dict[str, str]:
    """All names of a source of version 1 without batch norm -> ours.

    `stem` has its layers outside the blocks, `block` gives its name of a block up to the branch, `branches` its names
    of the convolutions in a block in our order, `weight` and `bias` what it appends to a layer's name.
    """
    convolutions = _of_blocks("tutorial", lambda name: [block(name) + branch for branch in branches])
    layers = {**stem, **{theirs: f"{ours}.conv" for theirs, ours in convolutions.items()}}
    return _with_ends(layers, ((weight, ".weight"), (bias, ".bias")))


def _with_ends(layers: Mapping[str, str], ends: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names of layers -> names of their tensors, with what a source and what we append."""
    return {theirs + their_end: ours + our_end for theirs, ours in layers.items() for their_end, our_end in ends}


def _of_blocks(variant: Variant, names: Callable[[str], Iterable[str]]) -> dict[str, str]:
    """A source's names of the convolutions in all blocks -> ours; `names` gives those of a block in our order."""
    found: dict[str, str] = {}
    for block in VARIANTS[variant].blocks:
        ours = _convolutions(f"inception{block.name}", block.branches.values())
        found |= dict(zip(names(block.name), ours, strict=True))
    return found


def _convolutions(prefix: str, branches: Iterable[Branch]) -> Iterator[str]:
    """Our names of the convolutions in a block."""
    for number, branch in enumerate(branches, start=1):
        for index, step in enumerate(branch):
            name = f"{prefix}.branch{number}" + (f".{index}" if len(branch) > 1 else "")
            if isinstance(step, Split):
                yield from _convolutions(name, step.branches)
            elif isinstance(step, Conv):
                yield name


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
OURS_LATER = Source(OURS.name, {_LATER: _LATER})
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


_MIXED = {
    "5": "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool",
    "6a": "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    "6": "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 "
    "branch7x7dbl_5 branch_pool",
    "7a": "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
    "7": "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a "
    "branch3x3dbl_3b branch_pool",
}
# torchvision's and timm's inception_v3. Published weights take pixels in [-1, 1], as those of torchvision's googlenet.
V3 = Source(
    "torchvision's and timm's Inception v3",
    {
        **_with_ends(
            {
                "Conv2d_1a_3x3": "conv1",
                "Conv2d_2a_3x3": "conv2",
                "Conv2d_2b_3x3": "conv3",
                "Conv2d_3b_1x1": "conv4",
                "Conv2d_4a_3x3": "conv5",
                **_of_blocks(
                    "v3", lambda name: [f"Mixed_{name}.{unit}" for unit in _MIXED.get(name, _MIXED[name[0]]).split()]
                ),
                "AuxLogits.conv0": "aux1.conv",
                "AuxLogits.conv1": "aux1.conv2",
            },
            _NORMALIZED,
        ),
        **_with_ends({"AuxLogits.fc": "aux1.fc2"}, _PLAIN),
    },
    "v3",
    mean=(0.5,),
    std=(0.5,),
    crop=True,
)


_V4_LAST = "branch0 branch1_0 branch1_1a branch1_1b branch2_0 branch2_1 branch2_2 branch2_3a branch2_3b branch3.1"


def _v4_block(name: str) -> list[str]:
    """timm numbers the layers in order, and branches from 0."""
    layers = VARIANTS["v4"].layers
    number, block = list(layers).index(f"inception{name}"), layers[f"inception{name}"]
    assert isinstance(block, Block)
    if name in ("3a", "5a"):
        units = ["conv"]
    elif name in ("7b", "7c", "7d"):
        units = _V4_LAST.split()
    else:
        inner = (unit.removeprefix(".branch") for unit in _convolutions("", block.branches.values()))
        units = [f"branch{int(unit[0]) - 1}{unit[1:]}" for unit in inner]
    return [f"features.{number}.{unit}" for unit in units]


V4 = Source(
    "timm's Inception v4",
    {
        **_with_ends(
            {"features.0": "conv1", "features.1": "conv2", "features.2": "conv3", **_of_blocks("v4", _v4_block)},
            _NORMALIZED,
        ),
        **_with_ends({"last_linear": "fc"}, _PLAIN),
    },
    "v4",
    mean=(0.5,),
    std=(0.5,),
    crop=True,
)


def _v2_block(name: str) -> list[str]:
    units = ("1x1", "3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2", "pool_proj")
    return [f"inception_{name}_{unit}" for unit in (units[1:-1] if name in ("3c", "4e") else units)]


def _adapt_bn_inception(weights: Weights) -> dict[str, Any]:
    """Biases of convolutions become a part of what the batch norm subtracts; and BGR -> RGB."""
    for name in [name for name in weights if name.endswith(".conv.bias")]:
        mean = name.replace(".conv.bias", ".bn.running_mean")
        weights[mean] = weights[mean] - weights.pop(name)
    return _bgr_to_rgb(weights)


# https://github.com/Cadene/pretrained-models.pytorch/blob/master/pretrainedmodels/models/bninception.py: the network in
# Caffe, whose pools round up, for pixels of 0..255 minus ImageNet's mean color, in BGR
V2 = Source(
    "pretrainedmodels' BN-Inception",
    {
        **_with_ends(
            {"conv1_7x7_s2": "conv1", "conv2_3x3_reduce": "conv2", "conv2_3x3": "conv3", **_of_blocks("v2", _v2_block)},
            (
                *((end, f".conv{end}") for end, _ in _PLAIN),
                *((end.replace(".bn", "_bn"), end) for end, _ in _NORMALIZED[1:]),
            ),
        ),
        **_with_ends({"last_linear": "fc"}, _PLAIN),
    },
    "v2",
    {"pool": "ceil"},
    _adapt_bn_inception,
    mean=(128 / 255, 117 / 255, 104 / 255),
    std=(1 / 255,),
    crop=True,
)
SOURCES = (OURS, OURS_LATER, TUTORIAL, D2L, D2L_BEFORE_2023, CAFFE, MINDCV, INCEPTION5H, V2, V3, V4)

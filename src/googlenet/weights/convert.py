"""Third-party weights: detect what they are from, and rename them to our state-dict names."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet.data import fashion_mnist
from googlenet.data.transforms import InputSpec
from googlenet.device import require
from googlenet.errors import UserError, reason_of
from googlenet.files import expand
from googlenet.model.architecture import VARIANTS, Architecture, Variant
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import ModelInfo, build, read_safetensors, save, unreadable_as_user_error

Weights = dict[str, Tensor]

_BRANCHES = ("branch1.conv", "branch2.0.conv", "branch2.1.conv", "branch3.0.conv", "branch3.1.conv", "branch4.1.conv")
_TUTORIAL_BRANCHES = ("branch1", "branch2_1", "branch2_2", "branch3_1", "branch3_2", "branch4_2")
_CAFFE_BRANCHES = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
_STEM = {
    "conv1.0": "conv1.conv", "conv2.0": "conv2.conv", "conv2.2": "conv3.conv",  # the tutorial's
    "conv1/7x7_s2": "conv1.conv", "conv2/3x3_reduce": "conv2.conv", "conv2/3x3": "conv3.conv",  # Caffe's
    "loss3/classifier": "fc",
}  # fmt: skip


def import_weights(
    path: str | Path, *, variant: Variant | None = None, stem_stride: int | None = None,
    classes: Sequence[str] | None = None,
) -> GoogLeNet:  # fmt: skip
    """A network in eval mode from weights without our description; its `info` is a `ModelInfo`, as after `load`.

    Supported: state dicts (`.pt`, `.pth`, `.safetensors`) of the tutorial's code, of torchvision's `googlenet` with or
    without auxiliary heads, and of our networks; and the ONNX model zoo's Inception v1 (`.onnx`), converted from Caffe.

    Args:
        path: the file. Pickles are read with `weights_only=True`: they cannot run code.
        variant: the variant, if names and shapes do not determine it.
        stem_stride: stride of the first convolution in pixels. Default: the variant's, 2; recipes for 28x28 use 1.
        classes: class names. Default: Fashion-MNIST's for the tutorial's weights, else numbers.

    Raises:
        UserError: if the file is missing or damaged, would run code, or holds other weights.
    """
    path = expand(path)
    weights = _read_onnx(path) if path.suffix == ".onnx" else _read_state_dict(path)
    if from_caffe := "conv1/7x7_s2_w_0" in weights:
        weights, variant = _rename_caffe(weights), variant or "paper"
    elif "inception_3a.branch1.weight" in weights:
        weights, variant = _rename_tutorial(weights), variant or "tutorial"
    try:
        in_channels, num_classes = weights["conv1.conv.weight"].shape[1], weights["fc.weight"].shape[0]
        variant = variant or detect_variant(weights)
    except (KeyError, IndexError) as error:
        raise UserError(f"{path} holds the weights of another network: {error} is missing") from error
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; use one of: {', '.join(VARIANTS)}")
    found = dataclasses.replace(
        VARIANTS[variant], in_channels=in_channels, num_classes=num_classes, auxiliary="aux1.fc2.weight" in weights,
        stem_stride=VARIANTS[variant].stem_stride if stem_stride is None else stem_stride,
    )  # fmt: skip
    try:
        net = build(found, weights)
    except ValueError as error:
        raise UserError(f"{path} does not fit variant {variant!r}: {reason_of(error)}") from error
    net.info = ModelInfo(found, _class_names(found, classes), _input_spec(found, from_caffe=from_caffe))
    return net


def import_to_file(
    path: Path, output: Path | None, *, variant: Variant | None = None, stem_stride: int | None = None,
    class_file: Path | None = None,
) -> tuple[Path, ModelInfo]:  # fmt: skip
    """Import weights and write them to a model file. Default output: `path` with the suffix .safetensors.

    Raises `UserError` like `import_weights`, if the class file cannot be read, or if `path` would be overwritten;
    `RunError` if the model file cannot be written.
    """
    classes = None
    if class_file is not None:
        with unreadable_as_user_error(class_file, "class names"):
            text = expand(class_file).read_text(encoding="utf-8-sig")
        classes = [name for line in text.split("\n") if (name := line.strip())]
    target = output or path.with_suffix(".safetensors")
    if target.resolve() == path.resolve() or (output is None and target.exists()):
        raise UserError(f"{target} would be overwritten: name another file with --output")
    net = import_weights(path, variant=variant, stem_stride=stem_stride, classes=classes)
    save(net, net.info, target)
    return target, net.info


def _read_state_dict(path: Path) -> Weights:
    content: Any
    if path.suffix == ".safetensors":
        content, description = read_safetensors(path)
        if description is not None:
            raise UserError(f"{path} is a model file already: use it directly, or with --weights")
    else:
        with unreadable_as_user_error(path, "weights"):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise UserError(
                    f"{path} was not written by torch.save, or holds more than weights, which could run code: "
                    "save net.state_dict(), not net"
                ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} does not hold a state dict, which maps names to tensors: save net.state_dict()")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _read_onnx(path: Path) -> Weights:
    require("onnx", "reading ONNX files")
    import onnx

    with unreadable_as_user_error(path, "ONNX"):
        initializers = onnx.load(path).graph.initializer
        return {item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).copy()) for item in initializers}


def _rename_caffe(weights: Weights) -> Weights:
    """Our names, without tensors that are not weights of a layer; and RGB instead of Caffe's BGR input."""
    branches, renamed = dict(zip(_CAFFE_BRANCHES, _BRANCHES, strict=True)), {}
    for name, tensor in weights.items():
        layer, _, kind = name.removesuffix("_0").rpartition("_")
        block, _, part = layer.partition("/")
        if block.startswith("inception_") and part in branches:
            layer = f"{block.replace('_', '')}.{branches[part]}"
        elif layer in _STEM:
            layer = _STEM[layer]
        else:
            continue
        renamed[f"{layer}.{'weight' if kind == 'w' else 'bias'}"] = tensor
    if renamed["conv1.conv.weight"].shape[1] == 3:
        renamed["conv1.conv.weight"] = renamed["conv1.conv.weight"].flip(1)
    return renamed


def _rename_tutorial(weights: Weights) -> Weights:
    branches, renamed = dict(zip(_TUTORIAL_BRANCHES, _BRANCHES, strict=True)), {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        block, _, part = layer.partition(".")
        layer = f"{block.replace('_', '')}.{branches[part]}" if part in branches else _STEM.get(layer, layer)
        renamed[f"{layer}.{kind}"] = tensor
    return renamed


def detect_variant(weights: Weights) -> Variant:
    """The variant of weights under our names. Raises `KeyError` or `IndexError` for those of another network."""
    third_branch_kernel = weights["inception3a.branch3.1.conv.weight"].shape[2]
    if "conv1.bn.weight" in weights:
        return "torchvision" if third_branch_kernel == 3 else "bn"
    return "paper" if "aux1.fc2.weight" in weights else "tutorial"


def _class_names(found: Architecture, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        is_tutorial = found.variant == "tutorial" and (found.in_channels, found.num_classes) == (1, 10)
        return fashion_mnist.CLASSES if is_tutorial else tuple(map(str, range(found.num_classes)))
    if len(classes) != found.num_classes:
        raise UserError(f"the weights have {found.num_classes} classes, but {len(classes)} class names are given")
    if repeated := [name for number, name in enumerate(classes) if name in classes[:number]]:
        raise UserError(f"the class name {repeated[0]!r} is given more than once: class names must be unique")
    return tuple(classes)


def _input_spec(found: Architecture, *, from_caffe: bool) -> InputSpec:
    if from_caffe:  # bvlc_googlenet: pixels of 0..255 minus ImageNet's mean color, the central 224 of 256
        return InputSpec(3, 224, (123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3, resize="crop", crop_pct=0.875)
    zero, half, one = ((value,) * found.in_channels for value in (0.0, 0.5, 1.0))
    if found.variant == "torchvision":
        # Published weights were trained on pixels in [-1, 1], which torchvision computes from ImageNet's normalization
        # inside the network (transform_input=True), and evaluated on the central 224 of 256.
        return InputSpec(found.in_channels, 224, half, half, resize="crop", crop_pct=0.875)
    return InputSpec(found.in_channels, 224, zero, one)

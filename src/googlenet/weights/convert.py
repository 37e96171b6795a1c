"""Other people's weights: recognized by their names and shapes, renamed, and given the description they lack."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from googlenet.data import fashion_mnist
from googlenet.data.transforms import InputSpec
from googlenet.errors import UserError, reason_of
from googlenet.model.architecture import VARIANTS, Architecture, Variant
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import ModelInfo, save

Weights = dict[str, Tensor]

_TUTORIAL_STEM = {"conv1.0": "conv1.conv", "conv2.0": "conv2.conv", "conv2.2": "conv3.conv", "fc": "fc"}
_TUTORIAL_BRANCH = {
    "branch1": "branch1.conv",
    "branch2_1": "branch2.0.conv",
    "branch2_2": "branch2.1.conv",
    "branch3_1": "branch3.0.conv",
    "branch3_2": "branch3.1.conv",
    "branch4_2": "branch4.1.conv",
}
_CAFFE_STEM = {
    "conv1/7x7_s2": "conv1.conv",
    "conv2/3x3_reduce": "conv2.conv",
    "conv2/3x3": "conv3.conv",
    "loss3/classifier": "fc",
}
_CAFFE_BRANCH = {
    "1x1": "branch1.conv",
    "3x3_reduce": "branch2.0.conv",
    "3x3": "branch2.1.conv",
    "5x5_reduce": "branch3.0.conv",
    "5x5": "branch3.1.conv",
    "pool_proj": "branch4.1.conv",
}
_CAFFE_INPUT = InputSpec(3, 224, (123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3, resize="crop", crop_pct=0.875)
"""Pixels of 0..255 less ImageNet's mean color, the middle 224 of 256 (BVLC's bvlc_googlenet)."""


def import_weights(
    path: str | Path,
    *,
    variant: Variant | None = None,
    stem_stride: int | None = None,
    classes: Sequence[str] | None = None,
) -> GoogLeNet:
    """A network from weights that this package did not write; its `info` describes it as a model file would.

    Recognised are state dicts (`.pt`, `.pth`, `.safetensors`) saved from the tutorial's code, from torchvision's
    `googlenet` with or without auxiliary heads, and from this package's networks; and the ONNX model zoo's Inception v1
    (`.onnx`), whose weights bear the names that Caffe gave them.

    Args:
        path: the file. A pickle is read with `weights_only=True`: it cannot run code.
        variant: what the weights are of, where their names and shapes leave a choice.
        stem_stride: pixels between two places of the first convolution, which no shape shows; left out, the
            variant's, 2. The recipes for 28x28 have 1.
        classes: the classes' names. Left out, they are Fashion-MNIST's for the tutorial's weights and numbers else.

    Returns:
        The network in eval mode.

    Raises:
        UserError: for a file that is missing, damaged, would run code, or holds other weights.
    """
    weights = _read_onnx(Path(path)) if Path(path).suffix == ".onnx" else _read_weights(Path(path))
    if from_caffe := "conv1/7x7_s2_w_0" in weights:
        weights = _canonical_of_caffe(weights)
        variant = variant or "paper"
    if "inception_3a.branch1.weight" in weights:
        weights = {_canonical_of_tutorial(name): tensor for name, tensor in weights.items()}
        variant = variant or "tutorial"
    described = _recognized(weights, variant, stem_stride, path)
    net = GoogLeNet(described)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()
        raise UserError(f"{path} does not fit variant {described.variant!r}: {problem}") from error
    spec = _CAFFE_INPUT if from_caffe else _input_spec(described)
    net.info = ModelInfo(described, _class_names(described, classes), spec)
    return net.eval()


def import_file(
    path: Path,
    output: Path | None,
    *,
    variant: Variant | None = None,
    stem_stride: int | None = None,
    class_file: Path | None = None,
) -> tuple[Path, ModelInfo]:
    """Import weights and write them as a model file: its path (beside `path` where none is named), its description.

    Raises:
        UserError: as `import_weights` does, for a class file that cannot be read, or where it would overwrite `path`.
        RunError: where the model file cannot be written.
    """
    classes = None
    if class_file is not None:
        try:
            classes = class_file.read_text(encoding="utf-8-sig").split("\n")  # some editors begin with a mark
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the class names in {class_file}: {reason_of(error)}") from error
        classes = [name.strip() for name in classes if name.strip()]
    target = output or path.with_suffix(".safetensors")
    if target.resolve() == path.resolve() or (output is None and target.exists()):
        raise UserError(f"{target} would be overwritten; name the file to write: --output")
    net = import_weights(path, variant=variant, stem_stride=stem_stride, classes=classes)
    save(net, net.info, target)
    return target, net.info


def _read_weights(path: Path) -> Weights:
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than weights, or is no file of torch.save: reading it could run code and is refused; "
            f"save net.state_dict(), not net"
        ) from error
    except Exception as error:  # the readers raise whatever damaged bytes lead them to
        raise UserError(f"{path} cannot be read as weights: {reason_of(error)}") from error
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict: it should map names to tensors, as net.state_dict() does")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _read_safetensors(path: Path) -> Weights:
    with safe_open(path, framework="pt") as file:
        if "googlenet" in (file.metadata() or {}):
            raise UserError(f"{path} is a model file already: predict, evaluate and train --weights take it as it is")
        return {name.removeprefix("module."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)


def _read_onnx(path: Path) -> Weights:
    if not find_spec("onnx"):
        raise UserError("reading ONNX files needs onnx, which is not installed: pip install onnx")
    import onnx

    try:
        graph = onnx.load(path).graph
        return {entry.name: torch.from_numpy(onnx.numpy_helper.to_array(entry).copy()) for entry in graph.initializer}
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except Exception as error:  # protobuf's errors have no public base; tensors of odd kinds
        raise UserError(f"{path} cannot be read as ONNX: {reason_of(error)}") from error


def _canonical_of_caffe(weights: Weights) -> Weights:
    """Caffe's network takes blue, green, red; ours red, green, blue. What is no weight of a layer is left out."""
    renamed = {}
    for name, tensor in weights.items():
        layer, _, kind = name.removesuffix("_0").rpartition("_")
        block, _, part = layer.partition("/")
        if layer in _CAFFE_STEM:
            target = _CAFFE_STEM[layer]
        elif block.startswith("inception_") and part in _CAFFE_BRANCH:
            target = f"inception{block.removeprefix('inception_')}.{_CAFFE_BRANCH[part]}"
        else:
            continue
        renamed[f"{target}.{'weight' if kind == 'w' else 'bias'}"] = tensor
    first = renamed["conv1.conv.weight"]
    if first.shape[1] == 3:
        renamed["conv1.conv.weight"] = first.flip(1)
    return renamed


def _canonical_of_tutorial(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    if layer in _TUTORIAL_STEM:
        return f"{_TUTORIAL_STEM[layer]}.{kind}"
    block = re.fullmatch(r"inception_(\d\w)\.(\w+)", layer)
    if block and block[2] in _TUTORIAL_BRANCH:
        return f"inception{block[1]}.{_TUTORIAL_BRANCH[block[2]]}.{kind}"
    return name


def _recognized(weights: Weights, variant: Variant | None, stem_stride: int | None, path: str | Path) -> Architecture:
    try:
        in_channels = weights["conv1.conv.weight"].shape[1]
        num_classes = weights["fc.weight"].shape[0]
        third_kernel = weights["inception3a.branch3.1.conv.weight"].shape[2]
    except (KeyError, IndexError) as error:
        raise UserError(f"{path} holds weights of another network: it has no {error}") from error
    auxiliary = "aux1.fc2.weight" in weights
    if variant is None:
        if "conv1.bn.weight" in weights:
            variant = "torchvision" if third_kernel == 3 else "bn"
        else:
            variant = "paper" if auxiliary else "tutorial"
    changes = {} if stem_stride is None else {"stem_stride": stem_stride}
    return dataclasses.replace(
        VARIANTS[variant], in_channels=in_channels, num_classes=num_classes, auxiliary=auxiliary, **changes
    )


def _class_names(described: Architecture, classes: Sequence[str] | None) -> tuple[str, ...]:
    count = described.num_classes
    if classes is not None:
        if len(classes) != count:
            raise UserError(f"{len(classes)} class names were given, the weights are of {count} classes")
        twice = next((name for name, times in Counter(classes).items() if times > 1), None)
        if twice is not None:
            those = " and ".join(str(number) for number, name in enumerate(classes, start=1) if name == twice)
            raise UserError(f"two classes are called {twice!r} (names {those}); give each its own")
        return tuple(classes)
    if described.variant == "tutorial" and (described.in_channels, count) == (1, 10):
        return fashion_mnist.CLASSES
    return tuple(str(number) for number in range(count))


def _input_spec(described: Architecture) -> InputSpec:
    channels = described.in_channels
    if described.variant == "torchvision":
        # Its published weights were trained on pixels in [-1, 1]; torchvision converts ImageNet's normalization to
        # that inside the network (transform_input=True), and evaluates on the middle 224 of 256.
        return InputSpec(channels, 224, (0.5,) * channels, (0.5,) * channels, resize="crop", crop_pct=0.875)
    return InputSpec(channels, 224, (0.0,) * channels, (1.0,) * channels)

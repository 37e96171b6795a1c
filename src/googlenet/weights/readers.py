"""Files of other programs as tensors by name: PyTorch, safetensors, ONNX, MindSpore and TensorFlow.

No reader runs code from a file, and none needs the program that wrote it. ONNX, MindSpore and TensorFlow write protocol
buffers, of which we read the few fields that hold tensors.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from googlenet.console import log
from googlenet.errors import UserError
from googlenet.weights.model_file import read_safetensors, unreadable_as_user_error

Weights = dict[str, Tensor]

_OTHER_KIND = "it is damaged, or of another kind"
_MAX_REPEATED = 2**24  # values that a file may write once for all; damaged ones could ask for any amount of memory

# Where training scripts keep the weights of a checkpoint, in the order that timm looks for them
_EMA_KEYS = ("state_dict_ema", "model_ema")
_KEYS = ("state_dict", "model", "model_state_dict")
_MAX_DEPTH = 4  # of one in another; a dictionary may hold itself
# What MindSpore saves next to the weights: the optimizer's state and counters
_MINDSPORE_OPTIMIZER = ("moments.", "accum.", "moment1.", "moment2.")
_MINDSPORE_COUNTERS = ("epoch_num", "step_num", "learning_rate", "global_step", "momentum")


def read_tensors(path: Path, *, use_ema: bool = True) -> Weights:
    """The tensors of a file by name, as its program wrote them.

    The suffix decides between `.safetensors`, `.onnx` and `.pb` (a frozen TensorFlow graph); any other file is a
    MindSpore checkpoint if it starts like one, and else something that `torch.save` wrote.

    Args:
        path: the file.
        use_ema: prefer the moving average of the weights, if a checkpoint has one.

    Raises:
        UserError: if the file is missing or damaged, holds no tensors, or would run code.
    """
    with unreadable_as_user_error(path, "weights"), path.open("rb") as file:
        start = file.read(256)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page, not weights: the download did not return the file; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of Git LFS, not weights: fetch the file with `git lfs pull`")
    match path.suffix.lower():
        case ".safetensors":
            weights, description = read_safetensors(path)
            if description is not None:
                raise UserError(f"{path} is a model file already: use it directly, or with --weights")
        case ".onnx":
            with unreadable_as_user_error(path, "ONNX"):
                weights = _read_onnx(path.read_bytes())
        case ".pb":
            with unreadable_as_user_error(path, "a frozen TensorFlow graph"):
                weights = _read_graph(path.read_bytes())
        case _ if start[:1] == b"\n":  # field 1 of a protocol buffer; neither a zip file nor a pickle starts so
            with unreadable_as_user_error(path, "a MindSpore checkpoint"):
                weights = _read_mindspore(path.read_bytes())
        case _:
            weights = _read_pickle(path, use_ema=use_ema)
    if not weights:
        raise UserError(f"{path} holds no weights; save net.state_dict()")
    return weights


def _read_pickle(path: Path, *, use_ema: bool) -> Weights:
    with unreadable_as_user_error(path, "weights"):
        try:
            # The scripts of torchvision and timm save their options, an `argparse.Namespace`. Allowing it is safe: it
            # has no methods that run while it is unpickled, only attributes, and we drop it right away.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content: Any = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if name := re.search(r"GLOBAL (\S+)", str(error)):
                raise UserError(
                    f"{path} would run code, {name[1]}, so it was not read: save net.state_dict(), not net or a "
                    "checkpoint with other objects"
                ) from error
            raise UserError(f"{path} was not written by torch.save: save net.state_dict()") from error
    keys = (*_EMA_KEYS, *_KEYS) if use_ema else _KEYS
    for _ in range(_MAX_DEPTH):
        key = next((key for key in keys if isinstance(content, dict) and isinstance(content.get(key), dict)), None)
        if key is None:
            break
        if key in _EMA_KEYS:
            log.info("%s: using the moving average of the weights (%s)", path.name, key)
        content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} does not hold a state dict, which maps names to tensors: save net.state_dict()")
    if empty := [
        name for name, tensor in content.items() if isinstance(tensor, UninitializedParameter | UninitializedBuffer)
    ]:
        raise UserError(
            f"{path}: {empty[0]} of a lazy layer has no values yet: run the network once before you save it"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _read_onnx(data: bytes) -> Weights:
    """Initializers of an ONNX file. Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto."""
    weights = {}
    for graph in _parse(data).get(7, []):
        for tensor in map(_parse, _parse(graph).get(5, [])):
            if 13 in tensor or tensor.get(14, [0])[0]:
                raise ValueError("its weights are in another file")
            dtype = {1: "<f4", 10: "<f2", 11: "<f8"}.get(tensor.get(2, [0])[0])
            if dtype is not None:  # other types hold shapes and indices
                raw, dtype = (tensor[9], dtype) if 9 in tensor else (tensor.get(4, []), "<f4")
                weights[_text(tensor[8][0])] = _tensor(raw, dtype, _integers(tensor.get(1, [])))
    return weights


def _read_mindspore(data: bytes) -> Weights:
    """Parameters of a MindSpore checkpoint.

    Field numbers: https://github.com/mindspore-ai/mindspore/blob/master/mindspore/ccsrc/utils/checkpoint.proto. Large
    parameters are several entries with the same name.
    """
    dtypes = {"float32": "<f4", "float16": "<f2", "float64": "<f8"}
    parts: dict[str, tuple[list[bytes], str, list[int]]] = {}
    for value in map(_parse, _parse(data).get(1, [])):
        name = _text(value[1][0])
        if 2 not in value:
            raise ValueError(f"{name} is not a tensor")
        if name.startswith(_MINDSPORE_OPTIMIZER) or name in _MINDSPORE_COUNTERS:
            continue
        tensor = _parse(value[2][0])
        dtype = dtypes.get(_text(tensor[2][0]).removeprefix("mindspore.").lower())
        if dtype is None:
            raise ValueError(f"{name} is of type {_text(tensor[2][0])}")
        parts.setdefault(name, ([], dtype, _integers(tensor.get(1, []))))[0].extend(tensor.get(3, []))
    return {name: _tensor(*part) for name, part in parts.items()}


def _read_graph(data: bytes) -> Weights:
    """Constants of a frozen TensorFlow graph, and each number of its normalizations as NODE/ATTRIBUTE.

    Field numbers: https://github.com/tensorflow/tensorflow/tree/master/tensorflow/core/framework, graph.proto,
    node_def.proto, attr_value.proto and tensor.proto.
    """
    weights: Weights = {}
    for node in map(_parse, _parse(data).get(1, [])):
        name, operation = _text(node[1][0]), _text(node[2][0])
        pairs = (_parse(item) for item in node.get(5, []))
        attributes = {_text(pair[1][0]): _parse(pair.get(2, [b""])[0]) for pair in pairs}
        if operation == "LRN":
            # Attributes with their default value may be absent
            constants = {"depth_radius": 5.0, "bias": 1.0, "alpha": 1.0, "beta": 0.5}
            constants |= {key: _number(attributes[key]) for key in constants if key in attributes}
            weights |= {f"{name}/{key}": torch.tensor(value).double() for key, value in constants.items()}
        elif operation == "Const" and 8 in attributes.get("value", {}):
            tensor = _parse(attributes["value"][8][0])
            dtype = {1: "<f4", 2: "<f8"}.get(tensor.get(1, [0])[0])
            if dtype is not None:  # other types hold shapes and axes
                shape = _parse(tensor[2][0]) if 2 in tensor else {}
                sides = [_parse(side).get(1, [0])[0] for side in shape.get(2, [])]
                values = tensor.get(4) or tensor.get(5 if dtype == "<f4" else 6, [])
                weights[name] = _tensor(values, dtype, sides)
    return weights


def _number(attribute: Fields) -> float:
    """An integer or a float of TensorFlow's `AttrValue`."""
    if 3 in attribute:
        return float(attribute[3][0])
    return float(np.frombuffer(attribute[4][0], "<f4")[0]) if 4 in attribute else 0.0


def _tensor(parts: list[bytes], dtype: str, shape: list[int]) -> Tensor:
    values = np.frombuffer(b"".join(parts), dtype)
    if values.size == 1 and math.prod(shape) <= _MAX_REPEATED:  # TensorFlow writes a constant of equal values once
        values = np.full(math.prod(shape), values[0])
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def _text(value: bytes) -> str:
    return str(value, "utf-8")


def _integers(values: list[Any]) -> list[int]:
    """A repeated integer, whether packed into one value or not."""
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(value)
            continue
        position = 0
        while position < len(value):
            number, position = _varint(value, position)
            found.append(number)
    return found


class Fields(dict[int, list[Any]]):
    """A protocol buffer: for each field number, the integer or the bytes of each occurrence."""

    def __missing__(self, number: int) -> list[Any]:
        raise ValueError(_OTHER_KIND)


def _parse(data: bytes | memoryview) -> Fields:
    """The fields of a protocol buffer: https://protobuf.dev/programming-guides/encoding/.

    Raises `ValueError` if the data ends within a field or is of another kind.
    """
    fields = Fields()
    for number, value in _fields(memoryview(data)):
        fields.setdefault(number, []).append(value)
    return fields


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(_OTHER_KIND)
        length, position = _varint(data, position) if kind == 2 else (8 if kind == 1 else 4, position)
        if position + length > len(data):
            raise ValueError("the file is truncated")
        yield number, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """An integer of 7 bits per byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("the file is truncated")
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
    raise ValueError(_OTHER_KIND)

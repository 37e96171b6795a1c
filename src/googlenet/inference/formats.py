"""A network written as a file for other programs, in each format, in floating point or in integers of 8 bits."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from googlenet.errors import RunError, UserError, reason_of
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import ModelInfo

Format = Literal["onnx", "openvino", "torch-export"]
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
KEY = "googlenet"
"""Under which an exported file says what its model file said."""
_NEEDED: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch-export": (),
}
LONGEST_SIDE = 30_000
"""Of a picture that an exported file prepares by itself, pixels."""
_MUTED = threading.RLock()


def require(to: Format, *, int8: bool) -> None:
    """Raises `UserError` where a package that is needed is missing, or there is no such thing."""
    packages = _NEEDED[to]
    if int8 and to == "torch-export":
        raise UserError("int8 is for onnx and openvino; torch-export keeps floating point")
    if int8 and to == "openvino":
        packages = (*packages, "nncf")
    if missing := [name for name in packages if not find_spec(name)]:
        raise UserError(f"converting to {to} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def parts(file: Path) -> list[Path]:
    """The files that an exported one consists of: OpenVINO's weights lie beside it, in a `.bin`."""
    weights = file.with_suffix(".bin")
    return [weights, file] if file.suffix == SUFFIX["openvino"] and weights.exists() else [file]


@contextlib.contextmanager
def _told_of_the_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what torch and OpenVINO make of a full disk
        raise RunError(f"cannot write {path.name}: {reason_of(error)}") from error


def write_graph(model: ExportableModel, to: Format, path: Path, description: str) -> None:
    """Write the file, `description` in its metadata. OpenVINO's weights go beside it, in a `.bin`."""
    with quietly():
        if to == "openvino":
            import openvino

            graph = openvino_graph(model)
            graph.set_rt_info(description, KEY)
            with _told_of_the_disk(path):
                openvino.save_model(graph, path, compress_to_fp16=False)
            return
        example, shapes = _example(model)
        if to == "torch-export":
            program = torch.export.export(model, (example,), dynamic_shapes=(shapes,))
            with _told_of_the_disk(path):
                torch.export.save(program, path, extra_files={KEY: description})
            return
        onnx_program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=(shapes,),
            input_names=["images"],
            output_names=["probabilities" if model.preprocessing else "logits"],
            verbose=False,
        )
        assert onnx_program is not None
        onnx_program.model.metadata_props[KEY] = description
        onnx_program.save(path)


def openvino_graph(model: ExportableModel) -> Any:
    """An `openvino.Model` of the network."""
    import openvino

    example, _ = _example(model)
    with quietly():
        graph = openvino.convert_model(model, example_input=example)
    side = -1 if model.preprocessing else model.spec.size
    graph.reshape([-1, model.spec.channels, side, side])
    graph.inputs[0].get_tensor().set_names({"images"})
    graph.outputs[0].get_tensor().set_names({"probabilities" if model.preprocessing else "logits"})
    return graph


def quantize_graph(to: Format, path: Path, target: Path, batches: Sequence[Tensor]) -> None:
    """Write the file at `path` anew with convolutions in integers of 8 bits, their ranges those that `batches` show.

    Matrix products stay in floating point: they resize, and make the logits.
    """
    with quietly():
        if to == "onnx":
            _quantize_onnx(path, target, batches)
        else:
            _quantize_openvino(path, target, batches)


def _quantize_onnx(path: Path, target: Path, batches: Sequence[Tensor]) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch.numpy()}

    import onnx

    fused = path.with_suffix(".fused.onnx")
    quant_pre_process(str(path), str(fused), skip_symbolic_shape=True)  # it folds batch normalization
    quantization.quantize_static(
        str(fused),
        str(target),
        Reader(),
        op_types_to_quantize=["Conv", "MaxPool", "Relu", "Concat", "Split"],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    quantized = onnx.load(target)
    described = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    onnx.helper.set_model_props(quantized, described)
    onnx.save(quantized, target)


def _quantize_openvino(path: Path, target: Path, batches: Sequence[Tensor]) -> None:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    graph = openvino.Core().read_model(path)
    quantized = nncf.quantize(
        graph,
        nncf.Dataset([batch.numpy() for batch in batches]),
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(types=["MatMul"], validate=False),
    )
    quantized.set_rt_info(graph.get_rt_info(KEY).astype(str), KEY)
    openvino.save_model(quantized, target, compress_to_fp16=False)


def _example(model: ExportableModel) -> tuple[Tensor, dict[int, Any]]:
    """A batch to trace with, and which of its dimensions are free."""
    free: dict[int, Any] = {0: torch.export.Dim("N")}
    if not model.preprocessing:
        return torch.zeros(2, model.spec.channels, model.spec.size, model.spec.size), free
    sides = {
        2: torch.export.Dim("H", min=1, max=LONGEST_SIDE),
        3: torch.export.Dim("W", min=1, max=LONGEST_SIDE),
    }
    return torch.zeros(2, model.spec.channels, 100, 120, dtype=torch.uint8), {**free, **sides}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without gradients, and the exporters' notes about packages and functions that play no part here. One thread at a
    time, since the process has one set of filters, which two at once would not put back."""
    with _MUTED, warnings.catch_warnings(), torch.no_grad():
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


class ExportableModel(nn.Module):
    """What an exported file computes.

    Without `preprocessing`: prepared float32 images (N, C, size, size) -> logits (N, classes), as the network does.
    With it: uint8 images (N, C, H, W) of any size, as they were decoded -> probabilities (N, classes).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: GoogLeNet, info: ModelInfo, *, preprocessing: bool) -> None:
        super().__init__()
        self.net = net.eval()
        self.spec = info.input
        self.preprocessing = preprocessing
        self.temperature = info.temperature
        self.register_buffer("shift", torch.tensor(info.input.mean).view(1, -1, 1, 1))
        self.register_buffer("scale", torch.tensor(info.input.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if not self.preprocessing:
            return self.net(images)
        return (self.net(self._prepared(images)) / self.temperature).softmax(dim=1)

    def _prepared(self, images: Tensor) -> Tensor:
        """What `InputSpec.prepare` gives. Resizing is two matrix products, which every engine has and computes alike;
        an antialiased resize of its own many lack."""
        height, width = images.shape[2], images.shape[3]
        rows, columns = self._resizing(height, width), self._resizing(width, height)
        scaled = (images.to(torch.float32) / 255 - self.shift) / self.scale
        return rows @ scaled @ columns.T

    def _resizing(self, length: int, other: int) -> Tensor:
        """The weights (size, length) of bilinear resizing along one side: each row a triangle as wide as a pixel of
        the result, or of the picture where that is wider, cut off at the border."""
        spec, resized = self.spec, self.spec.size
        whole, span = (torch.full((1,), side, dtype=torch.float32) for side in (length, length))
        if spec.resize == "crop":
            span = torch.minimum(whole, torch.full((1,), other, dtype=torch.float32))
            resized = round(spec.size / spec.crop_pct)
        first = ((whole - span) / 2).floor()
        shrinking = span / resized
        result = torch.arange(spec.size, dtype=torch.float32) + (resized - spec.size) // 2
        center = (result + 0.5) * shrinking
        pixel = torch.arange(length, dtype=torch.float32) - first + 0.5
        weight = (1 - (pixel - center[:, None]).abs() / shrinking.clamp(min=1)).clamp(min=0)
        weight = weight * ((pixel > 0) & (pixel < span))
        return weight / weight.sum(dim=1, keepdim=True)

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
from torch import Tensor

from googlenet.deploy.deployable import Deployable
from googlenet.errors import RunError, UserError, reason_of

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


def write_graph(model: Deployable, to: Format, path: Path, description: str) -> None:
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


def openvino_graph(model: Deployable) -> Any:
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
    quant_pre_process(str(path), str(fused), skip_symbolic_shape=True)  # it folds batch normalisation
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


def _example(model: Deployable) -> tuple[Tensor, dict[int, Any]]:
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

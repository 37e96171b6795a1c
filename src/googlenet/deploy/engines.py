"""Programs that run a network: PyTorch, as it is and compiled, ONNX Runtime, OpenVINO.

Each is a function from a batch to what comes out.
"""

from __future__ import annotations

import copy
import json
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from googlenet.artifact.model_file import ModelInfo
from googlenet.deploy.compiled import compiled_engine
from googlenet.deploy.deployable import Deployable
from googlenet.deploy.graphs import KEY, openvino_graph, require, write_graph
from googlenet.errors import UserError, reason_of
from googlenet.machine import DTYPES, resolve_device, resolve_precision
from googlenet.network.folding import folded
from googlenet.network.googlenet import GoogLeNet

EngineName = Literal["torch", "compiled", "onnxruntime", "openvino"]
_OPENVINO_PRECISION = {"fp32": "f32", "bf16": "bf16"}
Engine = Callable[[Tensor], Tensor]
"""A batch on the CPU, as the file takes it, to float32 on the CPU: (N, classes)."""


def torch_engine(net: GoogLeNet, *, device: str = "auto", precision: str = "auto") -> Engine:
    """A copy of the network on a device, in a precision, its normalisations folded and its weights converted once.

    Raises:
        UserError: for a device that is not there.
    """
    where = resolve_device(device)
    how = resolve_precision(precision, where)
    dtype = DTYPES[how]
    ready = folded(net, dtype).to(where)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        logits: Tensor = ready(images.to(where, dtype).contiguous(memory_format=torch.channels_last))
        return logits.float().cpu()

    return run


def network_engine(net: GoogLeNet, name: EngineName, *, device: str = "auto", precision: str = "auto") -> Engine:
    """A network in the engine of that name; for any but torch it is converted first, which takes seconds; `compiled`
    is compiled at its first batch.

    Raises:
        UserError: for a package or device that is not there, or a precision that the engine does not have.
    """
    if name == "torch":
        return torch_engine(net, device=device, precision=precision)
    _check_served(name, device, precision, "; or take --engine torch")
    if name == "compiled":
        return compiled_engine(net, precision=precision)
    require("onnx" if name == "onnxruntime" else "openvino", int8=False)
    model = Deployable(copy.deepcopy(net).float().cpu(), net.info, preprocessing=False).eval()
    if name == "openvino":
        return openvino_engine(openvino_graph(model), precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_graph(model, "onnx", path, "")
        return onnxruntime_engine(path)


def _check_served(name: EngineName, device: str, precision: str, way_out: str = "") -> None:
    """All but torch on a model file have the CPU alone, and OpenVINO and the compiled network alone a choice of
    precisions."""
    if device not in ("auto", "cpu"):
        raise UserError(f"{name} runs on the CPU here, not on {device!r}: leave --device out{way_out}")
    if name not in ("openvino", "compiled") and precision not in ("auto", "fp32"):
        raise UserError(f"{name} computes as the file says, not in {precision}: leave --precision out{way_out}")


def onnxruntime_engine(model: Path) -> Engine:
    """An ONNX file in ONNX Runtime, on the CPU. Raises `UserError` for a missing package or a file that is no ONNX."""
    return _runtime_engine(_session(model))


def openvino_engine(model: Path | Any, *, precision: str = "auto") -> Engine:
    """An OpenVINO or ONNX file, or an `openvino.Model`, on the CPU.

    Precision `auto` is OpenVINO's own choice: bf16 where the processor has it. Raises `UserError` for a missing
    package, another precision than fp32 or bf16, or a file that is no model.
    """
    _require("openvino")
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision != "auto":
        if precision not in _OPENVINO_PRECISION:
            raise UserError(f"OpenVINO computes in fp32 or bf16, not in {precision}")
        settings["INFERENCE_PRECISION_HINT"] = _OPENVINO_PRECISION[precision]
    try:
        request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise UserError(f"{model} cannot be opened as an OpenVINO model: {reason_of(error)}") from error

    lock = threading.Lock()

    def run(images: Tensor) -> Tensor:
        with lock:  # a request serves one caller at a time
            found = request.infer({0: np.ascontiguousarray(images.numpy())}, share_inputs=True)
        return torch.from_numpy(next(iter(found.values())))

    return run


@dataclass(frozen=True)
class OpenedFile:
    """An exported file, ready to run."""

    run: Engine
    info: ModelInfo
    preprocesses: bool
    """Whether it takes uint8 pictures of any size (N, C, H, W) and gives probabilities, not logits of prepared ones."""


def open_file(
    path: Path, *, engine: EngineName | Literal["auto"] = "auto", device: str = "auto", precision: str = "auto"
) -> OpenedFile:
    """A file that `export` wrote: `.onnx`, `.xml` (OpenVINO) or `.pt2` (torch.export).

    Args:
        path: the file.
        engine: what runs it; auto: for ONNX OpenVINO where it is installed, else ONNX Runtime.
        device: auto or cpu; no engine has another for files.
        precision: auto, fp32 or bf16; OpenVINO alone has a choice. auto is fp32 for a file that prepares pictures.

    Raises:
        UserError: for a file that is missing, damaged or not written by `export`, a package that is missing, or a
            device or precision that the engine does not have.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if engine == "auto":
        fastest: EngineName = "openvino" if path.suffix == ".xml" or installed("openvino") else "onnxruntime"
        engine = "torch" if path.suffix == ".pt2" else fastest
    _check_served(engine, device, precision)
    if engine == "torch" and path.suffix == ".pt2":
        return _torch_export_file(path)
    if engine == "openvino" and path.suffix != ".pt2":
        _require("openvino")
        import openvino

        try:
            graph = openvino.Core().read_model(path)
        except RuntimeError as error:
            raise UserError(f"{path} cannot be opened as an OpenVINO model: {reason_of(error)}") from error
        described = graph.get_rt_info(KEY).astype(str) if graph.has_rt_info(KEY) else _onnx_description(path)
        info, preprocesses = _about(path, described)
        if preprocesses and precision == "auto":
            # In bf16, which OpenVINO takes where the processor has it, the places of pixels would be rounded as well
            precision = "fp32"
        return OpenedFile(openvino_engine(graph, precision=precision), info, preprocesses)
    if engine == "onnxruntime" and path.suffix == ".onnx":
        session = _session(path)
        about = _about(path, session.get_modelmeta().custom_metadata_map.get(KEY, ""))
        return OpenedFile(_runtime_engine(session), *about)
    raise UserError(f"{engine} does not run a {path.suffix} file: leave --engine out")


def _torch_export_file(path: Path) -> OpenedFile:
    extra = {KEY: ""}
    try:
        program = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # zip, JSON, pickle: whatever damaged bytes lead to
        raise UserError(f"{path} cannot be opened as a torch.export file: {reason_of(error)}") from error

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return program(images)

    return OpenedFile(run, *_about(path, extra[KEY]))


def _session(model: Path) -> Any:
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors have no common class but this
        raise UserError(f"{model} cannot be opened as an ONNX model: {reason_of(error)}") from error


def _runtime_engine(session: Any) -> Engine:
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _onnx_description(path: Path) -> str:
    if path.suffix != ".onnx":
        return ""
    if not find_spec("onnx"):
        beside = path.with_name(f"{path.name}.json")
        if not beside.is_file():
            raise UserError(f"what {path} is of stands in {beside}, or is read with onnx: pip install onnx")
        return beside.read_text(encoding="utf-8")
    import onnx

    model = onnx.load(path, load_external_data=False)
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), "")


def _about(path: Path, text: str) -> tuple[ModelInfo, bool]:
    """What an exported file says of itself: the model, and whether it prepares pictures."""
    try:
        return ModelInfo.from_json(text), json.loads(text)["exported"]["preprocessing"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say what it is of; googlenet export writes files that do") from error


def installed(name: EngineName) -> bool:
    return find_spec(name) is not None


def _require(package: EngineName) -> None:
    if not installed(package):
        raise UserError(f"this needs {package}, which is not installed: pip install {package}")

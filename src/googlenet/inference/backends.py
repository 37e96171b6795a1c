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

from googlenet.device import DTYPES, compile_error, resolve_device, resolve_precision
from googlenet.errors import RunError, UserError, is_out_of_memory, reason_of
from googlenet.inference.formats import KEY, ExportableModel, openvino_graph, quietly, require, write_graph
from googlenet.model.fuse import folded
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import ModelInfo

BackendName = Literal["torch", "compiled", "onnxruntime", "openvino"]
_OPENVINO_PRECISION = {"fp32": "f32", "bf16": "bf16"}
Backend = Callable[[Tensor], Tensor]
"""A batch on the CPU, as the file takes it, to float32 on the CPU: (N, classes)."""


def torch_backend(net: GoogLeNet, *, device: str = "auto", precision: str = "auto") -> Backend:
    """A copy of the network on a device, in a precision, its normalizations folded and its weights converted once.

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


def network_backend(net: GoogLeNet, name: BackendName, *, device: str = "auto", precision: str = "auto") -> Backend:
    """A network in the engine of that name; for any but torch it is converted first, which takes seconds; `compiled`
    is compiled at its first batch.

    Raises:
        UserError: for a package or device that is not there, or a precision that the engine does not have.
    """
    if name == "torch":
        return torch_backend(net, device=device, precision=precision)
    _check_served(name, device, precision, "; or take --backend torch")
    if name == "compiled":
        return compiled_backend(net, precision=precision)
    require("onnx" if name == "onnxruntime" else "openvino", int8=False)
    model = ExportableModel(copy.deepcopy(net).float().cpu(), net.info, preprocessing=False).eval()
    if name == "openvino":
        return openvino_backend(openvino_graph(model), precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_graph(model, "onnx", path, "")
        return onnxruntime_backend(path)


def _check_served(name: BackendName, device: str, precision: str, way_out: str = "") -> None:
    """All but torch on a model file have the CPU alone, and OpenVINO and the compiled network alone a choice of
    precisions."""
    if device not in ("auto", "cpu"):
        raise UserError(f"{name} runs on the CPU here, not on {device!r}: leave --device out{way_out}")
    if name not in ("openvino", "compiled") and precision not in ("auto", "fp32"):
        raise UserError(f"{name} computes as the file says, not in {precision}: leave --precision out{way_out}")


def onnxruntime_backend(model: Path) -> Backend:
    """An ONNX file in ONNX Runtime, on the CPU. Raises `UserError` for a missing package or a file that is no ONNX."""
    return _runtime_engine(_session(model))


def openvino_backend(model: Path | Any, *, precision: str = "auto") -> Backend:
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
class ExportedModel:
    """An exported file, ready to run."""

    run: Backend
    info: ModelInfo
    preprocesses: bool
    """Whether it takes uint8 pictures of any size (N, C, H, W) and gives probabilities, not logits of prepared ones."""


def open_exported(
    path: Path, *, backend: BackendName | Literal["auto"] = "auto", device: str = "auto", precision: str = "auto"
) -> ExportedModel:
    """A file that `export` wrote: `.onnx`, `.xml` (OpenVINO) or `.pt2` (torch.export).

    Args:
        path: the file.
        backend: what runs it; auto: for ONNX OpenVINO where it is installed, else ONNX Runtime.
        device: auto or cpu; no engine has another for files.
        precision: auto, fp32 or bf16; OpenVINO alone has a choice. auto is fp32 for a file that prepares pictures.

    Raises:
        UserError: for a file that is missing, damaged or not written by `export`, a package that is missing, or a
            device or precision that the engine does not have.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if engine == "auto":
        fastest: BackendName = "openvino" if path.suffix == ".xml" or installed("openvino") else "onnxruntime"
        engine = "torch" if path.suffix == ".pt2" else fastest
    _check_served(backend, device, precision)
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
        return ExportedModel(openvino_backend(graph, precision=precision), info, preprocesses)
    if engine == "onnxruntime" and path.suffix == ".onnx":
        session = _session(path)
        about = _about(path, session.get_modelmeta().custom_metadata_map.get(KEY, ""))
        return ExportedModel(_runtime_engine(session), *about)
    raise UserError(f"{backend} does not run a {path.suffix} file: leave --backend out")


def _torch_export_file(path: Path) -> ExportedModel:
    extra = {KEY: ""}
    try:
        program = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # zip, JSON, pickle: whatever damaged bytes lead to
        raise UserError(f"{path} cannot be opened as a torch.export file: {reason_of(error)}") from error

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return program(images)

    return ExportedModel(run, *_about(path, extra[KEY]))


def _session(model: Path) -> Any:
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors have no common class but this
        raise UserError(f"{model} cannot be opened as an ONNX model: {reason_of(error)}") from error


def _runtime_engine(session: Any) -> Backend:
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


def installed(name: BackendName) -> bool:
    return find_spec(name) is not None


def _require(package: BackendName) -> None:
    if not installed(package):
        raise UserError(f"this needs {package}, which is not installed: pip install {package}")


CPU = torch.device("cpu")


def compiled_backend(net: GoogLeNet, *, precision: str = "auto") -> Callable[[Tensor], Tensor]:
    """Prepared images (N, C, H, W) in float32 to logits (N, classes) in float32, on the CPU.

    It is compiled at the first batch, for batches of that size, rounded up to a power of two, which takes 20 to 40 s
    (AOTInductor: the kernels with their ReLUs, weights laid out for them, no Python in between). Smaller batches
    are filled up, and take as long as whole ones; a larger one, or images of another size, have it compiled anew.

    Raises:
        UserError: where there is no C++ compiler, or for a precision that the CPU does not have.
        RunError: from the backend, where compiling fails.
    """
    dtype = DTYPES[resolve_precision(precision, CPU)]
    if obstacle := compile_error(CPU):
        raise UserError(
            f"the engine compiled needs a C++ compiler, and PyTorch installed in a path without spaces: torch.compile "
            f"does not work here ({obstacle}); take --backend torch"
        )
    ready, lock = folded(net, dtype).cpu(), threading.Lock()
    size, shape = 0, torch.Size()
    program: Callable[[Tensor], Tensor] | None = None

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        nonlocal size, shape, program
        with lock:
            if program is None or len(images) > size or images.shape[1:] != shape:
                larger = 1 << (len(images) - 1).bit_length()
                program = _compiled(ready, _as_taken(_filled(images, larger), dtype))
                size, shape = larger, images.shape[1:]
            compiled, whole = program, _filled(images, size)
        return compiled(_as_taken(whole, dtype))[: len(images)].float()

    return run


def _filled(images: Tensor, size: int) -> Tensor:
    return torch.cat([images, images.new_zeros(size - len(images), *images.shape[1:])])


def _as_taken(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype).contiguous(memory_format=torch.channels_last)


def _compiled(net: GoogLeNet, example: Tensor) -> Callable[[Tensor], Tensor]:
    try:
        # In that order: leaving inference mode turns gradients on, and with them weights would not be laid out
        with torch.inference_mode(mode=False), quietly(), tempfile.TemporaryDirectory() as folder:
            exported = torch.export.export(net, (example.clone(),))
            # Else what was compiled, weights and all, would stay in a folder of PyTorch's
            with torch._inductor.config.patch({"aot_inductor.output_path": folder}):
                package = torch._inductor.aoti_compile_and_package(
                    exported, package_path=str(Path(folder) / "network.pt2"), inductor_configs={"freezing": True}
                )
            return torch._inductor.aoti_load_package(package)
    except (RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise RunError(f"the network cannot be compiled: {reason_of(error)}; take --backend torch") from error

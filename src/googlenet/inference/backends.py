"""Open exported files and run them: with ONNX Runtime, OpenVINO or torch.export."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from googlenet.device import require
from googlenet.errors import RunError, UserError, is_out_of_memory, reason_of
from googlenet.inference.program_file import read_program
from googlenet.weights.model_file import ModelInfo

Backend = Callable[[Tensor], Tensor]
"""From a batch on the CPU, prepared unless `OpenModel` says otherwise, to float32 outputs (N, classes) on the CPU, or
(N, classes + 1) with `known_score` in the last column, from a file that includes the preprocessing. Threads may share
it."""
Features = Callable[[Tensor, str], Tensor]
"""From a batch on the CPU and the name of an Inception block to its pooled features, float32 (N, C), on the CPU."""
BackendName = Literal["auto", "torch", "compiled", "onnxruntime", "openvino"]
Format = Literal["onnx", "openvino", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}  # Of exported files
MAX_SIDE = 30_000  # The longest side in pixels of an image for a file that includes the preprocessing
METADATA_KEY = "googlenet"  # The key in the metadata of an exported file that has its `ModelInfo` as JSON
_CUDA = "CUDAExecutionProvider"
_BACKENDS = {".onnx": ("openvino", "onnxruntime"), ".xml": ("openvino",), ".pt2": ("torch",)}


@dataclass(frozen=True)
class OpenModel:
    """A model, ready to run."""

    backend: Backend
    info: ModelInfo
    preprocessing: bool = False
    """Whether its file takes uint8 images (N, C, H, W) of any size and returns probabilities, not logits."""
    name: str = "PyTorch"  # Of what runs it, for messages
    prepares: bool = False  # Whether its backend prepares images itself, on its device
    features: Features | None = None

    @property
    def _columns(self) -> int:
        return len(self.info.classes) + (self.preprocessing and self.info.known is not None)

    def run(self, images: Tensor, backend: Backend | None = None) -> Tensor:
        """What the backend, by default the model's, computes from uint8 images of the network's size. Raises `RunError`
        for whatever it raises, except if PyTorch has no memory."""
        try:
            if not (self.preprocessing or self.prepares):
                images = self.info.input.normalize(images)
            result = (backend or self.backend)(images)
            if backend is None and (result.ndim != 2 or len(result) != len(images) or result.shape[1] < self._columns):
                raise ValueError(f"its output has the shape {tuple(result.shape)}")
            return result
        except (UserError, RunError):
            raise
        except Exception as error:  # engines raise errors of many types
            if is_out_of_memory(error):
                raise
            shape = "x".join(map(str, images.shape))
            raise RunError(
                f"{self.name} fails on a batch of {shape} ({reason_of(error)}); use another backend"
            ) from error


def open_exported(
    path: Path, *, backend: BackendName = "auto", device: str = "auto", precision: str = "auto"
) -> OpenModel:
    """Open a file from `googlenet.export`.

    Args:
        path: an `.onnx`, `.xml` (OpenVINO) or `.pt2` (torch.export) file.
        backend: auto is OpenVINO for ONNX files if it is installed, else ONNX Runtime, as for cuda.
        device: auto or cpu; cuda or cuda:1 for ONNX files, if ONNX Runtime has CUDA. auto is cpu.
        precision: auto, fp32 or bf16; only OpenVINO has a choice. auto is fp32 if the file includes the preprocessing,
            because bf16 would round the positions of pixels; else bf16 if the processor has it.

    Raises:
        UserError: if the file is missing, damaged or not from `googlenet.export`, a package is missing, or the backend
            does not support the file, the device or the precision.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; write it with: googlenet export")
    choices = _BACKENDS[path.suffix]
    if backend == "auto" and path.suffix == ".onnx" and device.startswith("cuda"):
        backend = "onnxruntime"
    if backend == "auto":
        backend = choices[0] if choices[0] == "torch" or find_spec(choices[0]) else choices[-1]  # type: ignore[assignment]
    if backend not in choices:
        raise UserError(f"--backend {backend} cannot run a {path.suffix} file; use auto or {' or '.join(choices)}")
    check_backend(backend, device, precision)
    try:
        if backend == "torch":
            metadata = {METADATA_KEY: ""}
            program = torch.export.load(read_program(path), extra_files=metadata).module()

            @torch.inference_mode()
            def run_program(images: Tensor) -> Tensor:
                outputs = program(images)
                return torch.cat(outputs, dim=1) if isinstance(outputs, tuple | list) else outputs

            return OpenModel(run_program, *_parse(path, metadata[METADATA_KEY]))
        if backend == "onnxruntime":
            return _open_onnxruntime(path, device)
        import openvino

        graph = openvino.Core().read_model(path)
        text = graph.get_rt_info(METADATA_KEY).astype(str) if graph.has_rt_info(METADATA_KEY) else _onnx_metadata(path)
        info, preprocessing = _parse(path, text)
        settings = {"PERFORMANCE_HINT": "LATENCY"}
        if precision != "auto" or preprocessing:
            settings["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bf16" else "f32"
        request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    except UserError:
        raise
    except Exception as error:  # damaged files lead to errors of any type
        raise UserError(f"{path} cannot be opened with {backend} ({reason_of(error)}); export it again") from error
    lock = threading.Lock()

    def run(images: Tensor) -> Tensor:
        with lock:  # a request serves one caller at a time, and its output is a copy
            outputs = request.infer({0: np.ascontiguousarray(images.numpy())}, share_inputs=True)
        return _columns(outputs.to_tuple())

    return OpenModel(run, info, preprocessing, "OpenVINO")


def _open_onnxruntime(path: Path, device: str) -> OpenModel:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        providers.insert(0, (_CUDA, {"device_id": device.partition(":")[2] or "0"}))
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if device.startswith("cuda") and _CUDA not in session.get_providers():  # it only logs that it runs on the CPU
        raise UserError(f"ONNX Runtime cannot use --device {device}: its log says why; use --device cpu")
    text, name = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, ""), session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return _columns(session.run(None, {name: images.numpy()}))

    return OpenModel(run, *_parse(path, text), "ONNX Runtime")


def _columns(outputs: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """The outputs of an engine side by side."""
    return torch.cat([torch.from_numpy(output) for output in outputs], dim=1)


def check_backend(backend: BackendName, device: str, precision: str) -> None:
    """Checks for every backend except PyTorch on a model file.

    Raises:
        UserError: if its package is missing, or it does not have the device or the precision.
    """
    if backend in ("onnxruntime", "openvino"):
        require(backend, f"--backend {backend}")
    if backend == "onnxruntime" and re.fullmatch(r"cuda(:\d+)?", device):
        import onnxruntime

        if _CUDA not in onnxruntime.get_available_providers():
            raise UserError(
                f"ONNX Runtime here has no CUDA for --device {device}: pip install onnxruntime-gpu in place of "
                "onnxruntime, or use --device cpu"
            )
    elif device not in ("auto", "cpu"):
        raise UserError(f"{backend} runs on the CPU only, not on --device {device}; a model file also runs elsewhere")
    allowed = {"openvino": ("auto", "fp32", "bf16"), "compiled": ("auto", "fp32", "bf16")}.get(
        backend, ("auto", "fp32")
    )
    if precision not in allowed:
        raise UserError(f"{backend} does not support --precision {precision}; use {' or '.join(allowed)}")


def exported_files(path: Path) -> list[Path]:
    """The files that an exported model consists of: OpenVINO's weights are in a `.bin` next to the `.xml`."""
    weights = path.with_suffix(".bin")
    return [weights, path] if path.suffix == ".xml" and weights.exists() else [path]


def _onnx_metadata(path: Path) -> str:
    """OpenVINO does not show the metadata of an ONNX file; `export` also writes it next to the file."""
    if path.suffix != ".onnx":
        return ""
    copy = path.with_name(f"{path.name}.json")
    if not find_spec("onnx") and copy.is_file():
        return copy.read_text(encoding="utf-8")
    require("onnx", f"{path} without {copy.name}")
    import onnx

    model = onnx.load(path, load_external_data=False)
    return next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), "")


def _parse(path: Path, text: str) -> tuple[ModelInfo, bool]:
    """The metadata of an exported file: the model, and whether the preprocessing is included."""
    try:
        return ModelInfo.from_json(text), json.loads(text)["exported"]["preprocessing"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} has no metadata from googlenet export; write it with: googlenet export") from error

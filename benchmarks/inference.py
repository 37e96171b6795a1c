"""Images a second and latency of a network, in PyTorch and in the engines that run ONNX where they are installed."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.limits import Peaks, flops_per_image
from benchmarks.tables import Table
from benchmarks.timing import CALLS_OF_ONE, alternate
from googlenet.data.fashion_mnist import CLASSES
from googlenet.data.transforms import InputSpec
from googlenet.device import DTYPES, compile_error, keep_freed_memory, resolve_precision
from googlenet.inference.backends import compiled_backend, onnxruntime_backend, openvino_backend, torch_backend
from googlenet.inference.formats import ExportableModel, quantize_graph, write_graph
from googlenet.model.googlenet import GoogLeNet, create_model
from googlenet.network import fused
from googlenet.weights.model_file import ModelInfo

Inference = Callable[[], object]

_SIZE = 224
_BATCHES = (1, 16, 64)


def measure_inference(device: torch.device, peaks: Peaks, rounds: int) -> Iterator[Table]:
    """The tutorial's network at 224x224 with fresh weights, which cost what trained ones cost."""
    if device.type == "cpu":
        keep_freed_memory()  # which serves every contender
    torch.manual_seed(0)
    net = create_model("tutorial", num_classes=10, in_channels=1, initialization="he").to(device).eval()
    flops = flops_per_image(net, _SIZE, training=False)
    with tempfile.TemporaryDirectory() as folder:
        for batch in _BATCHES:
            images = torch.rand(batch, 1, _SIZE, _SIZE, device=device)
            contenders = {**eager_inference(net, images), **_compiled(net, images)}
            if device.type == "cpu":
                contenders |= _engines(net, Path(folder), images)
            calls = CALLS_OF_ONE if batch == 1 else 1
            timings = alternate({name: run for name, (run, _) in contenders.items()}, rounds, device, calls=calls)
            rows: list[dict[str, Any]] = []
            for name, timing in timings.items():
                rates = timing.rates(batch)
                rows.append(
                    {
                        "contender": name,
                        **rates,
                        "p50 ms": 1000 * timing.median,
                        "p99 ms": 1000 * timing.percentile(0.99),
                        "times plain": timings["plain"].median / timing.median,
                        "% of the peak": peaks.share(flops * rates["images/s"], contenders[name][1]),
                    }
                )
            yield Table(
                f"inference: tutorial, {_SIZE}x{_SIZE}, batch {batch}",
                rows,
                f"{flops / 1e9:.2f} GFLOP an image; the peak is that of the contender's precision (for int8, bf16's)",
            )


def eager_inference(net: GoogLeNet, images: Tensor) -> dict[str, tuple[Inference, str]]:
    """The network as PyTorch computes it by default, and as `googlenet predict` does, with their precisions."""
    precision = resolve_precision("auto", images.device)
    plain = copy.deepcopy(net).eval()

    def plainly() -> Tensor:
        with fused.plain():
            return plain(images)

    ours = torch_backend(net, device=str(images.device), precision=precision)
    return {"plain": (torch.inference_mode()(plainly), "fp32"), "googlenet": (partial(ours, images), precision)}


def _compiled(net: GoogLeNet, images: Tensor) -> dict[str, tuple[Inference, str]]:
    """As `googlenet predict --backend compiled` computes it; on a GPU as `torch.compile` does."""
    if compile_error(images.device):
        return {}
    precision = resolve_precision("auto", images.device)
    if images.device.type == "cpu":
        run = compiled_backend(net, precision=precision)
        run(images)
        return {"googlenet, compiled": (partial(run, images), precision)}
    dtype = DTYPES[precision]
    module = copy.deepcopy(net).eval().to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    packed = images.to(dtype).contiguous(memory_format=torch.channels_last)
    module.compile(dynamic=False)
    inference = torch.inference_mode()(lambda: module(packed))
    with torch._inductor.config.patch(freezing=True):
        inference()
    return {"torch.compile, frozen": (inference, precision)}


def _engines(net: GoogLeNet, folder: Path, images: Tensor) -> dict[str, tuple[Inference, str]]:
    """The network in ONNX Runtime and OpenVINO, as `googlenet export` writes it and `googlenet predict` runs it."""
    if not (find_spec("onnxruntime") and find_spec("onnxscript")):
        return {}
    spec = InputSpec(1, _SIZE, (0.0,), (1.0,))
    model = ExportableModel(net, ModelInfo(net.architecture, CLASSES, spec), preprocessing=False).eval()
    pixels = images.contiguous()
    floating = folder / "model.onnx"
    if not floating.exists():
        write_graph(model, "onnx", floating, "")
    contenders: dict[str, tuple[Inference, str]] = {
        "ONNX Runtime fp32": (partial(onnxruntime_backend(floating), pixels), "fp32")
    }
    if find_spec("openvino"):
        for precision in ("fp32", "bf16"):
            run = openvino_backend(floating, precision=precision)
            contenders[f"OpenVINO {precision}"] = (partial(run, pixels), precision)
    if find_spec("openvino") and find_spec("nncf"):
        quantized = folder / "int8.xml"
        if not quantized.exists():
            write_graph(model, "openvino", folder / "floating.xml", "")
            quantize_graph("openvino", folder / "floating.xml", quantized, [torch.rand(1, 1, _SIZE, _SIZE)] * 10)
        contenders["OpenVINO int8"] = (partial(openvino_backend(quantized), pixels), "int8")
    return contenders

"""Images per second and latency: `googlenet.Predictor`, hand-written code in PyTorch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import googlenet
from benchmarks.machine import DTYPES, Peaks, best_precision, flops_per_image
from benchmarks.measuring import CALLS_OF_ONE, Table, alternate

SIZE = 224
_BATCH_SIZES = (1, 16, 64)


class Inference(NamedTuple):
    """From uint8 images in memory to the probabilities of their classes."""

    run: Callable[[], Any]
    precision: str


def measure_inference(device: torch.device, peaks: Peaks, rounds: int) -> Iterator[Table]:
    """The tutorial's network at 224x224 with fresh weights; one table for each batch size."""
    with tempfile.TemporaryDirectory() as scratch:
        model = save_network(Path(scratch) / "model.safetensors")
        flops = flops_per_image(googlenet.load(model), (1, SIZE, SIZE), training=False)
        exported = _export(model) if device.type == "cpu" else {}
        for batch_size in _BATCH_SIZES:
            images = torch.randint(0, 256, (batch_size, 1, SIZE, SIZE), dtype=torch.uint8)
            inferences = {"plain": plain(model, images, device), "googlenet": ours(model, images, device)}
            inferences |= _compiled(model, images, device)
            inferences |= {name: _session(path, images, precision) for name, (path, precision) in exported.items()}
            calls = CALLS_OF_ONE if batch_size == 1 else 1
            timings = alternate({name: one.run for name, one in inferences.items()}, rounds, device, calls=calls)
            rows: list[dict[str, Any]] = []
            for name, timing in timings.items():
                rates = timing.rates(batch_size)
                share = peaks.share(flops * rates["images/s"], inferences[name].precision)
                milliseconds = {"p50 ms": 1000 * timing.median, "p99 ms": 1000 * timing.percentile(0.99)}
                ratio = timings["plain"].median / timing.median
                rows.append({"method": name, **rates, **milliseconds, "times plain": ratio, "% of the peak": share})
            yield Table(
                f"inference: tutorial, {SIZE}x{SIZE}, batch {batch_size}",
                rows,
                f"{flops / 1e9:.2f} GFLOP per image; the peak is that of each row's own precision (for int8, bf16's)",
            )


def save_network(path: Path) -> Path:
    """The tutorial's network for Fashion-MNIST with fresh weights, as a model file."""
    torch.manual_seed(0)
    net = googlenet.create_model("tutorial", num_classes=10, in_channels=1, initialization="he")
    data = {"data": "fashion-mnist", "data_dir": "bundled"}  # `export` compares its file with PyTorch on these images
    classes = googlenet.load_dataset("fashion-mnist", "bundled", splits=()).classes
    spec = googlenet.InputSpec(1, SIZE, (0.0,), (1.0,))
    googlenet.save(net, googlenet.ModelInfo(net.architecture, classes, spec, recipe=data), path)
    return path


def plain(model: Path, images: Tensor, device: torch.device) -> Inference:
    """The network as PyTorch computes it by default: float32, contiguous."""
    return _network(googlenet.load(model, str(device)), images, "fp32")


def ours(
    model: Path, images: Tensor, device: torch.device, backend: Literal["torch", "compiled"] = "torch"
) -> Inference:
    """`googlenet.Predictor`, as `googlenet predict` uses it."""
    predictor = googlenet.Predictor(model, device=str(device), backend=backend)
    each = list(images)
    return Inference(lambda: list(predictor.predict(each, batch_size=len(each))), best_precision(device))


def _network(net: nn.Module, images: Tensor, precision: str) -> Inference:
    device = next(net.parameters()).device

    @torch.inference_mode()
    def run() -> Tensor:
        inputs = (images.to(device) / 255).to(DTYPES[precision])
        if precision != "fp32":
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return net(inputs).softmax(dim=1)

    return Inference(run, precision)


def _compiled(model: Path, images: Tensor, device: torch.device) -> dict[str, Inference]:
    """On a CPU the Predictor's own compiled form; on a GPU torch.compile. Nothing if compiling does not work here."""
    try:
        if device.type == "cpu":
            name, inference = "googlenet, compiled", ours(model, images, device, backend="compiled")
        else:
            precision = best_precision(device)
            net = copy.deepcopy(googlenet.load(model, str(device))).to(DTYPES[precision])
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            net.compile(dynamic=False)
            name, inference = f"channels-last, {precision}, torch.compile", _network(net, images, precision)
        inference.run()
    except Exception as error:  # whatever the compiler's back end raises
        print(f"compiled inference skipped: {str(error).strip().partition(chr(10))[0]}")
        return {}
    return {name: inference}


def _export(model: Path) -> dict[str, tuple[Path, str]]:
    """The files that `googlenet export` writes, and the precisions to run them in; int8 quantized by NNCF."""
    methods: dict[str, tuple[Path, str]] = {}
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        onnx = model.with_suffix(".onnx")
        googlenet.export(model, "onnx", onnx)
        methods["ONNX Runtime fp32"] = onnx, "fp32"
    if find_spec("openvino"):
        graph = model.with_suffix(".xml")
        googlenet.export(model, "openvino", graph)
        methods |= {f"OpenVINO {precision}": (graph, precision) for precision in ("fp32", "bf16")}
        if find_spec("nncf"):
            methods["OpenVINO int8"] = _quantize(graph), "int8"
    return methods


def _quantize(graph: Path) -> Path:
    """Speed does not depend on what int8 was calibrated with: noise will do."""
    import nncf
    import openvino

    core = openvino.Core()
    noise = [np.random.default_rng(0).random((1, 1, SIZE, SIZE), np.float32) for _ in range(10)]
    quantized = nncf.quantize(core.read_model(graph), nncf.Dataset(noise), subset_size=len(noise))
    path = graph.with_name("int8.xml")
    openvino.save_model(quantized, path)
    return path


def _session(path: Path, images: Tensor, precision: str) -> Inference:
    """A hand-written session of ONNX Runtime or OpenVINO on the CPU."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        compute: Callable[[Any], Any] = lambda pixels: session.run(None, {name: pixels})[0]  # noqa: E731
    else:
        import openvino

        hints = {"PERFORMANCE_HINT": "LATENCY"}
        if precision != "int8":
            hints["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
        network = openvino.Core().compile_model(path, "CPU", hints)
        compute = lambda pixels: network(pixels)[0]  # noqa: E731

    def run() -> Tensor:
        return torch.from_numpy(compute(images.numpy().astype(np.float32) / 255)).softmax(dim=1)

    return Inference(partial(run), precision)

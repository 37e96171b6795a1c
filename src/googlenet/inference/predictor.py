"""Classify images with a trained network: decoded, prepared as in training, and predicted in batches."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice, starmap
from pathlib import Path
from typing import Any, cast, get_args

import torch
from PIL import Image
from torch import Tensor, nn

from googlenet.data.decode import Source, decode_image, decode_resized
from googlenet.device import DTYPES, available_cores, compile_error, resolve_device, resolve_precision
from googlenet.errors import RunError, UserError, check_confidence, check_counts, is_out_of_memory, reason_of
from googlenet.files import expand, printable
from googlenet.inference import backends
from googlenet.inference.backends import SUFFIXES, Backend, BackendName, Format, OpenModel
from googlenet.inference.export import MAX_SIDE, ExportableModel, quietly, require_packages, write_graph
from googlenet.model.fuse import folded
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import find_model, load_or_check
from googlenet.weights.model_file import ModelInfo


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, or the error if it could not be read."""

    file: str  # The path; `image 0`, `image 1`, ... (the position in the sequence) for images without one.
    classes: tuple[str, ...] = ()  # The most probable first
    probabilities: tuple[float, ...] = ()  # At the temperature in the model file
    confident: bool = False
    """Whether the highest probability reaches the `confidence` of `predict`. False if there is an error."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Predictor:
    """Classifies images with one model. Of a network it keeps a copy: later changes to it have no effect.

    Args:
        model: a model file, a run folder, a file from `googlenet.export`, or a network from `googlenet.load` or
            `googlenet.import_weights`.
        device: auto, cpu, cuda, cuda:1 or mps; backends other than torch run on the CPU.
        precision: auto, fp32, bf16 or fp16.
        backend: torch, compiled, onnxruntime or openvino. auto is torch for a model file, since the others need seconds
            to convert it (compiled: at the first prediction), and the fastest one installed for an exported file.

    Raises `UserError` for a model without metadata, or a missing device, package or compiler.
    """

    def __init__(
        self, model: str | Path | GoogLeNet, *, device: str = "auto", precision: str = "auto",
        backend: BackendName = "auto",
    ) -> None:  # fmt: skip
        self._threads = available_cores()
        digest = hashlib.sha256()
        if isinstance(model, nn.Module):
            self._model = _open_network(model, backend, device, precision)
            digest.update(self.info.to_json().encode())
            for tensor in model.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        elif Path(model).suffix in SUFFIXES.values():
            path = expand(model)
            self._model = backends.open_exported(path, backend=backend, device=device, precision=precision)
            for file in backends.exported_files(path):
                digest.update(file.read_bytes())
        else:
            self._model = _open_network(model, backend, device, precision)
            digest.update(find_model(model).read_bytes())
        self.digest = digest.hexdigest()  # SHA-256 of the model: of its file, or of the network's weights

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    def predict(
        self, images: Source | Iterable[Source], *, top: int = 3, batch_size: int = 32, confidence: float = 0.0
    ) -> Iterator[Prediction]:
        """One prediction per image, in order.

        While one batch is classified, the next one is decoded on all cores; no more than these two are in memory.

        Args:
            images: one image or any iterable of images. Each is a path, the content of an image file, a PIL image, an
                array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W); arrays and tensors are uint8.
            top: how many classes to return, the most probable first.
            batch_size: images per batch.
            confidence: the probability, from 0 to 1, that makes a prediction `confident`.

        Raises:
            UserError: for an argument out of its range. An image that cannot be read has an `error` and no classes.
            RunError: from the iterator, if an image does not fit into memory or the network cannot be compiled.
        """
        check_counts(top=top, batch_size=batch_size)
        check_confidence(confidence)
        if isinstance(images, str | Path | bytes | Image.Image) or getattr(images, "ndim", 4) < 4:
            images = [cast(Source, images)]
        top = min(top, len(self.info.classes))
        return self._predict(cast(Iterable[Source], images), top, batch_size, confidence)

    def _predict(self, images: Iterable[Source], top: int, batch_size: int, confidence: float) -> Iterator[Prediction]:
        sources = enumerate(images)
        with ThreadPoolExecutor(self._threads) as pool:

            def submit(number: int, image: Source) -> tuple[str, Future[Tensor | str]]:
                name = printable(image) if isinstance(image, str | Path) else f"image {number}"
                return name, pool.submit(self._read, image, name)

            batches = iter(lambda: list(starmap(submit, islice(sources, batch_size))), [])
            ahead = deque(islice(batches, 1))
            while ahead:
                ahead.extend(islice(batches, 1))
                read = [(name, future.result()) for name, future in ahead.popleft()]
                ranked: Iterator[tuple[list[float], list[int]]] = iter(())
                if inputs := [image for _, image in read if isinstance(image, Tensor)]:
                    if self._model.preprocessing:  # images may differ in size
                        probabilities = torch.cat([self._model.run(image) for image in inputs])
                    else:
                        probabilities = (self._model.run(torch.cat(inputs)) / self.info.temperature).softmax(dim=1)
                    best = probabilities.topk(top, dim=1)
                    ranked = zip(best.values.tolist(), best.indices.tolist(), strict=True)
                for name, image in read:
                    if isinstance(image, str):
                        yield Prediction(name, error=image)
                        continue
                    shares, indices = next(ranked)
                    classes = tuple(self.info.classes[index] for index in indices)
                    yield Prediction(name, classes, tuple(shares), confident=shares[0] >= confidence)

    def _read(self, image: Source, name: str) -> Tensor | str:
        """The backend's input for one image, (1, C, H, W), or why it cannot be read."""
        spec = self.info.input
        try:
            if not self._model.preprocessing:  # as images are decoded for training and evaluation
                return spec.prepare(decode_resized(image, spec.channels, spec.decoded_size, spec.resize)[None])
            decoded = decode_image(image, spec.channels)[None]
            if max(decoded.shape[2:]) > MAX_SIDE:
                raise UserError(f"a side is longer than {MAX_SIDE:,} pixels")
            return decoded
        except UserError as error:
            return printable(str(error)).removeprefix(f"{name}: ")


def _open_network(model: str | Path | GoogLeNet, backend: BackendName, device: str, precision: str) -> OpenModel:
    """A copy of a network, or the network in a model file, with a backend."""
    if backend not in get_args(BackendName):
        raise UserError(f"unknown backend {backend!r}; use one of: {', '.join(get_args(BackendName))}")
    if backend not in ("auto", "torch"):
        backends.check_backend(backend, device, precision)
        device = "cpu"
    used = resolve_device(device)
    dtype = DTYPES[resolve_precision(precision, used)]
    net, info = load_or_check(model)
    if backend in ("onnxruntime", "openvino"):
        to: Format = "onnx" if backend == "onnxruntime" else "openvino"
        require_packages(to)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder) / f"model{SUFFIXES[to]}"
            write_graph(ExportableModel(net, info), to, file)
            return backends.open_exported(file, backend=backend, precision=precision)
    fast = folded(net, dtype).to(used)
    if backend == "compiled":
        return OpenModel(compiled_backend(fast, dtype), info)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        logits: Tensor = fast(images.to(used, dtype).contiguous(memory_format=torch.channels_last))
        return logits.float().cpu()

    return OpenModel(run, info)


def compiled_backend(net: nn.Module, dtype: torch.dtype) -> Backend:
    """A folded network on the CPU, compiled for this processor: prepared images (N, C, H, W) -> logits (N, classes).

    AOTInductor takes 20 to 40 s, at the first batch, for batches of that size rounded up to a power of two. Smaller
    batches are padded and take as long as full ones; a larger batch or image size is compiled again.

    Raises:
        UserError: if there is no C++ compiler.
        RunError: from the backend, if compiling fails.
    """
    if problem := compile_error(torch.device("cpu")):
        raise UserError(
            "--backend compiled needs a C++ compiler, and PyTorch in a path without spaces: torch.compile fails "
            f"({problem}); use --backend torch"
        )
    lock, size, shape = threading.Lock(), 0, torch.Size()
    program: Callable[[Tensor], Tensor] | None = None

    def padded(images: Tensor, size: int) -> Tensor:
        images = torch.cat([images, images.new_zeros(size - len(images), *images.shape[1:])])
        return images.to(dtype).contiguous(memory_format=torch.channels_last)

    def compile_for(example: Tensor) -> Callable[[Tensor], Tensor]:
        # In this order: leaving inference mode turns gradients on, and with them weights would not be laid out
        with torch.inference_mode(mode=False), quietly(), tempfile.TemporaryDirectory() as folder:
            exported = torch.export.export(net, (example.clone(),))
            # Else the compiled code, weights and all, would stay in PyTorch's cache folder
            with torch._inductor.config.patch({"aot_inductor.output_path": folder}):
                package = torch._inductor.aoti_compile_and_package(
                    exported, package_path=str(Path(folder) / "network.pt2"), inductor_configs={"freezing": True}
                )
            return torch._inductor.aoti_load_package(package)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        nonlocal size, shape, program
        with lock:
            if program is None or len(images) > size or images.shape[1:] != shape:
                larger = 1 << (len(images) - 1).bit_length()
                try:
                    program = compile_for(padded(images, larger))
                except (RuntimeError, OSError) as error:
                    if is_out_of_memory(error):
                        raise
                    raise RunError(f"compiling the network fails: {reason_of(error)}; use --backend torch") from error
                size, shape = larger, images.shape[1:]
            compiled, batch = program, padded(images, size)
        return compiled(batch)[: len(images)].float()

    return run

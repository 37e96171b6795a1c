"""Classify images with a trained network: decoded, prepared as in training, and predicted in batches."""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import IOBase
from itertools import islice, starmap
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from googlenet.choices import Crops
from googlenet.data.crops import average, check_crops, cut_crops, side_for
from googlenet.data.decode import Source, center_crop, check_source, decode_image, decode_resized, name_of
from googlenet.device import DTYPES, available_cores, resolve_device, resolve_precision
from googlenet.errors import UserError, check_confidence, check_counts
from googlenet.files import expand, printable
from googlenet.inference import backends
from googlenet.inference.backends import MAX_SIDE, SUFFIXES, Backend, BackendName, Format, OpenModel
from googlenet.inference.cuda_graphs import GraphedNetwork
from googlenet.model.features import find_block, pooled_features
from googlenet.model.fuse import folded
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load_with_file
from googlenet.weights.model_file import KnownRule, ModelInfo, model_info

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, or the error if it could not be read."""

    file: str  # The path; `image 0`, `image 1`, ... (the position in the sequence) for images without one.
    classes: tuple[str, ...] = ()  # The most probable first
    probabilities: tuple[float, ...] = ()  # At the temperature in the model file
    confident: bool = False
    """Whether the highest probability reaches the `confidence` of `predict`. False if there is an error."""
    error: str | None = None
    known: bool | None = None
    """Whether the image belongs to one of the classes, by the rule in the model file; None if there is no rule. False
    if there is an error."""

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "known" or value is not None}


class Embedding(NamedTuple):
    """The features of one image, or the error if it could not be read."""

    file: str  # As in `Prediction`
    values: NDArray[np.float32] | None = None  # (C,)
    error: str | None = None


class Predictor:
    """Classifies images with one model. Of a network it keeps a copy: later changes to it have no effect.

    Threads may share a predictor: it does not change after it was made. Its methods use one thread per core for
    decoding and PyTorch's threads for the network, so two callers at once share the cores. After `os.fork`, make a new
    one in each process.

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
            net, file = load_with_file(model)
            self._model = _open_network(net, backend, device, precision)
            digest.update(file.read_bytes())
        self.digest = digest.hexdigest()  # SHA-256 of the model: of its file, or of the network's weights

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is an iterable of str
        self,
        images: str | Path | bytes | Image.Image,
        *,
        top: int = 3,
        batch_size: int = 32,
        confidence: float = 0.0,
        crops: Crops = 1,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        images: np.ndarray[Any, Any] | Tensor,
        *,
        top: int = 3,
        batch_size: int = 32,
        confidence: float = 0.0,
        crops: Crops = 1,
    ) -> Any: ...  # Prediction, or a list of them for a batch
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, images: Iterator[Source], *, top: int = 3, batch_size: int = 32, confidence: float = 0.0, crops: Crops = 1
    ) -> Iterator[Prediction]: ...
    @overload
    def predict(
        self, images: Iterable[Source], *, top: int = 3, batch_size: int = 32, confidence: float = 0.0, crops: Crops = 1
    ) -> list[Prediction]: ...
    def predict(
        self,
        images: Source | Iterable[Source],
        *,
        top: int = 3,
        batch_size: int = 32,
        confidence: float = 0.0,
        crops: Crops = 1,
    ) -> Prediction | list[Prediction] | Iterator[Prediction]:
        """The prediction for one image, a list for several, or an iterator for an iterator, which is read as needed.

        While one batch is classified, the next one is decoded on all cores; no more than these two are in memory.

        Args:
            images: one image, or an iterable of images: a list, a generator, an array (N, H, W, C), a tensor
                (N, C, H, W). Each image is a path, the content of an image file, a PIL image, an array (H, W) or
                (H, W, C), or a tensor (H, W) or (C, H, W); arrays and tensors are uint8 with 1, 3 or 4 channels. All
                are decoded as files are: EXIF orientation applied, transparent parts white, 16 bits scaled to 8.
            top: how many classes to return, the most probable first.
            batch_size: images per batch.
            confidence: the probability, from 0 to 1, that makes a prediction `confident`.
            crops: of each image, whose predictions are averaged, as for `googlenet.evaluate`: 1, 2, 10 or 144.

        Raises:
            UserError: for an argument out of its range, an array of another type or shape, or an object that is not an
                image. A file that cannot be read has an `error` and no classes.
            RunError: if an image does not fit into memory, or the network cannot be compiled or run.
        """
        check_counts(top=top, batch_size=batch_size)
        check_confidence(confidence)
        check_crops(crops)
        if crops > 1 and self._model.preprocessing:
            raise UserError("several crops are for models that take prepared images: export it without preprocessing")
        top = min(top, len(self.info.classes))
        return _like(images, lambda sources: self._predict(sources, top, batch_size, confidence, crops))

    def embed(
        self, images: Source | Iterable[Source], *, block: str | None = None, batch_size: int = 32
    ) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """Features of images: the mean of each map of an Inception block, float32.

        Args:
            images: as in `predict`. One image gives (C,), several (N, C), and an iterator an iterator of (C,).
            block: the name of an Inception block, `3a` to `5b` in version 1. Default: the last one, whose features are
                those that the classifier reads; in version 1 they are C = 1,024.
            batch_size: images per batch.

        Raises:
            UserError: for an image that cannot be read, an unknown block, or a model that PyTorch does not run.
            RunError: as in `predict`.
        """

        def values(sources: Iterable[Source]) -> Iterator[NDArray[np.float32]]:
            for embedding in self.embeddings(sources, block=block, batch_size=batch_size):
                if embedding.values is None:
                    raise UserError(f"{embedding.file}: {embedding.error}")
                yield embedding.values

        features = _like(images, values)
        if isinstance(features, list):
            width = find_block(self.info.architecture, block).out_channels
            return np.stack(features) if features else np.empty((0, width), np.float32)
        return features

    def embeddings(
        self, images: Iterable[Source], *, block: str | None = None, batch_size: int = 32
    ) -> Iterator[Embedding]:  # fmt: skip
        """`embed` for many images of which some may be unreadable: one by one, with an error for those."""
        check_counts(batch_size=batch_size)
        name = find_block(self.info.architecture, block).name
        if (features := self._model.features) is None:
            raise UserError("features are for model files and networks with the backend torch, not for exported files")
        return self._embeddings(images, lambda batch: features(batch, name), batch_size)

    def _embeddings(self, images: Iterable[Source], features: Backend, batch_size: int) -> Iterator[Embedding]:
        for read in self._batches(images, batch_size):
            inputs = [image for _, image in read if isinstance(image, Tensor)]
            rows = iter(self._model.run(torch.cat(inputs), features).numpy() if inputs else ())
            for name, image in read:
                yield Embedding(name, error=image) if isinstance(image, str) else Embedding(name, next(rows))

    def _predict(
        self, images: Iterable[Source], top: int, batch_size: int, confidence: float, crops: int
    ) -> Iterator[Prediction]:
        rule, count = self.info.known, len(self.info.classes)
        for read in self._batches(images, max(1, batch_size // crops), crops):
            ranked: Iterator[tuple[list[float], list[int], bool | None]] = iter(())
            if inputs := [image for _, image in read if isinstance(image, Tensor)]:
                if self._model.preprocessing:  # images may differ in size
                    outputs = torch.cat([self._model.run(image) for image in inputs])
                    probabilities, scores = outputs[:, :count], outputs[:, count:].flatten()
                else:
                    logits = torch.cat([self._model.run(part) for part in torch.cat(inputs).split(batch_size)])
                    if crops > 1:
                        logits = average(logits.unflatten(0, (len(inputs), crops)))
                    probabilities, scores = (logits / self.info.temperature).softmax(dim=1), KnownRule.scores(logits)
                best = probabilities.topk(top, dim=1)
                known = [None] * len(inputs) if rule is None else rule.accepts(scores).tolist()
                ranked = zip(best.values.tolist(), best.indices.tolist(), known, strict=True)
            for name, image in read:
                if isinstance(image, str):
                    yield Prediction(name, error=image, known=None if rule is None else False)
                    continue
                shares, indices, is_known = next(ranked)
                classes = tuple(self.info.classes[index] for index in indices)
                yield Prediction(name, classes, tuple(shares), confident=shares[0] >= confidence, known=is_known)

    def _batches(
        self, images: Iterable[Source], batch_size: int, crops: int = 1
    ) -> Iterator[list[tuple[str, Tensor | str]]]:
        """Names of images, and what `_read` returns for them; the next batch is read meanwhile."""
        sources = enumerate(images)
        with ThreadPoolExecutor(self._threads) as pool:

            def submit(number: int, image: Source) -> tuple[str, Future[Tensor | str]]:
                name = printable(name_of(image)) or f"image {number}"
                check_source(image, name)
                return name, pool.submit(self._read, image, name, crops)

            batches = iter(lambda: list(starmap(submit, islice(sources, batch_size))), [])
            ahead = deque(islice(batches, 1))
            while ahead:
                ahead.extend(islice(batches, 1))
                yield [(name, future.result()) for name, future in ahead.popleft()]

    def _read(self, image: Source, name: str, crops: int) -> Tensor | str:
        """One image as the model takes it, uint8 (crops, C, H, W), or why it cannot be read."""
        spec = self.info.input
        try:
            if crops > 1:
                decoded = decode_image(image, spec.channels, min_side=2 * side_for(spec, crops))
                return cut_crops(decoded, spec, crops)
            if not self._model.preprocessing:  # as images are decoded for training and evaluation
                decoded = decode_resized(image, spec.channels, spec.decoded_size, spec.resize)[None]
                return center_crop(decoded, spec.size)
            decoded = decode_image(image, spec.channels, min_side=2 * spec.decoded_size)[None]
            if max(decoded.shape[2:]) > MAX_SIDE:
                raise UserError(f"a side is longer than {MAX_SIDE:,} pixels; make the image smaller")
            return decoded
        except UserError as error:
            return str(error).removeprefix(f"{name}: ")


def _open_network(net: GoogLeNet, backend: BackendName, device: str, precision: str) -> OpenModel:
    """A copy of a network, with a backend."""
    if backend not in get_args(BackendName):
        raise UserError(f"unknown backend {backend!r}; use one of: {', '.join(get_args(BackendName))}")
    if backend not in ("auto", "torch"):
        backends.check_backend(backend, device, precision)
    info = model_info(net)
    if backend in ("onnxruntime", "openvino"):  # the exporter is slow to import
        from googlenet.inference.export import require_packages, write_graph
        from googlenet.inference.graph import ExportableModel

        to: Format = "onnx" if backend == "onnxruntime" else "openvino"
        require_packages(to)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder) / f"model{SUFFIXES[to]}"
            write_graph(ExportableModel(net, info), to, file)
            return backends.open_exported(file, backend=backend, device=device, precision=precision)
    used = resolve_device("cpu" if backend == "compiled" else device)
    dtype = DTYPES[resolve_precision(precision, used)]
    fast = folded(net, dtype).to(used)
    if backend == "compiled":
        from googlenet.inference.compiled import compiled_backend

        return OpenModel(compiled_backend(fast, dtype), info)

    def prepared(images: Tensor) -> Tensor:
        return info.input.normalize(images.to(used)).to(dtype, memory_format=torch.channels_last)

    network: Callable[[Tensor], Tensor] = GraphedNetwork(fast) if used.type == "cuda" else fast

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return network(prepared(images)).float().cpu()

    @torch.inference_mode()
    def features(images: Tensor, block: str) -> Tensor:
        return pooled_features(fast, prepared(images), block).cpu()

    return OpenModel(run, info, prepares=True, features=features)


def _like(images: Source | Iterable[Source], results: Callable[[Iterable[Source]], Iterator[Result]]) -> Any:
    """One result for one image, an iterator for an iterator, else a list."""
    if isinstance(images, str | Path | bytes | Image.Image) or (
        isinstance(images, np.ndarray | Tensor) and images.ndim < 4
    ):
        return next(results([images]))
    if not isinstance(images, Iterable) or isinstance(images, IOBase | bytearray | memoryview):  # of lines, or numbers
        raise UserError(f"expected an image or an iterable of images, not {type(images).__name__}")
    found = results(cast(Iterable[Source], images))
    return found if isinstance(images, Iterator) else list(found)

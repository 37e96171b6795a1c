"""A trained network on picture files: decoded, made to fit what the network was trained on, classified in batches."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from googlenet.data.decode import decode_image, decode_resized
from googlenet.device import available_cores
from googlenet.errors import UserError, check_counts
from googlenet.evaluation.metrics import check_confidence
from googlenet.files import printable
from googlenet.inference.backends import BackendName, ExportedModel, network_backend, open_exported
from googlenet.inference.formats import LONGEST_SIDE, SUFFIX, parts
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import load, model_info, model_path

TOP = 3
"""Classes named of a picture, where nobody says how many."""


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, or why there are none."""

    file: str
    classes: tuple[str, ...] = ()
    """The likeliest first."""
    probabilities: tuple[float, ...] = ()
    """At the temperature that the model file says."""
    sure: bool = False
    """Whether the likeliest class is as probable as was asked for. Never for a picture that could not be read."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Predictor:
    """Classifies picture files with one model, as it is when this is made: of a network it keeps a copy.

    Args:
        model: a model file, a file that `googlenet export` wrote, or a network that `googlenet.load` or
            `googlenet.import_weights` returned.
        device: auto, cpu, cuda, cuda:1, mps; the other engines know the CPU alone.
        precision: auto, fp32, bf16, fp16; of the computation.
        backend: torch, compiled, onnxruntime or openvino; auto is torch for a model file, since the others take seconds
            to make theirs of it (compiled at the first prediction), and for an exported file the fastest that is
            installed.

    Raises:
        UserError: for a model that does not say what its input is, or a device, package or compiler that is not there.
    """

    def __init__(
        self,
        model: str | Path | GoogLeNet,
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: BackendName | Literal["auto"] = "auto",
    ) -> None:
        if not isinstance(model, GoogLeNet) and Path(model).suffix in SUFFIX.values():
            opened = open_exported(Path(model), backend=backend, device=device, precision=precision)
        else:
            net = model if isinstance(model, GoogLeNet) else load(model)
            info = model_info(net)
            run = network_backend(net, "torch" if backend == "auto" else backend, device=device, precision=precision)
            opened = ExportedModel(run, info, preprocesses=False)
        self.info, self._opened = opened.info, opened
        self.digest = _digest(model)
        """SHA-256 of the model as it answers: of the file that it was read from, else of the network."""

    def predict(
        self, files: str | Path | Iterable[str | Path], *, top: int = TOP, batch_size: int = 32, confidence: float = 0.0
    ) -> Iterator[Prediction]:
        """One prediction a file, in order; for one file alone, one. A file that cannot be read has its `error` instead
        of classes.

        The next batch is decoded, on all cores, while one is classified; no more than those two are in memory.
        `confidence` is the probability, 0 to 1, that the likeliest class must reach for a prediction to be `sure`.

        Raises:
            UserError: for a `top` or `batch_size` below 1, or a `confidence` that is no probability.
            RunError: where the memory does not hold a picture, or the network cannot be compiled.
        """
        check_confidence(confidence)
        check_counts(top=top, batch_size=batch_size)
        files = [files] if isinstance(files, str | Path) else files
        return self._predict(files, min(top, len(self.info.classes)), batch_size, confidence)

    def _predict(
        self, files: Iterable[str | Path], top: int, batch_size: int, confidence: float
    ) -> Iterator[Prediction]:
        remaining = iter(files)
        ahead: deque[tuple[tuple[str | Path, ...], list[Future[Tensor | str]]]] = deque()
        with ThreadPoolExecutor(available_cores()) as pool:
            while True:
                while len(ahead) < 2 and (batch := tuple(islice(remaining, batch_size))):
                    ahead.append((batch, [pool.submit(self._read, file) for file in batch]))
                if not ahead:
                    return
                batch, reading = ahead.popleft()
                read = [future.result() for future in reading]
                answers = self._classify([image for image in read if isinstance(image, Tensor)], top)
                for file, image in zip(batch, read, strict=True):
                    if isinstance(image, str):
                        yield Prediction(printable(file), error=printable(image))
                    else:
                        yield self._named(file, *next(answers), confidence)

    def _read(self, file: str | Path) -> Tensor | str:
        """What the engine takes for one file, (1, C, H, W), or what is wrong with the file."""
        spec = self.info.input
        try:
            if self._opened.preprocesses:
                image = decode_image(file, spec.channels)[None]
                if max(image.shape[2:]) > LONGEST_SIDE:
                    raise UserError(f"a side is longer than {LONGEST_SIDE:,} pixels")
                return image
            # as pictures are decoded for training and judging
            return spec.prepare(decode_resized(file, spec.channels, spec.decoded_size, spec.resize)[None])
        except UserError as error:
            return str(error).removeprefix(f"{file}: ")

    def _classify(self, images: list[Tensor], top: int) -> Iterator[tuple[Sequence[float], Sequence[int]]]:
        if not images:
            return iter(())
        if self._opened.preprocesses:  # each may have a size of its own
            probabilities = torch.cat([self._opened.run(image) for image in images])
        else:
            probabilities = (self._opened.run(torch.cat(images)) / self.info.temperature).softmax(dim=1)
        best = probabilities.topk(top, dim=1)
        return zip(best.values.tolist(), best.indices.tolist(), strict=True)

    def _named(
        self, file: str | Path, probabilities: Sequence[float], indices: Sequence[int], confidence: float
    ) -> Prediction:
        names = tuple(self.info.classes[index] for index in indices)
        return Prediction(printable(file), names, tuple(probabilities), sure=probabilities[0] >= confidence)


def _digest(model: str | Path | GoogLeNet) -> str:
    found = hashlib.sha256()
    if isinstance(model, GoogLeNet):
        found.update(model_info(model).to_json().encode())
        for tensor in model.state_dict().values():
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        for part in parts(model_path(model)):
            found.update(part.read_bytes())
    return found.hexdigest()

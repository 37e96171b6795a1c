"""A trained network for other programs: written, quantized if asked for, and held against PyTorch on real pictures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet.data.decode import decode_image, decode_images, image_files
from googlenet.errors import RunError, UserError
from googlenet.evaluation.report import load_eval_data
from googlenet.files import atomic_write, check_writable, disk_errors
from googlenet.inference.backends import Backend, open_exported
from googlenet.inference.formats import SUFFIX, ExportableModel, Format, parts, quantize_graph, require, write_graph
from googlenet.weights.model_file import ModelInfo, load

TOLERANCE = 1e-3
"""The most that a probability may differ from PyTorch's in floating point."""
_BATCH = 16
_CALIBRATION_BATCH = 10


@dataclass(frozen=True)
class Exported:
    """An exported file and how it compares with PyTorch in float32."""

    file: Path
    megabytes: float
    """Of all that it consists of."""
    largest_difference: float
    """Between probabilities, over real pictures."""
    images_compared: int
    accuracy_before: float | None = None
    """PyTorch's, 0 to 1; None where the pictures had no labels."""
    accuracy_after: float | None = None
    agreement: float = 1.0
    """Share of the pictures of which both say the same class, 0 to 1."""

    @property
    def points_lost(self) -> float:
        """Percentage points of accuracy; where there are no labels, of agreement."""
        if self.accuracy_before is None or self.accuracy_after is None:
            return 100 * (1 - self.agreement)
        return 100 * (self.accuracy_before - self.accuracy_after)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "file": str(self.file), "points_lost": self.points_lost}


def export(
    model: str | Path,
    to: Format,
    output: str | Path | None = None,
    *,
    int8: bool = False,
    preprocessing: bool = False,
    calibration: Path | None = None,
    data_dir: str | None = None,
    skip_unreadable: bool = False,
    max_accuracy_drop: float = 0.5,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write a model file in another format, and what it says of itself as JSON beside it (`model.onnx.json`), for
    programs whose engine does not show a file's metadata.

    Args:
        model: a model file or run folder.
        to: onnx, openvino or torch-export.
        output: the file; left out, beside the model.
        int8: convolutions in integers of 8 bits, their ranges calibrated on real pictures.
        preprocessing: the file takes uint8 pictures of any size and gives probabilities.
        calibration: a folder of pictures; left out, the data that the model was trained on.
        data_dir: the folder with the files of that data.
        skip_unreadable: leave pictures of that data out that cannot be read.
        max_accuracy_drop: percentage points that int8 may cost.
        force: keep a file that costs more.
        say: gets what is found in the folder that the model was trained on, line by line.

    Raises:
        UserError: for a missing package, model or picture.
        RunError: where the file does not compute what PyTorch does; it is not kept then.
    """
    require(to, int8=int8)
    net = load(model)
    info = net.info
    target = _target(Path(model), Path(output) if output else None, to, int8)
    check_writable(target)
    count = CALIBRATION_IMAGES if int8 else VERIFIED_IMAGES
    sample = take_sample(info, calibration, data_dir, count=count, skip_unreadable=skip_unreadable, say=say)
    deployable = ExportableModel(net, info, preprocessing=preprocessing).eval()
    described = json.loads(info.to_json()) | {"exported": {"preprocessing": preprocessing, "int8": int8}}
    with _beside(target) as folder:
        written = folder / target.name
        write_graph(deployable, to, written, json.dumps(described))
        if int8:
            written = _quantized(written, to, deployable, sample)
        # bf16 would hide a fault behind its rounding
        backend = open_exported(written, backend="onnxruntime" if to == "onnx" else "auto", precision="fp32").run
        exported = _compared(deployable, backend, sample, target, written, int8=int8)
        _check_as_good(exported, to, max_accuracy_drop=float("inf") if force else max_accuracy_drop, int8=int8)
        if len(parts(written)) > 1:
            target.unlink(missing_ok=True)  # an earlier graph beside the new weights would answer wrongly
        for part in parts(written):
            with atomic_write(target.with_suffix(part.suffix)) as temporary:
                part.replace(temporary)
        with atomic_write(target.with_name(f"{target.name}.json")) as temporary:
            temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return exported


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder on the same disk, gone at the end. Raises `RunError` for a full disk, or one that is not to be written
    to."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
            yield Path(folder)


def _check_as_good(exported: Exported, to: Format, *, max_accuracy_drop: float, int8: bool) -> None:
    if not int8 and not exported.largest_difference <= TOLERANCE:
        raise RunError(
            f"probabilities of the {to} file differ from PyTorch's by {exported.largest_difference:.2g}: not kept"
        )
    if int8 and exported.points_lost > max_accuracy_drop:
        raise RunError(
            f"int8 costs {exported.points_lost:.2f} points of {_what(exported)}, more than {max_accuracy_drop}: not kept; "
            f"--force keeps it, more or other pictures in --calibration may mend it"
        )


def _target(model: Path, output: Path | None, to: Format, int8: bool) -> Path:
    if output is None:
        beside = model / "model" if model.is_dir() else model.with_suffix("")
        return beside.with_name(beside.name + ("-int8" if int8 else "") + SUFFIX[to])
    if output.suffix != SUFFIX[to]:
        raise UserError(f"a file for {to} is named *{SUFFIX[to]}, not {output.name}")
    return output


def _quantized(written: Path, to: Format, model: ExportableModel, sample: Sample) -> Path:
    target = written.with_name("quantized" + written.suffix)
    batches = sample.square.split(_CALIBRATION_BATCH)
    quantize_graph(to, written, target, batches if model.preprocessing else [model.spec.prepare(b) for b in batches])
    return target


def _compared(
    model: ExportableModel, backend: Backend, sample: Sample, target: Path, written: Path, *, int8: bool
) -> Exported:
    """A floating-point file is verified on some pictures; one in int8 is judged on all that there are."""
    most = None if int8 else VERIFIED_IMAGES
    images: Iterable[Tensor] = islice(sample.whole(), most) if model.preprocessing else sample.square.split(_BATCH)
    labels = None
    if sample.test_images is not None and sample.test_labels is not None:
        count = len(sample.test_labels) if int8 else VERIFIED_IMAGES
        images, labels = sample.test_images[:count].split(_BATCH), sample.test_labels[:count]
    pairs = [_both(model, backend, batch) for batch in images]
    theirs, ours = torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])
    right = None if labels is None else labels == ours.argmax(1)
    right_after = None if labels is None else labels == theirs.argmax(1)
    return Exported(
        file=target,
        megabytes=sum(part.stat().st_size for part in parts(written)) / 1e6,
        largest_difference=float((theirs - ours).abs().max()),
        images_compared=len(ours),
        accuracy_before=None if right is None else float(right.double().mean()),
        accuracy_after=None if right_after is None else float(right_after.double().mean()),
        agreement=float((theirs.argmax(1) == ours.argmax(1)).double().mean()),
    )


@torch.no_grad()
def _both(model: ExportableModel, backend: Backend, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of the exported file and of PyTorch for uint8 images."""
    prepared = model.spec.prepare(images)
    logits: Tensor = model.net(prepared.contiguous(memory_format=torch.channels_last))
    probabilities = (logits / model.temperature).softmax(dim=1)
    if model.preprocessing:
        return backend(images), probabilities
    return (backend(prepared) / model.temperature).softmax(dim=1), probabilities


def _what(exported: Exported) -> str:
    return "agreement with PyTorch" if exported.accuracy_before is None else "accuracy"


CALIBRATION_IMAGES = 300
VERIFIED_IMAGES = 64


@dataclass(frozen=True)
class Sample:
    """Real pictures, the same ones at each call."""

    square: Tensor
    """Each made square as the model's input is: uint8 (N, C, side, side); enough of them to calibrate with."""
    files: tuple[Path, ...] = ()
    """The same as they lie on the disk; none where the data are no picture files."""
    test_images: Tensor | None = None
    """uint8 (N, C, H, W), kept for judging alone; None where the pictures have no labels."""
    test_labels: Tensor | None = None
    """int64 (N,)."""

    def whole(self) -> Iterator[Tensor]:
        """DecodedImages as the model's caller has them, uint8 (1, C, H, W), one size each. One at a time: each may take a
        hundred megabytes."""
        for file in self.files:
            yield decode_image(file, self.square.shape[1])[None]
        if not self.files:
            yield from self.square.split(1)


def take_sample(
    info: ModelInfo,
    folder: Path | None,
    data_dir: str | None = None,
    *,
    count: int,
    skip_unreadable: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Sample:
    """From a folder of pictures, without labels; where none is named, from the data that the model was trained on.

    Args:
        info: of the model.
        folder: of pictures.
        data_dir: the folder with the files of the data that the model was trained on.
        count: pictures at the most, test images not counted.
        skip_unreadable: leave pictures of that data out that cannot be read.
        say: gets what is found there, line by line.

    Raises:
        UserError: where there are no pictures, or one cannot be read.
    """
    if folder is not None:
        files = list(image_files([folder]))
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
        chosen = [files[number] for number in order[:count].tolist()]
        spec = info.input
        square = decode_images(chosen, spec.channels, spec.decoded_size, resize=spec.resize)
        for error in square.errors.values():
            raise UserError(error)
        return Sample(square.images, tuple(chosen))
    if "data" not in info.recipe:
        raise UserError("the model file does not say what it was trained on: name a folder of pictures: --calibration")
    data = load_eval_data(info, data_dir=data_dir, skip_unreadable=skip_unreadable, say=say)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    return Sample(data.train.images[order[:count]], test_images=data.test.images, test_labels=data.test.labels)

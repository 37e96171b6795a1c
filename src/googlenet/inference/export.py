"""Export a network to ONNX, OpenVINO or torch.export, verified against PyTorch on real images.

`export` comes first; below it, which images it uses, how it compares, and how each format is written and quantized.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.data.decode import center_crop, decode_image, decode_images, image_files
from googlenet.device import require
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write, check_writable, disk_errors, expand, write_json
from googlenet.inference.backends import (
    MAX_SIDE,
    METADATA_KEY,
    SUFFIXES,
    Backend,
    Format,
    exported_files,
    open_exported,
)
from googlenet.inference.graph import ExportableModel
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load_or_check, output_stem
from googlenet.weights.model_file import KnownRule

_quiet_lock = threading.RLock()
_OTHER_FORMAT = "try another format, and please report it"
TOLERANCE = 1e-3  # How far probabilities may differ from PyTorch's, unless in int8
CALIBRATION_IMAGES = 300
VERIFICATION_IMAGES = 64


@dataclass(frozen=True)
class Exported:
    """An exported file, compared with PyTorch in float32."""

    file: Path
    megabytes: float  # Of all files that it consists of
    largest_difference: float  # Between probabilities, over all images compared
    images_compared: int
    accuracy_before: float | None = None  # PyTorch's, 0 to 1; None if the images have no labels
    accuracy_after: float | None = None  # The exported file's
    agreement: float = 1.0  # Share of the images for which both predict the same class, 0 to 1
    known_agreement: float | None = None  # Share of them for which `known` is the same; None without a rule for it

    @property
    def accuracy_drop(self) -> float:
        """In percentage points. Without labels: 100 less the agreement in percent."""
        if self.accuracy_before is None or self.accuracy_after is None:
            return 100 * (1 - self.agreement)
        return 100 * (self.accuracy_before - self.accuracy_after)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "file": str(self.file), "accuracy_drop": self.accuracy_drop}


def export(
    model: GoogLeNet | str | Path, to: Format, output: str | Path | None = None, *, int8: bool = False,
    preprocessing: bool = False, calibration_data: str | Path | ImageDataset | ImageSplit | None = None,
    data_dir: str | Path | None = None, skip_unreadable: bool = False, max_accuracy_drop: float = 0.5,
    force: bool = False,
) -> Exported:  # fmt: skip
    """Write a network to a file for other programs, and its metadata as JSON next to it (`model.onnx.json`).

    The file is compared with PyTorch on real images: 64 test images, or all of them for int8, spread over the classes.
    It is kept only if it computes the same.

    Args:
        model: a network from `googlenet.load` or `googlenet.import_weights`, or the path of a model file or run folder.
        to: onnx, openvino or torch-export.
        output: the file. Default: next to the model file, or `model.onnx` (`.xml`, `.pt2`) for a network.
        int8: convolutions in 8-bit integers, with ranges calibrated on 300 training images; onnx and openvino only.
        preprocessing: the file takes uint8 images (N, C, H, W) of any size and returns probabilities (N, classes),
            instead of prepared float32 images and logits. If the model has a rule for unknown images, the second
            output is its score (N, 1), which a known image has at or above the threshold in the metadata.
        calibration_data: images to calibrate and to verify with: a folder (labels are not used), an `ImageDataset` or
            an `ImageSplit`. Default: the data that the model was trained on.
        data_dir: the folder with the files of that data.
        skip_unreadable: skip image files that cannot be read.
        max_accuracy_drop: the percentage points of accuracy (without labels: of agreement) that int8 may cost.
        force: keep an int8 file that costs more.

    Raises:
        UserError: for an unknown format, a missing package, model or image, or data of other classes.
        RunError: if the file does not compute what PyTorch does, or cannot be written.
    """
    require_packages(to, int8=int8)
    net, info = load_or_check(model)
    exportable = ExportableModel(net, info, preprocessing=preprocessing, int8=int8)
    if output is None:
        stem = Path("model") if isinstance(model, nn.Module) else output_stem(model)
        target = stem.with_name(stem.name + ("-int8" if int8 else "") + SUFFIXES[to])
    else:
        target = expand(output)
    if target.suffix != SUFFIXES[to]:
        raise UserError(f"{target}: an export to {to} is a {SUFFIXES[to]} file; use a name that ends in {SUFFIXES[to]}")
    check_writable(target)
    calibration, verification, labels = _load_images(exportable, calibration_data, data_dir, skip_unreadable, int8=int8)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-", ignore_cleanup_errors=True) as folder:
            written = Path(folder) / target.name
            write_graph(exportable, to, written)
            if int8:
                quantized = written.with_name(f"quantized{written.suffix}")
                (quantize_onnx if to == "onnx" else quantize_openvino)(written, quantized, calibration)
                written = quantized
            # In fp32, because bf16 would hide errors in its rounding
            run = open_exported(written, backend="onnxruntime" if to == "onnx" else "auto", precision="fp32").run
            outputs = _outputs(exportable, run, verification)
            ours, theirs = (each[:, : len(info.classes)] for each in outputs)
            our_scores, their_scores = (each[:, len(info.classes) :] for each in outputs)
            before, after = ours.argmax(1), theirs.argmax(1)
            rule, known_agreement = info.known, None
            if rule is not None:
                same = rule.accepts(our_scores) == rule.accepts(their_scores)
                known_agreement = float(same.double().mean())
                if not int8 and not torch.allclose(our_scores, their_scores, rtol=TOLERANCE, atol=TOLERANCE):
                    raise RunError(f"{target} not kept: the scores of known images differ; {_OTHER_FORMAT}")
            exported = Exported(
                file=target, megabytes=sum(part.stat().st_size for part in exported_files(written)) / 1e6,
                largest_difference=float((theirs - ours).abs().max()), images_compared=len(ours),
                accuracy_before=None if labels is None else float((before == labels).double().mean()),
                accuracy_after=None if labels is None else float((after == labels).double().mean()),
                agreement=float((after == before).double().mean()), known_agreement=known_agreement,
            )  # fmt: skip
            if not int8 and not exported.largest_difference <= TOLERANCE:
                raise RunError(
                    f"{target} not kept: probabilities differ by {exported.largest_difference:.2g}; {_OTHER_FORMAT}"
                )
            if int8 and not force and exported.accuracy_drop > max_accuracy_drop:
                metric = "agreement with PyTorch" if exported.accuracy_before is None else "accuracy"
                raise RunError(
                    f"{target} not kept: int8 costs {exported.accuracy_drop:.2f} points of {metric}, more than "
                    f"{max_accuracy_drop} (--max-accuracy-drop); --force keeps it, and more or other images in "
                    "--calibration-data may help"
                )
            if len(exported_files(written)) > 1:
                target.unlink(missing_ok=True)  # an earlier graph next to the new weights would predict wrongly
            for part in exported_files(written):
                with atomic_write(target.with_suffix(part.suffix)) as temporary:
                    part.replace(temporary)
            write_json(target.with_name(f"{target.name}.json"), exportable.metadata)
    return exported


def _load_images(
    model: ExportableModel, data: str | Path | ImageDataset | ImageSplit | None, data_dir: str | Path | None,
    skip_unreadable: bool, *, int8: bool,
) -> tuple[Iterable[Tensor], Iterable[Tensor], Tensor | None]:  # fmt: skip
    """Real images, always the same ones for the same data.

    Returns:
        Batches to calibrate int8 with, as the file takes them; uint8 batches (N, C, H, W) to verify with; and the
        labels of these, int64, or None if they are not known.
    """
    # Imported here: Predictor imports this file, but not metrics and plots
    from googlenet.evaluation.report import eval_split, load_eval_data

    spec, labels = model.info.input, None
    if isinstance(data, str | Path):
        files = list(image_files([expand(data)]))
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
        files = [files[number] for number in order[: CALIBRATION_IMAGES if int8 else VERIFICATION_IMAGES]]
        decoded = decode_images(files, spec.channels, spec.decoded_size, spec.resize)
        for error in () if skip_unreadable else decoded.errors.values():
            raise UserError(error)
        readable = [number for number in range(len(files)) if number not in decoded.errors]
        if not readable:
            raise UserError(f"{data} has no images that can be read: name another folder")
        calibration: Iterable[Tensor] = decoded.images[readable].split(10)
        verification: Iterable[Tensor] = decoded.images[readable].split(16)
        if model.preprocessing:  # in their own sizes, one at a time since each may take 100 MB
            verification = (decode_image(files[number], spec.channels)[None] for number in readable)
    else:
        if data is not None:
            test = eval_split(model.info, data)
        elif "data" not in model.info.recipe:
            raise UserError("the model file does not name its training data: use --calibration-data FOLDER")
        else:
            splits = ("train", "test") if int8 else ("test",)
            data = load_eval_data(
                model.info, data_dir=data_dir, skip_unreadable=skip_unreadable, splits=splits, on_demand=True
            )
            test = data.test
        train = data.train if isinstance(data, ImageDataset) and len(data.train) else test
        if not len(test):
            raise UserError("there are no test images to verify with: use --calibration-data FOLDER")
        test = test if int8 else test.spread(VERIFICATION_IMAGES)
        calibration = train.spread(CALIBRATION_IMAGES).images.split(10) if int8 else ()
        verification, labels = test.images.split(16), test.labels
    return calibration if model.preprocessing else map(spec.prepare, calibration), verification, labels


@torch.no_grad()
def _outputs(model: ExportableModel, run: Backend, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Probabilities, and scores of `KnownRule` in a last column, (N, classes + 1): of PyTorch in float32, and of the
    exported file, which computes scores with preprocessing only if there is a rule."""
    ours, theirs = [], []

    def results(logits: Tensor) -> Tensor:
        return torch.cat([(logits / model.info.temperature).softmax(dim=1), KnownRule.scores(logits)[:, None]], dim=1)

    for images in batches:
        prepared = model.info.input.prepare(images)
        logits: Tensor = model.net(prepared.contiguous(memory_format=torch.channels_last))
        ours.append(results(logits))
        output = run(images if model.preprocessing else center_crop(images, model.info.input.size))
        theirs.append(output if model.preprocessing else results(output))
    return torch.cat(ours), torch.cat(theirs)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No gradients, and no warnings or log lines of the exporters. Restores the process's settings at the end.

    One thread at a time, since the settings belong to the process: two at once would not restore them.
    """
    with _quiet_lock, warnings.catch_warnings(), torch.no_grad():
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def require_packages(to: Format, *, int8: bool = False) -> None:
    """Raises `UserError` if a package for exporting to a format is missing, or there is no such format."""
    if to not in SUFFIXES:
        raise UserError(f"unknown format {to!r}; use one of: {', '.join(SUFFIXES)}")
    if int8 and to == "torch-export":
        raise UserError("int8 is for onnx and openvino; torch-export supports floating point only")
    packages = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}.get(to, ())
    for package in (*packages, *(("nncf",) if int8 and to == "openvino" else ())):
        require(package, f"export to {to}")


@quietly()
def write_graph(model: ExportableModel, to: Format, path: Path) -> None:
    """Write the model and its metadata to a file, and for OpenVINO a `.bin` file next to it.

    Raises:
        RunError: if the disk is full.
    """
    spec, metadata = model.info.input, json.dumps(model.metadata)
    dynamic: dict[int, Any] = {0: torch.export.Dim("N")}
    example = torch.zeros(2, spec.channels, spec.size, spec.size)
    if model.preprocessing:
        dynamic |= {axis: torch.export.Dim(name, min=1, max=MAX_SIDE) for axis, name in ((2, "H"), (3, "W"))}
        example = torch.zeros(2, spec.channels, 100, 120, dtype=torch.uint8)
    if to == "onnx":
        program = torch.onnx.export(
            model, (example,), dynamo=True, dynamic_shapes=(dynamic,), input_names=["images"],
            output_names=model.outputs, verbose=False,
        )  # fmt: skip
        assert program is not None
        program.model.metadata_props[METADATA_KEY] = metadata
        program.save(path)
        return
    if to == "torch-export":
        exported = torch.export.export(model, (example,), dynamic_shapes=(dynamic,))
        save = partial(torch.export.save, exported, path, extra_files={METADATA_KEY: metadata})
    else:
        import openvino

        graph = openvino.convert_model(model, example_input=example)
        side = -1 if model.preprocessing else spec.size
        graph.reshape([-1, spec.channels, side, side])
        graph.inputs[0].get_tensor().set_names({"images"})
        for output, name in zip(graph.outputs, model.outputs, strict=True):
            output.get_tensor().set_names({name})
        graph.set_rt_info(metadata, METADATA_KEY)
        save = partial(openvino.save_model, graph, path, compress_to_fp16=False)
    try:
        save()
    except RuntimeError as error:  # torch and OpenVINO do not raise OSError for a full disk
        raise RunError(f"cannot write {path.name}: {reason_of(error)}") from error


@quietly()
def quantize_onnx(path: Path, target: Path, batches: Iterable[Tensor]) -> None:
    """Write the exported file `path` to `target` with int8 convolutions, calibrated on `batches`.

    Matrix products stay in floating point: they resize images, and compute the logits. Weights have 7 bits, because
    processors without VNNI add products in pairs in 16 bits, where products of 8 bits do not fit.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    folded = path.with_suffix(".folded.onnx")
    quant_pre_process(str(path), str(folded), skip_symbolic_shape=True)  # folds batch norm
    quantization.quantize_static(
        str(folded), str(target), Reader(), op_types_to_quantize=["Conv", "MaxPool", "Relu", "Concat", "Split"],
        per_channel=True, reduce_range=True, activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    quantized = onnx.load(target)
    onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in onnx.load(path).metadata_props})
    onnx.save(quantized, target)


@quietly()
def quantize_openvino(path: Path, target: Path, batches: Iterable[Tensor]) -> None:
    """See `quantize_onnx`."""
    arrays, logger_class = [batch.numpy() for batch in batches], logging.getLoggerClass()
    import nncf
    import openvino

    logging.setLoggerClass(logger_class)  # which nncf replaces for the whole process
    graph = openvino.Core().read_model(path)
    with contextlib.redirect_stdout(sys.stderr):  # NNCF draws progress bars, and standard output is for results
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(arrays),
            subset_size=len(arrays),
            ignored_scope=nncf.IgnoredScope(types=["MatMul"], validate=False),
        )
    quantized.set_rt_info(graph.get_rt_info(METADATA_KEY).astype(str), METADATA_KEY)
    openvino.save_model(quantized, target, compress_to_fp16=False)

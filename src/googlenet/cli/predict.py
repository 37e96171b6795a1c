"""googlenet predict."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.errors import UserError


@options.app.command
def predict(
    model: Annotated[Path, Parameter(help="Model file, run folder, or a file from export.")],
    /,
    *images: Annotated[Path, Parameter(name="IMAGE", help="Image files, or folders of them.")],
    stdin: Annotated[bool, Parameter(help="Read file names from standard input, one per line.", negative="")] = False,
    top: Annotated[int, Parameter(help="How many classes to print, the most probable first.")] = 3,
    confidence: Annotated[float, Parameter(help="Mark predictions below this probability as not confident.")] = 0.0,
    format: Annotated[Literal["table", "json", "csv"], Parameter(help="Format to print in.")] = "table",
    json: Annotated[bool, Parameter(help="Print JSON; with --output, a summary.", negative="")] = False,
    output: Annotated[Path | None, options.Output, Parameter(help="File to write: .csv, .jsonl or .parquet.")] = None,
    resume: Annotated[bool, Parameter(help="Continue --output: skip the files in it.", negative="")] = False,
    backend: Annotated[
        Literal["auto", "torch", "compiled", "onnxruntime", "openvino"],
        Parameter(
            help="What runs the network. auto: torch for a model file, the fastest one installed for an exported "
            "file. compiled: torch, compiled for this processor and batch size, which takes 20 to 40 s."
        ),
    ] = "auto",
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> int:
    """Classify images. An image that cannot be read is reported, the others are classified, and the exit code is 1."""
    from googlenet.console import on_stderr
    from googlenet.data.decode import image_files
    from googlenet.inference.predictor import Predictor
    from googlenet.inference.writers import COLUMNS, csv_lines, write_predictions

    if not images and not stdin:
        raise UserError("predict needs IMAGE: files or folders, or --stdin with file names on standard input")
    if resume and output is None:
        raise UserError("--resume needs the --output to continue")
    if output is not None and format != "table":
        raise UserError(f"--format is for printing; the format of --output is in its name: {output}")
    if backend == "compiled":
        print("compiling the network for this processor at the first batch: 20 to 40 s", file=sys.stderr)
    predictor = Predictor(model, device=device, precision=precision, backend=backend)
    with on_stderr():
        listed = list(image_files(images))
    files = chain(listed, _read_names() if stdin else ())
    settings: dict[str, Any] = {"top": top, "batch_size": batch_size, "confidence": confidence}
    if output is not None:
        total = None if stdin else len(listed)
        with on_stderr():
            predicted, failed = write_predictions(predictor, files, output, total=total, resume=resume, **settings)
        summary = {"output": str(output), "predicted": predicted, "failed": failed}
        options.print_json(summary) if json else print(f"{output}: {predicted:,} predicted, {failed:,} cannot be read")
        return 1 if failed else 0
    predictions, failed, format = [], 0, "json" if json else format
    if format == "csv":
        print(",".join(COLUMNS))
    for prediction in predictor.predict(files, **settings):
        if prediction.error is not None:
            failed += 1
            print(f"googlenet: {prediction.file}: {prediction.error}", file=sys.stderr)
        if format == "json":
            predictions.append(prediction.to_dict())
        elif format == "csv":
            print(csv_lines(prediction), end="")
        elif prediction.classes:
            ranked = zip(prediction.classes, prediction.probabilities, strict=True)
            mark = "" if prediction.confident else "not confident: "
            print(f"{prediction.file}  {mark}" + "  ".join(f"{name} {share:.1%}" for name, share in ranked))
    if format == "json":
        options.print_json(predictions)
    return 1 if failed else 0


def _read_names() -> Iterator[Path]:
    """File names on standard input. Only the line end is removed: a name may start or end with spaces."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="\n")  # -sig: skips a BOM
    for line in sys.stdin:
        if name := line.removesuffix("\n").removesuffix("\r"):
            yield Path(name)

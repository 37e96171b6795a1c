"""A trained network used: on pictures, in other programs; and other people's brought in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from googlenet.cli.app import (
    BatchSize,
    Device,
    Output,
    Precision,
    app,
    print_json,
)
from googlenet.errors import UserError


@app.command
def predict(
    model: Annotated[Path, Parameter(help="Model file, run folder, or a file that export wrote.")],
    /,
    *pictures: Annotated[Path, Parameter(help="Picture files, or folders of them.")],
    stdin: Annotated[
        bool, Parameter(help="Read the names of picture files from standard input, one a line.", negative="")
    ] = False,
    top: Annotated[int, Parameter(help="How many classes to name, the likeliest first.")] = 3,
    format: Annotated[Literal["table", "json", "csv"], Parameter(help="How to print the answers.")] = "table",
    json: Annotated[bool, Parameter(help="The same as --format json; with --output a summary.", negative="")] = False,
    output: Annotated[
        Path | None, Output, Parameter(help="File to write the answers to: .csv, .jsonl or .parquet.")
    ] = None,
    resume: Annotated[
        bool,
        Parameter(
            help="Go on with --output: files that are in it already are left out, unreadable ones too.", negative=""
        ),
    ] = False,
    backend: Annotated[
        Literal["auto", "torch", "compiled", "onnxruntime", "openvino"],
        Parameter(
            help="What computes; auto: torch for a model file, the fastest installed for an exported one. compiled: "
            "torch, of which a compiler makes a program for this processor first, 20 to 40 s, for batches of "
            "the first one's size, rounded up to a power of two."
        ),
    ] = "auto",
    batch_size: BatchSize = 32,
    device: Device = "auto",
    precision: Precision = "auto",
    confidence: Annotated[
        float, Parameter(help="A picture whose likeliest class is less probable than this, 0 to 1, is named unsure.")
    ] = 0.0,
) -> int:
    """Classify picture files. One that cannot be read is named, the others are answered, and the exit code is 1."""
    from googlenet.inference.predictor import Predictor
    from googlenet.inference.writers import STDIN, print_predictions, write_predictions

    if not pictures and not stdin:
        raise UserError("predict needs PICTURES: files, folders, or --stdin with their names on standard input")
    named = [*pictures, *([STDIN] if stdin else [])]
    if resume and output is None:
        raise UserError("--resume goes on with an output: name it with --output")
    if output is not None and format != "table":
        raise UserError(f"--format is of what is printed; answers in a file are as its name says: {output}")
    predictor = Predictor(model, device=device, precision=precision, backend=backend)
    if engine == "compiled":
        print("the network is compiled for this processor at the first batch: 20 to 40 s", file=sys.stderr)
    settings: dict[str, Any] = {"top": top, "batch_size": batch_size, "confidence": confidence}
    if output is not None:
        answered, failed = write_predictions(predictor, named, output, resume=resume, **settings)
        summary = {"output": str(output), "answered": answered, "failed": failed}
        if json:
            print_json(summary)
        elif resume and not (answered or failed):
            print(f"nothing new to answer: {output}")
        else:
            print(f"{answered:,} answered, {failed:,} could not be read: {output}")
    else:
        failed = print_predictions(predictor, named, "json" if json else format, **settings)
    return 1 if failed else 0

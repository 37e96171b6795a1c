"""A trained network used: on pictures, in other programs; and other people's brought in."""

from __future__ import annotations

import json as json_format
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from googlenet.cli.app import (
    BatchSize,
    DataDir,
    Device,
    Json,
    Output,
    Precision,
    SkipUnreadable,
    app,
    print_json,
)
from googlenet.errors import UserError
from googlenet.files import check_output
from googlenet.network.architecture import Variant


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
    engine: Annotated[
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
    from googlenet.deploy.answers import STDIN, print_answers, write_answers
    from googlenet.deploy.predictor import Predictor

    if not pictures and not stdin:
        raise UserError("predict needs PICTURES: files, folders, or --stdin with their names on standard input")
    named = [*pictures, *([STDIN] if stdin else [])]
    if resume and output is None:
        raise UserError("--resume goes on with an output: name it with --output")
    if output is not None and format != "table":
        raise UserError(f"--format is of what is printed; answers in a file are as its name says: {output}")
    predictor = Predictor(model, device=device, precision=precision, engine=engine)
    if engine == "compiled":
        print("the network is compiled for this processor at the first batch: 20 to 40 s", file=sys.stderr)
    settings: dict[str, Any] = {"top": top, "batch_size": batch_size, "confidence": confidence}
    if output is not None:
        answered, failed = write_answers(predictor, named, output, resume=resume, **settings)
        summary = {"output": str(output), "answered": answered, "failed": failed}
        if json:
            print_json(summary)
        elif resume and not (answered or failed):
            print(f"nothing new to answer: {output}")
        else:
            print(f"{answered:,} answered, {failed:,} could not be read: {output}")
    else:
        failed = print_answers(predictor, named, "json" if json else format, **settings)
    return 1 if failed else 0


@app.command
def export(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    *,
    to: Annotated[Literal["onnx", "openvino", "torch-export"], Parameter(help="Format of the file.")],
    output: Annotated[
        Path | None, Output, Parameter(help="File to write, over an earlier one; left out: beside the model.")
    ] = None,
    int8: Annotated[bool, Parameter(help="Convolutions in integers of 8 bits.", negative="")] = False,
    with_preprocessing: Annotated[
        bool, Parameter(help="The file takes uint8 pictures of any size and gives probabilities.", negative="")
    ] = False,
    calibration: Annotated[
        Path | None, Parameter(help="Folder of pictures to calibrate and verify with; left out: the training data.")
    ] = None,
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    most_lost: Annotated[float, Parameter(help="Percentage points of accuracy that int8 may cost.")] = 0.5,
    force: Annotated[bool, Parameter(help="Keep an int8 file that costs more.", negative="")] = False,
    json: Json = False,
) -> int:
    """Write a model for other programs, held against PyTorch on real pictures before it is kept."""
    from googlenet.deploy.export import export as run_export

    with redirect_stdout(sys.stderr):
        exported = run_export(
            model,
            to,
            output,
            int8=int8,
            preprocessing=with_preprocessing,
            calibration=calibration,
            data_dir=data_dir,
            skip_unreadable=skip_unreadable,
            say=print,
            most_lost=most_lost,
            force=force,
        )
    if json:
        print_json(exported.to_dict())
        return 0
    print(f"{exported.file}: {exported.megabytes:.1f} MB")
    print(
        f"{exported.images_judged:,} real pictures: the same class as PyTorch for {exported.agreement:.2%}, "
        f"probabilities within {exported.largest_difference:.1g}"
    )
    if exported.accuracy_before is not None:
        print(f"of these {exported.accuracy_before:.2%} right in PyTorch, {exported.accuracy_after:.2%} in the file")
    return 0


@app.command
def demo(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    *,
    host: Annotated[
        str, Parameter(help="Address to listen at; 0.0.0.0 lets other machines in, and whoever is on them.")
    ] = "127.0.0.1",
    port: Annotated[int | None, Parameter(help="Port; left out: the first free one from 7860.")] = None,
    top: Annotated[int, Parameter(help="How many classes to name, the likeliest first.")] = 5,
    most_megabytes: Annotated[int, Parameter(help="Largest file that may be uploaded, MB.")] = 20,
    device: Device = "auto",
) -> int:
    """A page in the browser to try a model on: drop or paste a picture.

    It can be reached from this machine alone, unless --host says otherwise.
    """
    from googlenet.deploy.demo import serve

    def ready(address: str) -> None:
        print(f"open {address}   (Ctrl-C ends it)", flush=True)

    serve(model, host=host, port=port, top=top, most_megabytes=most_megabytes, device=device, ready=ready)
    return 0


@app.command(name="import")
def import_(
    file: Annotated[
        Path,
        Parameter(
            help="Weights saved from the tutorial's code, torchvision's googlenet or this package's, or the ONNX zoo's "
            "Inception v1 (.onnx)."
        ),
    ],
    *,
    output: Annotated[
        Path | None, Output, Parameter(help="Model file to write; left out: FILE's name with .safetensors.")
    ] = None,
    variant: Annotated[Variant | None, Parameter(help="What the weights are of, where they do not show it.")] = None,
    stem_stride: Annotated[
        int | None, Parameter(help="Of the first convolution, which weights do not show; left out: the variant's, 2.")
    ] = None,
    classes: Annotated[Path | None, Parameter(help="Text file with the classes' names, one a line.")] = None,
    json: Json = False,
) -> int:
    """Make a model file of other people's weights."""
    from googlenet.artifact.foreign import import_file

    if output is not None:
        check_output(output, ".safetensors")
    target, info = import_file(file, output, variant=variant, stem_stride=stem_stride, class_file=classes)
    if json:
        print_json({"model": str(target), **json_format.loads(info.to_json())})
        return 0
    print(f"{target}: {info.architecture.variant}, {len(info.classes)} classes: {', '.join(info.classes[:3])}, ...")
    # What weights do not say was taken for granted, and so is said
    taken = info.input
    print(
        f"input taken to be {taken.channels}x{taken.size}x{taken.size}, mean {taken.mean}, deviation {taken.std}; "
        f"the first convolution's stride {info.architecture.stem_stride}"
    )
    return 0

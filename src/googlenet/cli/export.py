"""googlenet export, import and demo."""

from __future__ import annotations

import json as json_format
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from googlenet.cli.app import (
    DataDir,
    Device,
    Json,
    Output,
    SkipUnreadable,
    app,
    print_json,
)
from googlenet.files import check_output
from googlenet.model.architecture import Variant


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
    max_accuracy_drop: Annotated[float, Parameter(help="Percentage points of accuracy that int8 may cost.")] = 0.5,
    force: Annotated[bool, Parameter(help="Keep an int8 file that costs more.", negative="")] = False,
    json: Json = False,
) -> int:
    """Write a model for other programs, held against PyTorch on real pictures before it is kept."""
    from googlenet.inference.export import export as run_export

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
            max_accuracy_drop=max_accuracy_drop,
            force=force,
        )
    if json:
        print_json(exported.to_dict())
        return 0
    print(f"{exported.file}: {exported.megabytes:.1f} MB")
    print(
        f"{exported.images_compared:,} real pictures: the same class as PyTorch for {exported.agreement:.2%}, "
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
    max_upload_mb: Annotated[int, Parameter(help="Largest file that may be uploaded, MB.")] = 20,
    device: Device = "auto",
) -> int:
    """A page in the browser to try a model on: drop or paste a picture.

    It can be reached from this machine alone, unless --host says otherwise.
    """
    from googlenet.inference.demo import serve

    def ready(address: str) -> None:
        print(f"open {address}   (Ctrl-C ends it)", flush=True)

    serve(model, host=host, port=port, top=top, max_upload_mb=max_upload_mb, device=device, ready=ready)
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
    from googlenet.weights.convert import import_file

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

"""googlenet import."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from googlenet.choices import Resize
from googlenet.cli import options
from googlenet.errors import plural
from googlenet.files import check_output
from googlenet.model.architecture import Variant


def import_(
    file: Annotated[
        Path,
        Parameter(
            help="Weights of torchvision's googlenet, this package's networks, the tutorial or d2l.ai (.pt, .pth, "
            ".ckpt, .safetensors; also checkpoints of training scripts), Inception v1 of the ONNX model zoo (.onnx), "
            "MindCV's googlenet (.ckpt of MindSpore), or TensorFlow's inception5h (.pb)."
        ),
    ],
    *,
    output: Annotated[
        Path | None, options.Output, Parameter(help="Model file to write. Default: FILE with the suffix .safetensors.")
    ] = None,
    variant: Annotated[Variant | None, Parameter(help="Variant, if the weights fit several.")] = None,
    stem_stride: Annotated[
        int | None, Parameter(help="Stride of the first convolution, which weights do not show. Default: 2.")
    ] = None,
    classes: Annotated[Path | None, Parameter(help="Text file with the class names, one per line.")] = None,
    mean: Annotated[
        tuple[float, ...] | None,
        Parameter(
            help="Mean of the pixels, from 0 to 1: one value, or one per channel. Default: the source's.",
            consume_multiple=True,
        ),
    ] = None,
    std: Annotated[
        tuple[float, ...] | None,
        Parameter(
            help="Standard deviation of the pixels, from 0 to 1, like --mean. Default: the source's.",
            consume_multiple=True,
        ),
    ] = None,
    size: Annotated[
        int | None, Parameter(help="Height and width of the input in pixels. Default: the source's, mostly 224.")
    ] = None,
    resize: Annotated[
        Resize | None, Parameter(help="How images are made square; crop: the middle 7/8. Default: the source's.")
    ] = None,
    ema: Annotated[bool, Parameter(help="Use the moving average of the weights if the file has one.")] = True,
    json: options.Json = False,
) -> int:
    """Convert other people's weights to a model file."""
    from googlenet.console import on_stderr
    from googlenet.weights.convert import import_to_file

    if output is not None:
        check_output(output, ".safetensors")
    with on_stderr(json):
        target, info = import_to_file(
            file, output, class_file=classes, variant=variant, stem_stride=stem_stride, mean=mean, std=std, size=size,
            resize=resize, use_ema=ema,
        )  # fmt: skip
    if json:
        options.print_json({"model": str(target), **json_module.loads(info.to_json())})
        return 0
    spec = info.input
    names = ", ".join(info.classes[:3]) + (", ..." if len(info.classes) > 3 else "")
    print(f"{target}: {info.architecture.variant}, {plural(len(info.classes), 'class')}: {names}")
    print(  # weights do not contain these
        f"assumed unless you set it: input {spec.channels}x{spec.size}x{spec.size} ({spec.resize}), mean {spec.mean}, "
        f"std {spec.std}, stride {info.architecture.stem_stride} of the first convolution"
    )
    return 0

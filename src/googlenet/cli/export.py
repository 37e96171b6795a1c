"""googlenet export and demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.errors import UserError, plural


@options.app.command
def export(
    model: options.Model,
    *,
    to: Annotated[
        Literal["onnx", "openvino", "torch-export", "web"],
        Parameter(help="Format of the file; web is a folder with a page that classifies images in the browser."),
    ],
    output: Annotated[
        Path | None,
        options.Output,
        Parameter(help="File or folder to write; an existing one is replaced. Default: next to the model."),
    ] = None,
    int8: Annotated[
        bool | None, Parameter(help="Compute convolutions in 8-bit integers. Default: for web only.")
    ] = None,
    with_preprocessing: Annotated[
        bool,
        Parameter(help="The file takes uint8 images of any size and returns probabilities; web does.", negative=""),
    ] = False,
    calibration_data: Annotated[
        Path | None,
        Parameter(help="Folder of images to calibrate int8 and to verify the file with. Default: the training data."),
    ] = None,
    data_dir: options.DataDir = None,
    skip_unreadable: options.SkipUnreadable = False,
    max_accuracy_drop: Annotated[float, Parameter(help="Percentage points of accuracy that int8 may cost.")] = 0.5,
    force: Annotated[bool, Parameter(help="Keep an int8 file that costs more.", negative="")] = False,
    runtime: Annotated[
        Path | None,
        Parameter(help="For web: folder with the npm package onnxruntime-web. Default: downloaded once to the cache."),
    ] = None,
    json: options.Json = False,
) -> int:
    """Write a model for other programs, verified against PyTorch on real images."""
    from googlenet.console import on_stderr
    from googlenet.inference.export import export as export_model
    from googlenet.inference.web import export_web

    if runtime is not None and to != "web":
        raise UserError(f"--runtime is for --to web, not {to}")
    with on_stderr():
        if to == "web":
            exported = export_web(
                model, output, runtime=runtime, int8=int8 is not False, calibration_data=calibration_data,
                data_dir=data_dir, skip_unreadable=skip_unreadable, max_accuracy_drop=max_accuracy_drop, force=force,
            )  # fmt: skip
        else:
            exported = export_model(
                model, to, output, int8=bool(int8), preprocessing=with_preprocessing,
                calibration_data=calibration_data, data_dir=data_dir, skip_unreadable=skip_unreadable,
                max_accuracy_drop=max_accuracy_drop, force=force,
            )  # fmt: skip
    if json:
        options.print_json(exported.to_dict())
        return 0
    print(f"{exported.file}: {exported.megabytes:.1f} MB")
    print(
        f"verified on {plural(exported.images_compared, 'image')}: same class as PyTorch for {exported.agreement:.2%}, "
        f"probabilities within {exported.largest_difference:.1g}"
    )
    if exported.accuracy_before is not None:
        print(f"accuracy on these images: PyTorch {exported.accuracy_before:.2%}, file {exported.accuracy_after:.2%}")
    if exported.known_agreement is not None:
        print(f"known is the same as with PyTorch for {exported.known_agreement:.2%}")
    return 0


@options.app.command
def demo(
    model: options.Model,
    *,
    host: Annotated[
        str, Parameter(help="Address to listen on; 0.0.0.0 makes the page reachable from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int | None, Parameter(help="Port. Default: the first free one from 7860.")] = None,
    top: Annotated[int, Parameter(help="How many classes to show, the most probable first.")] = 5,
    max_upload_mb: Annotated[int, Parameter(help="Largest upload, in MB.")] = 20,
    device: options.Device = "auto",
) -> int:
    """Open a web page to try a model: drop or paste an image, or use the webcam.

    By default the page is reachable from this machine only.
    """
    from googlenet.inference.demo import serve

    def ready(address: str) -> None:
        print(f"open {address}   (Ctrl-C to stop)", flush=True)

    serve(model, host=host, port=port, top=top, max_upload_mb=max_upload_mb, device=device, ready=ready)
    return 0

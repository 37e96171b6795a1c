"""googlenet embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.console import on_stderr
from googlenet.errors import UserError, check_counts, plural


@options.app.command
def embed(
    model: options.Model,
    /,
    *images: Annotated[Path, Parameter(name="IMAGE", help="Image files, or folders of them.")],
    output: Annotated[
        Path | None,
        options.Output,
        Parameter(help="File to write: .parquet, or .npy with the file names next to it in .npy.txt."),
    ] = None,
    block: Annotated[
        str | None,
        Parameter(help="Inception block, of which each map is averaged; default: the last one, 1,024 features of 5b."),
    ] = None,
    nearest: Annotated[Path | None, Parameter(help="Image: print the most similar ones of the others.")] = None,
    top: Annotated[int, Parameter(help="How many similar images to print.")] = 5,
    json: options.Json = False,
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> int:
    """Write the features of images to a file, or find similar images by the cosine between their features.

    An image that cannot be read is reported, the others are embedded, and the exit code is 1.
    """
    options.check_order("embed", model, images)
    if not images:
        raise UserError("embed needs IMAGE: files or folders")
    if output is None and nearest is None:
        raise UserError("embed needs --output to write the features to, or --nearest IMAGE to find similar images")
    check_counts(top=top, batch_size=batch_size)
    from googlenet.data.decode import image_files
    from googlenet.inference.embed import check_features_output, embed_files
    from googlenet.inference.predictor import Predictor

    if output is not None:
        check_features_output(output)
    predictor = Predictor(model, device=device, precision=precision)
    with on_stderr():
        files = list(image_files(images))
        result = embed_files(
            predictor, files, output, block=block, nearest=nearest, top=top, total=len(files), batch_size=batch_size
        )
    if json:
        neighbors = [neighbor._asdict() for neighbor in result.nearest]
        summary = {"output": str(output) if output else None, "embedded": result.embedded, "failed": result.failed}
        options.print_json({**summary, "nearest": neighbors})
    else:
        if output is not None:
            print(f"{output}: features of {plural(result.embedded, 'image')}, {result.failed:,} cannot be read")
        for neighbor in result.nearest:
            print(f"{neighbor.similarity:.4f}  {neighbor.file}")
    return 1 if result.failed else 0

"""googlenet visualize and dream."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.console import on_stderr
from googlenet.errors import UserError
from googlenet.files import check_output, printable


@options.app.command
def visualize(
    model: options.Model,
    unit: Annotated[
        str,
        Parameter(
            help="A channel 4c:447, a neuron 4c:447:3,5 (row, column), a branch 4c:3x3, a class by its name; 4c for "
            "every channel of a block, or of conv1 to conv3; class for every class."
        ),
    ],
    /,
    *,
    output: Annotated[
        Path | None, options.Output, Parameter(help="PNG to write; default: UNIT-visualized.png, here.")
    ] = None,
    steps: Annotated[int, Parameter(help="Steps of the optimization.")] = 256,
    size: Annotated[
        int | None, Parameter(help="Height and width of the images, pixels; default: as in training.")
    ] = None,
    diversity: Annotated[int, Parameter(help="Images per unit, made different from each other.")] = 1,
    negative: Annotated[
        bool, Parameter(help="Also make images that drive the unit as far below 0 as possible.", negative="")
    ] = False,
    data: Annotated[
        str | None, Parameter(help="Data set or folder, to show its images that excite the unit most; default: none.")
    ] = None,
    data_dir: options.DataDir = None,
    skip_unreadable: options.SkipUnreadable = False,
    examples: Annotated[int, Parameter(help="How many images of --data to show.")] = 6,
    max_images: Annotated[int | None, Parameter(help="Most images of --data to search; default: all.")] = None,
    max_units: Annotated[int, Parameter(help="Most channels of a block, or classes, to show, spread evenly.")] = 64,
    seed: Annotated[int, Parameter(help="Decides the noise that images start from.")] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> int:
    """Make images that excite a part of the network most, to see what it looks for."""
    from googlenet.explanation.contact_sheet import draw_visualization
    from googlenet.explanation.visualize import visualize as visualize_unit

    stem = re.sub(r"[^\w.-]+", "-", unit).strip("-.")[:80] or "unit"
    plot = output or Path(f"{stem}-visualized.png")
    check_output(plot, ".png")
    with on_stderr(json):
        result = visualize_unit(
            model, unit, steps=steps, size=size, diversity=diversity, negative=negative, data=data, data_dir=data_dir,
            skip_unreadable=skip_unreadable, examples=examples, max_images=max_images, max_units=max_units, seed=seed,
            device=device,
        )  # fmt: skip
    draw_visualization(result, plot)
    options.print_json({"plot": str(plot), **result.to_dict()}) if json else print(printable(plot))
    return 0


@options.app.command
def dream(
    image: Annotated[Path, Parameter(help="Image file.")],
    /,
    *,
    model: options.Model = Path("imagenet"),
    block: Annotated[str, Parameter(help="Inception block, 3a to 5b, or another UNIT as in visualize.")] = "4c",
    output: Annotated[
        Path | None, options.Output, Parameter(help="PNG to write; default: IMAGE-dream.png, here.")
    ] = None,
    steps: Annotated[int, Parameter(help="Steps in each octave.")] = 10,
    octaves: Annotated[int, Parameter(help="Sizes to dream in, each 1.4 times as large as the one before.")] = 4,
    strength: Annotated[float, Parameter(help="Mean change of a pixel per step, of 255.")] = 1.5,
    max_side: Annotated[int, Parameter(help="Reduce a larger image to this many pixels on its longer side.")] = 640,
    seed: Annotated[int, Parameter(help="Decides the small shifts between steps.")] = 0,
    device: options.Device = "auto",
    json: options.Json = False,
) -> int:
    """DeepDream: change an image so that the network sees more of what it already sees in it."""
    from googlenet.explanation.dream import dream as dream_image, write_image

    plot = output or Path(f"{image.stem}-dream.png")
    if plot.resolve() == image.resolve():
        raise UserError(f"{plot} is the image itself: name another file with --output")
    check_output(plot, ".png")
    with on_stderr(json):
        dreamed = dream_image(
            image, model, block=block, steps=steps, octaves=octaves, strength=strength, max_side=max_side, seed=seed,
            device=device,
        )  # fmt: skip
    write_image(dreamed, plot)
    options.print_json({"file": str(image), "image": str(plot), "block": block}) if json else print(printable(plot))
    return 0

"""The command as a whole, and the options that several commands share."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from googlenet.choices import Crops
from googlenet.errors import UserError
from googlenet.files import expand

Output = Parameter(name=["--output", "-o"], converter=lambda _, tokens: expand(tokens[0].value))
Folder = Parameter(converter=lambda _, tokens: expand(tokens[0].value))
Model = Annotated[Path, Parameter(help="Model file, run folder, or name: imagenet, bvlc, hf:owner/name.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    Parameter(help="Precision of the computation; auto: bf16 if the device has it."),
]
EvalPrecision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"] | None,
    Parameter(help="Precision of the computation; default: as in training."),
]
BatchSize = Annotated[int, Parameter(help="Images per batch.")]
DataDir = Annotated[str | None, Parameter(help="Folder with the data set's files, or bundled; default: search.")]
EvalData = Annotated[str | None, Parameter(help="Name of a data set or folder of images; default: the training data.")]
SkipUnreadable = Annotated[bool, Parameter(help="Skip image files that cannot be read, and say how many.", negative="")]
CropCount = Annotated[
    Crops,
    Parameter(
        help="Crops of each image, averaged. 2: also mirrored; 10: corners and middle, mirrored; 144: as in the paper."
    ),
]
Json = Annotated[bool, Parameter(help="Print JSON.", negative="")]

app = App(
    name="googlenet",
    help="GoogLeNet (Inception v1): train it, understand it, ship it.",
    help_format="plaintext",
    version_flags=(),  # `doctor` has one that prints more
    suppress_keyboard_interrupt=False,  # `main` reports it in one line
)
data_app = App(name="data", help="Data sets and folders of images: list, fetch, check, show, pack, cache.")
app.command(data_app)


def check_order(command: str, model: Path, images: Iterable[Path]) -> None:
    """Raises `UserError` with the right order if an image is where the model should be, and a model after it."""
    swapped = next((path for path in images if _is_model(path)), None)
    if swapped is not None and not _is_model(model) and model.exists():
        raise UserError(
            f"{swapped} is a model and {model} is not: the model comes first: googlenet {command} {swapped} {model}"
        )


def _is_model(path: Path) -> bool:
    """Whether this looks like a run folder, a model file or an exported file."""
    return path.suffix in (".safetensors", ".onnx", ".xml", ".pt2") or (path / "model.safetensors").is_file()


def print_json(value: Any) -> None:
    print(json_module.dumps(value, indent=2))

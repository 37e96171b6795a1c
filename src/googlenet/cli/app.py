"""The command as a whole, and the options that several commands share."""

from __future__ import annotations

import json as json_format
import shutil
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from googlenet.data.dataset import ImageDataset
    from googlenet.weights.model_file import ModelInfo

Output = Parameter(name=["--output", "-o"])
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    Parameter(help="Of the computation; auto: bf16 where the device has it."),
]
BatchSize = Annotated[int, Parameter(help="Images a batch.")]
DataDir = Annotated[str | None, Parameter(help="Folder with the data set's files, or bundled; left out: searched for.")]
JudgedData = Annotated[
    str | None, Parameter(help="Name of a data set, or a folder of pictures; left out: the one trained on.")
]
JudgingPrecision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"] | None,
    Parameter(help="Of the computation; left out: as it was trained."),
]
SkipUnreadable = Annotated[
    bool, Parameter(help="Leave out picture files that cannot be read, and say how many.", negative="")
]
Json = Annotated[bool, Parameter(help="Print JSON.", negative="")]

app = App(
    name="googlenet",
    help="GoogLeNet (Inception v1): train it, see inside it, use it.",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `main` says so, in a line
)
data_app = App(name="data", help="Data sets and folders of pictures: listed, fetched, checked, shown.")
app.command(data_app)


def load_eval_data_with_progress(
    info: ModelInfo, data: str | None, data_dir: str | None, *, skip_unreadable: bool, json: bool
) -> ImageDataset:
    """What `load_eval_data` gives, while what is found and what is left out are said."""
    from googlenet.console import FileProgress
    from googlenet.evaluation.report import load_eval_data

    with redirect_stdout(sys.stderr) if json else nullcontext(), FileProgress() as progress:
        dataset = load_eval_data(
            info, data, data_dir, skip_unreadable=skip_unreadable, say=progress.say, progress=progress.show
        )
        if dataset.note:
            progress.say(f"note: {dataset.note}")
    return dataset


def command_name() -> str:
    """What to type for this command: its path, where it is not on PATH."""
    if shutil.which("googlenet"):
        return "googlenet"
    beside = Path(sys.executable).with_name("googlenet")
    inside = beside.is_relative_to(Path.cwd())
    return str(beside.relative_to(Path.cwd())) if inside else f"'{beside}'"


def print_json(value: Any) -> None:
    print(json_format.dumps(value, indent=2))

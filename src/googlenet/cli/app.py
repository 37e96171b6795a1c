"""The command as a whole, and the options that several commands share."""

from __future__ import annotations

import json as json_format
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

Output = Parameter(name=["--output", "-o"])
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    Parameter(help="Of the computation; auto: bf16 where the device has it."),
]
BatchSize = Annotated[int, Parameter(help="Images a batch.")]
DataDir = Annotated[str | None, Parameter(help="Folder with the data set's files, or bundled; left out: searched for.")]
Json = Annotated[bool, Parameter(help="Print JSON.", negative="")]

app = App(
    name="googlenet",
    help="GoogLeNet (Inception v1): train it, see inside it, use it.",
    help_format="plaintext",
)
data_app = App(name="data", help="The data sets that training knows by name.")
app.command(data_app)
study_app = App(name="study", help="Questions answered by many small runs.")
app.command(study_app)


def command_name() -> str:
    """What to type for this command: its path, where it is not on PATH."""
    if shutil.which("googlenet"):
        return "googlenet"
    beside = Path(sys.executable).with_name("googlenet")
    inside = beside.is_relative_to(Path.cwd())
    return str(beside.relative_to(Path.cwd())) if inside else f"'{beside}'"


def print_json(value: Any) -> None:
    print(json_format.dumps(value, indent=2))

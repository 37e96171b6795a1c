"""How every picture is drawn and written: matplotlib, without its windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from googlenet.files import writing


@contextmanager
def drawing(path: Path, width: float, height: float, *, mathematics: bool = False) -> Iterator[Figure]:
    """A figure to draw on, so many inches wide and high; at the end it is written to `path`, as PNG.

    Names of classes and files are no mathematics, whatever signs are in them; the numbers of a logarithmic axis are.

    Raises:
        RunError: where the file cannot be written.
    """
    with matplotlib.rc_context({"text.parse_math": mathematics}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with writing(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png")

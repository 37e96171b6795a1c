"""How every picture is drawn and written: matplotlib, without its windows."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from googlenet.files import writing

_OWN = "DejaVu Sans"
_EASTERN = (
    "NotoSansCJK-Regular.ttc", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "simhei.ttf",
)  # fmt: skip
"""Files of fonts for the signs that matplotlib's own lacks."""


@contextmanager
def drawing(path: Path, width: float, height: float, *, mathematics: bool = False) -> Iterator[Figure]:
    """A figure to draw on, so many inches wide and high; at the end it is written to `path`, as PNG.

    Names of classes and files are no mathematics, whatever signs are in them; the numbers of a logarithmic axis are.

    Raises:
        RunError: where the file cannot be written.
    """
    with matplotlib.rc_context({"text.parse_math": mathematics, "font.family": fonts()}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with writing(path) as temporary, _told_of_missing_signs():
            figure.savefig(temporary, dpi=110, format="png")


def shortened(line: str, longest: int) -> str:
    """With its middle left out, if it has more signs than that: what a name ends with is what tells it from others."""
    half = (longest - 1) // 2
    return line if len(line) <= longest else f"{line[:half]}…{line[-half:]}"


@cache
def fonts() -> list[str]:
    """Matplotlib's own font, and one that is installed here for the signs that it lacks."""
    installed = {Path(file).name: file for file in font_manager.findSystemFonts()}  # its own list may be an old one
    for name in _EASTERN:
        if name in installed:
            font_manager.fontManager.addfont(installed[name])
            logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # or it says that none of it is bold
            return [_OWN, font_manager.get_font(installed[name]).family_name]
    return [_OWN]


@contextmanager
def _told_of_missing_signs() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if "missing from font" in str(warning.message):
            _say_that_signs_are_missing()
        else:
            warnings.warn(warning.message, stacklevel=2)


@cache
def _say_that_signs_are_missing() -> None:
    """Once, however many pictures there are."""
    print(
        "googlenet: no font here has all signs of the names: in pictures, boxes stand for them; install one, "
        "as Debian's fonts-noto-cjk",
        file=sys.stderr,
    )

"""What a user sees while the package works: log lines and one progress bar, on one console.

`log.info` prints plain lines through the logger `googlenet`; `logging.getLogger("googlenet").setLevel("WARNING")`
silences them and the bar.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TextIO

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

LINE_EVERY = 10  # Seconds between two progress lines without a terminal
_REWRITE_EVERY = 1  # Seconds between two versions of a notebook's line: they all travel to the browser

_stderr = False
_bars: Progress | None = None
_open_line = 0  # Characters of a notebook's line, which the next text replaces


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if _is_quiet() and record.levelno < logging.WARNING:
            return
        console = _console()
        text = self.format(record) if record.levelno < logging.WARNING else f"googlenet: {self.format(record)}"
        encoding = getattr(console.file, "encoding", None) or "utf-8"  # of a Windows code page, or ASCII
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        _rewrite("")
        # Without a terminal there is no width to wrap lines to
        console.print(text, highlight=False, markup=False, soft_wrap=not console.file.isatty())


log = logging.getLogger("googlenet")
if not log.handlers:
    log.addHandler(_ConsoleHandler())
    log.setLevel(log.level or logging.INFO)  # the user may have set one already
    log.propagate = False


@contextlib.contextmanager
def on_stderr(when: bool = True) -> Iterator[None]:
    """Log lines and progress go to standard error, so that standard output is only the result."""
    global _stderr
    before, _stderr = _stderr, _stderr or when
    try:
        yield
    finally:
        _stderr = before


def progress_style() -> Literal["bar", "rewritten line", "lines"]:
    """A live bar in a terminal; in a notebook one line that is written again; else, for files and pipes, plain lines.

    Continuous integration gets lines even if it has a terminal, since a log keeps every version of a bar.
    """
    if _is_quiet() or not log.isEnabledFor(logging.INFO):
        return "lines"  # of which none is printed
    is_terminal = _stream().isatty()
    # JPY_PARENT_PID: a command that a notebook's cell runs after `!`, in a terminal that knows no cursor
    if Console().is_jupyter or (is_terminal and "JPY_PARENT_PID" in os.environ):
        return "rewritten line"
    is_log = os.environ.get("CI", "").lower() not in ("", "0", "false") or os.environ.get("TERM") == "dumb"
    return "bar" if is_terminal and not is_log else "lines"


class ProgressBar:
    """What `progress` gives, in the style of `progress_style`."""

    def __init__(self, bars: Progress | None, description: str, total: float | None, completed: float) -> None:
        self._bars, self._description, self._total = bars, description, total
        self._completed = self._first = completed
        self._start = self._last_line = time.monotonic()
        self._style = progress_style()
        self._task = None if bars is None else bars.add_task(description, total=total, completed=int(completed))

    def advance(self, n: float = 1, description: str = "") -> None:
        """`n` more are done. A `description` replaces the text in front of the bar, and leaves lines to the caller."""
        self._completed += n
        of = f"/{self._total:,.0f}" if self._total else ""
        text = description or f"{self._description}  {self._completed:,.0f}{of}"
        since = time.monotonic() - self._last_line
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self._completed, description=text)
        elif self._style == "rewritten line" and since >= _REWRITE_EVERY:
            self._last_line = time.monotonic()
            _rewrite(text + self._left())
        elif not description and since >= LINE_EVERY:
            self.line(text)

    def line(self, text: str) -> None:
        """Print a plain line with the time left, if the style is lines."""
        self._last_line = time.monotonic()
        if self._style == "lines":
            log.info("%s%s", text, self._left())

    def close(self) -> None:
        _rewrite("")
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)

    def _left(self) -> str:
        if not self._total:
            return ""
        pace = (time.monotonic() - self._start) / max(self._completed - self._first, 1e-9)
        return f"  left {clock(pace * (self._total - self._completed))}"


@contextlib.contextmanager
def progress(description: str, total: float | None = None, completed: float = 0) -> Iterator[ProgressBar]:
    """Shows how far a long task is: call `.advance(n)` on what it gives. `total` None: not known."""
    global _bars
    outer = _bars
    if outer is None and progress_style() == "bar":
        _bars = _live_bars()
        _bars.start()
    bar = ProgressBar(_bars, description, total, completed)
    bar.advance(0)
    try:
        yield bar
    finally:
        bar.close()
        if outer is None and _bars is not None:
            _bars.stop()
            _bars = None


def _live_bars() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    left = TextColumn("left"), TimeRemainingColumn(compact=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), *left)
    rate = 2 if "SSH_CONNECTION" in os.environ else 10  # each frame travels
    return Progress(*columns, console=_console(), transient=True, expand=True, refresh_per_second=rate)


def print_table(table: Table) -> None:
    """A table on standard output; without a terminal it is as wide as it needs to be."""
    console = Console()
    (console if sys.stdout.isatty() or console.is_jupyter else Console(width=160)).print(table)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours from one hour on: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _rewrite(text: str) -> None:
    """Replace a notebook's line; with no text, remove it."""
    global _open_line
    if text or _open_line:
        stream = _stream()
        stream.write("\r" + text.ljust(_open_line) + ("" if text else "\r"))
        stream.flush()
        _open_line = len(text)


def _is_quiet() -> bool:
    """Of several processes, only the first one prints."""
    return os.environ.get("RANK", "0") != "0"


def _stream() -> TextIO:
    # Looked up now: tests and notebooks replace them, and a program with windows only has none
    return (sys.stderr if _stderr else sys.stdout) or io.StringIO()


def _console() -> Console:
    if _bars is not None:  # lines are printed above the live bar
        return _bars.console
    return Console(file=_stream(), force_jupyter=False)  # plain text, also in a notebook

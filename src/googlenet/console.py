"""What a user sees while the package works: log lines and one progress bar, on one console.

`log.info` prints plain lines through the logger `googlenet`; `logging.getLogger("googlenet").setLevel("WARNING")`
silences them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

LINE_EVERY = 10  # Seconds between two progress lines without a terminal

_stderr = False
_bars: Progress | None = None


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if _is_quiet() and record.levelno < logging.WARNING:
            return
        console = _console()
        text = self.format(record) if record.levelno < logging.WARNING else f"googlenet: {self.format(record)}"
        # Without a terminal there is no width to wrap lines to
        console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal)


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


class ProgressBar:
    """A live bar in a terminal, else a plain line every `LINE_EVERY` seconds; see `progress`."""

    def __init__(self, bars: Progress, description: str, total: float | None, completed: float) -> None:
        self._bars, self._description, self._total = bars, description, total
        self._completed = self._first = completed
        self._start = self._last_line = time.monotonic()
        self._is_live = not bars.disable
        self.task = bars.add_task(description, total=total, completed=int(completed))

    def advance(self, n: float = 1, description: str = "") -> None:
        """`n` more are done. A `description` replaces the text in front of the bar, and leaves lines to the caller."""
        self._completed += n
        of = f"/{self._total:,.0f}" if self._total else ""
        text = description or f"{self._description}  {self._completed:,.0f}{of}"
        self._bars.update(self.task, completed=self._completed, description=text)
        if not (self._is_live or description) and time.monotonic() - self._last_line >= LINE_EVERY:
            self.line(text)

    def line(self, text: str) -> None:
        """Print a plain line with the time left."""
        self._last_line = now = time.monotonic()
        left = ""
        if self._total:
            pace = (now - self._start) / max(self._completed - self._first, 1e-9)
            left = f"  left {clock(pace * (self._total - self._completed))}"
        if not self._is_live:
            log.info("%s%s", text, left)


@contextlib.contextmanager
def progress(description: str, total: float | None = None, completed: float = 0) -> Iterator[ProgressBar]:
    """Shows how far a long task is: call `.advance(n)` on what it gives. `total` None: not known."""
    global _bars
    outer = bars = _bars
    if bars is None:
        console = _console()
        left = TextColumn("left"), TimeRemainingColumn(compact=True)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), *left)
        bars = _bars = Progress(
            *columns, console=console, transient=True, expand=True, disable=_is_quiet() or not console.is_terminal
        )
        bars.start()
    bar = ProgressBar(bars, description, total, completed)
    bar.advance(0)
    try:
        yield bar
    finally:
        bars.remove_task(bar.task)
        if outer is None:
            bars.stop()
            _bars = None


def print_table(table: Table) -> None:
    """A table on standard output; without a terminal it is as wide as it needs to be."""
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours from one hour on: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _is_quiet() -> bool:
    """Of several processes, only the first one prints."""
    return os.environ.get("RANK", "0") != "0"


def _console() -> Console:
    if _bars is not None:  # lines are printed above the live bar
        return _bars.console
    return Console(file=sys.stderr if _stderr else sys.stdout)  # looked up now: tests and notebooks replace them

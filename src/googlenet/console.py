"""What a run shows while it works: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from googlenet.training.run_folder import Row

LINE_EVERY = 100
"""Batches between two plain lines, as in the tutorial."""
LONG = 10
"""Seconds of silence that are not explained."""


class _Bar:
    """A progress bar where there is a terminal, and what is said above it. One that is `quiet` shows nothing."""

    def __init__(self, *columns: ProgressColumn, quiet: bool, expand: bool = False) -> None:
        self._console = Console(quiet=quiet)
        shown = self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, expand=expand, disable=not shown)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        # Only a terminal says how wide it is
        self._console.print(line, highlight=False, markup=False, soft_wrap=not self._console.is_terminal)


class Display(_Bar):
    """The console of a run. Every process but the first has a `quiet` one."""

    def __init__(self, epochs: int, batches: int, total_steps: int, *, quiet: bool) -> None:
        self._epochs, self._batches, self._total = epochs, batches, total_steps
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
        )
        super().__init__(*columns, quiet=quiet, expand=True)
        self._task: TaskID | None = None

    def batch(self, epoch: int, batch: int, step: int, figures: Row, seconds_left: float) -> None:
        """One training batch done. `figures` are those of the latest batches; epoch and batch count from 1."""
        rate = f"{figures['images_per_second']:,.0f} images/s"
        text = f"loss {figures['loss']:.3f}  accuracy {figures['accuracy']:.1%}  {rate}"
        if self._console.is_terminal:
            description = f"epoch {epoch}/{self._epochs}  batch {batch}/{self._batches}"
            if self._task is None:
                self._task = self._bar.add_task(description, total=self._total, figures=text, completed=step)
            self._bar.update(self._task, description=description, completed=step, figures=text)
        elif batch % LINE_EVERY == 0:
            self.say(f"epoch {epoch}/{self._epochs}  batch {batch}/{self._batches}  {text}  left {clock(seconds_left)}")

    def epoch(self, epoch: int, train: Row, judged: Row, seconds: float) -> None:
        """The one row at an epoch's end; `seconds` are those of the epoch, evaluation included."""
        self.say(
            f"epoch {epoch}/{self._epochs}  train loss {train['loss']:.4f}  train accuracy {train['accuracy']:.2%}  "
            f"{judged['split']} loss {judged['loss']:.4f}  {judged['split']} accuracy {judged['accuracy']:.2%}  "
            f"time {seconds:.1f} s"
        )

    @contextmanager
    def judging(self, split: str, images: int) -> Iterator[Callable[[int], None]]:
        """What is to be told how many images more are judged: a bar; without a terminal one line, where it is long."""
        task = self._bar.add_task(f"judging {split} images", total=images, figures="")
        started, done, is_said = time.monotonic(), 0, self._console.is_terminal

        def advance(more: int) -> None:
            nonlocal done, is_said
            done += more
            self._bar.advance(task, more)
            spent = time.monotonic() - started
            if spent > LONG and done < images and not is_said:
                is_said = True
                self.say(f"judging {split} images  left {clock(spent / done * (images - done))}")

        yield advance
        self._bar.remove_task(task)


class FileProgress(_Bar):
    """What is shown while picture files are read."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(*Progress.get_default_columns(), MofNCompleteColumn(), quiet=quiet)
        self._tasks: dict[str, TaskID] = {}

    def show(self, what: str, done: int, of: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=of)
        self._bar.update(self._tasks[what], completed=done)


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"

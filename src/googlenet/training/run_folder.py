"""The folder of a run: its recipe, the rows of metrics.jsonl, its model and its checkpoints."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn

from googlenet.console import log
from googlenet.errors import RunError, UserError, is_out_of_memory, reason_of
from googlenet.files import (
    HALF_WRITTEN,
    atomic_write,
    check_writable,
    disk_errors,
    parse_json,
    write_json,
    write_table,
    write_text,
)

Row = dict[str, Any]
Table = tuple[Sequence[str], Iterable[Sequence[Any]]]
# Step and, as in the names of PyTorch's published weights, the first digits of the content's SHA-256
_CHECKPOINT = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")
_NUMBERS = ("loss", "accuracy", "learning_rate", "images_per_second", "seconds")  # of a row, if it has them
_NEEDED = {"recipe": dict, "data": str, "input": dict, "progress": dict, "net": dict, "optimizer": dict}


class RunFolder:
    """The files of one run.

    With `goes_on`, a row, checkpoint or model that cannot be written is a warning, once, instead of a `RunError`. Rows
    and the model are then kept in memory and written as soon as that works; `flush` fails if it does not.
    """

    def __init__(self, path: str | Path, *, goes_on: bool = False) -> None:
        self.path = path = Path(path)
        self.recipe = path / "recipe.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model.safetensors"
        self.goes_on = goes_on
        self.save_seconds = 0.4  # that the last checkpoint took; before the first one, what 72 MB took
        self._lines: list[str] = []  # rows that are not written yet
        self._save_model: Callable[[], None] | None = None  # if the model is not written yet
        self._is_failing = False

    @staticmethod
    def new_path(recipe: str) -> Path:
        """A path that does not exist yet: `runs/RECIPE-DATE-TIME`."""
        start = Path("runs") / f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"
        path, number = start, 2
        while path.exists():
            path, number = start.with_name(f"{start.name}-{number}"), number + 1
        return path

    def check_new(self) -> None:
        """Raises `UserError` if the folder is not empty or a file is in the way, `RunError` if it cannot be written."""
        if self.path.is_dir() and any(not path.match(HALF_WRITTEN) for path in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty; use another --output, or continue this run with --resume")
        if any(path.exists() and not path.is_dir() for path in (self.path, *self.path.parents)):
            raise UserError(
                f"{self.path} cannot be a run folder: a file of that name is in the way; use another --output"
            )
        check_writable(self.recipe)

    def describe(self, recipe: dict[str, Any], environment: dict[str, Any] | None, split: Table | None) -> None:
        """Write recipe.toml, environment.json if it is given, and split.csv if the data are files: columns and rows of
        a table of files. A folder with a recipe.toml is a run that can be resumed, so it comes first."""
        self._remove_half_written()
        write_text(self.recipe, tomli_w.dumps(recipe))
        if environment is not None:
            write_json(self.environment, environment)
        if split is not None:
            write_table(self.path / "split.csv", *split)

    def append(self, row: Row) -> None:
        """Add a row to metrics.jsonl. Raises `RunError` if the disk is full."""
        self._lines.append(json.dumps(row) + "\n")
        with self._failures():
            self._write_lines()

    def _write_lines(self) -> None:
        content = "".join(self._lines).encode()
        with disk_errors(self.metrics), self.metrics.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
        self._lines.clear()

    def rows(self) -> list[Row]:
        """The complete rows of metrics.jsonl; a kill or a full disk may have cut the last one.

        Raises `UserError` for a file that is damaged.
        """
        if not self.metrics.exists():
            return []
        try:
            lines = self.metrics.read_text(encoding="utf-8").split("\n")
            rows = [parse_json(line) for line in lines[:-1]]
            if wrong := [row for row in rows if not isinstance(row, dict) or not _is_row(row)]:
                raise ValueError(f"a row is {wrong[0]}")
        except ValueError as error:
            raise UserError(f"{self.metrics} is damaged ({reason_of(error)}): remove that line") from error
        return rows

    def rewind(self, step: int, epoch: int) -> None:
        """Drop what a run that continues at `step`, with `epoch` epochs evaluated, will write again (rows, checkpoints,
        what is kept in memory), and files that a kill left half-written."""
        self._lines.clear()
        self._save_model = None
        rows = [
            row
            for row in self.rows()
            if row["step"] < step or (row["step"] == step and (row["split"] == "train" or row["epoch"] <= epoch))
        ]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        for path in self.checkpoints():
            if _step_of(path) > step:
                path.unlink(missing_ok=True)
        self._remove_half_written()

    def _remove_half_written(self) -> None:
        for path in (*self.path.glob(HALF_WRITTEN), *self._folder.glob(HALF_WRITTEN)):
            path.unlink(missing_ok=True)

    def save_model(self, net: nn.Module, save: Callable[[nn.Module], None]) -> None:
        """Write the model file with `save`, which raises a `RunError` if it cannot."""
        self._save_model = functools.partial(save, net)
        try:
            with self._failures():
                self._write_model()
        finally:
            if self._save_model is not None:
                self._save_model = functools.partial(save, copy.deepcopy(net))  # the network changes meanwhile

    def _write_model(self) -> None:
        if self._save_model is not None:
            self._save_model()
            self._save_model = None

    def flush(self) -> None:
        """Write what could not be written before. Raises `RunError` if that fails again."""
        if self._lines:
            self._write_lines()
        self._write_model()

    def checkpoints(self) -> list[Path]:
        """The files of all checkpoints, the newest first."""

        def age(path: Path) -> tuple[int, int]:
            return _step_of(path), path.stat().st_mtime_ns

        found = [
            path for path in self._folder.glob("*.pt") if path.name == "last.pt" or _CHECKPOINT.fullmatch(path.name)
        ]
        return sorted(found, key=age, reverse=True)

    def save_checkpoint(self, state: dict[str, Any], *, keep: int = 1) -> None:
        """Write a checkpoint, then delete all but the last `keep` and that of the best epoch.

        Raises `RunError` if it cannot be written; those before stay.
        """
        started, step = time.perf_counter(), state["progress"]["step"]
        with self._failures():
            self.flush()
            with contextlib.suppress(FileNotFoundError), self.metrics.open("rb+") as file:
                os.fsync(file.fileno())  # no checkpoint without the rows before it, even if the machine crashes
            content = io.BytesIO()
            torch.save(state, content)
            digest = sha256(content.getbuffer()).hexdigest()[:16]
            path = self._folder / f"step-{step}-{digest}.pt"
            with atomic_write(path) as temporary:
                temporary.write_bytes(content.getbuffer())
            for other in self.checkpoints():
                if other != path and _step_of(other) == step:
                    other.unlink(missing_ok=True)
            best = state["progress"].get("best_metrics", {}).get("step")
            for other in self.checkpoints()[keep:]:
                if _step_of(other) != best:
                    other.unlink(missing_ok=True)
        self.save_seconds = time.perf_counter() - started

    def load_checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint that is not damaged, with a warning for each one that is.

        Raises `UserError` if there is none, or all are damaged; `RunError` if one cannot be read, which may pass.
        """
        paths = self.checkpoints()
        if not paths:
            raise UserError(f"nothing to resume: there is no checkpoint in {self._folder}; check --output")
        for path, older in zip(paths, (*paths[1:], None), strict=True):
            try:
                content = path.read_bytes()
            except OSError as error:
                raise RunError(f"cannot read {path}: {reason_of(error)}") from error
            try:
                name = _CHECKPOINT.fullmatch(path.name)
                if name is not None and sha256(content).hexdigest()[:16] != name[2]:
                    raise ValueError("its SHA-256 is not that in its name")
                state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                if wrong := [name for name, kind in _NEEDED.items() if not isinstance(state.get(name), kind)]:
                    raise ValueError(f"it lacks {wrong[0]}")
                return state
            except Exception as error:  # damaged bytes can raise anything
                if is_out_of_memory(error):
                    raise
                if older is None:
                    raise UserError(
                        f"the checkpoint {path} is damaged; start another run from this one's model: "
                        f"--weights {self.path}"
                    ) from error
                log.warning(f"the checkpoint {path} is damaged ({reason_of(error)}): continuing from {older.name}")
        raise AssertionError

    @property
    def _folder(self) -> Path:
        return self.path / "checkpoints"

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """What a `RunError` within it means."""
        try:
            yield
            if self._is_failing:
                log.info(f"{self.path} can be written again")
            self._is_failing = False
        except RunError as error:
            if not self.goes_on:
                raise RunError(
                    f"{error}; make room and continue with --resume, or set --on-save-error continue"
                ) from error
            if not self._is_failing:
                log.warning(f"{error}: training goes on, and writes again as soon as it can")
            self._is_failing = True


_LARGEST = 1e39  # more than any number of 32 bits, as losses are


def _is_row(row: Row) -> bool:
    numbers = [row.get("epoch"), *(row[name] for name in _NUMBERS if name in row)]
    are_numbers = all(type(number) in (int, float) and abs(number) < _LARGEST for number in numbers)
    return are_numbers and type(row.get("step")) is int and isinstance(row.get("split"), str)


def _step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint; 0 for `last.pt` of version 0.1, which has neither step nor digest."""
    name = _CHECKPOINT.fullmatch(checkpoint.name)
    return 0 if name is None else int(name[1])

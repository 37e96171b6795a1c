"""The folder of a run: its recipe, the rows of metrics.jsonl, its model and its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w
import torch

from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write, check_writable, disk_errors, write_json, write_table, write_text

Row = dict[str, Any]
Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path)
        self.recipe = path / "recipe.toml"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model.safetensors"
        self.checkpoint = path / "checkpoints" / "last.pt"

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
        if self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty; use another --output, or continue this run with --resume")
        if any(path.exists() and not path.is_dir() for path in (self.path, *self.path.parents)):
            raise UserError(
                f"{self.path} cannot be a run folder: a file of that name is in the way; use another --output"
            )
        check_writable(self.recipe)

    def create(self, recipe: dict[str, Any], environment: dict[str, Any], split: Table | None = None) -> None:
        """Start the folder with the files of `describe` and environment.json. Raises as `check_new`."""
        self.check_new()
        self.describe(recipe, split)
        write_json(self.path / "environment.json", environment)

    def describe(self, recipe: dict[str, Any], split: Table | None) -> None:
        """Write recipe.toml and, if the data are files, split.csv: columns and rows of a table of files."""
        write_text(self.recipe, tomli_w.dumps(recipe))
        if split is not None:
            write_table(self.path / "split.csv", *split)

    def append(self, row: Row) -> None:
        """Add a row to metrics.jsonl. Raises `RunError` if the disk is full."""
        with disk_errors(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[Row]:
        """The complete rows of metrics.jsonl; a kill or a full disk may have cut the last one."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def drop_rows_after(self, step: int) -> None:
        """Drop the rows that a run resumed at `step` will write again."""
        rows = [row for row in self.rows() if row["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint. Raises `RunError` if it cannot be written; the one before stays."""
        with atomic_write(self.checkpoint) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # how torch reports a full disk
                raise RunError(f"cannot write {self.checkpoint}: {reason_of(error)}") from error

    def load_checkpoint(self) -> dict[str, Any]:
        """What `save_checkpoint` wrote. Raises `UserError` if there is no checkpoint, or it is damaged."""
        path = self.checkpoint
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if missing := {"recipe", "data", "input", "progress", "net", "optimizer"} - state.keys():
                raise KeyError(*missing)
            return state
        except FileNotFoundError as error:
            raise UserError(f"nothing to resume: {path} does not exist; check --output") from error
        except Exception as error:  # damaged bytes can raise anything
            raise UserError(
                f"the checkpoint {path} is damaged; start another run from this one's model: --weights {self.path}"
            ) from error

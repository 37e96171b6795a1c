"""The run folder and the rows of `metrics.jsonl`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from googlenet.data.transforms import InputSpec
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write, check_writable, disk_errors

Row = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one run lies."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @staticmethod
    def check_free(path: Path) -> None:
        """Raises `UserError` for a folder that holds something already, or where a file is in the way; `RunError` for
        one that cannot be written."""
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"{path} holds something already; name another --output, or go on with it: --resume")
        if any(there.exists() and not there.is_dir() for there in (path, *path.parents)):
            raise UserError(f"{path} cannot be a run folder: there is a file in the way")
        check_writable(path / "recipe.toml")

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """A new, empty run folder.

        Raises:
            UserError: where it is a file, or holds something already.
            RunError: where it cannot be written.
        """
        path = Path(path)
        cls.check_free(path)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path)
            folder.checkpoint.parent.mkdir()
        return folder

    @staticmethod
    def next_name(recipe: str | Path) -> Path:
        """A name for a run folder that does not exist yet: `runs/RECIPE-DATE-TIME`."""
        start = Path("runs") / f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"
        path, number = start, 2
        while path.exists():
            path, number = start.with_name(f"{start.name}-{number}"), number + 1
        return path

    def write_text(self, path: Path, text: str) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def append(self, row: Row) -> None:
        """Add a row to `metrics.jsonl`. Raises `RunError` where the disk is full."""
        with disk_errors(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[Row]:
        """Every whole row of `metrics.jsonl` so far; a kill or a full disk may have cut the last one."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def forget_after(self, step: int) -> None:
        """Drop the rows that a run taken up again at `step` will write anew."""
        kept = [row for row in self.rows() if row["step"] <= step]
        self.write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))


class Average:
    """Loss and accuracy over the images since it was last read. Sums stay on the device until then."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        self._sums = torch.zeros(2, device=self._device)
        self._images = 0
        self._since = time.perf_counter()
        self.steps = 0
        """Optimizer steps averaged over; the caller counts them, since a step may have several parts."""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._since

    def leave_out(self, seconds: float) -> None:
        """Time that went by on something else."""
        self._since += seconds

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch: its mean loss (0-d), logits (N, K) and labels (N,)."""
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        self._sums += torch.stack((loss.detach().float() * len(labels), correct.float()))
        self._images += len(labels)

    def sums(self) -> Tensor:
        """Sum of the losses, sum of the right answers, count of the images: (3,)."""
        return torch.cat((self._sums, torch.tensor([float(self._images)]).to(self._device)))


@dataclass
class Progress:
    """How far a run has come. Together with the recipe's seed it fixes every random draw still to come."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs done."""
    seconds: float = 0.0
    """Spent training, without evaluation."""
    best_accuracy: float = -1.0
    best_epoch: int = 0
    best_metrics: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    recipe: dict[str, Any],
    data: str,
    spec: InputSpec,
    progress: Progress,
    net: nn.Module,
    optimizer: Optimizer,
    average: nn.Module | None,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Write the state of a run. Raises `RunError` where it cannot; the checkpoint before then still stands.

    `data` is the digest of the data set, since going on with other data would be another run; `spec` is the network's
    input, which is read from the weights that the run began with, where there were such.
    """
    state = {
        "recipe": recipe,
        "data": data,
        "input": asdict(spec),
        "progress": asdict(progress),
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    with atomic_write(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise RunError(f"cannot write {path}: {reason_of(error)}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote.

    Raises:
        UserError: where there is none, or it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        Progress(**state["progress"])
        return state
    except FileNotFoundError as error:
        raise UserError(f"there is nothing to resume: {path} does not exist") from error
    except Exception as error:  # the reader raises whatever damaged bytes lead it to
        raise UserError(
            f"{path} is damaged and cannot be gone on with; another run may start from what this one has kept: "
            f"--weights {path.parent.parent}"
        ) from error

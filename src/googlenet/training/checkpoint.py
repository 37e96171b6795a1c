"""What `--resume` needs: the state of a run between two steps, in one file that is always whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from googlenet.data.input_spec import InputSpec
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import writing


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
    with writing(path) as temporary:
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

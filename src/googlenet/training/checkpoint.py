"""What `--resume` needs: the state of a run between two steps, in one file that is always whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from googlenet.errors import UserError, first_line
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
    progress: Progress,
    net: nn.Module,
    optimizer: Optimizer,
    average: nn.Module | None,
) -> None:
    """Write the state of a run. Raises `RunError` where it cannot; the checkpoint before then still stands."""
    state = {
        "recipe": recipe,
        "progress": asdict(progress),
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict() if average is not None else None,
    }
    with writing(path) as temporary:
        torch.save(state, temporary)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote.

    Raises:
        UserError: where there is none, or it is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is nothing to resume: {path} does not exist") from error
    except Exception as error:  # the reader raises whatever damaged bytes lead it to
        raise UserError(f"{path} is damaged: {first_line(error)}") from error

"""A run between two steps: what is fixed for its whole length, what changes, and what each step asks of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from googlenet.data.augment import Augmentation
from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.data.input_spec import InputSpec
from googlenet.data.loader import Batch, ShuffledBatches
from googlenet.errors import DivergedError, UserError
from googlenet.recipe import Recipe
from googlenet.training.checkpoint import Progress, save_checkpoint
from googlenet.training.optimization import learning_rate_at, trunk_factor
from googlenet.training.tracking import Row, RunFolder


@dataclass
class Run:
    """A run between two steps: what is fixed for its whole length, and what changes."""

    recipe: Recipe
    folder: RunFolder
    accelerator: Accelerator
    precision: str
    dataset: ImageDataset
    validation: ImageSplit | None
    input: InputSpec
    augmentation: Augmentation
    batches: ShuffledBatches
    loader: DataLoader[Batch]
    net: nn.Module
    model: nn.Module
    """The same network as accelerate wraps it: in mixed precision, on several processes."""
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    class_weights: Tensor | None
    """What each class's images count in the loss; None: all the same."""
    progress: Progress = field(default_factory=Progress)
    on_step: Callable[[Run], None] | None = None
    """Called after each step."""

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.accelerator.is_main_process

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.recipe.channels_last else torch.contiguous_format

    @property
    def total_steps(self) -> int:
        steps = max(round(self.recipe.epochs * len(self.batches)), self.recipe.min_steps, 1)
        return min(steps, self.recipe.max_steps or steps)

    @property
    def epochs(self) -> int:
        """Epochs begun by the end, the last one whole or not."""
        return math.ceil(self.total_steps / len(self.batches))

    @property
    def chooser(self) -> Literal["last", "validation", "test"]:
        """The split that chooses the model that is kept; `last`: none does."""
        return chooser_of(self.recipe, self.validation)

    @property
    def judged_split(self) -> Literal["validation", "test"]:
        """What an epoch is judged on: the split that chooses the model, else the test split, which chooses nothing."""
        return "validation" if self.validation is not None and self.chooser != "test" else "test"

    @property
    def judged_net(self) -> nn.Module:
        """The network that is evaluated and kept: the averaged weights where they are averaged."""
        return self.net if self.average is None else self.average.module

    def learning_rate(self, step: int, *, trunk: bool = False) -> float:
        """Of fresh weights, or of those of a trunk that was given."""
        factor = trunk_factor(step, self.total_steps, self.recipe) if trunk else 1.0
        return factor * learning_rate_at(step, self.total_steps, len(self.batches), self.recipe)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 training images (N, C, H, W), as they lie in memory, to an augmented batch for the network."""
        images = self.augmentation(images.to(self.device, non_blocking=True))
        return self.input.prepare(images).contiguous(memory_format=self.memory_format)

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A prepared batch and its targets, mixed where the recipe says so: see `Augmentation.mix`."""
        mixed, targets = self.augmentation.mix(images, labels, len(self.dataset.classes))
        return mixed.contiguous(memory_format=self.memory_format), targets

    def check_finite(self, row: Row) -> None:
        """Raises `DivergedError` for a loss that is no number, which nothing after it would mend."""
        if not math.isfinite(row["loss"]):
            raise DivergedError(
                f"the {row['split']} loss is {row['loss']} at step {row['step']}, learning rate "
                f"{row['learning_rate']:.3g}; try --learning-rate {self.recipe.learning_rate / 10:.1g}, "
                f"--gradient-clip 1 or --precision fp32"
            )

    def record(self, row: Row) -> None:
        """One row to `metrics.jsonl` and to the tracker. Raises `RunError` as `check_finite` does."""
        self.check_finite(row)
        if self.is_main:
            self.folder.append(row)
        figures = {f"{row['split']}/{name}": value for name, value in row.items() if isinstance(value, float)}
        self.accelerator.log(figures, step=row["step"])

    def save_checkpoint(self) -> None:
        if self.is_main:
            settings = self.recipe.model_dump(exclude_none=True)
            data, scaler = self.dataset.digest, self.accelerator.scaler
            state = (settings, data, self.input, self.progress, self.net, self.optimizer, self.average, scaler)
            save_checkpoint(self.folder.checkpoint, *state)

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where a checkpoint was written; rows that were written after it are dropped.

        Raises:
            UserError: where the data are not those that the run began with.
        """
        if state["data"] != self.dataset.digest:
            raise UserError(
                f"{self.dataset.name} from {self.dataset.source} is not the copy that this run began with; "
                f"environment.json names that one: give it with --data-dir, or start another run"
            )
        if self.recipe.weights is not None and state.get("input", asdict(self.input)) != asdict(self.input):
            raise UserError(f"{self.recipe.weights} is not the file that this run began with; start another run")
        self.progress = Progress(**state["progress"])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.is_main:
            self.folder.forget_after(self.progress.step)


def chooser_of(recipe: Recipe, validation: ImageSplit | None) -> Literal["last", "validation", "test"]:
    """The split that chooses the model. Raises `UserError` where the recipe wants one that is not there."""
    chooser = recipe.select
    if chooser == "auto":
        chooser = "last" if validation is None else "validation"
    if chooser == "validation" and validation is None:
        raise UserError('select = "validation" needs a validation split: set validation = 0.1, say')
    if recipe.patience is not None and chooser == "last":
        raise UserError('patience needs a split to watch: set validation = 0.1, or select = "test"')
    return chooser

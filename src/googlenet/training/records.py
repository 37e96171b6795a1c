"""What a run reports: its first lines, sums over steps, and the rows of metrics.jsonl."""

from __future__ import annotations

import math
import time

import torch
from accelerate import Accelerator
from torch import Tensor

from googlenet.console import log
from googlenet.model.googlenet import GoogLeNet
from googlenet.training.grow import growth_lines
from googlenet.training.run_folder import Row, RunFolder
from googlenet.training.setup import Trainer


class Meter:
    """Mean loss and accuracy over the images since the last reset. The sums stay on the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        self._sums = torch.zeros(3, device=self.device)
        self.steps, self.start = 0, time.perf_counter()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, copies: int = 1) -> None:
        """One step: its mean loss (0-d), logits (N, num_classes) and labels (N,). `copies`: processes that add it."""
        correct = (logits.argmax(dim=1) == labels).sum()
        sums = torch.stack((loss.float() * len(labels), correct.float(), torch.ones_like(loss) * len(labels)))
        self._sums += sums if copies == 1 else sums / copies
        self.steps += 1

    def read(self, accelerator: Accelerator) -> tuple[float, float, float]:
        """Mean loss, accuracy (0 to 1) and images per second, over all processes."""
        loss, correct, images = accelerator.reduce(self._sums, "sum").tolist()
        count = max(images, 1.0)  # all batches may have been skipped
        return loss / count, correct / count, images / (time.perf_counter() - self.start)

    def state(self, accelerator: Accelerator) -> list[float]:
        """For a checkpoint: the sums over all processes, and the steps."""
        return [*accelerator.reduce(self._sums, "sum").tolist(), self.steps]

    def resume(self, state: list[float], accelerator: Accelerator) -> None:
        """Continue from `state`, which the first process takes over."""
        if accelerator.is_main_process:
            self._sums = torch.tensor(state[:3], device=self.device)
        self.steps = int(state[3])


def row_of(trainer: Trainer, split: str, loss: float, accuracy: float, rate: float, step: int, epoch: int) -> Row:
    """A row of metrics.jsonl. Raises `DivergedError` for a loss that is NaN or infinite."""
    if not math.isfinite(loss):
        raise trainer.diverged(f"the {split} loss is {loss} at step {step}", step)
    return {
        "step": step, "epoch": epoch, "split": split, "loss": loss, "accuracy": accuracy,
        "learning_rate": trainer.learning_rate(step - 1), "images_per_second": round(rate, 1),
        "seconds": round(trainer.state.seconds, 3),
    }  # fmt: skip


def record(trainer: Trainer, folder: RunFolder, row: Row) -> None:
    """A row to metrics.jsonl and to the tracker."""
    if trainer.accelerator.is_main_process:
        folder.append(row)
    figures = {f"{row['split']}/{name}": value for name, value in row.items() if isinstance(value, float)}
    trainer.accelerator.log(figures, step=row["step"])


def log_start(trainer: Trainer, reason: str) -> None:
    """What is trained, on what. `reason`: for the settings that were chosen for the data."""
    recipe, net, data, accelerator = trainer.recipe, trainer.net, trainer.dataset, trainer.accelerator
    name = net.architecture.variant if isinstance(net, GoogLeNet) else type(net).__name__
    parameters, size = sum(parameter.numel() for parameter in net.parameters()), recipe.image_size
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    network = f"{name}: {parameters:,} parameters, {size}x{size}, batch {recipe.batch_size}"
    images = f"{len(trainer.train_split):,} training images, {len(data.test):,} test images"
    for line in (
        reason,
        f"{network}, {trainer.total_steps:,} steps on {accelerator.device}{processes}, {trainer.precision}",
        f"{data.name} from {data.source}: {images}",
        data.note and f"note: {data.note}",
        *(() if trainer.source is None else growth_lines(trainer.source.info, data.classes, recipe.also)),
    ):
        if line:
            log.info(line)
    if trainer.is_over:
        log.info(f"the run is complete at step {trainer.state.step:,}; its saved model is evaluated once more")
    elif trainer.state.step:
        log.info(f"resuming after step {trainer.state.step:,}")

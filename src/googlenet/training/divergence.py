"""A loss or gradient that is NaN or infinite: found at its step, its batch saved, then stop, skip or roll back."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from googlenet.console import log
from googlenet.errors import DivergedError, RunError
from googlenet.files import atomic_write
from googlenet.training.run_folder import RunFolder
from googlenet.training.setup import Trainer

SKIPS = 10
"""Batches in a row that are skipped before the run stops: more are not bad luck."""
ROLLBACKS = 5
"""Returns to a checkpoint before the run stops. Each halves the learning rate."""
_BATCHES = 10  # that are saved


class Watch:
    """Looks at the loss of every step, which is NaN if the gradient is not finite, before the weights change."""

    def __init__(self, trainer: Trainer, folder: RunFolder) -> None:
        self.trainer, self.folder = trainer, folder
        accelerator, self._skips = trainer.accelerator, trainer.recipe.on_nan == "skip"
        is_cheap = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        self.looks_at_once = is_cheap or trainer.recipe.on_nan != "stop"
        """Looking waits for the device and the other processes. A run that stops anyway may look later."""
        self._unread: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._accepted = True

    def before_step(self) -> None:
        """A forward pass of a batch that is then skipped has changed the statistics of batch norm."""
        if self._skips:
            self._buffers = [buffer.clone() for buffer in self.trainer.net.buffers()]

    def accepts(self, loss: Tensor) -> bool:
        """Whether the weights may change. Raises `DivergedError` if not, unless such steps are skipped."""
        self._unread.append(loss.isfinite())
        self._accepted = self.read()
        return self._accepted

    def accepted(self, loss: Tensor) -> bool:
        """After a step: whether the weights have changed."""
        if not self.looks_at_once:
            self._unread.append(loss.isfinite())
        return self._accepted

    def read(self) -> bool:
        """Look at the steps since the last time: whether all were finite. Raises as `accepts` does."""
        if not self._unread:
            return True
        trainer, state = self.trainer, self.trainer.state
        flags, self._unread = torch.stack(self._unread), []
        if trainer.accelerator.num_processes > 1:
            flags = trainer.accelerator.reduce(flags.float(), "sum") == trainer.accelerator.num_processes
        if bool(flags.all()):
            state.skips = 0
            return True
        # `accepts` looks before its step is counted
        last = state.step + 1 if self.looks_at_once else state.step
        error = self._describe(last - len(flags) + 1 + int(flags.logical_not().nonzero()[0]))
        state.skips += 1
        if not self._skips:
            raise error
        if state.skips >= SKIPS:
            raise DivergedError(f"{error.what}, as in {SKIPS} batches in a row", error.advice)
        log.warning(f"skipped: {error.what}")
        for buffer, before in zip(self.trainer.net.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        return False

    def _describe(self, step: int) -> DivergedError:
        """The error for a step, counted from 1, whose batch it saves."""
        trainer = self.trainer
        epoch, batch = divmod(step - 1, trainer.steps_per_epoch)
        file = self._save_batch(step, epoch, batch)
        place = f"step {step} (epoch {epoch + 1}, batch {batch + 1}, saved in {file})"
        return trainer.diverged(f"the train loss or its gradient is NaN or infinite at {place}", step)

    def _save_batch(self, step: int, epoch: int, batch: int) -> str:
        trainer, rank = self.trainer, self.trainer.accelerator.process_index
        path = self.folder.path / "nan" / f"step-{step}{f'-rank-{rank}' if rank else ''}.safetensors"
        if len(list(path.parent.glob("*.safetensors"))) >= _BATCHES and not path.exists():
            return f"no file: {path.parent} has {_BATCHES} already"
        inputs, targets, labels = next(trainer.batches(epoch, batch))
        tensors = {"inputs": inputs, "targets": targets, "labels": labels}
        indices = next(trainer.indices(epoch, batch)).tolist()
        files = json.dumps([trainer.train_split.files[index] for index in indices])
        saved = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
        try:
            with atomic_write(path) as temporary:
                temporary.write_bytes(to_bytes(saved, metadata={"files": files, "step": str(step)}))
        except RunError as error:
            return f"no file: {error}"
        return str(path)


def roll_back(trainer: Trainer, folder: RunFolder, error: DivergedError) -> None:
    """Return to the last checkpoint with half the learning rate. Raises `error` if the run does not do that, or has
    done it too often."""
    state, recipe = trainer.state, trainer.recipe
    if recipe.on_nan != "rollback":
        raise error
    if state.rollbacks >= ROLLBACKS:
        raise DivergedError(f"{error.what}, after {ROLLBACKS} rollbacks", error.advice) from error
    changed: dict[str, Any] = {"rollbacks": state.rollbacks + 1, "rate_scale": state.rate_scale / 2}
    trainer.accelerator.wait_for_everyone()  # the first process may be writing it
    checkpoint = folder.load_checkpoint()
    checkpoint["progress"] |= changed
    trainer.load_state_dict(checkpoint)
    trainer.optimizer.zero_grad()
    trainer.accelerator.wait_for_everyone()  # all have read it
    log.warning(
        f"{error.what}: continuing from step {state.step} with {state.rate_scale:g} times the learning rate "
        f"({state.rollbacks} of {ROLLBACKS} rollbacks)"
    )
    if trainer.accelerator.is_main_process:
        folder.rewind(state.step, state.epoch)
        folder.save_checkpoint(trainer.state_dict(), keep=recipe.keep_checkpoints)
    trainer.accelerator.wait_for_everyone()

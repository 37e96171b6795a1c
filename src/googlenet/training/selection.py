"""The evaluation of a network in training, and the model file that it selects."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import nn

from googlenet.console import progress
from googlenet.evaluation.metrics import Evaluation, collect_logits
from googlenet.model.googlenet import GoogLeNet
from googlenet.training.run_folder import Row, RunFolder
from googlenet.training.setup import Trainer
from googlenet.weights.model_file import KnownRule, ModelInfo, save, save_weights

EVAL_BATCH_SIZE = 256


def eval_model(trainer: Trainer) -> nn.Module:
    """The network that is evaluated and saved: the averaged weights if there is an average."""
    return trainer.net if trainer.ema is None else trainer.ema.module


def evaluate(trainer: Trainer, name: str, between: Callable[[], None] | None = None) -> Evaluation:
    """Evaluate on the validation or test split, every image once: each process takes a part.

    `between` is called after each batch.
    """
    split = trainer.validation if name == "validation" and trainer.validation is not None else trainer.dataset.test
    accelerator, net = trainer.accelerator, eval_model(trainer)
    rank, world = accelerator.process_index, accelerator.num_processes
    started, part = time.perf_counter(), split
    if world > 1:
        # Batch norm statistics differ between processes; what is evaluated is what the first one saves
        for tensor in net.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
        parts = torch.arange(len(split)).tensor_split(world)
        part = split.subset(parts[rank])
    # If a training step fits into memory, several times its images fit here, where no layer's output is kept
    images_per_part = -(-trainer.recipe.batch_size // (world * trainer.recipe.gradient_accumulation))
    with progress(f"evaluating on {name} images", len(part)) as bar:

        def advance(images: int) -> None:
            bar.advance(images)
            if between is not None:
                between()

        logits = collect_logits(
            net, part, trainer.input_spec, device=accelerator.device, precision=trainer.precision,
            batch_size=min(EVAL_BATCH_SIZE, 4 * images_per_part), advance=advance,
        )  # fmt: skip
    if world > 1:
        padded = torch.zeros(-(-len(split) // world), logits.shape[1])
        padded[: len(logits)] = logits
        gathered = accelerator.gather(padded.to(accelerator.device)).cpu().view(world, *padded.shape)
        logits = torch.cat([rows[: len(own)] for rows, own in zip(gathered, parts, strict=True)])
    rate = len(split) / (time.perf_counter() - started)
    classes = trainer.dataset.classes
    return Evaluation(classes, logits, split.labels, rate, files=split.files, columns=split.columns)


def save_best(trainer: Trainer, folder: RunFolder, row: Row | None) -> None:
    """Save the model, unless an earlier one was better on the split that selects. `row` is the epoch's evaluation; None
    if the run was interrupted before its first one."""
    state = trainer.state
    if row is not None:
        if trainer.select_by != "last" and row["accuracy"] <= state.best_accuracy:
            return
        state.best_accuracy, state.best_epoch = row["accuracy"], state.epoch
    state.best_metrics = {"epoch": state.epoch, "step": state.step, "selected_by": trainer.select_by}
    if row is not None:
        state.best_metrics[row["split"]] = {"loss": row["loss"], "accuracy": row["accuracy"]}
    started = time.perf_counter()
    save_model(trainer, folder)
    state.saving_seconds += time.perf_counter() - started


def save_model(trainer: Trainer, folder: RunFolder, temperature: float = 1.0, known: KnownRule | None = None) -> None:
    """Write the model file; of a network that it cannot describe, the weights only."""
    if trainer.accelerator.is_main_process:
        net, data = eval_model(trainer), trainer.dataset
        if isinstance(net, GoogLeNet) and trainer.is_googlenet:
            recipe, metrics = trainer.recipe.model_dump(exclude_none=True), trainer.state.best_metrics
            spec = trainer.input_spec
            info = ModelInfo(net.architecture, data.classes, spec, recipe, metrics, temperature, data.digest, known)
            folder.save_model(net, functools.partial(save, info=info, path=folder.model))
        else:
            folder.save_model(net, functools.partial(save_weights, path=folder.model))
    trainer.accelerator.wait_for_everyone()

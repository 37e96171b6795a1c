"""What comes of training: how good the network is, which one is kept, and what a person looks at."""

from __future__ import annotations

import atexit
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from googlenet.artifact import model_file
from googlenet.artifact.model_file import ModelInfo
from googlenet.evaluation.calibration import fit_temperature
from googlenet.evaluation.evaluate import BATCH_SIZE, Evaluation, collect_logits
from googlenet.evaluation.plots import plot_confusion_matrix, plot_curves, plot_mistakes, plot_predictions
from googlenet.network.googlenet import GoogLeNet
from googlenet.training.display import Display
from googlenet.training.run import Run
from googlenet.training.tracking import Row


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves behind."""

    folder: Path
    model: Path
    metrics: dict[str, Any]
    """Of the kept model: loss and accuracy by split, `epoch`, `step`, and `chosen_by`, the split that chose it."""
    seconds: float
    """Spent training, without evaluation."""
    interrupted: bool
    temperature: float = 1.0
    """What the kept model's logits are divided by before they are made probabilities; 1 where nothing was held out."""


def judge(run: Run, display: Display) -> tuple[Row, Evaluation]:
    """Evaluate at an epoch's end. Raises `RunError` where the loss is no number."""
    split = run.judged_split
    evaluation = evaluate_split(run, split, display)
    return _record(run, split, evaluation, run.progress.step, run.progress.epoch), evaluation


def _record(run: Run, split: str, evaluation: Evaluation, step: int, epoch: int) -> Row:
    row = {
        "step": step,
        "epoch": epoch,
        "split": split,
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "learning_rate": run.learning_rate(step - 1),
        "images_per_second": round(evaluation.images_per_second, 1),
        "seconds": round(run.progress.seconds, 3),
    }
    run.record(row)
    return row


def evaluate_split(run: Run, name: str, display: Display) -> Evaluation:
    """Of several processes each takes every world-th image; the logits are put together in the split's order."""
    split = run.validation if name == "validation" and run.validation is not None else run.dataset.test
    rank, world = run.accelerator.process_index, run.accelerator.num_processes
    started = time.perf_counter()
    mine = torch.arange(rank, len(split), world)
    if world > 1:
        # Each process has normalised other images since; what is judged is what the first one writes, or has read.
        for tensor in run.judged_net.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    # What fits into the memory in training does so several times over here, where no layer's output is kept
    batch_size = min(BATCH_SIZE, 4 * -(-run.recipe.batch_size // (world * run.recipe.accumulate)))
    settings = {"device": run.device, "precision": run.precision, "batch_size": batch_size}
    with display.judging(name, len(mine)) as progress:
        part = split if world == 1 else split.subset(mine)  # a subset is a copy
        logits = collect_logits(run.judged_net, part, run.input, progress=progress, **settings)
    if world > 1:
        share = torch.zeros(-(-len(split) // world), logits.shape[1])
        share[: len(mine)] = logits
        gathered = run.accelerator.gather(share.to(run.device)).cpu().view(world, *share.shape)
        logits = gathered.transpose(0, 1).reshape(-1, share.shape[1])[: len(split)]
    return Evaluation(run.dataset.classes, logits, split.labels, len(split) / (time.perf_counter() - started))


def keep(run: Run, judged: Row | None) -> None:
    """Write the model file, unless an earlier model was better on the split that chooses.

    `judged` is None for a run that was stopped before its first evaluation.
    """
    progress, chooser = run.progress, run.chooser
    if judged is not None:
        if chooser != "last" and judged["accuracy"] <= progress.best_accuracy:
            return
        progress.best_accuracy, progress.best_epoch = judged["accuracy"], progress.epoch
    progress.best_metrics = {"epoch": progress.epoch, "step": progress.step, "chosen_by": chooser}
    if judged is not None:
        progress.best_metrics[judged["split"]] = {"loss": judged["loss"], "accuracy": judged["accuracy"]}
    _write_model(run)


def finish(run: Run, latest: Evaluation | None, display: Display, *, interrupted: bool) -> TrainingResult:
    """Judge the kept model on the test split, once, and draw the pictures.

    `latest` is the evaluation of the latest epoch; an interrupted run has its pictures from it, and evaluates no more.
    """
    shown, split = latest, run.dataset.test
    if not interrupted:
        shown = _judge_kept(run, latest, display)
    elif run.judged_split == "validation" and run.validation is not None:
        split = run.validation
    if run.is_main and run.recipe.pictures:
        plot_curves(run.folder.rows(), run.folder.path / "curves.png")
        if shown is not None:
            plot_confusion_matrix(shown, run.folder.path / "confusion_matrix.png")
            plot_predictions(shown, split.images, run.folder.path / "predictions.png")
            plot_mistakes(shown, split.images, run.folder.path / "mistakes.png")
    for tracker in run.accelerator.trackers:  # end_training would part the processes as well, which may train again
        tracker.finish()
    atexit.register(_part)
    return TrainingResult(
        run.folder.path,
        run.folder.model,
        run.progress.best_metrics,
        run.progress.seconds,
        interrupted,
        1.0 if shown is None else shown.temperature,
    )


def _part() -> None:
    """At the end of the process, not of a run: the next run needs the other processes again."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _judge_kept(run: Run, latest: Evaluation | None, display: Display) -> Evaluation:
    """The kept model on the test split, at the temperature that fits the validation split, where there is one.

    The model file gets both. The temperature is the kept model's, so it waits until that one is known; the test split
    has no part in it.
    """
    metrics, judged = run.progress.best_metrics, latest
    if metrics["step"] != run.progress.step or "test" not in metrics:
        judged = None  # the latest evaluation is of another model, or of the validation split
    if judged is not None and run.validation is None:
        return judged
    if judged is None:
        if run.is_main:
            run.judged_net.load_state_dict(model_file.read_weights(run.folder.model))
        judged = evaluate_split(run, "test", display)
        metrics["test"] = {"loss": judged.loss, "accuracy": judged.accuracy}
        told = {"split": "test", "step": metrics["step"]}
        if not any(told.items() <= row.items() for row in run.folder.rows()):  # a run that is over may be resumed
            _record(run, "test", judged, metrics["step"], metrics["epoch"])
    if run.validation is not None:
        held_out = evaluate_split(run, "validation", display)
        judged = replace(judged, temperature=fit_temperature(held_out.logits, held_out.labels))
    _write_model(run, judged.temperature)
    return judged


def _write_model(run: Run, temperature: float = 1.0) -> None:
    if run.is_main:
        net, metrics = run.judged_net, run.progress.best_metrics
        if isinstance(net, GoogLeNet):
            settings = run.recipe.model_dump(exclude_none=True)
            info = ModelInfo(
                net.architecture, run.dataset.classes, run.input, settings, metrics, temperature, run.dataset.digest
            )
            model_file.save(net, info, run.folder.model)
        else:
            model_file.save_weights(net, run.folder.model)
    run.accelerator.wait_for_everyone()

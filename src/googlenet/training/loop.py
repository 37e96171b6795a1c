"""The training of a network, from a recipe to a run folder. Read it from top to bottom: that is the order of events."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from googlenet.console import ProgressBar, log, progress
from googlenet.device import describe, scoped_process_state
from googlenet.errors import DivergedError, RunError, Terminated, UserError, is_out_of_memory
from googlenet.evaluation.metrics import Evaluation
from googlenet.model.fuse import fused
from googlenet.model.googlenet import GoogLeNetOutput
from googlenet.recipe import Recipe
from googlenet.training.divergence import Watch, roll_back
from googlenet.training.film import start_film
from googlenet.training.finish import draw_plots, finish
from googlenet.training.graph import GraphedStep, Step
from googlenet.training.interruption import Interruption, Stopped
from googlenet.training.optim import set_learning_rate, training_loss, update_ema
from googlenet.training.processes import explained_losses, make_accelerator, synchronized
from googlenet.training.records import Meter, log_start, record, row_of
from googlenet.training.resume import Plan, plan_run
from googlenet.training.run_folder import Row, RunFolder
from googlenet.training.selection import evaluate, save_best
from googlenet.training.setup import Trainer

OnStep = Callable[[Trainer], None]
Criterion = Callable[[Tensor | GoogLeNetOutput, Tensor], Tensor]  # Mean loss of an output and targets
LINE_EVERY, LINE_SECONDS = 100, 60
"""Without a terminal, a progress line follows the last one after this many steps (as in the tutorial) or seconds."""
SAVING_SHARE = 0.02
"""Of the training time, for checkpoints and models, unless `checkpoint_every` is set."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves. `metrics` are those of the saved model: loss and accuracy by split, `epoch`, `step`, and the
    split that it was `selected_by`. `seconds` are without evaluation. Its logits are divided by the `temperature`
    before the softmax; without a validation split it is 1. `old_classes` is what a network that learned more classes
    lost on those that it knew: `OldClasses.to_dict()`. A run that was `interrupted` by SIGTERM is `terminated`."""

    folder: Path
    model: Path
    metrics: dict[str, Any]
    seconds: float
    interrupted: bool
    temperature: float = 1.0
    old_classes: dict[str, Any] | None = None
    terminated: bool = False


def train(
    recipe: str | Path | Recipe | None = None, *, output: str | Path | None = None, resume: bool = False,
    model: nn.Module | None = None, on_step: OnStep | None = None, **settings: Any,
) -> TrainingResult:  # fmt: skip
    """Train a network.

    Args:
        recipe: a name (`fast`, `accurate`, ...) or a TOML file; default: `images` if `data` is a folder, else `fast`.
        output: the run folder; default: a new one in `runs/`.
        resume: continue the run in `output` from its last checkpoint, bit for bit as if it had not stopped. With a
            recipe or settings, start the run if there is nothing to continue.
        model: another network, (N, C, H, W) -> (N, num_classes), to train in place of the recipe's. The file of
            anything but an unmodified GoogLeNet holds weights only.
        on_step: called with the `Trainer` after each step, to look at `trainer.net` for example; not counted as time.
            On a CPU, max pools and in bf16 blocks of `trainer.net` have faster subclasses of their classes meanwhile.
        settings: any setting of the recipe by name, as `epochs=2`.

    Raises:
        UserError: for a recipe, setting, data set or folder that is not usable.
        RunError: if the loss becomes NaN or infinite, or a file cannot be written.
        KeyboardInterrupt: for Ctrl-C or SIGTERM before the first step or after the last one; between them, the run
            saves and returns.
    """
    with Interruption() as interruption:
        plan = plan_run(recipe, output, resume, settings, has_model=model is not None)
        resolved = plan.recipe
        if model is not None:
            resolved = resolved.model_copy(update={"whiten": False})  # the model stays as it is
        accelerator = make_accelerator(resolved)
        with scoped_process_state(accelerator.device), explained_losses(resolved.process_timeout):
            # The folder's name has the time, free memory differs, and other machines may not see the folder
            resolved, plan = broadcast_object_list([resolved, plan])
            folder = RunFolder(plan.folder.path, goes_on=resolved.on_save_error == "continue")
            trainer = Trainer(resolved, accelerator, model)
            try:
                if plan.checkpoint is not None:
                    trainer.load_state_dict(plan.checkpoint)
                prepare_folder(trainer, folder, plan)
                log_start(trainer, plan.reason)
                return fit(trainer, folder, interruption, on_step)
            finally:
                accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # the caller may use it afterwards


def prepare_folder(trainer: Trainer, folder: RunFolder, plan: Plan) -> None:
    """Describe a new run, or drop from an earlier one what it will write again."""
    accelerator, settings = trainer.accelerator, trainer.recipe.model_dump(exclude_none=True)
    if accelerator.is_main_process:
        environment = None
        if plan.checkpoint is None:
            environment = {**describe(accelerator.device), **trainer.environment}
        if not plan.is_resumed:
            folder.check_new()
        elif folder.path.exists():
            folder.rewind(trainer.state.step, trainer.state.epoch)
        if plan.checkpoint is None or any(
            settings.get(name) != plan.checkpoint["recipe"].get(name) for name in ("data", "also")
        ):
            folder.describe(settings, environment, trainer.split_table())
    accelerator.wait_for_everyone()
    if trainer.recipe.tracker != "none":
        accelerator.project_configuration.logging_dir = str(folder.path)
        accelerator.init_trackers(folder.path.name, config=settings)


def fit(trainer: Trainer, folder: RunFolder, interruption: Interruption, on_step: OnStep | None) -> TrainingResult:
    """Train to the end or until interrupted, save the best network, write its predictions, draw the plots."""
    accelerator, state, recipe = trainer.accelerator, trainer.state, trainer.recipe
    evaluation, old_classes, start = None, None, (state.step, state.epoch)
    watch = Watch(trainer, folder)
    take_step, film = make_step(trainer, watch, on_step), start_film(trainer, folder)
    with (
        fused(trainer.net, merge=trainer.precision == "bf16"),
        synchronized(trainer.net, accelerator) if recipe.sync_batch_norm else nullcontext(),
        progress("training", trainer.total_steps, state.step) as bar,
        interruption.deferred(),
    ):
        if recipe.on_nan == "rollback" and state.step == 0:
            save_checkpoint(trainer, folder)  # to roll back to
        while not (trainer.is_over or interruption.requested_anywhere(accelerator)):
            started, trained, step = time.perf_counter(), None, state.step
            try:
                if not trainer.is_epoch_trained:
                    trained = train_epoch(trainer, folder, take_step, watch, bar, interruption, on_step)
                if trainer.is_epoch_trained:
                    # Several processes wait for each other in an evaluation, so none may leave it
                    between = interruption.check if accelerator.num_processes == 1 else None
                    evaluation = evaluate(trainer, trainer.eval_split, between)
                    row = finish_epoch(trainer, folder, evaluation, trained, time.perf_counter() - started)
                    if film is not None:
                        film.record(row)
            except DivergedError as error:
                roll_back(trainer, folder, error)
                bar.advance(state.step - step)
                if film is not None:
                    film.rewind()
            except Stopped:
                log.info("the evaluation is left out; the resumed run begins with it")
            if not (trainer.is_over or interruption.requested):
                # A rollback must not go behind the model that is saved
                is_new_best = recipe.on_nan == "rollback" and state.best_metrics.get("step") == state.step
                save_checkpoint(trainer, folder, if_cheap=recipe.checkpoint_every is None and not is_new_best)
        if not trainer.is_over and state.best_accuracy < 0:
            save_best(trainer, folder, None)
        if (state.step, state.epoch) != start:
            save_checkpoint(trainer, folder)
    if trainer.is_over and interruption.requested_anywhere(accelerator):
        log.info("the evaluation of the saved model is left out; the resumed run begins with it")
        raise Terminated if interruption.by_sigterm else KeyboardInterrupt
    folder.flush()
    interrupted, evaluated = not trainer.is_over, trainer.eval_split
    if not interrupted:
        (evaluation, old_classes), evaluated = finish(trainer, folder, evaluation), "test"
        folder.flush()
    if accelerator.is_main_process and recipe.plots and folder.rows():
        draw_plots(trainer, folder, evaluation, evaluated)
    if film is not None:
        film.write()
    for tracker in accelerator.trackers:
        tracker.finish()  # accelerator.end_training would end the other processes too, which may train again
    temperature = 1.0 if evaluation is None else evaluation.temperature
    return TrainingResult(
        folder.path, folder.model, state.best_metrics, state.seconds, interrupted, temperature, old_classes,
        terminated=interrupted and interruption.by_sigterm,
    )  # fmt: skip


def make_step(trainer: Trainer, watch: Watch | None = None, on_step: OnStep | None = None) -> Step:
    """The step for all batches of a run: (inputs, targets) -> (loss, logits). On a GPU it is a CUDA graph where it can
    be: with one process, no gradient scaler, nobody who watches the layers in `on_step`, and no `accepts`."""
    recipe, accelerator = trainer.recipe, trainer.accelerator
    decides = watch is not None and watch.looks_at_once
    step = functools.partial(
        train_step, trainer.model, trainer.optimizer, accelerator=accelerator, parts=recipe.gradient_accumulation,
        criterion=functools.partial(training_loss, recipe=recipe, class_weights=trainer.class_weights),
        gradient_clip=recipe.gradient_clip, accepts=watch.accepts if watch is not None and decides else None,
    )  # fmt: skip
    alone = accelerator.device.type == "cuda" and accelerator.num_processes == 1 and accelerator.scaler is None
    if alone and trainer.is_googlenet and on_step is None and recipe.freeze_fraction == 0 and not decides:
        return GraphedStep(step, trainer.optimizer)
    return step if accelerator.num_processes == 1 else lambda *batch: step(*batch, shares=trainer.shares)


def train_epoch(
    trainer: Trainer, folder: RunFolder, take_step: Step, watch: Watch, bar: ProgressBar, interruption: Interruption,
    on_step: OnStep | None,
) -> Row:  # fmt: skip
    """The steps that are left of this epoch, or until the run is interrupted: their mean loss and accuracy."""
    recipe, state, accelerator = trainer.recipe, trainer.state, trainer.accelerator
    epoch, batch = divmod(state.step, trainer.steps_per_epoch)
    epoch_meter, meter = Meter(accelerator.device), Meter(accelerator.device)
    if state.unrecorded is not None:
        meter.resume(state.unrecorded, accelerator)
        state.unrecorded = None
    # Reading a meter waits for the device and the other processes; on one CPU process that costs nothing
    read_every = 1 if accelerator.device.type == "cpu" and accelerator.num_processes == 1 else 10
    bar_step, line_step, line_time = state.step, state.step, time.monotonic()
    trainer.model.train()
    frozen_steps = recipe.freeze_fraction * trainer.total_steps
    is_frozen = state.step < frozen_steps
    if frozen_steps > 0:
        set_backbone_frozen(trainer.net, trainer.heads, is_frozen)
    clock = time.perf_counter()
    for inputs, targets, labels in trainer.batches(epoch, batch):
        if is_frozen and state.step >= frozen_steps:
            is_frozen = False
            set_backbone_frozen(trainer.net, trainer.heads, False)
        set_learning_rate(trainer.optimizer, trainer.learning_rate(state.step), recipe)
        watch.before_step()
        with explained_errors(recipe, -(-len(inputs) // recipe.gradient_accumulation)):
            loss, logits = take_step(inputs, targets)
        batch, state.step = batch + 1, state.step + 1
        if watch.accepted(loss):
            if trainer.ema is not None:
                update_ema(trainer.ema, trainer.net, state.step, recipe.ema_decay)
            copies = sum(trainer.shares) // trainer.batch_length(batch - 1)  # of a batch that is too small to share
            for each in (epoch_meter, meter):
                each.add(loss, logits, labels, copies)
        if on_step is not None:
            paused = time.perf_counter()
            on_step(trainer)
            pause = time.perf_counter() - paused
            clock, epoch_meter.start, meter.start = clock + pause, epoch_meter.start + pause, meter.start + pause

        last = batch == trainer.steps_per_epoch or state.step == trainer.total_steps
        is_due = recipe.checkpoint_every is not None and state.step % recipe.checkpoint_every == 0 and not last
        write_row = meter.steps > 0 and (meter.steps >= recipe.log_every or last or is_due)
        if not (write_row or last or state.step % read_every == 0):
            continue
        watch.read()
        figures = meter.read(accelerator)
        now = time.perf_counter()  # after reading the meter, for which the device had to finish
        state.seconds, clock = state.seconds + now - clock, now
        row = row_of(trainer, "train", *figures, state.step, epoch + 1)
        stop = interruption.requested_anywhere(accelerator)
        text = (
            f"epoch {epoch + 1}/{trainer.epochs}  batch {batch}/{trainer.steps_per_epoch}  loss {row['loss']:.3f}  "
            f"accuracy {row['accuracy']:.1%}  {row['images_per_second']:,.0f} images/s"
        )
        bar.advance(state.step - bar_step, text)
        bar_step = state.step
        if state.step - line_step >= LINE_EVERY or time.monotonic() - line_time >= LINE_SECONDS:
            bar.line(text)
            line_step, line_time = state.step, time.monotonic()
        if write_row:
            record(trainer, folder, row)
            meter.reset()
            if is_due or (recipe.checkpoint_every is None and not (last or stop)):
                save_checkpoint(trainer, folder, if_cheap=not is_due)
            clock = time.perf_counter()
        elif stop:
            state.unrecorded = meter.state(accelerator)
        if last or stop:
            break
    return row_of(trainer, "train", *epoch_meter.read(accelerator), state.step, epoch + 1)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, *, criterion: Criterion,
    accelerator: Accelerator, parts: int = 1, gradient_clip: float | None = None,
    accepts: Callable[[Tensor], bool] | None = None, shares: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Forward, loss, backward, update: the mean loss (0-d) and the logits (N, num_classes), both detached.

    The loss is NaN if the gradient, before it is clipped, is not finite. The weights change only if `accepts`, which
    gets it, agrees.

    `inputs` are prepared images (N, C, H, W), `targets` labels (N,) or class probabilities (N, num_classes). `shares`
    are the N of all processes.
    """
    shares = shares or [len(inputs)]
    # Gradient accumulation; never in parts of one image, on which batch norm cannot work
    parts = max(1, min(parts, min(shares) // 2))
    # Processes average their gradients as if their shares were of one size
    weight = len(inputs) * len(shares) / sum(shares)
    total, logits = torch.zeros((), device=inputs.device), []
    for number, (x, y) in enumerate(zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True), start=1):
        # Processes exchange their gradients in the last part's backward pass only
        with nullcontext() if number == parts else accelerator.no_sync(model):
            output = model(x)
            loss = criterion(output, y) * (len(x) / len(inputs))
            accelerator.backward(loss if weight == 1 else weight * loss)
        total += loss.detach()
        logits.append((output[0] if isinstance(output, tuple) else output).detach())
    norm = None
    if accelerator.scaler is None:  # a scaler tries scales at which the gradient overflows, and skips such steps
        norm = nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
        total = torch.where(norm.isfinite(), total, math.nan)
    if accepts is None or accepts(total):
        if gradient_clip is not None and norm is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), gradient_clip, norm)
        elif gradient_clip is not None:
            accelerator.clip_grad_norm_(model.parameters(), gradient_clip)  # a scaler allows this once for each step
        optimizer.step()
    optimizer.zero_grad()
    return total, torch.cat(logits)


def set_backbone_frozen(net: nn.Module, heads: list[nn.Module], frozen: bool) -> None:
    """Freeze or unfreeze all but the heads: no gradients, and batch norm in eval mode, so its statistics stay."""
    learning = {id(parameter) for head in heads for parameter in head.parameters()}
    for parameter in net.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in learning)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.train(not frozen)


def finish_epoch(
    trainer: Trainer, folder: RunFolder, evaluation: Evaluation, trained: Row | None, seconds: float
) -> Row:
    """Record the evaluation of an epoch, and save its model if it is the best one. `trained` is of its steps."""
    state = trainer.state
    figures = (evaluation.loss, evaluation.accuracy, evaluation.images_per_second)
    row = row_of(trainer, trainer.eval_split, *figures, state.step, state.epoch + 1)
    state.epoch += 1
    record(trainer, folder, row)
    split, training = row["split"], ""
    if trained is not None:
        training = f"train loss {trained['loss']:.4f}  train accuracy {trained['accuracy']:.2%}  "
    log.info(
        f"epoch {row['epoch']}/{trainer.epochs}  {training}{split} loss {row['loss']:.4f}  {split} accuracy "
        f"{row['accuracy']:.2%}  time {seconds:.1f} s"
    )
    save_best(trainer, folder, row)
    return row


def save_checkpoint(trainer: Trainer, folder: RunFolder, *, if_cheap: bool = False) -> None:
    """What the run can continue from; `if_cheap`: unless saving would take more than its share of the time."""
    state = trainer.state
    if trainer.accelerator.is_main_process and not (
        if_cheap and state.saving_seconds + folder.save_seconds > SAVING_SHARE * state.seconds
    ):
        folder.save_checkpoint(trainer.state_dict(), keep=trainer.recipe.keep_checkpoints)
        state.saving_seconds += folder.save_seconds


@contextlib.contextmanager
def explained_errors(recipe: Recipe, images: int) -> Iterator[None]:
    """Turns errors that a user can do something about into a line that says what."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        parts = f"--batch-size, or --gradient-accumulation {2 * recipe.gradient_accumulation}"
        smaller = parts if images >= 4 else "--image-size"
        raise RunError(f"out of memory in a training step of {images} images; use a smaller {smaller}") from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch norm cannot work on a single image whose maps have one pixel; use a larger --batch-size or "
            "--image-size, or a smaller --gradient-accumulation"
        ) from error

"""The training of a network, from a recipe to a run folder. Read it from top to bottom: that is the order of events."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from googlenet.console import ProgressBar, log, progress
from googlenet.data.dataset import has_files
from googlenet.device import describe, scoped_process_state
from googlenet.errors import DivergedError, RunError, UserError, is_out_of_memory
from googlenet.evaluation.calibration import FEWEST_IMAGES, fit_temperature
from googlenet.evaluation.html import read_run, write_run_report
from googlenet.evaluation.metrics import Evaluation, collect_logits
from googlenet.evaluation.old_classes import compare_old_classes
from googlenet.evaluation.plots import plot_confusion_matrix, plot_curves, plot_predictions
from googlenet.files import expand, write_columns, write_json
from googlenet.model.fuse import fused
from googlenet.model.googlenet import GoogLeNet, GoogLeNetOutput
from googlenet.recipe import Recipe, stored_recipe
from googlenet.training.auto import resolve_recipe
from googlenet.training.film import start_film
from googlenet.training.graph import GraphedStep, Step
from googlenet.training.grow import growth_lines
from googlenet.training.optim import learning_rate_at, set_learning_rate, training_loss, update_ema
from googlenet.training.run_folder import Row, RunFolder
from googlenet.training.setup import Trainer, make_accelerator
from googlenet.weights.model_file import KnownRule, ModelInfo, read_weights, save, save_weights

OnStep = Callable[[Trainer], None]
Criterion = Callable[[Tensor | GoogLeNetOutput, Tensor], Tensor]  # Mean loss of an output and targets
EVAL_BATCH_SIZE = 256
LINE_EVERY, LINE_SECONDS = 100, 60
"""Without a terminal, a progress line follows the last one after this many steps (as in the tutorial) or seconds."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves. `metrics` are those of the saved model: loss and accuracy by split, `epoch`, `step`, and the
    split that it was `selected_by`. `seconds` are without evaluation. Its logits are divided by the `temperature`
    before the softmax; without a validation split it is 1. `old_classes` is what a network that learned more classes
    lost on those that it knew: `OldClasses.to_dict()`."""

    folder: Path
    model: Path
    metrics: dict[str, Any]
    seconds: float
    interrupted: bool
    temperature: float = 1.0
    old_classes: dict[str, Any] | None = None


def train(
    recipe: str | Path | Recipe | None = None, *, output: str | Path | None = None, resume: bool = False,
    model: nn.Module | None = None, on_step: OnStep | None = None, **settings: Any,
) -> TrainingResult:  # fmt: skip
    """Train a network.

    Args:
        recipe: a name (`fast`, `accurate`, ...) or a TOML file; default: `images` if `data` is a folder, else `fast`.
        output: the run folder; default: a new one in `runs/`.
        resume: continue the run in `output` from its last checkpoint, bit for bit as if it had not stopped.
        model: another network, (N, C, H, W) -> (N, num_classes), to train in place of the recipe's. The file of
            anything but an unmodified GoogLeNet holds weights only.
        on_step: called with the `Trainer` after each step, to look at `trainer.net` for example; not counted as time.
            On a CPU, max pools and in bf16 blocks of `trainer.net` have faster subclasses of their classes meanwhile.
        settings: any setting of the recipe by name, as `epochs=2`.

    Raises:
        UserError: for a recipe, setting, data set or folder that is not usable.
        RunError: if the loss becomes NaN or infinite, or a file cannot be written.
    """
    checkpoint, reason = None, ""
    if resume:
        if output is None:
            raise UserError("resume needs the run folder: set --output runs/NAME")
        folder = RunFolder(expand(output))
        checkpoint = folder.load_checkpoint()
        resolved = stored_recipe(checkpoint["recipe"])
        now = resolve_recipe(recipe or resolved, settings)[0]
        # The same images may lie elsewhere now; their digest decides
        resolved = resolved.model_copy(update={"data": now.data, "also": now.also, "data_dir": now.data_dir})
        for option, data in (("--data", now.data), ("--also", now.also)):
            if data is not None and Path(data).is_absolute() and not has_files(data):
                raise UserError(f"the images of this run are not in {data} any more: say where they are with {option}")
        for name, value in now.model_copy(update={} if model is None else {"whiten": False}).model_dump().items():
            if value != (before := getattr(resolved, name)):
                raise UserError(
                    f"the run to resume has {name} = {before!r}, not {value!r}; omit it or start another run"
                )
    else:
        resolved, name, reason = resolve_recipe(recipe, settings)
        folder = RunFolder(RunFolder.new_path(name) if output is None else expand(output))
        if os.environ.get("RANK", "0") == "0":
            folder.check_new()  # before minutes of decoding
    if model is not None:
        resolved = resolved.model_copy(update={"whiten": False})  # the model stays as it is
    accelerator = make_accelerator(resolved)
    folder = RunFolder(broadcast_object_list([folder.path])[0])  # a name made from the time differs between processes
    machine = describe(accelerator.device)
    with scoped_process_state(accelerator.device):
        trainer = Trainer(resolved, accelerator, model)
        try:
            if checkpoint is not None:
                trainer.load_state_dict(checkpoint)
            if accelerator.is_main_process:
                written = resolved.model_dump(exclude_none=True)
                if checkpoint is None:
                    folder.create(written, {**machine, **trainer.environment}, trainer.split_table())
                else:
                    folder.drop_rows_after(trainer.state.step)
                    if any(getattr(resolved, name) != checkpoint["recipe"].get(name) for name in ("data", "also")):
                        folder.describe(written, trainer.split_table())
            accelerator.wait_for_everyone()
            if resolved.tracker != "none":
                accelerator.project_configuration.logging_dir = str(folder.path)
                accelerator.init_trackers(folder.path.name, config=resolved.model_dump(exclude_none=True))
            _log_start(trainer, reason)
            return fit(trainer, folder, on_step)
        finally:
            accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # the caller may use its model afterwards


def fit(trainer: Trainer, folder: RunFolder, on_step: OnStep | None) -> TrainingResult:
    """Train to the end or until interrupted, save the best network, write its predictions, draw the plots."""
    accelerator, state, evaluation, old_classes = trainer.accelerator, trainer.state, None, None
    take_step, film = make_step(trainer, on_step), start_film(trainer, folder)
    with fused(trainer.net, merge=trainer.precision == "bf16"):
        with _Interruption() as interruption, progress("training", trainer.total_steps, state.step) as bar:
            while not (_is_over(trainer) or interruption.requested_anywhere(accelerator)):
                started = time.perf_counter()
                trained, is_complete = train_epoch(trainer, folder, take_step, bar, interruption, on_step)
                if is_complete:
                    evaluation = evaluate(trainer, trainer.eval_split)
                    figures = (evaluation.loss, evaluation.accuracy, evaluation.images_per_second)
                    row = _row(trainer, trainer.eval_split, *figures, state.step, state.epoch)
                    _record(trainer, folder, row)
                    split, seconds = row["split"], time.perf_counter() - started
                    log.info(
                        f"epoch {row['epoch']}/{trainer.epochs}  train loss {trained['loss']:.4f}  train accuracy "
                        f"{trained['accuracy']:.2%}  {split} loss {row['loss']:.4f}  {split} accuracy "
                        f"{row['accuracy']:.2%}  time {seconds:.1f} s"
                    )
                    save_best(trainer, folder, row)
                    if film is not None:
                        film.record(row)
                elif state.best_accuracy < 0:
                    save_best(trainer, folder, None)
                if accelerator.is_main_process:
                    folder.save_checkpoint(trainer.state_dict())
        interrupted, evaluated = not _is_over(trainer), trainer.eval_split
        if not interrupted:
            evaluation, evaluated = final_evaluation(trainer, folder, evaluation), "test"
            if accelerator.is_main_process:
                old_classes = report_old_classes(trainer, evaluation)
                result = evaluation.to_dict() | ({} if old_classes is None else {"old_classes": old_classes})
                write_columns(folder.path / "predictions.csv", evaluation.predictions())
                write_json(folder.path / "evaluation.json", result)
            old_classes = broadcast_object_list([old_classes])[0]
        if accelerator.is_main_process and trainer.recipe.plots:
            draw_plots(trainer, folder, evaluation, evaluated)
    if film is not None:
        film.write()
    for tracker in accelerator.trackers:
        tracker.finish()  # accelerator.end_training would end the other processes too, which may train again
    temperature = 1.0 if evaluation is None else evaluation.temperature
    metrics, seconds = state.best_metrics, state.seconds
    return TrainingResult(folder.path, folder.model, metrics, seconds, interrupted, temperature, old_classes)


def make_step(trainer: Trainer, on_step: OnStep | None = None) -> Step:
    """The step for all batches of a run: (inputs, targets) -> (loss, logits). On a GPU it is a CUDA graph where it can
    be: with one process, no gradient scaler, and nobody who watches the layers in `on_step`."""
    recipe, accelerator = trainer.recipe, trainer.accelerator
    step = functools.partial(
        train_step, trainer.model, trainer.optimizer, accelerator=accelerator, parts=recipe.gradient_accumulation,
        criterion=functools.partial(training_loss, recipe=recipe, class_weights=trainer.class_weights),
        gradient_clip=recipe.gradient_clip,
    )  # fmt: skip
    alone = accelerator.device.type == "cuda" and accelerator.num_processes == 1 and accelerator.scaler is None
    if alone and trainer.is_googlenet and on_step is None and recipe.freeze_fraction == 0:
        return GraphedStep(step, trainer.optimizer)
    return step


def train_epoch(
    trainer: Trainer, folder: RunFolder, take_step: Step, bar: ProgressBar, interruption: _Interruption,
    on_step: OnStep | None,
) -> tuple[Row, bool]:  # fmt: skip
    """The steps that are left of this epoch: their mean loss and accuracy, and whether the epoch is complete."""
    recipe, state, accelerator = trainer.recipe, trainer.state, trainer.accelerator
    epoch, batch = divmod(state.step, trainer.steps_per_epoch)
    epoch_meter, meter = Meter(accelerator.device), Meter(accelerator.device)
    # Reading a meter waits for the device and the other processes; on one CPU process that costs nothing
    read_every = 1 if accelerator.device.type == "cpu" and accelerator.num_processes == 1 else 10
    bar_step, line_step, line_time = state.step, state.step, time.monotonic()
    last = False
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
        rate = learning_rate_at(state.step, trainer.total_steps, trainer.steps_per_epoch, recipe)
        set_learning_rate(trainer.optimizer, rate, recipe)
        with explained_errors(recipe, -(-len(inputs) // recipe.gradient_accumulation)):
            loss, logits = take_step(inputs, targets)
        batch, state.step = batch + 1, state.step + 1
        if trainer.ema is not None:
            update_ema(trainer.ema, trainer.net, state.step, recipe.ema_decay)
        for each in (epoch_meter, meter):
            each.add(loss, logits, labels)
        if on_step is not None:
            paused = time.perf_counter()
            on_step(trainer)
            pause = time.perf_counter() - paused
            clock, epoch_meter.start, meter.start = clock + pause, epoch_meter.start + pause, meter.start + pause

        last = batch == trainer.steps_per_epoch or state.step == trainer.total_steps
        checkpoint = state.step % recipe.checkpoint_every == 0 and not last
        write_row = meter.steps >= recipe.log_every or last or checkpoint
        if not (write_row or state.step % read_every == 0):
            continue
        figures = meter.read(accelerator)
        now = time.perf_counter()  # after reading the meter, for which the device had to finish
        state.seconds, clock = state.seconds + now - clock, now
        row = _row(trainer, "train", *figures, state.step, epoch + 1)
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
        if write_row or stop:
            _record(trainer, folder, row)
            if checkpoint and accelerator.is_main_process:
                folder.save_checkpoint(trainer.state_dict())
            meter.reset()
            clock = time.perf_counter()
        if last or stop:
            break
    state.epoch = epoch + int(last)
    return _row(trainer, "train", *epoch_meter.read(accelerator), state.step, epoch + 1), last


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, *, criterion: Criterion,
    accelerator: Accelerator, parts: int = 1, gradient_clip: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Forward, loss, backward, update: the mean loss (0-d) and the logits (N, num_classes), both detached.

    `inputs` are prepared images (N, C, H, W), `targets` labels (N,) or class probabilities (N, num_classes).
    """
    # Gradient accumulation; never in parts of one image, on which batch norm cannot work
    parts = max(1, min(parts, len(inputs) // 2))
    total, logits = torch.zeros((), device=inputs.device), []
    for number, (x, y) in enumerate(zip(inputs.tensor_split(parts), targets.tensor_split(parts), strict=True), start=1):
        # Processes exchange their gradients in the last part's backward pass only
        with nullcontext() if number == parts else accelerator.no_sync(model):
            output = model(x)
            loss = criterion(output, y) * (len(x) / len(inputs))
            accelerator.backward(loss)
        total += loss.detach()
        logits.append((output[0] if isinstance(output, tuple) else output).detach())
    if gradient_clip is not None:
        accelerator.clip_grad_norm_(model.parameters(), gradient_clip)
    optimizer.step()
    optimizer.zero_grad()
    return total, torch.cat(logits)


def set_backbone_frozen(net: nn.Module, heads: list[nn.Module], frozen: bool) -> None:
    """Freeze or unfreeze all but the heads: no gradients, and batch norm in eval mode, so its statistics stay."""
    learning = {id(parameter) for head in heads for parameter in head.parameters()}
    for parameter in net.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in learning)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(not frozen)


def evaluate(trainer: Trainer, name: str) -> Evaluation:
    """Evaluate on the validation or test split, every image once: each of W processes takes every W-th image."""
    split = trainer.validation if name == "validation" and trainer.validation is not None else trainer.dataset.test
    accelerator, net = trainer.accelerator, _eval_model(trainer)
    rank, world = accelerator.process_index, accelerator.num_processes
    started, part = time.perf_counter(), split
    if world > 1:
        # Batch norm statistics differ between processes; what is evaluated is what the first one saves
        for tensor in net.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
        part = split.subset(torch.arange(rank, len(split), world))
    # If a training step fits into memory, several times its images fit here, where no layer's output is kept
    images_per_part = -(-trainer.recipe.batch_size // (world * trainer.recipe.gradient_accumulation))
    with progress(f"evaluating on {name} images", len(part)) as bar:
        logits = collect_logits(
            net, part, trainer.input_spec, device=accelerator.device, precision=trainer.precision,
            batch_size=min(EVAL_BATCH_SIZE, 4 * images_per_part), advance=bar.advance,
        )  # fmt: skip
    if world > 1:
        padded = torch.zeros(-(-len(split) // world), logits.shape[1])
        padded[: len(logits)] = logits
        gathered = accelerator.gather(padded.to(accelerator.device)).cpu().view(world, *padded.shape)
        logits = gathered.transpose(0, 1).flatten(0, 1)[: len(split)]
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
    _save_model(trainer, folder)


def final_evaluation(trainer: Trainer, folder: RunFolder, latest: Evaluation | None) -> Evaluation:
    """Evaluate the saved model on the test split, with the temperature that fits the validation split, if any, and the
    rule for unknown images, which is fitted on the same images or else on the test images."""
    metrics, evaluation = trainer.state.best_metrics, latest
    if metrics["step"] != trainer.state.step or "test" not in metrics:
        evaluation = None  # the latest evaluation is of another model, or of the validation split
    if evaluation is None:
        if trainer.accelerator.is_main_process:
            _eval_model(trainer).load_state_dict(read_weights(folder.model))
        evaluation = evaluate(trainer, "test")
        metrics["test"] = {"loss": evaluation.loss, "accuracy": evaluation.accuracy}
        rows = folder.rows()  # resuming a finished run must not repeat its last row
        if not any(row["split"] == "test" and row["step"] == metrics["step"] for row in rows):
            figures = (evaluation.loss, evaluation.accuracy, evaluation.images_per_second)
            _record(trainer, folder, _row(trainer, "test", *figures, metrics["step"], metrics["epoch"]))
    rule, temperature = evaluation.fit_known("test"), 1.0
    if trainer.validation is not None and len(trainer.validation) < FEWEST_IMAGES:
        log.warning(
            "only %d validation images: probabilities are not calibrated on them, which needs %d",
            len(trainer.validation), FEWEST_IMAGES,
        )  # fmt: skip
    elif trainer.validation is not None:
        held_out = evaluate(trainer, "validation")
        rule, temperature = held_out.fit_known("validation"), fit_temperature(held_out.logits, held_out.labels)
    _save_model(trainer, folder, temperature, rule)
    return replace(evaluation, temperature=temperature, rule=rule)


def report_old_classes(trainer: Trainer, evaluation: Evaluation) -> dict[str, Any] | None:
    """What the network lost on the classes of the run that it started from; None if it learned no other classes."""
    if trainer.source is None or not trainer.source.info.recipe or trainer.source.info.classes == evaluation.classes:
        return None
    device, precision = trainer.accelerator.device, trainer.precision
    old = compare_old_classes(trainer.source, evaluation, trainer.dataset.test, device=device, precision=precision)
    if old is None:
        return None
    log.info(old.line())
    return old.to_dict()


class Meter:
    """Mean loss and accuracy over the images since the last reset. The sums stay on the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        self._sums = torch.zeros(3, device=self.device)
        self.steps, self.start = 0, time.perf_counter()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One step: its mean loss (0-d), logits (N, num_classes) and labels (N,)."""
        correct = (logits.argmax(dim=1) == labels).sum()
        self._sums += torch.stack((loss.float() * len(labels), correct.float(), torch.ones_like(loss) * len(labels)))
        self.steps += 1

    def read(self, accelerator: Accelerator) -> tuple[float, float, float]:
        """Mean loss, accuracy (0 to 1) and images per second, over all processes."""
        loss, correct, images = accelerator.reduce(self._sums, "sum").tolist()
        return loss / images, correct / images, images / (time.perf_counter() - self.start)


class _Interruption:
    """Ctrl-C and SIGTERM end the run after the current step, a second Ctrl-C at once. A second SIGTERM does nothing:
    launchers pass on the one that they get."""

    def __enter__(self) -> _Interruption:
        self.requested = False
        is_main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
        signals = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        self._previous: dict[int, Any] = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _frame: object) -> None:
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(number, self._previous[number])
        log.info("stopping after this step; press Ctrl-C again to stop at once")

    def requested_anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process got a signal."""
        if accelerator.num_processes > 1:
            requested = torch.tensor(float(self.requested), device=accelerator.device)
            self.requested = bool(accelerator.reduce(requested, "sum") > 0)
        return self.requested


@contextlib.contextmanager
def explained_errors(recipe: Recipe, images: int) -> Iterator[None]:
    """Turns errors that a user can do something about into a line that says what."""
    try:
        yield
    except RuntimeError as error:
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


def _eval_model(trainer: Trainer) -> nn.Module:
    """The network that is evaluated and saved: the averaged weights if there is an average."""
    return trainer.net if trainer.ema is None else trainer.ema.module


def _row(trainer: Trainer, split: str, loss: float, accuracy: float, rate: float, step: int, epoch: int) -> Row:
    """A row of metrics.jsonl. Raises `DivergedError` for a loss that is NaN or infinite."""
    learning_rate = learning_rate_at(step - 1, trainer.total_steps, trainer.steps_per_epoch, trainer.recipe)
    if not math.isfinite(loss):
        raise DivergedError(
            f"the {split} loss is {loss} at step {step}, learning rate {learning_rate:.3g}; try --learning-rate "
            f"{trainer.recipe.learning_rate / 10:.1g}, --gradient-clip 1 or --precision fp32"
        )
    return {
        "step": step, "epoch": epoch, "split": split, "loss": loss, "accuracy": accuracy,
        "learning_rate": learning_rate, "images_per_second": round(rate, 1),
        "seconds": round(trainer.state.seconds, 3),
    }  # fmt: skip


def _record(trainer: Trainer, folder: RunFolder, row: Row) -> None:
    """A row to metrics.jsonl and to the tracker."""
    if trainer.accelerator.is_main_process:
        folder.append(row)
    figures = {f"{row['split']}/{name}": value for name, value in row.items() if isinstance(value, float)}
    trainer.accelerator.log(figures, step=row["step"])


def _is_over(trainer: Trainer) -> bool:
    state, patience = trainer.state, trainer.recipe.patience or math.inf
    return state.step >= trainer.total_steps or state.epoch - state.best_epoch >= patience


def _save_model(trainer: Trainer, folder: RunFolder, temperature: float = 1.0, known: KnownRule | None = None) -> None:
    net, data = _eval_model(trainer), trainer.dataset
    if trainer.accelerator.is_main_process:
        if isinstance(net, GoogLeNet) and trainer.is_googlenet:
            recipe, metrics = trainer.recipe.model_dump(exclude_none=True), trainer.state.best_metrics
            spec = trainer.input_spec
            info = ModelInfo(net.architecture, data.classes, spec, recipe, metrics, temperature, data.digest, known)
            save(net, info, folder.model)
        else:
            save_weights(net, folder.model)
    trainer.accelerator.wait_for_everyone()


def _log_start(trainer: Trainer, reason: str) -> None:
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
    if _is_over(trainer):
        log.info(f"the run is complete at step {trainer.state.step:,}; its saved model is evaluated once more")
    elif trainer.state.step:
        log.info(f"resuming after step {trainer.state.step:,}")


def draw_plots(trainer: Trainer, folder: RunFolder, evaluation: Evaluation | None, evaluated: str) -> None:
    """Curves from the rows; the rest from the final or, if interrupted, latest evaluation; and a report of it all."""
    path, rows, split = folder.path, folder.rows(), None
    record = read_run(path, rows)
    if evaluation is not None:
        split = trainer.validation if evaluated == "validation" else trainer.dataset.test
        assert split is not None
        captions = evaluation.captions
        matrix, mistakes = evaluation.confusion_matrix, evaluation.worst_mistakes(32)
        plot_confusion_matrix(matrix, evaluation.classes, path / "confusion_matrix.png")
        plot_predictions(split, captions, path / "predictions.png")
        plot_predictions(split, captions, path / "mistakes.png", mistakes=mistakes)
        record = record.evaluated_as(evaluation, split, evaluated)
    plot_curves(rows, path / "curves.png")
    write_run_report(record, split)

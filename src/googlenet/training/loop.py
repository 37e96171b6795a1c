"""The training of a network, from a recipe to a run folder. Read it from top to bottom: that is the order of events."""

from __future__ import annotations

import atexit
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from googlenet.console import Display
from googlenet.errors import RunError, UserError, is_out_of_memory
from googlenet.evaluation.calibration import fit_temperature
from googlenet.evaluation.metrics import BATCH_SIZE, Evaluation, collect_logits
from googlenet.evaluation.plots import plot_confusion_matrix, plot_curves, plot_mistakes, plot_predictions
from googlenet.model import fuse as fused
from googlenet.model.googlenet import GoogLeNet, GoogLeNetOutput
from googlenet.recipe import Recipe
from googlenet.training.optim import training_loss
from googlenet.training.run_folder import Average, Row, RunFolder, read_checkpoint
from googlenet.training.setup import Run, prepare, resolve_recipe, whitens, with_absolute_paths
from googlenet.weights import model_file
from googlenet.weights.model_file import ModelInfo


def train(
    recipe: str | Path | Recipe | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[Run], None] | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a network.

    Args:
        recipe: a name (`fast`, `accurate`, ...) or a TOML file; left out, `pictures` where `data` is a folder,
            else `fast`.
        output: the run folder; left out, a new one under `runs/`.
        resume: go on with the run in `output` from its last checkpoint. The rest of the run is bit for bit what it
            would have been.
        on_step: called after each step with the run, to look at its network, `run.net`, say. Its time does not count
            in the rows.
        settings: any setting of the recipe by its name, `epochs=2` say; places, as `data`, are text or paths.

    Raises:
        UserError: for a recipe, setting, data set or folder that will not do.
        RunError: where the loss stops being finite, or a file cannot be written.
    """
    if not resume:
        resolved, name, reason = resolve_recipe(recipe, settings)
        run = prepare(resolved, Path(output or RunFolder.next_name(name)))
        run.on_step = on_step
        return fit(run, reason)
    if output is None:
        raise UserError("resume needs the run folder to go on with: --output runs/NAME")
    state = read_checkpoint(RunFolder(Path(output)).checkpoint)
    resolved = Recipe(**state["recipe"])
    _check_unchanged(with_absolute_paths(resolved), resolve_recipe(recipe or resolved, settings)[0])
    run = prepare(resolved, Path(output), resume=True)
    run.restore(state)
    run.on_step = on_step
    return fit(run)


def fit(run: Run, reason: str = "") -> TrainingResult:
    """Train to the end, or until told to stop; keep the best network; draw the pictures.

    `reason` is said first: why the settings are what they are, where they were chosen.
    """
    evaluation: Evaluation | None = None
    with Display(run.epochs, len(run.batches), run.total_steps, quiet=not run.is_main) as display:
        if reason:
            display.say(reason)
        _introduce(run, display)
        with StopRequest(display.say) as stop:
            while not (_is_over(run) or _any_process_stops(run, stop)):
                started = time.perf_counter()
                trained, epoch_is_whole = train_epoch(run, display, stop)
                if epoch_is_whole:
                    judged, evaluation = judge(run, display)
                    keep(run, judged)
                    display.epoch(run.progress.epoch, trained, judged, time.perf_counter() - started)
                elif run.progress.best_accuracy < 0:
                    keep(run, None)
                run.save_checkpoint()
        return finish(run, evaluation, display, interrupted=not _is_over(run))


def train_epoch(run: Run, display: Display, stop: StopRequest) -> tuple[Row, bool]:
    """The steps that are left of this epoch: the averages over them, and whether it came to its end."""
    run.model.train()
    epoch, batch = divmod(run.progress.step, len(run.batches))
    run.batches.epoch, run.batches.first = epoch, batch
    whole_epoch, since_row = Average(run.device), Average(run.device)
    # Reading a figure waits for the device: on a GPU that is worth doing only now and then.
    seldom = math.gcd(10, run.recipe.log_every)
    report_every = 1 if run.device.type == "cpu" and run.accelerator.num_processes == 1 else seldom
    clock = time.perf_counter()
    for images, labels in run.loader:
        train_step(run, images, labels, (whole_epoch, since_row))
        batch, run.progress.step = batch + 1, run.progress.step + 1
        if run.on_step is not None:
            paused = time.perf_counter()
            run.on_step(run)
            pause = time.perf_counter() - paused
            clock += pause
            for average in (whole_epoch, since_row):
                average.leave_out(pause)
        last = batch == len(run.batches) or run.progress.step == run.total_steps
        checkpoint = run.progress.step % run.recipe.checkpoint_every == 0 and not last
        if not (since_row.steps % report_every == 0 or last or checkpoint):
            continue
        row = _training_row(run, since_row)
        now = time.perf_counter()  # after reading the figures, for which the device had to finish
        run.progress.seconds, clock = run.progress.seconds + now - clock, now
        row["seconds"] = round(run.progress.seconds, 3)
        run.check_finite(row)
        stopping = _any_process_stops(run, stop)
        seconds_left = run.progress.seconds / run.progress.step * (run.total_steps - run.progress.step)
        display.batch(epoch + 1, batch, run.progress.step, row, seconds_left)
        if since_row.steps >= run.recipe.log_every or last or checkpoint or stopping:
            run.record(row)
            if checkpoint:
                run.save_checkpoint()
            since_row.reset()
            clock = time.perf_counter()
        if last or stopping:
            break
    run.progress.epoch = epoch + int(last)
    return _training_row(run, whole_epoch), last


def train_step(run: Run, images: Tensor, labels: Tensor, averages: tuple[Average, ...]) -> None:
    """One batch: forward, loss, backward, update. uint8 images (N, C, H, W), labels (N,)."""
    # Every step draws from a stream of its own, so a run taken up again needs no generator's state.
    rank, world = run.accelerator.process_index, run.accelerator.num_processes
    torch.manual_seed((run.recipe.seed * 1_000_003 + run.progress.step) * world + rank)
    for group in run.optimizer.param_groups:
        group["lr"] = run.learning_rate(run.progress.step, trunk=group["trunk"])

    inputs, labels = run.prepare(images), labels.to(run.device, non_blocking=True)
    inputs, targets = run.mix(inputs, labels)
    tensors = (inputs, targets, labels)
    # Batch normalization cannot work on a part of one image
    count = max(1, min(run.recipe.accumulate, len(inputs) // 2))
    parts = list(zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True))
    for number, (part, part_targets, part_labels) in enumerate(parts, start=1):
        # Only the last part's backward pass has the processes exchange their gradients.
        alone = nullcontext() if number == len(parts) else run.accelerator.no_sync(run.model)
        with alone, _told_of_memory(run, len(part)):
            output = _forward(run, part)
            loss = training_loss(output, part_targets, run.recipe, run.class_weights)
            run.accelerator.backward(loss * (len(part) / len(inputs)))
        logits = output[0] if isinstance(output, tuple) else output
        for average in averages:
            average.add(loss, logits, part_labels)

    if run.recipe.gradient_clip is not None:
        run.accelerator.clip_grad_norm_(run.model.parameters(), run.recipe.gradient_clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average is not None:
        run.average.update_parameters(run.net)
    for average in averages:
        average.steps += 1


@contextmanager
def _told_of_memory(run: Run, images: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"the memory does not hold a training step of {images} images; try a smaller "
            + (f"--batch-size, or --accumulate {2 * run.recipe.accumulate}" if images >= 4 else "--image-size")
        ) from error


def _forward(run: Run, images: Tensor) -> Tensor | GoogLeNetOutput:
    try:
        output: Tensor | GoogLeNetOutput = run.model(images)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch normalization cannot work on a single image whose maps have shrunk to one pixel; "
            "try a larger --batch-size or --image-size, or a smaller --accumulate"
        ) from error
    return output


def _pools_natively(run: Run) -> bool:
    dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
    return fused.pools(torch.empty(1, 2, 2, 2, dtype=dtype, device=run.device).to(memory_format=run.memory_format))


def _training_row(run: Run, average: Average) -> Row:
    loss, correct, images = run.accelerator.reduce(average.sums(), "sum").tolist()
    return {
        "step": run.progress.step,
        "epoch": math.ceil(run.progress.step / len(run.batches)),
        "split": "train",
        "loss": loss / images,
        "accuracy": correct / images,
        "learning_rate": run.learning_rate(run.progress.step - 1),
        "images_per_second": round(images / average.seconds, 1),
        "seconds": round(run.progress.seconds, 3),
    }


def _any_process_stops(run: Run, stop: StopRequest) -> bool:
    if run.accelerator.num_processes > 1:
        asked = torch.tensor(float(stop.asked), device=run.device)
        stop.asked = bool(run.accelerator.reduce(asked, "sum") > 0)
    return stop.asked


def _is_over(run: Run) -> bool:
    patience = run.recipe.patience
    waited_enough = patience is not None and run.progress.epoch - run.progress.best_epoch >= patience
    return run.progress.step >= run.total_steps or waited_enough


def _check_unchanged(before: Recipe, now: Recipe) -> None:
    for name, value in now.model_dump().items():
        if value != getattr(before, name):
            raise UserError(
                f"the run to resume has {name} = {getattr(before, name)!r}, not {value!r}; leave it out, "
                f"or start another run"
            )


def _introduce(run: Run, display: Display) -> None:
    recipe, net = run.recipe, run.net
    name = net.architecture.variant if isinstance(net, GoogLeNet) else type(net).__name__
    parameters = sum(parameter.numel() for parameter in net.parameters())
    layout = "channels-last" if recipe.channels_last else "contiguous"
    stem = ", whitened stem" if whitens(recipe, net) else ""
    processes = f", {run.accelerator.num_processes} processes" if run.accelerator.num_processes > 1 else ""
    display.say(
        f"{name}: {parameters:,} parameters, {recipe.image_size}x{recipe.image_size}, "
        f"batch {recipe.batch_size}, {run.total_steps:,} steps on {run.device}{processes}, {run.precision}, {layout}"
        f"{', native max pool' if _pools_natively(run) else ''}{stem}"
    )
    data = run.dataset
    display.say(
        f"{data.name} from {data.source}: {run.batches.count:,} training images, {len(data.test):,} test images"
    )
    if data.note:
        display.say(f"note: {data.note}")
    if _is_over(run):
        display.say(f"the run ended at step {run.progress.step:,}; its kept model is judged once more")
    elif run.progress.step:
        display.say(f"going on after step {run.progress.step:,}")


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
    split = run.eval_split
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
        # Each process has normalized other images since; what is judged is what the first one writes, or has read.
        for tensor in run.eval_model.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    # What fits into the memory in training does so several times over here, where no layer's output is kept
    batch_size = min(BATCH_SIZE, 4 * -(-run.recipe.batch_size // (world * run.recipe.accumulate)))
    settings = {"device": run.device, "precision": run.precision, "batch_size": batch_size}
    with display.judging(name, len(mine)) as progress:
        part = split if world == 1 else split.subset(mine)  # a subset is a copy
        logits = collect_logits(run.eval_model, part, run.input, progress=progress, **settings)
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
    progress, selected_by = run.progress, run.selected_by
    if judged is not None:
        if selected_by != "last" and judged["accuracy"] <= progress.best_accuracy:
            return
        progress.best_accuracy, progress.best_epoch = judged["accuracy"], progress.epoch
    progress.best_metrics = {"epoch": progress.epoch, "step": progress.step, "chosen_by": selected_by}
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
    elif run.eval_split == "validation" and run.validation is not None:
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
            run.eval_model.load_state_dict(model_file.read_weights(run.folder.model))
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
        net, metrics = run.eval_model, run.progress.best_metrics
        if isinstance(net, GoogLeNet):
            settings = run.recipe.model_dump(exclude_none=True)
            info = ModelInfo(
                net.architecture, run.dataset.classes, run.input, settings, metrics, temperature, run.dataset.digest
            )
            model_file.save(net, info, run.folder.model)
        else:
            model_file.save_weights(net, run.folder.model)
    run.accelerator.wait_for_everyone()


class StopRequest:
    """While it is entered, a signal only asks to stop; a second Ctrl-C ends the process as usual. A second SIGTERM does
    not: launchers pass on the one that they get."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if number == signal.SIGINT:
            signal.signal(number, self._previous[signal.SIGINT])
        self._say("stopping after this step; Ctrl-C, once more, stops at once")

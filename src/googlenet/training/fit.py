"""The training of a network, from a recipe to a run folder. Read it from top to bottom: that is the order of events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from googlenet.errors import RunError, UserError, ran_out_of_memory
from googlenet.evaluation.evaluate import Evaluation
from googlenet.network import fused
from googlenet.network.googlenet import GoogLeNet, GoogLeNetOutput
from googlenet.recipe import Recipe
from googlenet.training.checkpoint import read_checkpoint
from googlenet.training.display import Display
from googlenet.training.interruption import StopRequest
from googlenet.training.optimization import training_loss
from googlenet.training.outcome import TrainingResult, finish, judge, keep
from googlenet.training.preparation import prepare, whitens
from googlenet.training.run import Run
from googlenet.training.suggestion import at_whole_path, resolve_recipe
from googlenet.training.tracking import Average, Row, RunFolder


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
    _check_unchanged(at_whole_path(resolved), resolve_recipe(recipe or resolved, settings)[0])
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
    seldom = math.gcd(10, run.recipe.row_every)
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
        if since_row.steps >= run.recipe.row_every or last or checkpoint or stopping:
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
    # Batch normalisation cannot work on a part of one image
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
        if not ran_out_of_memory(error):
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
            "batch normalisation cannot work on a single image whose maps have shrunk to one pixel; "
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

"""Everything that a run needs before its first step; whatever can go wrong in a recipe goes wrong here."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from googlenet.data.augment import Augmentation
from googlenet.data.catalog import load_dataset
from googlenet.data.dataset import ImageDataset, ImageSplit, split_validation
from googlenet.data.input_spec import InputSpec
from googlenet.data.loader import Batch, ShuffledBatches, training_loader
from googlenet.errors import DivergedError, UserError
from googlenet.machine import describe, keep_freed_memory, resolve_device, resolve_precision
from googlenet.network.googlenet import create_model
from googlenet.recipe import Recipe
from googlenet.training.checkpoint import Progress, save_checkpoint
from googlenet.training.display import FileProgress
from googlenet.training.optimization import (
    balanced_weights,
    learning_rate_at,
    make_average,
    make_optimizer,
    trunk_factor,
)
from googlenet.training.starting_weights import start_from
from googlenet.training.tracking import Row, RunFolder

Build = Callable[[Recipe, ImageDataset], nn.Module]

LEFT_TO_VARIANT = (
    "normalization",
    "blocks",
    "head_grid",
    "head_width",
    "dropout",
    "auxiliary",
    "initialization",
    "stem_stride",
)
"""Settings that change a field of the variant's architecture where they are given."""


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
        return _chooser(self.recipe, self.validation)

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
            state = (settings, data, self.progress, self.net, self.optimizer, self.average, scaler)
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
        self.progress = Progress(**state["progress"])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.is_main:
            self.folder.forget_after(self.progress.step)


def prepare(recipe: Recipe, output: Path, *, resume: bool = False, build: Build | None = None) -> Run:
    """Everything for a run, its folder made.

    Args:
        recipe: the settings.
        output: the run folder.
        resume: the folder is there already.
        build: makes another network than the recipe's GoogLeNet, with weights drawn from torch's global generator; it
            is trained in the same way, and its model file holds weights only.

    Raises:
        UserError: for whatever will not do.
    """
    accelerator = _accelerator(recipe, output)
    output = broadcast_object_list([output])[0]  # a name made of the time differs between processes
    precision = resolve_precision(recipe.precision, accelerator.device)
    with accelerator.local_main_process_first():  # it may have to fetch
        dataset = _dataset(recipe, quiet=not accelerator.is_main_process)
    training, validation = dataset.train, dataset.validation
    if recipe.validation > 0:
        if validation is not None:
            raise UserError("the data have validation pictures of their own; leave validation out")
        training, validation = split_validation(dataset.train, recipe.validation, recipe.seed)
    chooser = _chooser(recipe, validation)
    net, spec = make_network(recipe, dataset, training, build)
    net.to(accelerator.device)
    if recipe.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = make_average(net, recipe)
    model, optimizer = accelerator.prepare(net, make_optimizer(net, recipe))
    balance = balanced_weights(training.labels, len(dataset.classes))
    batches = ShuffledBatches(
        len(training),
        recipe.batch_size,
        recipe.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        weights=balance[training.labels] if recipe.balance == "sampling" else None,
    )

    folder = RunFolder(output)
    if accelerator.is_main_process and not resume:
        RunFolder.create(output)
        folder.write_text(folder.recipe, recipe.to_toml())
        environment = {
            **describe(accelerator.device),
            "precision": precision,
            "processes": accelerator.num_processes,
            "data": dataset.provenance(),
            "selected_by": chooser,
        }
        folder.write_text(output / "environment.json", json.dumps(environment, indent=2) + "\n")
    accelerator.wait_for_everyone()
    if recipe.track != "none":
        accelerator.init_trackers(output.name, config=recipe.model_dump(exclude_none=True))
    return Run(
        recipe=recipe,
        folder=folder,
        accelerator=accelerator,
        precision=precision,
        dataset=dataset,
        validation=validation,
        input=spec,
        augmentation=Augmentation(
            **{field.name: getattr(recipe, field.name) for field in dataclasses.fields(Augmentation)}
        ),
        batches=batches,
        loader=training_loader(training, batches, recipe.num_workers, pin=accelerator.device.type == "cuda"),
        net=net,
        model=model,
        average=average,
        optimizer=optimizer,
        class_weights=balance.to(accelerator.device) if recipe.balance == "loss" else None,
    )


def _chooser(recipe: Recipe, validation: ImageSplit | None) -> Literal["last", "validation", "test"]:
    chooser = recipe.select
    if chooser == "auto":
        chooser = "last" if validation is None else "validation"
    if chooser == "validation" and validation is None:
        raise UserError('select = "validation" needs a validation split: set validation = 0.1, say')
    if recipe.patience is not None and chooser == "last":
        raise UserError('patience needs a split to watch: set validation = 0.1, or select = "test"')
    return chooser


def _dataset(recipe: Recipe, *, quiet: bool) -> ImageDataset:
    with FileProgress(quiet=quiet) as progress:
        dataset = load_dataset(
            recipe.data,
            recipe.data_dir,
            size=recipe.image_size,
            seed=recipe.seed,
            skip_unreadable=recipe.skip_unreadable,
            say=progress.say,
            progress=progress.show,
        )
    if recipe.test_images is not None:
        first = torch.arange(min(recipe.test_images, len(dataset.test)))
        dataset = dataclasses.replace(dataset, test=dataset.test.subset(first))
    return dataset


def _accelerator(recipe: Recipe, output: Path) -> Accelerator:
    device = resolve_device(recipe.device)
    precision = resolve_precision(recipe.precision, device)
    if recipe.track != "none" and importlib.util.find_spec(recipe.track) is None:
        raise UserError(f"track = {recipe.track!r} needs a package that is not installed: pip install {recipe.track}")
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        # The fastest kernels are chosen by racing them, and then differ from run to run.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        if device.index is not None:
            torch.cuda.set_device(device)
    # accelerate keeps its settings for the whole process; a second run in it may want others.
    AcceleratorState._reset_state(reset_partial_state=os.environ.get("WORLD_SIZE", "1") == "1")
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=None if recipe.track == "none" else recipe.track,
        project_dir=output,
    )


def make_network(
    recipe: Recipe, dataset: ImageDataset, training: ImageSplit, build: Build | None = None
) -> tuple[nn.Module, InputSpec]:
    """The network, and how images are made ready for it: as they were for the weights that it starts from, if any."""
    torch.manual_seed(recipe.seed)
    plain = (0.0,) * dataset.channels, (1.0,) * dataset.channels
    mean, std = training.pixel_statistics() if recipe.normalize else plain
    spec = InputSpec(dataset.channels, recipe.image_size, mean, std)
    if build is not None:
        return build(recipe, dataset), spec
    if recipe.weights is not None:
        net, given = start_from(recipe.weights, dataset.classes, dataset.channels, dropout=recipe.dropout)
        spec = InputSpec(dataset.channels, recipe.image_size, given.mean, given.std)
    else:
        changes = {name: value for name in LEFT_TO_VARIANT if (value := getattr(recipe, name)) is not None}
        net = create_model(recipe.variant, num_classes=len(dataset.classes), in_channels=dataset.channels, **changes)
    net.check_size(recipe.image_size, recipe.image_size)
    return net, spec

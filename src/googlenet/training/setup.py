"""Everything that a run needs before its first step; whatever can go wrong in a recipe goes wrong here."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import random
import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from googlenet.console import FileProgress
from googlenet.data import fashion_mnist
from googlenet.data.dataset import ImageDataset, ImageSplit, split_validation
from googlenet.data.decode import read_header
from googlenet.data.folder import list_folder
from googlenet.data.loader import Batch, ShuffledBatches, is_folder, load_dataset, training_loader
from googlenet.data.transforms import Augmentation, InputSpec
from googlenet.device import describe, keep_freed_memory, memory_bytes, resolve_device, resolve_precision
from googlenet.errors import DivergedError, UserError
from googlenet.model.googlenet import GoogLeNet, create_model
from googlenet.model.init import whiten
from googlenet.recipe import ARCHITECTURE_SETTINGS, Recipe, load_recipe, path_as_text
from googlenet.training.optim import (
    backbone_lr_factor,
    balanced_weights,
    learning_rate_at,
    make_average,
    make_optimizer,
)
from googlenet.training.run_folder import Progress, Row, RunFolder, save_checkpoint
from googlenet.weights.convert import import_weights
from googlenet.weights.model_file import ModelInfo, load

# At the most: their patches say all that there is to know of seven by seven pixels
_IMAGES_TO_WHITEN, _PIXELS_TO_WHITEN = 500, 8_000_000

Build = Callable[[Recipe, ImageDataset], nn.Module]


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
    if build is not None:
        recipe = recipe.model_copy(update={"whiten": False})  # of the recipe's own network alone
    accelerator = _accelerator(recipe, output)
    output = broadcast_object_list([output])[0]  # a name made of the time differs between processes
    precision = resolve_precision(recipe.precision, accelerator.device)
    if accelerator.is_main_process and not resume:
        RunFolder.check_free(output)  # and not after minutes of reading pictures
    with accelerator.local_main_process_first():  # it may have to fetch
        dataset = _dataset(recipe, quiet=not accelerator.is_main_process)
    training, validation = dataset.train, dataset.validation
    if recipe.validation > 0:
        if validation is not None:
            raise UserError("the data have validation pictures of their own; leave validation out")
        training, validation = split_validation(dataset.train, recipe.validation, recipe.seed)
    for split in (dataset.test, validation):
        if split is not None and len(split) < accelerator.num_processes:
            raise UserError(f"{accelerator.num_processes} processes cannot share {len(split)} images to be judged")
    selected_by = selection_split(recipe, validation)
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

    if accelerator.is_main_process and not resume:
        _begin_folder(output, recipe, accelerator, precision=precision, dataset=dataset, selected_by=selected_by)
    accelerator.wait_for_everyone()
    if recipe.track != "none":
        accelerator.init_trackers(output.name, config=recipe.model_dump(exclude_none=True))
    return Run(
        recipe=recipe,
        folder=RunFolder(output),
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


def _begin_folder(
    output: Path, recipe: Recipe, accelerator: Accelerator, *, precision: str, dataset: ImageDataset, selected_by: str
) -> None:
    folder = RunFolder.create(output)
    folder.write_text(folder.recipe, recipe.to_toml())
    environment = {
        **describe(accelerator.device),
        "precision": precision,
        "processes": accelerator.num_processes,
        "data": dataset.provenance(),
        "selected_by": selected_by,
    }
    folder.write_text(output / "environment.json", json.dumps(environment, indent=2) + "\n")


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
        if os.environ.get("WORLD_SIZE", "1") == "1":
            torch.cuda.set_device(device.index or 0)
    # Kernels of 1x1 lie in memory alike under either layout's strides, so that nothing is lost
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
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
        net, given = load_pretrained(recipe.weights, dataset.classes, dataset.channels, dropout=recipe.dropout)
        spec = InputSpec(dataset.channels, recipe.image_size, given.mean, given.std)
    else:
        changes = {name: value for name in ARCHITECTURE_SETTINGS if (value := getattr(recipe, name)) is not None}
        net = create_model(recipe.variant, num_classes=len(dataset.classes), in_channels=dataset.channels, **changes)
    net.check_size(recipe.image_size, recipe.image_size)
    if whitens(recipe, net):
        # Of all classes, since a folder's images are in their order
        every = -(-len(training) // min(_IMAGES_TO_WHITEN, max(1, _PIXELS_TO_WHITEN // recipe.image_size**2)))
        whiten(net.conv1.conv, spec.prepare(training.images[::every]))
    return net, spec


def whitens(recipe: Recipe, net: nn.Module) -> bool:
    """Whether the network's first convolution starts as a whitening of the training images' patches."""
    if not isinstance(net, GoogLeNet) or recipe.weights is not None:
        return False
    return recipe.whiten and net.architecture.normalization == "batch"


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
    def selected_by(self) -> Literal["last", "validation", "test"]:
        """The split that chooses the model that is kept; `last`: none does."""
        return selection_split(self.recipe, self.validation)

    @property
    def eval_split(self) -> Literal["validation", "test"]:
        """What an epoch is judged on: the split that chooses the model, else the test split, which chooses nothing."""
        return "validation" if self.validation is not None and self.selected_by != "test" else "test"

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and kept: the averaged weights where they are averaged."""
        return self.net if self.average is None else self.average.module

    def learning_rate(self, step: int, *, trunk: bool = False) -> float:
        """Of fresh weights, or of those of a trunk that was given."""
        factor = backbone_lr_factor(step, self.total_steps, self.recipe) if trunk else 1.0
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


def selection_split(recipe: Recipe, validation: ImageSplit | None) -> Literal["last", "validation", "test"]:
    """The split that chooses the model. Raises `UserError` where the recipe wants one that is not there."""
    selected_by = recipe.select
    if selected_by == "auto":
        selected_by = "last" if validation is None else "validation"
    if selected_by == "validation" and validation is None:
        raise UserError('select = "validation" needs a validation split: set validation = 0.1, say')
    if recipe.patience is not None and selected_by == "last":
        raise UserError('patience needs a split to watch: set validation = 0.1, or select = "test"')
    return selected_by


def load_pretrained(
    path: str | Path, classes: tuple[str, ...], in_channels: int, *, dropout: float | None = None
) -> tuple[GoogLeNet, InputSpec]:
    """A network for these classes and channels with the weights of a file, and how that file's images were scaled.

    The classifier is fresh, unless the file's classes are these; it is drawn from torch's global generator. The first
    convolution is made to fit other channels: summed for gray, so that a gray picture gives what its three equal
    channels gave; shared out evenly for more.

    Args:
        path: a model file, a run folder, or anything that `import_weights` takes.
        classes: what the new network is to tell apart.
        in_channels: of the new network's images.
        dropout: before the classifier; left out, as in the file.

    Raises:
        UserError: as `load` and `import_weights` do.
    """
    source = _read(Path(path))
    info = source.info
    assert isinstance(info, ModelInfo)
    changes = {} if dropout is None else {"dropout": dropout}
    net = GoogLeNet(
        dataclasses.replace(
            source.architecture,
            in_channels=in_channels,
            num_classes=len(classes),
            initialization="he",
            **changes,  # type: ignore[arg-type]
        )
    )
    weights = source.state_dict()
    if info.classes != classes:
        weights = {name: tensor for name, tensor in weights.items() if not _of_classifier(name)}
    weights["conv1.conv.weight"] = _for_channels(weights["conv1.conv.weight"], in_channels)
    missing = [name for name in net.load_state_dict(weights, strict=False).missing_keys if not _of_classifier(name)]
    if missing:
        raise UserError(f"{path} lacks {missing[0]}")
    spec = info.input
    return net, dataclasses.replace(
        spec, channels=in_channels, mean=_spread(spec.mean, in_channels), std=_spread(spec.std, in_channels)
    )


def _read(path: Path) -> GoogLeNet:
    if path.is_dir() or path.suffix == ".safetensors":
        return load(path)
    return import_weights(path)


def _of_classifier(name: str) -> bool:
    return name.startswith(("fc.", "aux1.fc2.", "aux2.fc2."))


def _for_channels(kernel: Tensor, in_channels: int) -> Tensor:
    if kernel.shape[1] == in_channels:
        return kernel
    return kernel.sum(dim=1, keepdim=True).repeat(1, in_channels, 1, 1) / in_channels


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


PICTURES = "pictures"
"""The recipe for folders."""
_READ = ("image_size", "batch_size", "device")
"""Settings that others are chosen by."""
_LOOKED_AT = 200
_ACTIVATION_BYTES = 22 * 2**20
"""Of a training step, an image of 224x224: measured (docs/performance.md: 17 MiB), and a third on top."""
_IMAGES = {"cpu": 34_000, "gpu": 600_000}
"""Training images seen in a run at the largest size: some four minutes on two cores."""


def resolve_recipe(recipe: str | Path | Recipe | None, settings: dict[str, Any]) -> tuple[Recipe, str, str]:
    """What a run is to be: the recipe, its name, and a line on what was chosen for its data, if anything was.

    Where no recipe is named, it is `pictures` for a folder and `fast` else. What is in `settings` counts before what
    is chosen.

    Raises:
        UserError: as `load_recipe` and `suggest` do.
    """
    data, reason = path_as_text(settings.get("data")), ""
    if data is not None:
        settings = {**settings, "data": data}
    if recipe is None:
        recipe = PICTURES if data is not None and is_folder(data) else "fast"
    if recipe == PICTURES and data is not None and is_folder(data):
        load_recipe(recipe, **{name: settings[name] for name in _READ if name in settings})  # or refuses them
        settings, reason = suggest(data, settings)
    name = str(recipe) if isinstance(recipe, str | Path) else "run"
    return with_absolute_paths(load_recipe(recipe, **settings)), name, reason


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with its paths whole: the same files from wherever they are asked for."""
    whole = {"data": str(Path(recipe.data).resolve())} if is_folder(recipe.data) else {}
    for name in ("data_dir", "weights"):
        if (path := getattr(recipe, name)) not in (None, fashion_mnist.BUNDLED):
            whole[name] = str(Path(path).absolute())  # not what a link leads to, whose name may say less
    return recipe.model_copy(update=whole)


def suggest(folder: str, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The settings that are given, and those of image size, batch size, epochs and learning rate that are not: chosen
    for a folder, and why, in one line.

    Raises:
        UserError: for a folder that will not do, or a device that is not there.
    """
    listing = list_folder(folder)
    files = [path for path, _, split in listing.files if split in (None, "train")]
    count = max(round(len(files) * (0.8 if len(files) == len(listing.files) else 1.0)), 1)
    on_gpu = resolve_device(given.get("device", "auto")).type != "cpu"
    side = _usual_side(listing.files)

    largest = 224 if on_gpu else 128
    size = given.get("image_size", min(max(32 * round(side / 32), 64), largest))
    batch = 32 if count < 4_000 else 64 if count < 20_000 else 128
    fits = int(memory_bytes() / 4 / (_ACTIVATION_BYTES * (size / 224) ** 2)) if memory_bytes() else batch
    # every class rounds its share, and some may be held out besides
    batch = given.get("batch_size", max(min(batch, fits, count // 2), 1))
    seen = _IMAGES["gpu" if on_gpu else "cpu"] * (largest / size) ** 2
    epochs = max(min(round(seen / count), 100), 8)
    rate = round(0.006 * (batch / 128) ** 0.5, 5)
    chosen = {"image_size": size, "batch_size": batch, "learning_rate": rate, "epochs": epochs}
    reasons = {
        "image_size": f"{size}x{size} pixels (half of the pictures are {side:.0f} or less on the shorter side, on "
        f"{'a GPU' if on_gpu else 'a CPU'} {largest} at most)",
        "batch_size": f"batch {batch} (for about {count:,} training pictures)",
        "learning_rate": f"learning rate {rate} (for batches of {batch})",
        "epochs": f"{epochs} epochs (a run of some minutes)",
    }
    said = ", ".join(reason for name, reason in reasons.items() if name not in given)
    return {**chosen, **given}, f"chosen: {said}; any of them by its own name instead" if said else ""


def _usual_side(files: tuple[Any, ...]) -> float:
    """The median shorter side in pixels, of a sample."""
    sides = []
    for path, _, _ in random.Random(0).sample(files, min(_LOOKED_AT, len(files))):
        try:
            sides.append(min(read_header(path).size))
        except UserError:  # it is told of when every file is read
            continue
    return statistics.median(sides) if sides else 128

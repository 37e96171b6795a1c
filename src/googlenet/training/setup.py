"""From a recipe to a trainer: data, network, optimizer. Writes nothing.

Whatever can be wrong with a recipe raises its error here, before the first step.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from googlenet.data.dataset import ImageDataset, ImageSplit, split_validation
from googlenet.data.joined import load_joined
from googlenet.data.transforms import Augmentation, InputSpec
from googlenet.device import resolve_precision
from googlenet.errors import DivergedError, UserError, is_out_of_memory, reason_of
from googlenet.evaluation.metrics import eval_mode
from googlenet.model.googlenet import GoogLeNet
from googlenet.model.init import whiten
from googlenet.recipe import ARCHITECTURE_SETTINGS, Recipe
from googlenet.training.grow import check_same_split, start_new_rows
from googlenet.training.optim import balanced_weights, learning_rate_at, load_optimizer, make_ema, make_optimizer
from googlenet.training.processes import job_id, main_process_first
from googlenet.weights.adapt import adapt, kept_rows
from googlenet.weights.create import create_model
from googlenet.weights.load import load_or_import

# Enough for whitening: their patches show all there is to 7x7 pixels
_IMAGES_TO_WHITEN, _PIXELS_TO_WHITEN = 500, 8_000_000


@dataclass
class TrainState:
    """How far a run is: steps done, epochs done and evaluated, training time without evaluation, the best evaluation.
    Together with the recipe's seed it determines every random draw that follows."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    best_accuracy: float = -1.0
    best_epoch: int = 0
    best_metrics: dict[str, Any] = field(default_factory=dict)
    unrecorded: list[float] | None = None
    """`Meter.state` of the steps since the last row of metrics.jsonl, if the run was stopped between two rows."""
    saving_seconds: float = 0.0  # of checkpoints and model files
    skips: int = 0  # batches in a row that were not finite
    rollbacks: int = 0
    rate_scale: float = 1.0  # of the learning rate, lower after a rollback

    def check(self, total_steps: int) -> None:
        """Raises `ValueError` for values that no run of so many steps has."""
        for name, usual in asdict(TrainState()).items():
            value = getattr(self, name)
            if name == "unrecorded":
                is_right = value is None or (len(value) == 4 and all(type(number) in (int, float) for number in value))
            elif name == "best_metrics":
                is_right = not value or type(value["step"]) is type(value["epoch"]) is int
            else:
                is_right = type(value) is type(usual) and -1 <= value < 1e12
            if not is_right:
                raise ValueError(f"{name} = {value!r}")
        if not 0 <= self.epoch <= self.step <= total_steps:
            raise ValueError(f"step {self.step} and epoch {self.epoch} of {total_steps} steps")


class Trainer:
    """What a run needs between two steps: data, network, optimizer, how far it is. `on_step` callbacks get it."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, model: nn.Module | None = None) -> None:
        """Load the data and build everything from a recipe.

        Args:
            recipe: the settings.
            accelerator: from `make_accelerator`.
            model: another network to train, (N, C, H, W) -> (N, num_classes), instead of the recipe's; it is trained
                in place.

        Raises:
            UserError: for anything wrong with the settings, the data or the network.
        """
        self.recipe, self.accelerator, self.state = recipe, accelerator, TrainState()
        self.shares: list[int] = []
        """Images that each process has of the batch that `batches` gave last."""
        # The network that this one starts from
        self.source = load_or_import(recipe.weights) if recipe.weights is not None and model is None else None
        self.source_digest = None if self.source is None else _digest(self.source)
        self.precision, processes = resolve_precision(recipe.precision, accelerator.device), accelerator.num_processes
        rule = InputSpec(0, recipe.image_size, (), (), recipe.resize, recipe.crop_pct)
        with main_process_first(accelerator):  # it may download, and decodes for the others
            data = load_joined(
                recipe.data, recipe.also, recipe.data_dir, size=rule.decoded_size, resize=recipe.resize,
                seed=recipe.seed, skip_unreadable=recipe.skip_unreadable,
                train_size=recipe.stored_size if recipe.crop_scale < 1 else None, validation=recipe.validation,
            )  # fmt: skip
        if self.source is not None and data.also is not None:
            check_same_split(self.source.info, recipe, data.also.digest)
        all_tests = data.test
        if recipe.max_test_images is not None:
            data = dataclasses.replace(data, test=data.test.spread(recipe.max_test_images))
        provenance, channels = data.provenance(), data.channels
        self.dataset, self.train_split, self.validation = data, data.train, data.validation
        if recipe.validation > 0 and data.also is None:
            if data.validation is not None:
                raise UserError("the data has its own validation split; set validation to 0")
            self.train_split, self.validation = split_validation(data.train, recipe.validation, recipe.seed)
        self._splits = {"train": self.train_split, "validation": self.validation, "test": all_tests}
        images, mean, std = len(self.train_split), (0.0,) * channels, (1.0,) * channels
        if recipe.normalize and recipe.weights is None:
            mean, std = self.train_split.pixel_statistics()
        if recipe.batch_size > images:
            raise UserError(f"batch_size = {recipe.batch_size} is more than the {images} training images")
        if recipe.balance == "sampling" and self.train_split.is_streamed:
            raise UserError('balance = "sampling" draws images from everywhere, shards are read in order: use "loss"')
        if self.validation is None and recipe.select_by == "validation":
            raise UserError('select_by = "validation" needs a validation split: set validation, for example to 0.1')
        for split in (data.test, self.validation):
            if split is not None and len(split) < processes:
                raise UserError(f"{processes} processes cannot share {len(split)} images for evaluation; use fewer")

        # The split that selects the saved model, or last (none), and the one that each epoch is evaluated on
        self.select_by = recipe.select_by
        if self.select_by == "auto":
            self.select_by = "last" if self.validation is None else "validation"
        if recipe.patience is not None and self.select_by == "last":
            raise UserError('patience needs a split to watch: set validation to 0.1, or select_by = "test"')
        self.eval_split = "validation" if self.validation is not None and self.select_by != "test" else "test"
        # What environment.json says about the run besides the machine
        run = {"precision": self.precision, "processes": processes, "selected_by": self.select_by}
        self.environment = {**run, "data": provenance} | ({} if job_id() is None else {"job": job_id()})
        # A last batch of a single image joins the batch before it: batch norm needs two
        whole, rest = divmod(images, recipe.batch_size)
        self.steps_per_epoch = whole + (rest > 1)
        steps = max(round(recipe.epochs * self.steps_per_epoch), recipe.min_steps, 1)
        self.total_steps = min(steps, recipe.max_steps or steps)
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)

        torch.manual_seed(recipe.seed)
        spec = dataclasses.replace(rule, channels=channels, mean=mean, std=std)
        self.net: nn.Module
        if model is None:
            self.net, self.input_spec = make_network(recipe, data, self.train_split, spec, self.source)
        else:
            self.net, self.input_spec = _adopt(model, recipe, data, self.train_split, spec), spec
        # Whether a model file can describe the network; and the layers that give logits, the rest being the backbone
        self.is_googlenet = isinstance(self.net, GoogLeNet) and self.net.matches_architecture()
        self.heads = self.net.classifiers() if isinstance(self.net, GoogLeNet) else []
        self.augmentation = Augmentation(**{f.name: getattr(recipe, f.name) for f in fields(Augmentation)})
        self.net.to(accelerator.device)
        if recipe.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = make_ema(self.net, recipe)
        self.optimizer: torch.optim.Optimizer
        self.model: nn.Module  # the same network as accelerate wraps it: autocast, several processes
        self.model, self.optimizer = accelerator.prepare(self.net, make_optimizer(self.net, self.heads, recipe))
        balance = balanced_weights(self.train_split.labels, len(data.classes))
        self.class_weights = balance.to(accelerator.device) if recipe.balance == "loss" else None
        self.sampling_weights = balance[self.train_split.labels] if recipe.balance == "sampling" else None

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.state.step

    @property
    def is_epoch_trained(self) -> bool:
        """Whether all steps of the epoch are done, which is not evaluated yet."""
        return self.state.step == min((self.state.epoch + 1) * self.steps_per_epoch, self.total_steps)

    @property
    def is_over(self) -> bool:
        """Whether the last epoch is done and evaluated, or `patience` has ended the run."""
        state, patience = self.state, self.recipe.patience or math.inf
        return state.epoch >= self.epochs or state.epoch - state.best_epoch >= patience

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 0."""
        return self.state.rate_scale * learning_rate_at(step, self.total_steps, self.steps_per_epoch, self.recipe)

    def diverged(self, what: str, step: int) -> DivergedError:
        """The error for something that is not finite after `step` steps."""
        rate = f"learning rate {self.learning_rate(step - 1):.3g}"
        lower = f"--learning-rate {self.recipe.learning_rate / 10:.1g}"
        advice = f"try {lower}, --gradient-clip 1, --precision fp32 or --on-nan rollback"
        return DivergedError(f"{what}, {rate}", advice)

    def indices(self, epoch: int, first: int = 0) -> Iterator[Tensor]:
        """Which training images are this process's part of each batch, from number `first` on: int64, (N,).

        The order and the batches depend on the seed and the epoch alone. Each of W processes takes every W-th image; of
        a batch with fewer than two for each of them, all take all.
        """
        count, size = len(self.train_split), self.recipe.batch_size
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        if self.sampling_weights is None:
            order = self.train_split.shuffled(generator, size, world, self.recipe.shuffle_buffer)
        else:
            order = torch.multinomial(self.sampling_weights, count, replacement=True, generator=generator)
        for number in range(first, self.steps_per_epoch):
            batch = order[number * size :][: self.batch_length(number)]
            yield batch[rank::world] if len(batch) >= 2 * world else batch

    def batch_length(self, number: int) -> int:
        """Images of a batch of an epoch, over all processes together."""
        count, size = len(self.train_split), self.recipe.batch_size
        return count - number * size if number == self.steps_per_epoch - 1 else size

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This process's part of each batch from number `first` on, augmented and normalized on the device.

        Inputs (N, C, size, size), targets (labels (N,), or class probabilities (N, num_classes) after mixup), labels.
        Each step starts its own random stream, so a resumed run sees what it would have seen without any saved
        generator.
        """
        rank, world, device = self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        spec = self.input_spec
        # Images that are stored larger become small in the random crop, not before it
        size = spec.decoded_size
        if self.augmentation.crop_scale < 1:
            size, spec = spec.size, dataclasses.replace(spec, crop_pct=1.0)
        for number, pair in enumerate(self.train_split.batches(self.indices(epoch, first)), start=first):
            step, length = epoch * self.steps_per_epoch + number, self.batch_length(number)
            is_shared = length >= 2 * world
            self.shares = [len(range(each, length, world)) if is_shared else length for each in range(world)]
            torch.manual_seed((self.recipe.seed * 1_000_003 + step) * world + rank)
            if device.type == "cuda":
                pair = pair[0].pin_memory(), pair[1].pin_memory()
            images, labels = (tensor.to(device, non_blocking=True) for tensor in pair)
            inputs = spec.prepare(self.augmentation(images, size if images.shape[2] > size else None))
            inputs, targets = self.augmentation.mix(inputs, labels, len(self.dataset.classes))
            yield inputs.contiguous(memory_format=layout), targets, labels

    def split_table(self) -> tuple[list[str], list[tuple[Any, ...]]] | None:
        """Columns and rows of a table of files with the splits of this run; None for a data set without files."""
        if self.dataset.folder is None:
            return None
        columns = ["group", *(name for name in self.train_split.columns if name != "group")]
        rows = [
            (path, self.dataset.classes[label], name, *values)
            for name, split in self._splits.items()
            if split is not None
            for file, label, *values in zip(
                split.files, split.labels.tolist(),
                *(split.columns.get(column, ("",) * len(split)) for column in columns), strict=True,
            )
            if (path := self.dataset.path_of(file)) is not None
        ]  # fmt: skip
        return ["file", "class", "split", *columns], rows

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs; the data's digest too, since other data would make it another run."""
        scaler = self.accelerator.scaler
        return {
            "recipe": self.recipe.model_dump(exclude_none=True), "data": self.dataset.digest,
            "weights": self.source_digest, "input": asdict(self.input_spec), "progress": asdict(self.state),
            "net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(),
            "average": None if self.ema is None else self.ema.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises `UserError` if the data or the starting weights are others, or the checkpoint is damaged.
        """
        try:
            self._load(checkpoint)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            raise UserError(f"the checkpoint is damaged ({reason_of(error)}); start another run") from error

    def _load(self, checkpoint: dict[str, Any]) -> None:
        data = self.dataset
        if checkpoint["data"] != data.digest:
            raise UserError(
                f"{data.name} from {data.source} is not what this run started with, which environment.json names; "
                "set --data, --also or --data-dir, or start another run"
            )
        weights = checkpoint.get("weights", self.source_digest)  # version 0.1 has none
        others = weights != self.source_digest or InputSpec.from_dict(checkpoint["input"]) != self.input_spec
        if self.recipe.weights is not None and others:
            raise UserError(f"{self.recipe.weights} is not the file that this run started with; start another run")
        self.input_spec = InputSpec.from_dict(checkpoint["input"])
        for name, value in asdict(TrainState(**checkpoint["progress"])).items():  # in place: the loop holds on to it
            setattr(self.state, name, value)
        self.state.check(self.total_steps)
        metrics = self.state.best_metrics
        if "chosen_by" in metrics:  # version 0.1
            metrics["selected_by"] = metrics.pop("chosen_by")
        try:
            self.net.load_state_dict(checkpoint["net"])
        except RuntimeError as error:
            raise UserError(
                "the run to resume trained another network; give it to googlenet.train(model=...)"
            ) from error
        load_optimizer(self.optimizer, checkpoint["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint["average"])
        if self.accelerator.scaler is not None and checkpoint["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(checkpoint["scaler"])


def _digest(net: nn.Module) -> str:
    """SHA-256 of all weights, whatever file they come from."""
    digest = sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def make_network(
    recipe: Recipe, dataset: ImageDataset, training: ImageSplit, spec: InputSpec, source: GoogLeNet | None = None
) -> tuple[GoogLeNet, InputSpec]:
    """The recipe's network, drawn from torch's global generator, and how images are prepared for it.

    `source` has the weights that it starts from.
    """
    if source is not None:
        net = adapt(source, dataset.classes, spec.channels, dropout=recipe.dropout)
        net.check_size(recipe.image_size, recipe.image_size)
        given, net.info = net.info.input, None  # until a model file describes the trained network
        spec = dataclasses.replace(spec, mean=given.mean, std=given.std)
        rows = kept_rows(source.info, dataset.classes)
        if rows and len(rows) < len(dataset.classes):
            start_new_rows(net, training, spec, rows)
        return net, spec
    changes = {name: value for name in ARCHITECTURE_SETTINGS if (value := getattr(recipe, name)) is not None}
    net = create_model(recipe.variant, num_classes=len(dataset.classes), in_channels=spec.channels, **changes)
    net.check_size(recipe.image_size, recipe.image_size)
    if recipe.whiten:
        count = min(_IMAGES_TO_WHITEN, max(1, _PIXELS_TO_WHITEN // recipe.image_size**2))
        images, _ = training.__getitems__(training.examples(count))
        whiten(net.conv1.conv, spec.prepare(images))
    return net, spec


def _adopt(model: nn.Module, recipe: Recipe, dataset: ImageDataset, training: ImageSplit, spec: InputSpec) -> nn.Module:
    """A network that the caller built, tried on two images."""
    if recipe.weights is not None:
        raise UserError("weights and model exclude each other: load the weights into your model before training")
    if isinstance(model, GoogLeNet):
        model.check_size(recipe.image_size, recipe.image_size)
    images = spec.prepare(training.__getitems__(range(min(2, len(training))))[0])
    tensor = next(itertools.chain(model.parameters(), model.buffers()), images)
    try:
        with eval_mode(model), torch.no_grad():
            output = model(images.to(tensor.device))
    except (RuntimeError, TypeError, ValueError) as error:
        shape, reason = tuple(images.shape[1:]), reason_of(error)
        raise UserError(f"the model cannot take images of (in_channels, height, width) = {shape}: {reason}") from error
    wanted, found = (len(images), len(dataset.classes)), tuple(getattr(output, "shape", ()))
    if found != wanted:
        raise UserError(f"the model's output should have the shape (N, num_classes) = {wanted}, not {found}")
    return model

"""Everything that a run needs before its first step; whatever can go wrong in a recipe goes wrong here."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn

from googlenet.data.augment import Augmentation
from googlenet.data.catalog import load_dataset
from googlenet.data.dataset import ImageDataset, ImageSplit, split_validation
from googlenet.data.input_spec import InputSpec
from googlenet.data.loader import ShuffledBatches, training_loader
from googlenet.errors import UserError
from googlenet.machine import describe, keep_freed_memory, resolve_device, resolve_precision
from googlenet.network.googlenet import GoogLeNet, create_model
from googlenet.network.initialization import whiten
from googlenet.recipe import LEFT_TO_VARIANT, Recipe
from googlenet.training.display import FileProgress
from googlenet.training.optimization import (
    balanced_weights,
    make_average,
    make_optimizer,
)
from googlenet.training.run import Run, chooser_of
from googlenet.training.starting_weights import start_from
from googlenet.training.tracking import RunFolder

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
    chooser = chooser_of(recipe, validation)
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
        _begin_folder(output, recipe, accelerator, precision=precision, dataset=dataset, chooser=chooser)
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
    output: Path, recipe: Recipe, accelerator: Accelerator, *, precision: str, dataset: ImageDataset, chooser: str
) -> None:
    folder = RunFolder.create(output)
    folder.write_text(folder.recipe, recipe.to_toml())
    environment = {
        **describe(accelerator.device),
        "precision": precision,
        "processes": accelerator.num_processes,
        "data": dataset.provenance(),
        "selected_by": chooser,
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
        net, given = start_from(recipe.weights, dataset.classes, dataset.channels, dropout=recipe.dropout)
        spec = InputSpec(dataset.channels, recipe.image_size, given.mean, given.std)
    else:
        changes = {name: value for name in LEFT_TO_VARIANT if (value := getattr(recipe, name)) is not None}
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

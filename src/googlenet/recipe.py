"""Every setting of a training run, typed and validated, in groups; and the recipes that come with the package.

A recipe is a flat TOML file of these settings. A setting that the file does not mention has the default below; a
setting given by the caller (`--learning-rate 0.01`, `train(learning_rate=0.01)`) overrides both.
"""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from googlenet.choices import Augment, Precision, Resize, Schedule, SelectBy, Tracker
from googlenet.errors import UserError, reason_of
from googlenet.files import expand, parse_toml
from googlenet.model.architecture import VARIANTS, Initialization, Variant

_PRESETS = ("hflip", "crop_scale", "color_jitter", "random_erasing", "mixup", "cutmix")
AUGMENT: dict[str, dict[str, Any]] = {
    "none": dict(zip(_PRESETS, (False, 1.0, 0.0, 0.0, 0.0, 0.0), strict=True)),
    "light": dict(zip(_PRESETS, (True, 0.7, 0.1, 0.0, 0.0, 0.0), strict=True)),
    "medium": dict(zip(_PRESETS, (True, 0.4, 0.3, 0.1, 0.0, 0.0), strict=True)),
    "strong": dict(zip(_PRESETS, (True, 0.2, 0.4, 0.25, 0.2, 1.0), strict=True)),
}
"""The settings that each value of `augment` stands for."""

ARCHITECTURE_SETTINGS = ("dropout", "auxiliary", "initialization", "stem_stride")
"""Settings that change a field of the variant's architecture if they are given."""

_NEW_NETWORK_SETTINGS = ("variant", "whiten", "auxiliary", "initialization", "stem_stride")
"""Settings that weights to start from decide."""

RENAMED = {
    "accumulate": "gradient_accumulation", "colour": "color_jitter", "ema": "ema_decay", "erasing": "random_erasing",
    "flip": "hflip", "freeze": "freeze_fraction", "pictures": "plots", "row_every": "log_every",
    "select": "select_by", "test_images": "max_test_images", "track": "tracker", "trunk_rate": "backbone_lr_scale",
}  # fmt: skip
"""Settings of version 0.1 that have another name now."""

REMOVED = {
    "num_workers": "images are decoded once and batches are prepared on the device",
    **dict.fromkeys(("normalization", "blocks", "head_grid", "head_width"), "use googlenet.train(model=...)"),
}
"""Settings of version 0.1 that are gone, and what to do instead."""


def path_as_text(path: Any) -> Any:
    """A `Path` as absolute text, so that it is never taken for the name of a data set; `~` is the home folder."""
    if isinstance(path, Path):
        return str(expand(path).absolute())
    return str(expand(path)) if isinstance(path, str) and path.startswith("~") else path


_Path = BeforeValidator(path_as_text)
OptionalPath = Annotated[str | None, _Path]


class Recipe(BaseModel):
    """The settings of one run, validated together. `load_recipe` turns pydantic's errors into clear ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Network
    variant: Variant = Field("bn", description="which GoogLeNet, or its successor v2, v3 or v4")
    initialization: Initialization | None = Field(None, description="how weights are drawn; default: the variant's")
    whiten: bool = Field(False, description="start conv1 as a whitening of the images; needs batch norm")
    dropout: float | None = Field(None, ge=0, lt=1, description="before the classifier; default: the variant's")
    stem_stride: int | None = Field(None, ge=1, le=4, description="stride of the first convolution, pixels; default: 2")
    auxiliary: bool | None = Field(None, description="auxiliary heads; default: the variant's")
    auxiliary_weight: float = Field(0.3, ge=0, description="weight of each auxiliary head's loss")
    # Starting weights
    weights: OptionalPath = Field(None, description="model file, run folder or other weights to start from")
    freeze_fraction: float = Field(0.0, ge=0, lt=1, description="fraction of the steps that train the classifier only")
    backbone_lr_scale: float = Field(1.0, gt=0, le=1, description="learning rate of all but the classifier, relative")
    # Data
    data: Annotated[str, _Path] = Field(
        "fashion-mnist", description="data set, folder with CLASS/*.jpg, or table of files"
    )
    also: OptionalPath = Field(None, description="old images to mix in: data set, folder or table")
    data_dir: OptionalPath = Field(None, description="folder of a named data set, or bundled; default: search")
    validation: float = Field(0.0, ge=0, lt=1, description="fraction of the training images held out for validation")
    skip_unreadable: bool = Field(False, description="skip and list image files that cannot be read")
    balance: Literal["none", "loss", "sampling"] = Field("none", description="weight or sample classes equally")
    shuffle_buffer: int = Field(8192, ge=1, description="images of shards that are mixed at a time, in memory")
    image_size: int = Field(28, ge=1, le=4096, description="height and width that images are resized to, pixels")
    resize: Resize = Field("stretch", description="how images are made square: stretched, cropped, or with borders")
    crop_pct: float = Field(1.0, gt=0, le=1, description="resize crop: image_size / side that the middle is cut from")
    stored_size: int | None = Field(
        None, ge=1, le=4096, description="side to cut random crops from; default: image_size / crop_pct"
    )
    normalize: bool = Field(True, description="subtract the mean and divide by the std; else pixels are 0 to 1")
    # Augmentation
    augment: Augment | None = Field(None, description="preset for all of these but crop_padding")
    hflip: bool = Field(True, description="mirror half of the training images left to right")
    crop_padding: int = Field(0, ge=0, description="random shift by up to this many pixels, before resizing")
    crop_scale: float = Field(1.0, gt=0, le=1, description="smallest fraction of the area in a random crop; 1: off")
    color_jitter: float = Field(0.0, ge=0, lt=1, description="largest change of brightness, contrast, saturation")
    random_erasing: float = Field(0.0, ge=0, le=1, description="probability that noise covers a rectangle of an image")
    mixup: float = Field(0.0, ge=0, description="alpha of mixup (pairs of images blended); 0: off")
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix (part of one image on another); 0: off")
    # Optimization
    epochs: float = Field(2, gt=0, description="passes over the training images; the last may be partial")
    min_steps: int = Field(0, ge=0, description="take at least this many steps, in more epochs if the data are few")
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps; the schedule ends there too")
    batch_size: int = Field(128, ge=1, description="images per step, over all processes together; auto: what fits")
    gradient_accumulation: int = Field(1, ge=1, description="parts that each batch is computed in, to save memory")
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = Field("adamw", description="update rule")
    learning_rate: float = Field(4e-3, gt=0, description="highest learning rate of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD and Muon, first beta of Adam")
    nesterov: bool = Field(False, description="Nesterov momentum for SGD")
    weight_decay: float = Field(0.0, ge=0, description="decay of kernels and matrices (never of biases and norms)")
    schedule: Schedule = Field("linear", description="of the learning rate; linear and cosine warm up and end at 0")
    warmup: float = Field(0.25, ge=0, lt=1, description="fraction of the steps in the warm-up of linear and cosine")
    power: float = Field(0.5, gt=0, description="exponent of the polynomial schedule")
    step_epochs: int = Field(8, ge=1, description="epochs between two drops of the step schedule")
    step_factor: float = Field(0.96, gt=0, le=1, description="factor at each drop of the step schedule")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="fraction of the target spread over all classes")
    on_nan: Literal["stop", "skip", "rollback"] = Field(
        "stop", description="at a loss or gradient that is not finite; rollback: last checkpoint, half the rate"
    )
    gradient_clip: float | None = Field(None, gt=0, description="largest L2 norm of the gradient; default: no limit")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay per step of the moving average of the weights; 0: off")
    seed: int = Field(0, ge=0, lt=2**31, description="same seed and same machine: same weights, to the bit")
    # Evaluation
    select_by: SelectBy = Field("auto", description="split that selects the model; auto: validation if any, else last")
    patience: int | None = Field(None, ge=1, description="stop after this many epochs without progress; default: never")
    max_test_images: int | None = Field(None, ge=1, description="test images, spread over the split; default: all")
    # Machine
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps")
    precision: Precision = Field("auto", description="of the computation; weights stay fp32; auto: bf16 if native")
    channels_last: bool = Field(True, description="channels-last memory layout: same results, faster")
    sync_batch_norm: bool = Field(False, description="of several processes: batch norm over the images of all")
    process_timeout: float = Field(
        600.0, gt=0, description="of several processes: seconds that one waits for the others before the run fails"
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints; also each epoch; default: at most 2% of the time"
    )
    keep_checkpoints: int = Field(2, ge=1, description="last checkpoints that stay, besides that of the best epoch")
    on_save_error: Literal["stop", "continue"] = Field("stop", description="if the disk is full or read-only")
    # Logging
    log_every: int = Field(20, ge=1, description="steps between two rows of metrics.jsonl")
    plots: bool = Field(True, description="draw curves, confusion matrix and sample predictions, and write a report")
    film: bool = Field(False, description="write film.webp: filters, predictions and a heat map at each evaluation")
    tracker: Tracker = Field("none", description="also send the metrics to this tracker")

    @model_validator(mode="before")
    @classmethod
    def _expand_augment(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**AUGMENT.get(str(values.get("augment")), {}), **values}

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.freeze_fraction > 0 or self.backbone_lr_scale < 1) and self.weights is None:
            raise ValueError("freeze_fraction and backbone_lr_scale need weights to start from: set weights")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.gradient_accumulation > self.batch_size:
            raise ValueError(
                f"gradient_accumulation = {self.gradient_accumulation} is more than batch_size = {self.batch_size}"
            )
        return self


GROUPS = {
    "variant": "Network", "weights": "Starting weights", "data": "Data", "augment": "Augmentation",
    "epochs": "Optimization", "select_by": "Evaluation", "device": "Machine", "log_every": "Logging",
}  # fmt: skip
"""The groups of settings in the help, by their first setting."""


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def settings_of_recipes() -> frozenset[str]:
    """Settings that at least one of the package's recipes changes."""
    return frozenset(name for recipe in recipe_names() for name in _read(recipe))


def load_recipe(recipe: str | Path | Recipe = "fast", **settings: Any) -> Recipe:
    """A recipe by name or from a TOML file, with some settings overridden.

    If `epochs` is given, the recipe's `min_steps` does not count.

    Raises:
        UserError: for an unknown recipe, a file that is not TOML, or a setting that is unknown, out of range, or
            decided by the weights that the network starts from.
    """
    if "epochs" in settings:
        settings = {"min_steps": 0, **settings}
    if settings.get("augment") is not None:
        settings = {**AUGMENT.get(settings["augment"], {}), **settings}
    values = recipe.model_dump(exclude_none=True) if isinstance(recipe, Recipe) else _read(recipe)
    loaded = _validated({**values, **settings})
    if loaded.weights is not None:
        for name in _NEW_NETWORK_SETTINGS:
            if settings.get(name) is not None:
                raise UserError(f"{name} is for a new network; one that starts from weights has theirs: omit {name}")
        if settings.get("normalize") is False:
            raise UserError("normalize = False: a network that starts from weights needs their mean and std; omit it")
        loaded = loaded.model_copy(update={"normalize": True, "whiten": False})
    if VARIANTS[loaded.variant].normalization != "batch":
        if settings.get("whiten"):
            raise UserError(f"whiten needs a variant with batch norm, not variant {loaded.variant!r}")
        loaded = loaded.model_copy(update={"whiten": False})
    return loaded


def stored_recipe(settings: dict[str, Any]) -> Recipe:
    """The recipe in a checkpoint, also of version 0.1. Raises `UserError` for a setting that does not exist now."""
    values = {RENAMED.get(name, name): value for name, value in settings.items() if name != "num_workers"}
    if values.get("schedule") == "one-cycle":
        values["schedule"] = "linear"
    return load_recipe(_validated(values, "the run's recipe: "))


def _folder() -> resources.abc.Traversable:
    return resources.files("googlenet") / "recipes"


def _read(recipe: str | Path) -> dict[str, Any]:
    if str(recipe) in recipe_names():
        text, source = _folder().joinpath(f"{recipe}.toml").read_text(encoding="utf-8"), f"recipe {recipe}"
    elif (path := expand(recipe)).suffix == ".toml":
        try:
            text, source = path.read_text(encoding="utf-8-sig"), str(path)  # some editors write a byte-order mark
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {path}: {reason_of(error)}") from error
    else:
        raise UserError(f"unknown recipe {str(recipe)!r}; use {', '.join(recipe_names())} or a FILE.toml")
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise UserError(f"{source} is not valid TOML: {reason_of(error)}") from error
    _validated(values, f"{source}: ")
    return values


def _validated(values: dict[str, Any], source: str = "") -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        reason = first["msg"].removeprefix("Value error, ")
        if name in RENAMED:
            reason = f"the setting {name!r} is called {RENAMED[name]!r} now"
        elif name in REMOVED:
            reason = f"the setting {name!r} does not exist any more: {REMOVED[name]}"
        elif first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, Recipe.model_fields, n=1)
            reason = f"unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        elif name == "schedule" and first["input"] == "one-cycle":
            reason = "schedule = 'one-cycle' is called 'linear' now"
        elif name:
            reason = f"{name} = {first['input']!r}: {reason[0].lower()}{reason[1:]}"
        raise UserError(source + reason) from error

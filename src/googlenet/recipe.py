"""Every setting of a training run, typed and validated, and the recipes that come with the package.

A recipe is a flat TOML file of these settings. What it does not mention keeps the default given here; what a caller
names (`--learning-rate 0.01`, `train(learning_rate=0.01)`) overrides both.
"""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from googlenet.errors import UserError, reason_of
from googlenet.model.architecture import VARIANTS, Initialization, Normalization, Variant

AUGMENT: dict[str, dict[str, Any]] = {
    "none": {"flip": False, "crop_scale": 1.0, "color": 0.0, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0},
    "light": {"flip": True, "crop_scale": 0.7, "color": 0.1, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0},
    "medium": {"flip": True, "crop_scale": 0.4, "color": 0.3, "erasing": 0.1, "mixup": 0.0, "cutmix": 0.0},
    "strong": {"flip": True, "crop_scale": 0.2, "color": 0.4, "erasing": 0.25, "mixup": 0.2, "cutmix": 1.0},
}
"""What the setting `augment` stands for."""

ARCHITECTURE_SETTINGS = (
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

NEW_NETWORK_SETTINGS = ("variant", "whiten", *(name for name in ARCHITECTURE_SETTINGS if name != "dropout"))
"""Settings that a network which starts from given weights has by them."""


def path_as_text(place: Any) -> Any:
    """A path as its whole text, so that it is never taken for the name of a data set; what is none as it is."""
    return str(place.absolute()) if isinstance(place, Path) else place


_Place = BeforeValidator(path_as_text)


class Recipe(BaseModel):
    """The settings of one run. Numbers are checked when it is made, so a run never starts with a bad one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # The network
    variant: Variant = Field("bn", description="which GoogLeNet")
    initialization: Initialization | None = Field(
        None, description="how weights are drawn; left out: the variant's own"
    )
    whiten: bool = Field(
        False,
        description="start the first convolution as a whitening of the images' patches (with batch normalization only)",
    )
    normalization: Normalization | None = Field(
        None, description="of the activations: none, lrn (local response), batch; left out: the variant's own"
    )
    blocks: int | None = Field(None, ge=1, le=9, description="Inception blocks, the first so many; left out: all nine")
    head_grid: int | None = Field(
        None, ge=1, description="rows and columns that the last maps are averaged to; left out: 1, the global average"
    )
    head_width: int | None = Field(
        None, ge=0, description="width of two fully connected layers before the classifier; left out: 0, none"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout before the classifier; left out: the variant's own"
    )
    stem_stride: int | None = Field(
        None, ge=1, le=4, description="stride of the first convolution, pixels; left out: 2"
    )
    auxiliary: bool | None = Field(None, description="auxiliary heads; left out: as the variant has them")
    auxiliary_weight: float = Field(0.3, ge=0, description="weight of each auxiliary head's loss")

    # What it starts from
    weights: Annotated[str | None, _Place] = Field(
        None,
        description="model file, or other people's weights, to start from; a classifier of other classes is made anew",
    )
    freeze: float = Field(
        0.0, ge=0, lt=1, description="share of the steps in which only the classifier of given weights learns, 0 to 1"
    )
    backbone_lr_scale: float = Field(
        1.0, gt=0, le=1, description="what the learning rate of all but the classifier is multiplied by"
    )

    # The data
    data: Annotated[str, _Place] = Field(
        "fashion-mnist", description="name of a data set (see: googlenet data list), or a folder: FOLDER/CLASS/*.jpg"
    )
    data_dir: Annotated[str | None, _Place] = Field(
        None,
        description="folder with the data set's files, or bundled: the part in the package; left out: searched for",
    )
    validation: float = Field(
        0.0, ge=0, lt=1, description="share of the training images held out for validation, 0 to 1"
    )
    skip_unreadable: bool = Field(False, description="leave out picture files that cannot be read, and list them")
    balance: Literal["none", "loss", "sampling"] = Field(
        "none", description="even out classes of unequal size: by their weight in the loss, or by drawing them as often"
    )
    image_size: int = Field(28, ge=1, le=4096, description="height and width that images are resized to, pixels")
    normalize: bool = Field(
        True, description="subtract the data's mean, divide by its deviation; else pixels are 0 to 1"
    )
    augment: Literal["none", "light", "medium", "strong"] | None = Field(
        None, description="sets flip, crop_scale, color, erasing, mixup, cutmix together; those given count before it"
    )
    flip: bool = Field(True, description="mirror half of the training images left to right")
    crop_padding: int = Field(
        0, ge=0, description="random shift of training images, up to this many pixels before resizing"
    )
    crop_scale: float = Field(
        1.0, gt=0, le=1, description="smallest share of a training image that a random crop keeps; 1: no crop"
    )
    color: float = Field(
        0.0, ge=0, lt=1, description="random change of brightness, contrast and saturation, up to this share"
    )
    erasing: float = Field(0.0, ge=0, le=1, description="chance that noise covers a rectangle of a training image")
    mixup: float = Field(0.0, ge=0, description="alpha of mixup (pairs of images blended); 0: none")
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix (a part of one image on another); 0: none")
    num_workers: int = Field(0, ge=0, description="processes that prepare batches; 0: the main one")

    # How it learns
    epochs: float = Field(2, gt=0, description="passes over the training images; the last may be a part of one")
    min_steps: int = Field(0, ge=0, description="take at least this many steps, in more epochs where the data are few")
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps, the schedule fitted to them")
    batch_size: int = Field(128, ge=1, description="images a step, over all processes together")
    accumulate: int = Field(1, ge=1, description="parts that each batch is computed in, to save memory")
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = Field("adamw", description="update rule")
    learning_rate: float = Field(4e-3, gt=0, description="the schedule's highest learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's and Muon's momentum, Adam's first beta")
    nesterov: bool = Field(False, description="Nesterov's form of SGD's momentum")
    weight_decay: float = Field(0.0, ge=0, description="decay of kernels and matrices (never of biases and norms)")
    schedule: Literal["constant", "step", "polynomial", "one-cycle", "cosine"] = Field(
        "one-cycle", description="how the learning rate changes over the run"
    )
    warmup: float = Field(0.25, ge=0, lt=1, description="share of the steps in which one-cycle and cosine rise, 0 to 1")
    power: float = Field(0.5, gt=0, description="exponent of the polynomial schedule")
    step_epochs: int = Field(8, ge=1, description="epochs between two drops of the step schedule")
    step_factor: float = Field(0.96, gt=0, le=1, description="what the step schedule multiplies by")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes, 0 to 1")
    gradient_clip: float | None = Field(None, gt=0, description="longest gradient (L2 norm of all); left out: any")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the moving average of the weights; 0: none")
    patience: int | None = Field(
        None, ge=1, description="stop after this many epochs without a better one; left out: never"
    )
    select: Literal["auto", "last", "validation", "test"] = Field(
        "auto", description="which split chooses the model that is kept; auto: validation where there is one, else last"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="same seed, same machine: same weights, to the bit")

    # The machine
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="of the computation (weights stay fp32); auto: bf16 where the device has it"
    )
    channels_last: bool = Field(True, description="keep channels innermost in memory: same results, faster")

    # Bookkeeping
    log_every: int = Field(20, ge=1, description="steps between two rows of metrics.jsonl, at most")
    test_images: int | None = Field(
        None, ge=1, description="judge on the first so many test images only, for trials; left out: on all"
    )
    pictures: bool = Field(True, description="draw curves, confusion matrix and sheets of images at the end")
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints; one more at each epoch's end")
    track: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = Field(
        "none", description="also send the metrics to this tracker"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_augment(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**AUGMENT.get(str(values.get("augment")), {}), **values}

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if (self.freeze > 0 or self.backbone_lr_scale < 1) and self.weights is None:
            raise ValueError(
                "freeze and backbone_lr_scale are for a network that starts from given weights: name them: weights"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate = {self.accumulate} parts is more than batch_size = {self.batch_size} images")
        return self

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.name.removesuffix(".toml") for path in _shipped().iterdir() if path.name.endswith(".toml"))


def load_recipe(recipe: str | Path | Recipe = "fast", **settings: Any) -> Recipe:
    """A recipe by name or from a TOML file, with some settings overridden.

    Whoever names `epochs` gets so many, whatever the recipe's `min_steps` are.

    Raises:
        UserError: for a name that is no recipe, a file that is no TOML, or a setting that is unknown, out of range, or
            of another network than the weights that it is to start from.
    """
    if "epochs" in settings:
        settings = {"min_steps": 0, **settings}
    if settings.get("augment") is not None:
        settings = {**AUGMENT.get(settings["augment"], {}), **settings}
    loaded = _validated({**_values(recipe), **settings}, "a setting")
    for name in NEW_NETWORK_SETTINGS:
        if loaded.weights is not None and settings.get(name) is not None:
            raise UserError(f"{name} is for a network made anew, and one that starts from weights is as they are")
    normalization = loaded.normalization or VARIANTS[loaded.variant].normalization
    if settings.get("whiten") and normalization != "batch":
        raise UserError("whiten is for networks with batch normalization: variant bn, or normalization batch")
    return loaded


def _values(recipe: str | Path | Recipe) -> dict[str, Any]:
    if isinstance(recipe, Recipe):
        return recipe.model_dump(exclude_none=True)
    if str(recipe) in recipe_names():
        text, where = _shipped().joinpath(f"{recipe}.toml").read_text(encoding="utf-8"), f"recipe {recipe}"
    elif (path := Path(recipe)).suffix == ".toml":
        try:
            text, where = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {path}: {reason_of(error)}") from error
    else:
        raise UserError(f"there is no recipe {str(recipe)!r}; there are: {', '.join(recipe_names())}, or a FILE.toml")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not valid TOML: {error}") from error
    _validated(values, where)
    return values


def _shipped() -> resources.abc.Traversable:
    return resources.files("googlenet") / "recipes"


def _validated(values: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, Recipe.model_fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{where}: there is no setting {name!r}{hint}") from error
        reason = first["msg"].removeprefix("Value error, ")
        reason = reason[0].lower() + reason[1:] if reason.startswith("Input") else reason
        said = f"{name} = {first['input']!r}: " if name else ""
        raise UserError(f"{where}: {said}{reason}") from error

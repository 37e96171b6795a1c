"""What the study of convergence tries: the tutorial's network, one thing changed at a time, and the pairs that matter.

Every entry is a handful of recipe settings over the recipe `tutorial`; training itself is the project's own.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from googlenet.errors import UserError, check_counts
from googlenet.model.architecture import VARIANTS

BASELINE = "tutorial"

RATES = {"adam": (1e-4, 3e-4, 1e-3), "sgd": (0.01, 0.03, 0.1)}
"""Learning rates that each configuration is tried with, by optimizer; the tutorial's own is Adam's last one."""


@dataclass(frozen=True)
class Scale:
    """How large the study is: what all configurations share."""

    image_size: int = 48
    """Height and width in pixels. 48 is the smallest whose last maps (2x2) have something to pool."""
    batch_size: int = 16
    """The tutorial's."""
    steps: int = 1000
    sweep_steps: int = 300
    """Of the runs that choose a learning rate, where the others are longer."""
    seeds: int = 3
    head_width: int = 2048
    """Of the fully connected layers in AlexNet's manner; half of AlexNet's, whose 4096 take twice the time."""
    test_images: int = 2000
    rates: tuple[float, ...] | None = None
    """Learning rates instead of `RATES`."""


FULL = Scale()
QUICK = Scale(steps=140, head_width=1024, test_images=1000)


def scaled(
    *,
    quick: bool = False,
    steps: int | None = None,
    seeds: int | None = None,
    image_size: int | None = None,
    rates: str | None = None,
) -> Scale:
    """The quick or the full scale with what is given changed; `rates` are numbers separated by commas.

    Raises:
        UserError: for numbers that cannot be.
    """
    numbers = {"steps": steps, "seeds": seeds, "image_size": image_size}
    given: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
    check_counts(**given)
    if rates is not None:
        try:
            given["rates"] = tuple(dict.fromkeys(float(rate) for rate in rates.split(",")))
        except ValueError as error:
            raise UserError(f"learning rates are numbers separated by commas, not {rates!r}") from error
        if min(given["rates"]) <= 0:
            raise UserError(f"a learning rate is above 0, not {min(given['rates']):g}")
    return dataclasses.replace(QUICK if quick else FULL, **given)


@dataclass(frozen=True)
class Configuration:
    """One network and its training, but for learning rate and seed."""

    factor: str
    level: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Recipe settings that differ from the tutorial's."""
    against: str = BASELINE
    """Name of the configuration that this one differs from in one thing."""
    quick: bool = True
    """Whether the quick grid has it."""

    @property
    def name(self) -> str:
        return self.level if self.factor == "baseline" else f"{self.factor}={self.level}"


@dataclass(frozen=True)
class Cell:
    """One training run of the study."""

    configuration: Configuration
    learning_rate: float
    seed: int
    settings: dict[str, Any]
    """For `train`, over the recipe `tutorial`."""

    @property
    def steps(self) -> int:
        return self.settings["max_steps"]

    @property
    def folder_name(self) -> str:
        name = re.sub(r"[^a-z0-9]+", "-", self.configuration.name)
        return f"{name}_rate-{self.learning_rate:g}_seed-{self.seed}_steps-{self.steps}"


def configurations(scale: Scale) -> list[Configuration]:
    """The whole grid at this scale, the baseline first."""
    positions = VARIANTS["tutorial"].spatial_sizes(scale.image_size)["maxpool4"]
    he, batch = {"initialization": "he"}, {"normalization": "batch"}
    flattened = {"head_grid": positions}
    alexnet = {**flattened, "head_width": scale.head_width}
    wide = {"head_width": equal_width(positions, scale.head_width)}
    grid = [Configuration("baseline", BASELINE)]
    grid += [
        Configuration("initialization", scheme, {"initialization": scheme})
        for scheme in ("xavier", "he", "orthogonal", "truncated-normal")
    ]
    grid += [Configuration("normalization", kind, {"normalization": kind}) for kind in ("lrn", "batch")]
    grid += [
        Configuration("head", "flattened", flattened),
        Configuration("head", "alexnet", alexnet),
        Configuration("head", "average-wide", wide, quick=False),
        Configuration("auxiliary", "on", {"auxiliary": True}),
        Configuration("optimizer", "sgd", {"optimizer": "sgd"}),
    ]
    grid += [Configuration("batch_size", str(size), {"batch_size": size}, quick=False) for size in (4, 64)]
    grid += [Configuration("image_size", str(size), {"image_size": size}, quick=False) for size in (28, 96)]
    grid += [Configuration("blocks", str(count), {"blocks": count}, quick=count == 2) for count in (2, 5)]
    with_he, with_batch = "initialization=he", "normalization=batch"
    grid += [
        Configuration("pair", "he+flattened", {**he, **flattened}, with_he),
        Configuration("pair", "he+alexnet", {**he, **alexnet}, with_he),
        Configuration("pair", "he+average-wide", {**he, **wide}, with_he, quick=False),
        Configuration("pair", "he+lrn", {**he, "normalization": "lrn"}, with_he, quick=False),
        Configuration("pair", "he+batch", {**he, **batch}, with_he, quick=False),
        Configuration("pair", "he+auxiliary", {**he, "auxiliary": True}, with_he, quick=False),
        Configuration("pair", "he+sgd", {**he, "optimizer": "sgd"}, with_he, quick=False),
        Configuration("pair", "batch+alexnet", {**batch, **alexnet}, with_batch),
    ]
    return grid


def equal_width(positions: int, width: int) -> int:
    """The width at which a head on averaged maps has the parameters of one of `width` on `positions` x `positions`.

    Both are two fully connected layers and a classifier of 10 outputs, on 1024 maps.
    """
    wanted = 1024 * positions**2 * width + width**2 + 12 * width
    return round((math.sqrt((1024 + 12) ** 2 + 4 * wanted) - (1024 + 12)) / 2)


def choose(grid: Sequence[Configuration], only: Sequence[str], *, quick: bool) -> list[Configuration]:
    """The configurations asked for, by factor or by name, with those that they are compared with.

    Of a factor, the quick grid has some only; what is asked for by name is there in any case.

    Raises:
        UserError: for a word that is neither.
    """
    known = {configuration.name for configuration in grid} | {configuration.factor for configuration in grid}
    for word in only:
        if word not in known:
            raise UserError(f"the study has no {word!r}; it has: {', '.join(sorted(known))}")
    usual = [configuration for configuration in grid if configuration.quick or not quick]
    if not only:
        return usual
    asked = [configuration for configuration in usual if configuration.factor in only]
    asked += [configuration for configuration in grid if configuration.name in only]
    against = {configuration.name: configuration.against for configuration in grid}
    wanted = {configuration.name for configuration in asked}
    while more := {against[name] for name in wanted} - wanted:
        wanted |= more
    return [configuration for configuration in grid if configuration.name in wanted]


def rates(configuration: Configuration, scale: Scale) -> tuple[float, ...]:
    """The learning rates that the configuration is tried with."""
    return scale.rates or RATES[configuration.settings.get("optimizer", "adam")]


def sweep_steps(configuration: Configuration, scale: Scale) -> int:
    """Steps of the configuration's runs at seed 0 that choose its learning rate; where there is one, it is just run."""
    return scale.steps if len(rates(configuration, scale)) == 1 else min(scale.sweep_steps, scale.steps)


def cell(
    configuration: Configuration, scale: Scale, *, learning_rate: float, seed: int, steps: int | None = None
) -> Cell:
    """The run of a configuration with this learning rate and seed; `steps` left out: the scale's."""
    settings = {
        "image_size": scale.image_size,
        "batch_size": scale.batch_size,
        "max_steps": steps or scale.steps,
        "num_workers": 0,
        "log_every": 5,
        "test_images": scale.test_images,
        "pictures": False,
        "checkpoint_every": 10**9,
        **configuration.settings,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    return Cell(configuration, learning_rate, seed, settings)

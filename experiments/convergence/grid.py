"""What the study tries: the tutorial's network and training, one thing changed at a time, and the pairs that matter."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.convergence.networks import Network, build
from googlenet import GoogLeNet, UserError

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
    """Of the runs that choose a learning rate, if the others are longer."""
    seeds: int = 3
    head_width: int = 2048
    """Of the fully connected layers of AlexNet's head; half of AlexNet's 4096, which take twice the time."""
    max_test_images: int = 2000
    rates: tuple[float, ...] | None = None
    """Learning rates instead of `RATES`."""


FULL = Scale()
QUICK = Scale(steps=140, head_width=1024, max_test_images=1000)


@dataclass(frozen=True)
class Configuration:
    """One network and its training, except for learning rate and seed."""

    factor: str
    level: str
    network: Network = field(default_factory=Network)
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
    head_width: int
    settings: dict[str, Any]
    """For `googlenet.train`, over the recipe `tutorial`."""

    @property
    def steps(self) -> int:
        return self.settings["max_steps"]

    @property
    def folder_name(self) -> str:
        name = re.sub(r"[^a-z0-9]+", "-", self.configuration.name)
        return f"{name}_rate-{self.learning_rate:g}_seed-{self.seed}_steps-{self.steps}"

    def build(self) -> GoogLeNet:
        return build(self.configuration.network, self.settings["image_size"], self.head_width, self.seed)


def configurations() -> list[Configuration]:
    """The whole grid, the baseline first."""
    he, batch = Network(initialization="he"), Network(normalization="batch")
    replace = dataclasses.replace
    grid = [Configuration("baseline", BASELINE)]
    grid += [
        Configuration("initialization", scheme, Network(initialization=scheme))
        for scheme in ("xavier", "he", "orthogonal", "truncated-normal")
    ]
    grid += [Configuration("normalization", kind, Network(normalization=kind)) for kind in ("lrn", "batch")]
    grid += [
        Configuration("head", "flattened", Network(head="flattened")),
        Configuration("head", "alexnet", Network(head="alexnet")),
        Configuration("head", "average-wide", Network(head="average-wide"), quick=False),
        Configuration("auxiliary", "on", Network(auxiliary=True)),
        Configuration("optimizer", "sgd", settings={"optimizer": "sgd"}),
    ]
    grid += [Configuration("batch_size", str(size), settings={"batch_size": size}, quick=False) for size in (4, 64)]
    grid += [Configuration("image_size", str(size), settings={"image_size": size}, quick=False) for size in (28, 96)]
    grid += [Configuration("blocks", str(count), Network(blocks=count), quick=count == 2) for count in (2, 5)]
    with_he, with_batch = "initialization=he", "normalization=batch"
    grid += [
        Configuration("pair", "he+flattened", replace(he, head="flattened"), against=with_he),
        Configuration("pair", "he+alexnet", replace(he, head="alexnet"), against=with_he),
        Configuration("pair", "he+average-wide", replace(he, head="average-wide"), against=with_he, quick=False),
        Configuration("pair", "he+lrn", replace(he, normalization="lrn"), against=with_he, quick=False),
        Configuration("pair", "he+batch", replace(he, normalization="batch"), against=with_he, quick=False),
        Configuration("pair", "he+auxiliary", replace(he, auxiliary=True), against=with_he, quick=False),
        Configuration("pair", "he+sgd", he, {"optimizer": "sgd"}, against=with_he, quick=False),
        Configuration("pair", "batch+alexnet", replace(batch, head="alexnet"), against=with_batch),
    ]
    return grid


def choose(grid: Sequence[Configuration], only: Sequence[str], *, quick: bool) -> list[Configuration]:
    """The configurations in `only`, by factor or by name, with those that they are compared with; all if it is empty.

    Of a factor, the quick grid has some only; a configuration asked for by name is always included.

    Raises:
        UserError: for a word that is neither.
    """
    known = {configuration.name for configuration in grid} | {configuration.factor for configuration in grid}
    for word in only:
        if word not in known:
            raise UserError(f"--only: the study has no {word!r}; it has: {', '.join(sorted(known))}")
    default = [configuration for configuration in grid if configuration.quick or not quick]
    if not only:
        return default
    chosen = {configuration.name for configuration in default if configuration.factor in only}
    chosen |= {configuration.name for configuration in grid if configuration.name in only}
    against = {configuration.name: configuration.against for configuration in grid}
    while more := {against[name] for name in chosen} - chosen:
        chosen |= more
    return [configuration for configuration in grid if configuration.name in chosen]


def rates(configuration: Configuration, scale: Scale) -> tuple[float, ...]:
    """The learning rates that the configuration is tried with."""
    return scale.rates or RATES[configuration.settings.get("optimizer", "adam")]


def sweep_steps(configuration: Configuration, scale: Scale) -> int:
    """Steps of the configuration's runs that choose its learning rate. A single learning rate needs no choosing."""
    return scale.steps if len(rates(configuration, scale)) == 1 else min(scale.sweep_steps, scale.steps)


def cell(
    configuration: Configuration, scale: Scale, *, learning_rate: float, seed: int, steps: int | None = None
) -> Cell:
    """The run of a configuration with this learning rate and seed; `steps` default: the scale's."""
    settings = {
        "image_size": scale.image_size,
        "batch_size": scale.batch_size,
        "max_steps": steps or scale.steps,
        "log_every": 5,
        "max_test_images": scale.max_test_images,
        "plots": False,
        "checkpoint_every": 10**9,
        **configuration.settings,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    return Cell(configuration, learning_rate, seed, scale.head_width, settings)

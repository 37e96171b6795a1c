"""The model file: the weights under our state-dict names, and everything needed to use them.

The format is safetensors, so reading a file never runs code. Its metadata holds JSON under the key `googlenet`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from googlenet.data.transforms import InputSpec
from googlenet.errors import RunError, UserError, printable, reason_of
from googlenet.files import atomic_write, expand, parse_json
from googlenet.model.architecture import Architecture
from googlenet.model.googlenet import GoogLeNet

FORMAT_VERSION = 1
_MAX_HEADER = 2**24  # bytes; that of a model with 1,000 classes has 50,000
_HUGE = 1e12  # Numbers of a file that are larger are not what they should be
_ARCHITECTURE = Architecture("bn")  # whose values have the types that all have
_RECIPE_TYPES = {
    "data": str, "also": str, "data_dir": str, "weights": str, "precision": str, "seed": int, "skip_unreadable": bool
}  # fmt: skip
# Fields of `Architecture` in files from before version 0.2, and the one value of each that still has a network
_REMOVED_FIELDS = {"blocks": 9, "head_grid": 1, "head_width": 0}


def unnamed_classes(count: int) -> tuple[str, ...]:
    """The class names of weights that were imported without names: their numbers."""
    return tuple(map(str, range(count)))


@dataclass(frozen=True)
class KnownRule:
    """Which images belong to none of the classes: those whose energy score is below a threshold.

    The score is log(sum(exp(logits))): the negative energy of Liu et al. 2020, "Energy-based Out-of-distribution
    Detection", https://arxiv.org/abs/2010.03759, at temperature 1.
    """

    threshold: float
    fitted_on: str  # the images that the threshold was fitted on: `validation`, `test`, or the name of a folder
    images: int  # how many these were
    digest: str  # `Evaluation.digest` of these

    def __post_init__(self) -> None:
        """Raises `ValueError` unless the threshold is a finite number and the rest is of its type."""
        value = self.threshold
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _HUGE:
            raise ValueError(f"the threshold of known must be a number, not {value!r}")
        if not (isinstance(self.fitted_on, str) and isinstance(self.digest, str) and type(self.images) is int):
            raise ValueError("known must say what it was fitted on")

    @staticmethod
    def scores(logits: Tensor) -> Tensor:
        """Logits (N, classes) -> scores (N,). The higher, the more an image is like those of the classes."""
        return logits.logsumexp(dim=1)

    def accepts(self, scores: Tensor) -> Tensor:
        """Scores (N,) -> bool (N,): whether each image belongs to one of the classes."""
        return scores >= self.threshold


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says about its weights."""

    architecture: Architecture
    classes: tuple[str, ...]
    input: InputSpec
    recipe: dict[str, Any] = field(default_factory=dict)  # settings of the training run; empty for imported weights
    metrics: dict[str, Any] = field(default_factory=dict)
    """Loss and accuracy by split, the step that they were measured at, and the split that selected the model."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax; fitted on the validation split, if there was one."""
    data_digest: str = ""  # the `ImageDataset.digest` of the training data; empty if unknown
    known: KnownRule | None = None  # fitted at the end of training, or by `googlenet evaluate --fit-known`

    def __post_init__(self) -> None:
        """Raises `ValueError` unless the temperature is a positive, finite number."""
        value = self.temperature
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < _HUGE):
            raise ValueError(f"temperature must be a positive number, not {value!r}")

    def to_json(self) -> str:
        return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> ModelInfo:
        """The inverse of `to_json`. Raises an error of Python, a `ValueError` for example, for any other text."""
        fields = parse_json(text)
        if (version := fields.pop("format_version")) != FORMAT_VERSION:
            raise ValueError(f"format version {version}, but this googlenet reads version {FORMAT_VERSION}")
        architecture = fields["architecture"]
        for name, value in _REMOVED_FIELDS.items():
            if architecture.pop(name, value) != value:
                raise ValueError(f"architecture field {name!r} is no longer supported (only {name}={value})")
        if unknown := set(architecture) - {item.name for item in dataclasses.fields(Architecture)}:
            raise ValueError(f"unknown architecture field {unknown.pop()!r}")
        classes = tuple(fields["classes"])
        if len(classes) != architecture["num_classes"]:
            raise ValueError(f"{len(classes)} class names for {architecture['num_classes']} classes")
        if bad := [name for name in classes if not isinstance(name, str) or printable(name) != name]:
            raise ValueError(f"the class name {bad[0]!r} is not one line of text")
        spec = InputSpec.from_dict(fields["input"])
        for name, value in architecture.items():
            if not _is_like(getattr(_ARCHITECTURE, name), value):
                raise ValueError(f"architecture field {name} = {value!r}")
        if spec.channels != architecture["in_channels"]:
            raise ValueError(f"in_channels is {architecture['in_channels']}, but the images have {spec.channels}")
        _check_types(fields)
        optional = {
            name: fields[name] for name in ("recipe", "metrics", "temperature", "data_digest") if name in fields
        }
        known = None if fields.get("known") is None else KnownRule(**fields["known"])
        return cls(Architecture(**architecture), classes, spec, **optional, known=known)


def _is_like(example: Any, value: Any) -> bool:
    """Whether a value of JSON has the type of an example, whose numbers are finite."""
    if isinstance(example, tuple):
        return type(value) is list and len(value) == len(example) and all(map(_is_like, example, value))
    if type(example) is float and type(value) in (int, float):
        return abs(value) < _HUGE
    return type(value) is type(example)


def _check_types(fields: dict[str, Any]) -> None:
    """Raises `ValueError` unless what a file says about the training has the types that its readers expect."""
    recipe, metrics = fields.get("recipe", {}), fields.get("metrics", {})
    if (
        not isinstance(recipe, dict)
        or not isinstance(metrics, dict)
        or not isinstance(fields.get("data_digest", ""), str)
    ):
        raise ValueError("recipe and metrics must be objects, data_digest must be text")
    for name, kind in _RECIPE_TYPES.items():
        if recipe.get(name) is not None and type(recipe[name]) is not kind:
            raise ValueError(f"its recipe has {name} = {recipe[name]!r}")
    for split in ("train", "validation", "test"):
        figures = metrics.get(split, {"loss": 0, "accuracy": 0})
        if not isinstance(figures, dict) or not all(
            type(figures.get(name)) in (int, float) and abs(figures[name]) < _HUGE for name in ("loss", "accuracy")
        ):
            raise ValueError(f"its metrics of the split {split} are not a loss and an accuracy")


def model_info(net: GoogLeNet) -> ModelInfo:
    """The `info` of a network. Raises `UserError` if it does not come from a model file, or was changed since."""
    if not isinstance(net.info, ModelInfo) or net.info.architecture != net.architecture:
        raise UserError(
            "this network has no description of its input and classes: use googlenet.load or "
            "googlenet.import_weights, or set net.info to a googlenet.ModelInfo"
        )
    return net.info


def save(net: GoogLeNet, info: ModelInfo, path: str | Path) -> None:
    """Write a model file.

    Raises `UserError` if `info` describes another network; `RunError` if the file cannot be written, and leaves an
    existing file as it was.
    """
    if info.architecture != net.architecture or len(info.classes) != net.architecture.num_classes:
        raise UserError(
            f"info describes variant {info.architecture.variant!r} with {len(info.classes)} class names, the network "
            f"is {net.architecture.variant!r} with {net.architecture.num_classes} classes: make a ModelInfo for it"
        )
    save_weights(net, path, googlenet=info.to_json())


def save_weights(net: nn.Module, path: str | Path, **metadata: str) -> None:
    """Write the weights of any network, and no description but `metadata`. Raises `RunError` like `save`."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    try:
        with atomic_write(expand(path)) as temporary:
            # Not with save_file, which makes files that only their owner can read
            temporary.write_bytes(to_bytes(weights, metadata={"format": "pt", **metadata}))
    except SafetensorError as error:
        raise RunError(f"cannot write {path}: {error}") from error


def read_model(path: Path) -> GoogLeNet:
    """The network in a model file, in float32 and eval mode, with its `ModelInfo` as `info`. Draws no random numbers.

    Raises `UserError` if the file is missing, damaged, from another format version, or not a model file.
    """
    weights, text = read_safetensors(path)
    if text is None:
        raise UserError(f"{path} holds weights without a description; convert it with: googlenet import {path}")
    try:
        info = ModelInfo.from_json(text)
        net = build(info.architecture, weights)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a UserError is a ValueError
        raise UserError(f"{path} cannot be used: {reason_of(error)}") from error
    net.info = info
    return net


def build(architecture: Architecture, weights: dict[str, Tensor]) -> GoogLeNet:
    """A network in eval mode and float32 with exactly these weights, which are copied. No random numbers are drawn.

    Raises `ValueError` if a weight is missing, unknown, or has another shape or type.
    """
    with torch.device("meta"):  # allocates and draws nothing, but most initializations are slow to import there
        net = GoogLeNet(dataclasses.replace(architecture, initialization="default"))
    net.architecture = architecture
    expected = net.state_dict()
    # Optional, because PyTorch before 0.4.1 did not save it
    expected |= {name: torch.tensor(0) for name in expected if name.endswith(".num_batches_tracked")}
    for name, tensor in weights.items():
        wanted = expected.get(name)
        if wanted is None or tensor.shape != wanted.shape or tensor.is_floating_point() != wanted.is_floating_point():
            problem = "the network has no such weight" if wanted is None else f"expected {tuple(wanted.shape)}"
            raise ValueError(f"{name}, {tensor.dtype} of shape {tuple(tensor.shape)}: {problem}")
        # A copy, because tensors may be mapped from a file
        expected[name] = tensor.to(dtype=wanted.dtype, memory_format=torch.contiguous_format, copy=True)
    if missing := [name for name, tensor in expected.items() if tensor.is_meta]:
        raise ValueError(f"weights are missing: {missing[0]}")
    net.load_state_dict(expected, assign=True)
    return net.eval()


def model_path(path: str | Path) -> Path:
    """The model file itself if `path` is a run folder."""
    path = expand(path)
    return path / "model.safetensors" if path.is_dir() else path


def is_model_file(path: Path) -> bool:
    """Whether a file has the name of a model file, and a description unless it is damaged."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return "googlenet" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return True  # `read_model` says what is wrong


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file by name, whatever network they are from. Raises `UserError` like `load`."""
    return read_safetensors(expand(path))[0]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a file, and its metadata under the key `googlenet`."""
    with unreadable_as_user_error(path, "a model file"):
        with path.open("rb") as opened:
            if int.from_bytes(opened.read(8), "little") > _MAX_HEADER:
                raise ValueError(f"its header is longer than {_MAX_HEADER:,} bytes")
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("googlenet")
            return {name: file.get_tensor(name) for name in file.keys()}, text  # noqa: SIM118  (not a mapping)


@contextmanager
def unreadable_as_user_error(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a reader raises for a missing or damaged file into a `UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except MemoryError as error:
        raise RunError(f"{path}: not enough memory to read it") from error
    except Exception as error:  # readers raise all kinds of errors for damaged bytes
        raise UserError(f"{path} cannot be read as {kind}: {reason_of(error)}") from error

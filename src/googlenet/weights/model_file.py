"""One self-describing file: the weights under canonical names, and all that is needed to use them.

The format is safetensors, so reading one never runs code. Its metadata holds JSON under the key `googlenet`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from googlenet.data.transforms import InputSpec
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write
from googlenet.model.architecture import Architecture
from googlenet.model.googlenet import GoogLeNet

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says beside its weights."""

    architecture: Architecture
    classes: tuple[str, ...]
    input: InputSpec
    recipe: dict[str, Any] = field(default_factory=dict)
    """The settings of the run that trained it; empty for imported weights."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Its loss and accuracy by split, the step they were measured at, and which split chose it."""
    temperature: float = 1.0
    """What logits are divided by before they are made probabilities; fitted on the validation split where there was
    one. Files from before there was one do not have it, and are read as 1."""
    data_digest: str = ""
    """Of the data that it was trained on, see `ImageDataset.digest`; empty where that is not known."""

    def __post_init__(self) -> None:
        """Raises `ValueError` for a temperature that is no positive, finite number."""
        value = self.temperature
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
            raise ValueError(f"temperature is a positive number, not {value!r}")

    def to_json(self) -> str:
        return json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "architecture": self.architecture.to_dict(),
                "classes": list(self.classes),
                "input": self.input.to_dict(),
                "recipe": self.recipe,
                "metrics": self.metrics,
                "data_digest": self.data_digest,
                "temperature": self.temperature,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ModelInfo:
        """Raises `KeyError`, `TypeError` or `ValueError` for a text that is not what `to_json` writes."""
        fields = json.loads(text)
        known = {field.name for field in dataclasses.fields(Architecture)}
        described = fields["architecture"]
        if unknown := set(described) - known:
            raise ValueError(f"unknown architecture field {unknown.pop()!r}")
        if len(fields["classes"]) != described["num_classes"]:
            raise ValueError(f"{len(fields['classes'])} class names for {described['num_classes']} classes")
        try:
            architecture = Architecture(**described)
        except UserError as error:  # which would not say of which file
            raise ValueError(str(error)) from error
        return cls(
            architecture=architecture,
            classes=tuple(fields["classes"]),
            input=InputSpec.from_dict(fields["input"]),
            recipe=fields["recipe"],
            metrics=fields["metrics"],
            data_digest=fields.get("data_digest", ""),
            temperature=fields.get("temperature", 1.0),
        )


def model_info(net: GoogLeNet) -> ModelInfo:
    """What a network says of itself: its `info`.

    Raises:
        UserError: for a network that did not come out of a model file, or was changed since.
    """
    if not isinstance(net.info, ModelInfo) or net.info.architecture != net.architecture:
        raise UserError("this network does not say what its input and classes are: load it with googlenet.load")
    return net.info


def save(net: GoogLeNet, info: ModelInfo, path: str | Path) -> None:
    """Write a model file.

    Raises:
        UserError: where `info` describes another network, or names more or fewer classes than it has.
        RunError: where it cannot be written; nothing is left under its name then but what was there before.
    """
    if info.architecture != net.architecture or len(info.classes) != net.architecture.num_classes:
        raise UserError(
            f"the description is of {info.architecture.variant!r} with {len(info.classes)} named classes, the network "
            f"is {net.architecture.variant!r} with {net.architecture.num_classes}: make a ModelInfo for it"
        )
    save_weights(net, path, googlenet=info.to_json())


def save_weights(net: nn.Module, path: str | Path, **metadata: str) -> None:
    """Write the weights of any network, and nothing about them but `metadata`. Raises `RunError` as `save` does."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    try:
        with atomic_write(Path(path)) as temporary:
            save_file(weights, temporary, metadata={"format": "pt", **metadata})
    except SafetensorError as error:
        raise RunError(f"cannot write {path}: {error}") from error


def load(path: str | Path, device: str | torch.device = "cpu") -> GoogLeNet:
    """The network in a model file, in eval mode, in float32; what else the file says is its `info`.

    Raises:
        UserError: for a file that is missing, damaged, of another format version, or no model file at all.
    """
    net, info = read(path)
    net.info = info
    return net.eval().to(device)


def model_path(path: str | Path) -> Path:
    """The file itself, where a run folder is named."""
    return Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)


def read(path: str | Path) -> tuple[GoogLeNet, ModelInfo]:
    """The network and the description in a model file. Raises as `load` does."""
    path = model_path(path)
    weights, text = _content(path)
    if text is None:
        raise UserError(f"{path} holds weights but says nothing about them; bring it in with: googlenet import {path}")
    try:
        version = json.loads(text)["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(f"{path} is of format version {version}; this googlenet reads version {FORMAT_VERSION}")
        info = ModelInfo.from_json(text)
        net = GoogLeNet(info.architecture)
        net.load_state_dict(weights)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: {reason_of(error)}") from error
    return net, info


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file by name, whatever network they are of. Raises `UserError` as `load` does."""
    return _content(Path(path))[0]


def _content(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The weights, and what the file says of them."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("googlenet")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except FileNotFoundError as error:
        raise UserError(f"there is no model file {path}; googlenet train makes one") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason_of(error)}") from error
    except SafetensorError as error:
        raise UserError(
            f"{path} is no whole model file ({reason_of(error)}); weights saved by torch.save come in through: "
            f"googlenet import"
        ) from error
    return weights, text

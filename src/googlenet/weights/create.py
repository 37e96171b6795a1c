"""A network to train: with fresh weights, or with trained ones that are fitted to other classes and channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from googlenet.errors import UserError
from googlenet.files import expand
from googlenet.model.architecture import VARIANTS, Architecture
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.convert import import_weights
from googlenet.weights.load import is_named, load
from googlenet.weights.model_file import ModelInfo, build

_WITH_WEIGHTS = ("num_classes", "in_channels", "dropout")


def create_model(variant: str | None = None, *, weights: str | Path | None = None, **changes: Any) -> GoogLeNet:
    """A GoogLeNet in training mode, in float32 on the CPU.

    Args:
        variant: `bn` (trains best), `tutorial`, `paper` or `torchvision`. Default: bn, or that of the weights.
        weights: whatever `load_pretrained` takes, for example `imagenet`; default: fresh weights.
        changes: any field of `Architecture`: `num_classes` (1000), `in_channels` (3), `dropout`, `auxiliary`, ...;
            with weights, one of these three. Another number of classes gives fresh classifiers.

    With weights, `info` of the network is a `ModelInfo`: `net.info.input` says how they expect images.

    Raises `UserError` for an unknown variant or field, or an impossible value, and with weights like `load_pretrained`.
    """
    if variant is not None and variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; use one of: {', '.join(VARIANTS)}")
    fields = {field.name for field in dataclasses.fields(Architecture)} - {"variant"}
    if unknown := sorted(set(changes) - fields):
        raise UserError(f"an architecture has no field {unknown[0]!r}; it has: {', '.join(sorted(fields))}")
    if weights is None:
        return GoogLeNet(dataclasses.replace(VARIANTS[variant or "bn"], **changes))
    if decided := sorted(set(changes) - set(_WITH_WEIGHTS)):
        raise UserError(f"{decided[0]} is for a network with fresh weights: omit it, or weights")
    net = load_pretrained(
        weights, changes.get("num_classes"), changes.get("in_channels"), dropout=changes.get("dropout")
    )
    if variant not in (None, net.architecture.variant):
        raise UserError(f"the weights {weights} are for variant {net.architecture.variant!r}, not {variant!r}")
    return net


def load_pretrained(
    weights: str | Path, classes: Sequence[str] | int | None = None, in_channels: int | None = None, *,
    dropout: float | None = None,
) -> GoogLeNet:  # fmt: skip
    """A network for these classes and channels that starts from trained weights, in training mode.

    Args:
        weights: whatever `load` takes, or any file that `import_weights` takes.
        classes: class names, or their number. Default: as many as the weights have. The classifiers are fresh, drawn
            from torch's global generator, unless the classes are those of the weights.
        in_channels: channels of the images. Default: those of the weights. The first convolution is fitted to others:
            summed for gray, so that a gray image gives what its three equal channels gave; distributed evenly for more.
        dropout: probability before the classifier. Default: that of the weights.

    Its `info` describes the classes and the input. Raises like `load` and `import_weights`.
    """
    is_ours = is_named(weights) or expand(weights).is_dir() or Path(weights).suffix == ".safetensors"
    source = load(weights) if is_ours else import_weights(weights)
    known: tuple[str, ...] = source.info.classes
    if classes is None or classes == len(known):
        classes = known
    elif isinstance(classes, int):
        classes = tuple(map(str, range(classes)))
    else:
        classes = tuple(classes)
    channels = source.architecture.in_channels if in_channels is None else in_channels
    tensors = source.state_dict()
    kernel = tensors["conv1.conv.weight"]
    if kernel.shape[1] != channels:
        kernel = kernel.sum(dim=1, keepdim=True).repeat(1, channels, 1, 1) / channels
        tensors["conv1.conv.weight"] = kernel
    changes: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
    architecture = dataclasses.replace(source.architecture, in_channels=channels, initialization="he", **changes)
    net = build(architecture, tensors).train()
    if classes != known:
        net.reset_classifier(len(classes))

    def fitted(values: tuple[float, ...]) -> tuple[float, ...]:
        return values if len(values) == channels else (sum(values) / len(values),) * channels

    spec = source.info.input
    spec = dataclasses.replace(spec, channels=channels, mean=fitted(spec.mean), std=fitted(spec.std))
    net.info = ModelInfo(net.architecture, classes, spec)
    return net

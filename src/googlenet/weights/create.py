"""A network to train: with fresh weights, or with trained ones that are fitted to other classes and channels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from googlenet.errors import UserError
from googlenet.model.architecture import VARIANTS, Architecture
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.adapt import adapt, load_source

_WITH_WEIGHTS = ("num_classes", "in_channels", "dropout")


def create_model(variant: str | None = None, *, weights: str | Path | None = None, **changes: Any) -> GoogLeNet:
    """A GoogLeNet in training mode, in float32 on the CPU.

    Args:
        variant: `bn` (trains best), `tutorial`, `paper` or `torchvision`. Default: bn, or that of the weights.
        weights: whatever `train --weights` takes, for example `imagenet`; default: fresh weights.
        changes: any field of `Architecture`: `num_classes` (1000), `in_channels` (3), `dropout`, `auxiliary`, ...;
            with weights, one of these three. Another number of classes gives fresh classifiers.

    With weights, `info` of the network is a `ModelInfo`: `net.info.input` says how they expect images.

    Raises `UserError` for an unknown variant or field, or an impossible value, and with weights like `load`
    and `import_weights`.
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
    source = load_source(weights)
    trained = source.architecture
    if variant not in (None, trained.variant):
        raise UserError(f"the weights {weights} are for variant {trained.variant!r}, not {variant!r}")
    classes, channels = (changes.get(name, getattr(trained, name)) for name in ("num_classes", "in_channels"))
    return adapt(source, classes, channels, dropout=changes.get("dropout"))

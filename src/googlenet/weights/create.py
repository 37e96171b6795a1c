"""A network to train: with fresh weights, or with trained ones that are fitted to other classes and channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from googlenet.errors import UserError
from googlenet.model.architecture import VARIANTS, Architecture
from googlenet.model.features import FeatureNet
from googlenet.model.googlenet import GoogLeNet

_WITH_WEIGHTS = ("num_classes", "in_channels", "dropout")


@overload
def create_model(
    variant: str | None = None, *, weights: str | Path | None = None, features_only: Literal[False] = False,
    **changes: Any,
) -> GoogLeNet: ...  # fmt: skip
@overload
def create_model(
    variant: str | None = None, *, weights: str | Path | None = None, features_only: Literal[True],
    out_indices: Sequence[int] = ..., **changes: Any,
) -> FeatureNet: ...  # fmt: skip
def create_model(
    variant: str | None = None, *, weights: str | Path | None = None, features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3, 4), **changes: Any,
) -> GoogLeNet | FeatureNet:  # fmt: skip
    """A GoogLeNet, or another network of the Inception family, in training mode, in float32 on the CPU.

    Args:
        variant: of GoogLeNet `bn` (trains best), `tutorial`, `paper` or `torchvision`; of its successors `v2`, `v3` or
            `v4`. Default: bn, or that of the weights.
        weights: whatever `train --weights` takes, for example `imagenet`; default: fresh weights.
        features_only: a network that returns feature maps at five sizes instead of logits: a `FeatureNet`, as in timm.
        out_indices: which of the five, for `features_only`.
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
        net = GoogLeNet(dataclasses.replace(VARIANTS[variant or "bn"], **changes))
    else:
        net = _trained(variant, weights, changes)
    return FeatureNet(net, out_indices) if features_only else net


def _trained(variant: str | None, weights: str | Path, changes: dict[str, Any]) -> GoogLeNet:
    if decided := sorted(set(changes) - set(_WITH_WEIGHTS)):
        raise UserError(f"{decided[0]} is for a network with fresh weights: omit it, or weights")
    from googlenet.weights.adapt import adapt  # fresh networks do not wait for them
    from googlenet.weights.load import load_or_import

    source = load_or_import(weights)
    trained = source.architecture
    if variant not in (None, trained.variant):
        raise UserError(f"the weights {weights} are for variant {trained.variant!r}, not {variant!r}")
    classes, channels = (changes.get(name, getattr(trained, name)) for name in ("num_classes", "in_channels"))
    if not isinstance(classes, int) or classes < 0:
        raise UserError(f"num_classes must be an integer, 0 or more, not {classes!r}")
    return adapt(source, classes, channels, dropout=changes.get("dropout"))

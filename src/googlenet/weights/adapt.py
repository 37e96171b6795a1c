"""A network for other classes and channels with the weights of a trained one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.convert import import_weights
from googlenet.weights.model_file import ModelInfo, load

_CLASSIFIERS = ("fc.", "aux1.fc2.", "aux2.fc2.")


def load_source(path: str) -> GoogLeNet:
    """The network in a model file, a run folder, or anything that `import_weights` takes. Raises as these do."""
    is_ours = Path(path).is_dir() or Path(path).suffix == ".safetensors"
    return load(path) if is_ours else import_weights(path)


def adapt(
    source: GoogLeNet, classes: Sequence[str] | int, in_channels: int, *, dropout: float | None = None
) -> GoogLeNet:
    """A new network, in training mode, with the weights of `source`, which needs an `info`.

    - The classifier's rows of the classes that both know are kept, by name; the others are drawn from torch's global
      generator.
    - The first convolution is fitted to other channels: summed for gray, so that a gray image gives what its three
      equal channels gave; distributed evenly for more.

    Args:
        source: as `load` or `import_weights` return it; it is not changed.
        classes: their names, or how many without names: then the classifier is kept if `source` has as many.
        in_channels: channels of the images.
        dropout: before the classifier; default: the source's.

    Returns:
        The network; its `info` has the class names and the input of `source`, fitted to the channels.
    """
    rows = kept_rows(source.info, classes)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    if isinstance(classes, int) and rows:
        names = source.info.classes
    changes: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
    architecture = dataclasses.replace(
        source.architecture, in_channels=in_channels, num_classes=len(names), initialization="he", **changes
    )
    net = GoogLeNet(architecture)
    weights = source.state_dict()
    fresh = net.state_dict()
    for name in weights:
        if name.startswith(_CLASSIFIERS):
            kept = fresh[name].clone()
            kept[list(rows)] = weights[name][list(rows.values())]
            weights[name] = kept
    kernel = weights["conv1.conv.weight"]
    if kernel.shape[1] != in_channels:
        weights["conv1.conv.weight"] = kernel.sum(1, keepdim=True).repeat(1, in_channels, 1, 1) / in_channels
    net.load_state_dict(weights)

    def fitted(values: tuple[float, ...]) -> tuple[float, ...]:
        return values if len(values) == in_channels else (sum(values) / len(values),) * in_channels

    spec = source.info.input
    spec = dataclasses.replace(spec, channels=in_channels, mean=fitted(spec.mean), std=fitted(spec.std))
    net.info = ModelInfo(architecture, names, spec)
    return net


def kept_rows(info: ModelInfo, classes: Sequence[str] | int) -> dict[int, int]:
    """Which class of a trained network each of the `classes` is, by name; those that it does not know are missing."""
    numbers = tuple(map(str, range(len(info.classes))))
    if isinstance(classes, int):
        return {number: number for number in range(classes)} if classes == len(info.classes) else {}
    if info.classes == numbers and not info.recipe:  # imported without names: class "3" of other data is another one
        return {number: number for number in range(len(classes))} if tuple(classes) == numbers else {}
    known = {name: number for number, name in enumerate(info.classes)}
    return {number: known[name] for number, name in enumerate(classes) if name in known}

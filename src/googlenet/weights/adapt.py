"""A network for other classes and channels with the weights of a trained one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import ModelInfo, build, unnamed_classes


def adapt(
    source: GoogLeNet, classes: Sequence[str] | int, in_channels: int, *, dropout: float | None = None
) -> GoogLeNet:
    """A new network, in training mode, with the weights of `source`, which needs an `info`.

    - The classifier's rows of the classes that both know are kept, by name; the others are drawn from torch's global
      generator.
    - The first convolution is fitted to other channels: summed for gray, so that a gray image gives what its three
      equal channels gave (roughly, if their means or standard deviations differ); distributed evenly for more.

    Args:
        source: as `load_or_import` returns it; it is not changed.
        classes: their names, or how many without names: then the classifier is kept if `source` has as many.
        in_channels: channels of the images.
        dropout: before the classifier; default: the source's.

    Returns:
        The network; its `info` has the class names and the input of `source`, fitted to the channels.
    """
    rows = kept_rows(source.info, classes)
    names = unnamed_classes(classes) if isinstance(classes, int) else tuple(classes)
    if isinstance(classes, int) and rows:
        names = source.info.classes
    tensors = source.state_dict()
    kernel = tensors["conv1.conv.weight"]
    if kernel.shape[1] != in_channels:
        tensors["conv1.conv.weight"] = kernel.sum(1, keepdim=True).repeat(1, in_channels, 1, 1) / in_channels
    changes: dict[str, Any] = {} if dropout is None else {"dropout": dropout}
    changes |= {"in_channels": in_channels, "initialization": "he"}
    net = build(dataclasses.replace(source.architecture, **changes), tensors).train()
    if names != source.info.classes:
        trained = net.classifiers()
        net.reset_classifier(len(names))
        with torch.no_grad():
            for layer, before in zip(net.classifiers() if rows else (), trained, strict=False):
                for name, values in layer.named_parameters():
                    values[list(rows)] = before.get_parameter(name)[list(rows.values())]

    def fitted(values: tuple[float, ...]) -> tuple[float, ...]:
        return values if len(values) == in_channels else (sum(values) / len(values),) * in_channels

    spec = source.info.input
    spec = dataclasses.replace(spec, channels=in_channels, mean=fitted(spec.mean), std=fitted(spec.std))
    net.info = ModelInfo(net.architecture, names, spec)
    return net


def kept_rows(info: ModelInfo, classes: Sequence[str] | int) -> dict[int, int]:
    """Which class of a trained network each of the `classes` is, by name; those that it does not know are missing."""
    numbers = unnamed_classes(len(info.classes))
    if isinstance(classes, int):
        return {number: number for number in range(classes)} if classes == len(info.classes) else {}
    if info.classes == numbers and not info.recipe:  # imported without names: class "3" of other data is another one
        return {number: number for number in range(len(classes))} if tuple(classes) == numbers else {}
    known = {name: number for number, name in enumerate(info.classes)}
    return {number: known[name] for number, name in enumerate(classes) if name in known}

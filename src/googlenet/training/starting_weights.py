"""A network that starts from weights that learned something else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import Tensor

from googlenet.artifact.foreign import import_weights
from googlenet.artifact.model_file import ModelInfo, load
from googlenet.data.input_spec import InputSpec
from googlenet.errors import UserError
from googlenet.network.googlenet import GoogLeNet


def start_from(
    path: str | Path, classes: tuple[str, ...], in_channels: int, *, dropout: float | None = None
) -> tuple[GoogLeNet, InputSpec]:
    """A network for these classes and channels with the weights of a file, and how that file's images were scaled.

    The classifier is fresh, unless the file's classes are these; it is drawn from torch's global generator. The first
    convolution is made to fit other channels: summed for grey, so that a grey picture gives what its three equal
    channels gave; shared out evenly for more.

    Args:
        path: a model file, a run folder, or anything that `import_weights` takes.
        classes: what the new network is to tell apart.
        in_channels: of the new network's images.
        dropout: before the classifier; left out, as in the file.

    Raises:
        UserError: as `load` and `import_weights` do.
    """
    source = _read(Path(path))
    info = source.info
    assert isinstance(info, ModelInfo)
    changes = {} if dropout is None else {"dropout": dropout}
    net = GoogLeNet(
        dataclasses.replace(
            source.architecture,
            in_channels=in_channels,
            num_classes=len(classes),
            initialization="he",
            **changes,  # type: ignore[arg-type]
        )
    )
    weights = source.state_dict()
    if info.classes != classes:
        weights = {name: tensor for name, tensor in weights.items() if not _of_classifier(name)}
    weights["conv1.conv.weight"] = _for_channels(weights["conv1.conv.weight"], in_channels)
    missing = [name for name in net.load_state_dict(weights, strict=False).missing_keys if not _of_classifier(name)]
    if missing:
        raise UserError(f"{path} lacks {missing[0]}")
    spec = info.input
    return net, dataclasses.replace(
        spec, channels=in_channels, mean=_spread(spec.mean, in_channels), std=_spread(spec.std, in_channels)
    )


def _read(path: Path) -> GoogLeNet:
    if path.is_dir() or path.suffix == ".safetensors":
        return load(path)
    return import_weights(path)


def _of_classifier(name: str) -> bool:
    return name.startswith(("fc.", "aux1.fc2.", "aux2.fc2."))


def _for_channels(kernel: Tensor, in_channels: int) -> Tensor:
    if kernel.shape[1] == in_channels:
        return kernel
    return kernel.sum(dim=1, keepdim=True).repeat(1, in_channels, 1, 1) / in_channels


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels

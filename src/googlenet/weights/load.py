"""From what a user calls a model or weights to a network: a file, a run folder, or a name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from googlenet.console import on_stderr
from googlenet.device import resolve_device
from googlenet.errors import UserError
from googlenet.files import expand, printable
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights import hub
from googlenet.weights.catalog import CATALOG
from googlenet.weights.model_file import ModelInfo, is_model_file, model_info, model_path, read_model

NAMES = (*CATALOG, "hf:owner/name")
"""Names of weights, besides paths of files."""


def load(model: str | Path, device: str | torch.device = "cpu") -> GoogLeNet:
    """A trained network, in float32 and eval mode; `net.info` is its `ModelInfo`. No random numbers are drawn.

    Args:
        model: a model file, a run folder, published weights by name (`imagenet`, `bvlc`), or a repository of the
            Hugging Face Hub (`hf:owner/name`, `hf:owner/name@revision`). Named weights are downloaded once. A model
            file or run folder called `imagenet` has priority over the name.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: if the file is missing, damaged, from another format version, or not a model file; for a repository
            that does not exist or that googlenet has not written.
        RunError: if named weights cannot be downloaded.
    """
    return load_with_file(model)[0].to(resolve_device(device))


def load_with_file(model: str | Path) -> tuple[GoogLeNet, Path]:
    """What `load` returns on the CPU, and the file that it is from. Raises like `load`."""
    file = find_model(model)
    if is_named(model) and not hub.is_hub_name(model):
        from googlenet.weights.convert import import_weights  # model files do not wait for it

        return import_weights(file), file
    return read_model(file), file


def load_or_import(weights: str | Path) -> GoogLeNet:
    """A network to start training from: of whatever `load` or `import_weights` takes. Raises as these do."""
    path = expand(weights)
    if is_named(weights) or not path.is_file() or is_model_file(path):
        return load(weights)
    from googlenet.weights.convert import import_weights

    return import_weights(path)


def load_or_check(net: GoogLeNet | str | Path) -> tuple[GoogLeNet, ModelInfo]:
    """A network, loaded unless it is one, and its `info`. Raises `UserError` like `load` and `model_info`."""
    if isinstance(net, nn.Module):
        return net, model_info(net)
    loaded = load(net)
    return loaded, loaded.info


def is_named(model: str | Path) -> bool:
    """Whether `load` takes this for a name instead of a path."""
    return hub.is_hub_name(model) or (str(model) in CATALOG and not model_path(model).is_file())


def find_model(model: str | Path) -> Path:
    """The file that `load` would read, downloaded if it is a name. Raises like `load`."""
    if is_named(model):
        return fetch(str(model))
    file = model_path(model)
    if not file.exists():
        missing = f"{model} is not a run folder: it" if file != expand(model) and expand(model).exists() else f"{model}"
        what = f"has no {file.name}" if missing != str(model) else "does not exist"
        raise UserError(f"{missing} {what}; a model is a file, a run folder or a name: {', '.join(NAMES)}")
    return file


def fetch(name: str) -> Path:
    """The file of a name, downloaded unless it is in the cache. Raises like `load`, and `UserError` for other names."""
    with on_stderr():  # progress and warnings are never a part of a command's output
        if hub.is_hub_name(name):
            return hub.download(name)
        if name not in CATALOG:
            raise UserError(f"no weights are called {name!r}; names: {', '.join(NAMES)}")
        return CATALOG[name].fetch()


def title_of(model: str | Path) -> str:
    """What a page about a model is called: the name of the run folder, the file or the repository."""
    path = expand(model).resolve()
    return printable(path.name if path.is_dir() and not is_named(model) else output_stem(model).name)


def output_stem(model: str | Path) -> Path:
    """What files made from a model are called by default, without suffix: next to it; here for a name."""
    if is_named(model):
        return Path(str(model).partition("@")[0].rpartition("/")[2])
    path = expand(model)
    return path / "model" if path.is_dir() else path.with_suffix("")

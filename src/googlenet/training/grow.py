"""Adding classes to a trained network: which of its classes stay, and how it is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from googlenet.data.dataset import ImageSplit, has_files
from googlenet.data.transforms import InputSpec
from googlenet.errors import UserError
from googlenet.evaluation.metrics import eval_mode
from googlenet.files import printable
from googlenet.model.googlenet import GoogLeNet
from googlenet.recipe import Recipe, stored_recipe
from googlenet.weights.adapt import kept_rows
from googlenet.weights.model_file import ModelInfo

_MOST_NAMED = 5  # classes in a line
_IMAGES_TO_START, _MOST_IMAGES_TO_START = 64, 2000  # of each class, of all; the rows of new classes start from them
# On the square of their length, relative to the kept rows: of 0.0002 to 0.2, the best for images not fitted to
_PENALTY = 0.02
_STEPS = 0.2  # of those that the earlier run took
_LEARNING_RATE = 0.5  # of the earlier run's
# Settings of the earlier run that are its own
_NOT_INHERITED = {
    "weights", "data", "also", "data_dir", "freeze_fraction", "backbone_lr_scale", "device", "max_test_images",
    "patience", "plots", "tracker",
}  # fmt: skip


def growth_recipe(info: ModelInfo) -> tuple[Recipe, str]:
    """How to add classes to the network of an earlier run, mixing its images in; and a line about it.

    The settings are those of the earlier run, but a fifth of its steps. If classes were added in it already, it was
    short, so all of them stay. Raises `UserError` for a recipe with settings that do not exist now.
    """
    base = stored_recipe(info.recipe)
    values = {name: value for name, value in base.model_dump(exclude_none=True).items() if name not in _NOT_INHERITED}
    values["image_size"], values["resize"] = info.input.size, info.input.resize
    line = "settings of the run that the weights are from"
    if base.also is None:
        changes: dict[str, Any] = {"learning_rate": float(f"{_LEARNING_RATE * base.learning_rate:.3g}")}
        changes["epochs"] = float(f"{_STEPS * base.epochs:.3g}")
        changes |= {"min_steps": round(_STEPS * base.min_steps)} if base.min_steps else {}
        changes |= {"max_steps": max(1, round(_STEPS * base.max_steps))} if base.max_steps is not None else {}
        changes |= {"balance": "sampling"} if base.balance == "none" else {}
        values |= changes
        line += ", but " + ", ".join(f"{name} = {value}" for name, value in changes.items())
    return Recipe(**values), line


def growth_lines(info: ModelInfo, classes: Sequence[str], also: str | None) -> Iterator[str]:
    """What happens to the classifier of the network that a run starts from, if the run has other classes."""
    rows = kept_rows(info, classes)
    if tuple(classes) == info.classes:
        return
    if not rows:
        yield "classifier: new, since the weights know none of these classes by name"
        return
    new = [name for number, name in enumerate(classes) if number not in rows]
    yield f"classifier: {len(rows):,} classes of the weights are kept" + (f", {_names(new)} added" if new else "")
    if info.recipe and (dropped := [name for name in info.classes if name not in classes]):
        hint = "add images of them to --also" if also else "to keep them, mix in images of them with --also OLD_DATA"
        yield f"classes of the weights without images here, dropped: {_names(dropped)}; {hint}"


def start_new_rows(net: GoogLeNet, images: ImageSplit, spec: InputSpec, rows: Collection[int]) -> None:
    """Fit the classifier's rows of new classes, those not in `rows`, to features of a few images of each class.

    The backbone and the kept rows stay as they are. From random rows, a short training would first have to undo what
    they change in the backbone.
    """
    classifier = net.get_classifier()
    assert isinstance(classifier, nn.Linear)
    chosen = images.spread(min(_IMAGES_TO_START * classifier.out_features, _MOST_IMAGES_TO_START))
    with eval_mode(net), torch.no_grad():
        batches = (spec.prepare(chosen.__getitems__(part)[0]) for part in torch.arange(len(chosen)).split(64))
        features = torch.cat([net.avgpool(net.forward_features(batch)) for batch in batches])
        old_weight, old_bias = classifier.weight.clone(), classifier.bias.clone()
        penalty = _PENALTY / old_weight[list(rows)].square().sum(dim=1).mean().clamp(min=1e-12)
    new = torch.tensor([label for label in range(classifier.out_features) if label not in rows])
    weight = torch.zeros(len(new), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(new), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        whole = old_weight.index_copy(0, new, weight), old_bias.index_copy(0, new, bias)
        value = F.cross_entropy(F.linear(features, *whole), chosen.labels) + penalty * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        classifier.weight[new], classifier.bias[new] = weight, bias


def check_same_split(info: ModelInfo, recipe: Recipe, digest: str) -> None:
    """Raises `UserError` if the seed would hold out images that the weights were trained on.

    `digest` is that of the old images.
    """
    seed = info.recipe.get("seed", recipe.seed)
    decides = recipe.validation > 0 or has_files(recipe.also or "")  # a known dataset has its own test images
    if decides and digest in info.data_digest.split("+") and seed != recipe.seed:
        raise UserError(
            f"the weights were trained on {recipe.also} with seed = {seed}, which decides what is held out: use --seed "
            f"{seed}, or a table with splits: --also RUN/split.csv"
        )


def _names(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - _MOST_NAMED:,} more" if len(classes) > _MOST_NAMED else ""
    return ", ".join(map(printable, classes[:_MOST_NAMED])) + more

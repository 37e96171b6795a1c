"""The model card of a model file, and the files of a repository on the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from googlenet.device import require
from googlenet.errors import UserError
from googlenet.evaluation.metrics import PASS_RATE
from googlenet.evaluation.scores import interval_of
from googlenet.files import printable, write_text
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import is_named
from googlenet.weights.model_file import ModelInfo, model_path, read_model, save

PLOTS = {
    "confusion_matrix.png": "Confusion matrix of the test images",
    "curves.png": "Loss and accuracy during training",
    "reliability.png": "Calibration on the test images",
}
"""Plots of a run that show no images, which may be private."""

_TYPES = {"fashion-mnist": "zalando-datasets/fashion_mnist"}  # by our names; what else there is are folders
_SETTINGS = ("optimizer", "learning_rate", "schedule", "epochs", "batch_size", "image_size", "augment", "seed")
_RESIZE = {
    "stretch": "stretched to a square",
    "crop": "the central square of the resized image",
    "pad": "made square with gray borders",
}


@contextlib.contextmanager
def package_model(model: Path, repository: str, *, license: str | None = None) -> Iterator[dict[str, Path]]:
    """The files to upload by their names in the repository: the model file, its card README.md, and plots if there are.

    The model file is a copy that names folders of the training without their paths. Raises `UserError` if `model` is
    not a model file or run folder, or huggingface_hub is missing.
    """
    if is_named(model):
        raise UserError(f"push needs a run folder or model file, not the name {model}")
    net, folder = read_model(model_path(model)), model_path(model).parent
    net.info = info = _without_paths(net.info)
    plots = {name: folder / name for name in PLOTS if (folder / name).exists() and (folder / "recipe.toml").exists()}
    card = model_card(net, repository, images=count_test_images(info, folder), plots=plots, license=license)
    with tempfile.TemporaryDirectory(prefix="googlenet-push-") as scratch:
        files = {name: Path(scratch) / name for name in ("model.safetensors", "README.md")}
        save(net, info, files["model.safetensors"])
        write_text(files["README.md"], card)
        yield {**files, **plots}


def _without_paths(info: ModelInfo) -> ModelInfo:
    """With the names of folders and files on this machine instead of their paths."""
    recipe = {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in info.recipe.items()
    }
    known = info.known and dataclasses.replace(info.known, fitted_on=Path(info.known.fitted_on).name)
    return dataclasses.replace(info, recipe=recipe, known=known)


def count_test_images(info: ModelInfo, folder: Path) -> int | None:
    """How many test images the accuracy in a model file is of, if an evaluation in its folder says so."""
    test = info.metrics.get("test", {})
    for path in (folder / "evaluation.json", folder / "evaluation" / "evaluation.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            evaluation = json.loads(path.read_text(encoding="utf-8"))
            if (evaluation["accuracy"], evaluation["loss"]) == (test["accuracy"], test["loss"]):
                return int(evaluation["images"])
    return None


def model_card(
    net: GoogLeNet, repository: str, *, images: int | None = None, plots: Collection[str] = (),
    license: str | None = None,
) -> str:  # fmt: skip
    """The text of a model card, in Markdown with YAML metadata, from what a model file says about its network.

    `images`: the number of test images, if it is known. Raises `UserError` if huggingface_hub is not installed.
    """
    require("huggingface_hub", "push")
    from huggingface_hub import EvalResult, ModelCardData

    info: ModelInfo = net.info
    name, recipe, spec = repository.rpartition("/")[2], info.recipe, info.input
    results = [_result(split, info.metrics[split], images) for split in ("test", "validation") if split in info.metrics]
    sources = [str(recipe[key]) for key in ("data", "also") if key in recipe] or ["unknown"]
    start = str(recipe.get("weights", ""))
    evaluated = [
        EvalResult(
            "image-classification", dataset_type=_TYPES.get(sources[0], "imagefolder"),
            dataset_name=" and ".join(sources),
            dataset_split=row["split"], metric_type="accuracy", metric_name="Accuracy", metric_value=row["accuracy"],
        )
        for row in results
    ]  # fmt: skip
    header = ModelCardData(
        library_name="googlenet", pipeline_tag="image-classification", license=license, model_name=name,
        tags=["googlenet", "inception", f"googlenet-{info.architecture.variant}"], eval_results=evaluated or None,
        metrics=["accuracy"] if evaluated else None,
        base_model=start.removeprefix("hf:").partition("@")[0] if start.startswith("hf:") else None,
    )  # fmt: skip
    environment = Environment(
        loader=PackageLoader("googlenet", "evaluation"), undefined=StrictUndefined, trim_blocks=True, autoescape=False,  # noqa: S701  (Markdown)
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{value:.2%}",
        "numbers": lambda values: ", ".join(f"{value:.4g}" for value in values),
        "text": _escape,
    }
    return environment.get_template("card.md.j2").render(
        header=header.to_yaml(), name=name, repository=repository, info=info, results=results, license=license,
        parameters=sum(parameter.numel() for parameter in net.parameters()), resize=_RESIZE[spec.resize],
        kind={1: "gray", 3: "color"}.get(spec.channels, f"{spec.channels}-channel"),
        plots={plot: PLOTS[plot] for plot in plots}, settings=[key for key in _SETTINGS if key in recipe],
        sources=sources, pass_rate=PASS_RATE,
    )  # fmt: skip


def _result(split: str, figures: dict[str, Any], images: int | None) -> dict[str, Any]:
    """A row of the table of results."""
    row = {"split": split, **figures, "images": images if split == "test" else None, "interval": ""}
    if row["images"]:
        low, high = interval_of(round(figures["accuracy"] * row["images"]), row["images"])
        row["interval"] = f"{low:.1%} to {high:.1%}"
    return row


def _escape(value: Any) -> str:
    """As Markdown that shows these characters."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", printable(str(value)))

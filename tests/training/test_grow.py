"""Adding classes to a trained network: rows, settings, old images, and what the old classes lost."""

from __future__ import annotations

import csv
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import googlenet
from googlenet import ImageSplit, InputSpec, Trainer, UserError, create_model, load_recipe, train
from googlenet.evaluation.metrics import Evaluation
from googlenet.evaluation.old_classes import compare_old_classes
from googlenet.training.auto import resolve_recipe
from googlenet.training.folds import cross_validate
from googlenet.training.grow import check_same_split, growth_lines, growth_recipe, start_new_rows
from googlenet.weights.model_file import save
from tests.conftest import TINY, bundled
from tests.networks import fitted, thin, with_info
from tests.training.helpers import assert_same_weights, rows_without_times

OLD = load_recipe("fast", **TINY, seed=3).model_dump(exclude_none=True)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A network that knows boots and trousers, as an earlier run would have saved it."""
    torch.manual_seed(0)
    net = with_info(create_model("bn", num_classes=2, in_channels=1), ("boot", "trouser"), 16, recipe=OLD)
    save(net, net.info, tmp_path / "old.safetensors")
    return tmp_path / "old.safetensors"


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    """Twelve bags: one class only."""
    (tmp_path / "more" / "bag").mkdir(parents=True)
    labels = bundled("t10k-labels-idx1-ubyte")
    for number in (labels == 8).nonzero()[0][:12]:
        image = Image.fromarray(bundled("t10k-images-idx3-ubyte")[number])
        image.save(tmp_path / "more" / "bag" / f"{number}.png")
    return tmp_path / "more"


def test_a_class_is_added(weights: Path, photos: Path, bags: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": bags, "also": photos, "weights": weights, "batch_size": 8, "plots": False}
    result = train(output=tmp_path / "run", **settings)
    net = googlenet.load(result.model)
    assert net.info.classes == ("boot", "trouser", "bag")
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    assert (recipe.also, recipe.seed, recipe.image_size) == (str(photos), 3, 16)
    assert recipe.epochs < TINY["epochs"] and recipe.learning_rate < TINY["learning_rate"]

    old = result.old_classes
    assert old is not None and old == json.loads((result.folder / "evaluation.json").read_text())["old_classes"]
    assert set(old["per_class"]) == {"boot", "trouser"} and old["images"] == 4
    data = json.loads((result.folder / "environment.json").read_text())["data"]
    assert (data["test_images"], data["also"]["test_images"]) == (6, 4)
    assert data["sha256"] == net.info.data_digest and data["also"]["sha256"] in net.info.data_digest
    with (result.folder / "split.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 36 and all(Path(row["file"]).is_file() for row in table)

    assert googlenet.evaluate(net).accuracy == result.metrics["test"]["accuracy"]
    for folder, count in ((bags, 2), (photos, 4)):  # those that were held out in training
        tested = {Path(row["file"]).name for row in table if row["split"] == "test" and str(folder) in row["file"]}
        assert {Path(file).name for file in googlenet.evaluate(net, folder).files} == tested
        assert len(tested) == count


class Killed(BaseException):
    pass


def test_a_killed_run_resumes_bit_for_bit(weights: Path, photos: Path, bags: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "data": bags, "also": photos, "weights": weights, "batch_size": 8, "plots": False, "max_steps": 4,
        "epochs": 4.0, "checkpoint_every": 2,
    }  # fmt: skip

    def die(trainer: Trainer) -> None:
        if trainer.step == 3:
            raise Killed

    whole = train(output=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        train(output=tmp_path / "killed", on_step=die, **settings)
    moved = photos.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="--also"):
        train(output=tmp_path / "killed", resume=True)
    resumed = train(output=tmp_path / "killed", resume=True, also=moved)
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)
    assert whole.old_classes == resumed.old_classes
    assert load_recipe(tmp_path / "killed" / "recipe.toml").also == str(moved)


def test_settings_come_from_the_earlier_run(weights: Path, photos: Path, bags: Path) -> None:
    info = googlenet.load(weights).info
    base, line = growth_recipe(info)
    assert "epochs" in line and (base.batch_size, base.weights) == (TINY["batch_size"], None)
    again = with_info(create_model("bn", num_classes=2), ("a", "b"), 32, recipe={**OLD, "also": "x"}).info
    assert growth_recipe(again)[0].epochs == TINY["epochs"]
    given = {"data": str(bags), "also": str(photos), "weights": str(weights), "epochs": 7.0}
    resolved, name, reason = resolve_recipe(None, given)
    assert (resolved.epochs, name) == (7.0, "grown") and reason
    assert resolve_recipe("fast", given)[0].seed == 0


def test_lines_about_the_classifier(weights: Path) -> None:
    info = googlenet.load(weights).info
    assert list(growth_lines(info, ("boot", "trouser"), None)) == []
    assert [line.startswith("classifier: new") for line in growth_lines(info, ("cat", "dog"), None)] == [True]
    kept, dropped = growth_lines(info, ("bag", "boot"), None)
    assert "bag" in kept and "trouser" in dropped and "--also" in dropped
    assert len(list(growth_lines(info, ("bag", "boot", "trouser"), "old"))) == 1


def test_test_images_of_the_earlier_run_stay_test_images(
    weights: Path, photos: Path, bags: Path, tmp_path: Path
) -> None:
    net = googlenet.load(weights)
    digest = googlenet.load_dataset(photos, size=16).digest
    save(with_info(net, net.info.classes, 16, recipe=OLD, data_digest=digest), net.info, weights)
    with pytest.raises(UserError, match="seed 3"):
        train(output=tmp_path / "run", data=bags, also=photos, weights=weights, batch_size=8, seed=1)
    for name, validation, decides in (("fashion-mnist", 0.0, False), ("fashion-mnist", 0.1, True)):
        recipe = load_recipe("fast", also=name, seed=1, validation=validation)
        with pytest.raises(UserError) if decides else nullcontext():
            check_same_split(net.info, recipe, digest)


def test_old_images_and_folds(photos: Path, bags: Path) -> None:
    with pytest.raises(UserError, match="--also"):
        cross_validate(data=bags, also=photos, folds=2)


def some_images(count: int) -> ImageSplit:
    """Of each of the first four classes of Fashion-MNIST."""
    labels = torch.tensor(bundled("t10k-labels-idx1-ubyte")[:2000].copy()).long()
    chosen = torch.cat([torch.nonzero(labels == label).squeeze(1)[:count] for label in range(4)])
    images = torch.tensor(bundled("t10k-images-idx3-ubyte")[:2000].copy())[:, None]
    return ImageSplit(images[chosen], labels[chosen])


def test_new_rows_recognize_their_class() -> None:
    images = some_images(24)
    source = fitted(images.subset(torch.nonzero(images.labels < 3).squeeze(1)), ("a", "b", "c"), create=thin)
    net, before = source, source.state_dict()
    kept = {name: before[f"fc.{name}"].clone() for name in ("weight", "bias")}
    net.reset_classifier(4)
    with torch.no_grad():
        net.fc.weight[:3], net.fc.bias[:3] = kept["weight"], kept["bias"]
        spec = InputSpec(1, 28, (0.0,), (1.0,))
        start_new_rows(net, images, spec, {0, 1, 2})
        assert torch.equal(net.fc.weight[:3], kept["weight"]) and torch.equal(net.fc.bias[:3], kept["bias"])
        probability = net.eval()(spec.prepare(images.images)).softmax(dim=1)[:, 3]
    assert probability[images.labels == 3].mean() > 1.1 * probability[images.labels < 3].mean()


def test_what_the_old_classes_lost() -> None:
    images = some_images(24)
    source = fitted(images.subset(torch.nonzero(images.labels < 3).squeeze(1)), ("a", "b", "c"), recipe=OLD)
    logits = torch.nn.functional.one_hot(torch.tensor([2, 1, 3, 0]), 4).float()
    # The network now knows the classes in another order, without "a", and all images of "c" are "d" for it
    split = ImageSplit(images.images, torch.tensor([3, 1, 0, 2])[images.labels])
    evaluation = Evaluation(("c", "b", "d", "a"), logits[split.labels], split.labels, 1.0)
    old = compare_old_classes(source, evaluation, split, device=torch.device("cpu"), precision="fp32")
    assert old is not None
    result = old.to_dict()
    assert result["images"] == 72 and set(result["per_class"]) == {"a", "b", "c"}
    assert result["accuracy_before"] > 0.9
    assert result["per_class"]["b"]["after"] == 1 and result["per_class"]["c"]["after"] == 0
    assert result["difference"] == pytest.approx(result["accuracy_after"] - result["accuracy_before"])
    assert "72" in old.line() and "c lost most" in old.line()
    assert "most" not in replace(old, after=torch.ones_like(old.after)).line()
    unknown = Evaluation(("x", "y", "z", "w"), logits[split.labels], split.labels, 1.0)
    assert compare_old_classes(source, unknown, split, device=torch.device("cpu"), precision="fp32") is None

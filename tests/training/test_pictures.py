"""Training on folders and from given weights: what is chosen, what is carried over, what is mixed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet
from googlenet import TrainingResult, UserError, load, train
from googlenet.data.dataset import load_dataset
from googlenet.data.loader import ShuffledBatches
from googlenet.model.googlenet import create_model
from googlenet.recipe import Recipe, load_recipe
from googlenet.training.optim import balanced_weights, make_optimizer, backbone_lr_factor
from googlenet.training.lr_finder import find_learning_rate, suggested_rate
from googlenet.training.setup import load_pretrained
from googlenet.training.setup import resolve_recipe
from tests.conftest import QUICK

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Real pictures of shoes and trousers, one class three times as large as the other."""
    data = load_dataset("fashion-mnist").train
    folder = tmp_path / "photos"
    for name, label, count in (("boot", 9, 24), ("trouser", 1, 8)):
        (folder / name).mkdir(parents=True)
        for number in torch.nonzero(data.labels == label).squeeze(1)[:count].tolist():
            Image.fromarray(data.images[number, 0].numpy()).resize((40, 56)).save(folder / name / f"{number}.png")
    return folder


SETTINGS: dict[str, Any] = {**QUICK, "image_size": 32, "batch_size": 8, "epochs": 3}


def test_a_folder_trains_and_its_model_is_judged_on_the_same_pictures(photos: Path, tmp_path: Path) -> None:
    from googlenet.evaluation.report import load_eval_data

    settings = {**SETTINGS, "epochs": 25, "learning_rate": 0.001, "flip": False}
    result = train(output=tmp_path / "run", data=photos, **settings)
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["accuracy"] for row in rows if row["split"] == "train"][-1] > 0.9
    info = googlenet.load(result.model).info
    assert (info.classes, info.input.channels, info.input.size) == (("boot", "trouser"), 1, 32)
    judged = load_eval_data(info)
    expected = load_dataset(str(photos), size=32, channels=1)
    assert torch.equal(judged.test.images, expected.test.images)
    everything = tmp_path / "others" / "boot"
    everything.mkdir(parents=True)
    for number in range(3):
        Image.new("L", (30, 30), 60 * number).save(everything / f"{number}.png")
    others = load_eval_data(info, str(tmp_path / "others"))
    assert (len(others.test), others.test.labels.tolist()) == (3, [0, 0, 0])


def test_settings_are_chosen_for_a_folder_and_give_way(photos: Path) -> None:
    recipe, name, reason = resolve_recipe(None, {"data": str(photos), "device": "cpu"})
    assert name == "pictures"
    assert (recipe.image_size, recipe.batch_size, recipe.epochs) == (64, 13, 100)
    assert "64x64" in reason
    given = {"data": str(photos), "device": "cpu", "image_size": 96, "epochs": 2}
    named, _, reason = resolve_recipe(None, given)
    assert (named.image_size, named.epochs, named.batch_size) == (96, 2, 13)
    assert "batch 13" in reason and "pixels" not in reason and "epochs" not in reason
    _, _, reason = resolve_recipe(None, {**given, "batch_size": 8, "learning_rate": 0.01})
    assert reason == ""
    with pytest.raises(UserError, match="image_size"):
        resolve_recipe(None, {**given, "image_size": 0})
    assert resolve_recipe(None, {**given, "batch_size": 64, "accumulate": 64})[0].accumulate == 64
    exactly, _, reason = resolve_recipe("fast", {"data": str(photos)})
    assert (exactly.image_size, reason) == (28, "")
    assert resolve_recipe(None, {})[1] == "fast"


def test_a_path_is_no_name_of_a_data_set(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos.rename("fashion-mnist")
    recipe, name, _ = resolve_recipe(None, {"data": Path("fashion-mnist"), "device": "cpu"})
    assert (recipe.data, name) == (str(tmp_path / "fashion-mnist"), "pictures")
    assert load_recipe(data=Path("fashion-mnist")).data == str(tmp_path / "fashion-mnist")
    assert resolve_recipe(None, {"data": "fashion-mnist"})[1] == "fast"
    with pytest.raises(UserError, match="variant"):
        load_recipe(variant=Path("bn"))


def test_weights_are_carried_over_and_the_classifier_is_new(trained: TrainingResult) -> None:
    source = googlenet.load(trained.model)
    images = torch.rand(2, 1, 32, 32)
    for channels in (1, 3):
        net, spec = load_pretrained(trained.model, ("cat", "dog"), channels)
        assert spec.channels == channels
        assert net.architecture.num_classes == 2
        shown = images.expand(-1, channels, -1, -1)
        torch.testing.assert_close(net.eval().forward_features(shown), source.forward_features(images))
    same, _ = load_pretrained(trained.model, source.info.classes, 1)
    assert torch.equal(same.fc.weight, source.fc.weight)


def test_gray_pictures_see_what_their_three_channels_saw(tmp_path: Path) -> None:
    colored = create_model("bn", num_classes=4, in_channels=3).eval()
    torch.save(colored.state_dict(), tmp_path / "weights.pt")
    net, _ = load_pretrained(tmp_path / "weights.pt", ("a", "b"), 1)
    gray = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(
        net.eval().forward_features(gray), colored.forward_features(gray.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
    )


def test_a_frozen_trunk_stays_and_then_learns(trained: TrainingResult, photos: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "weights": str(trained.model), "data": str(photos), "optimizer": "sgd"}
    del settings["stem_stride"]  # it is the weights' own
    source = googlenet.load(trained.model).conv3.conv.weight
    frozen = train(output=tmp_path / "frozen", **settings, freeze=0.99, max_steps=3)
    assert torch.equal(googlenet.load(frozen.model).conv3.conv.weight, source)
    freed = train(output=tmp_path / "freed", **settings, freeze=0.5, max_steps=4)
    assert not torch.equal(googlenet.load(freed.model).conv3.conv.weight, source)
    recipe = Recipe(weights="x", freeze=0.5, backbone_lr_scale=0.1)
    assert [backbone_lr_factor(step, 4, recipe) for step in range(4)] == [0, 0, 0.1, 0.1]


def test_only_a_given_trunk_is_marked() -> None:
    net = create_model("bn", num_classes=4, in_channels=1)
    for recipe in (Recipe(), Recipe(weights="x"), Recipe(weights="x", optimizer="muon")):
        groups = make_optimizer(net, recipe).param_groups
        trunk = {id(p) for group in groups if group["trunk"] for p in group["params"]}
        expected = {id(p) for name, p in net.named_parameters() if not name.startswith("fc.")}
        assert trunk == (expected if recipe.weights else set())
        assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


def test_balance() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = balanced_weights(labels, 2)
    assert weights.tolist() == pytest.approx([100 / 180, 5.0])
    drawn = torch.cat(list(ShuffledBatches(100, 20, 0, weights=weights[labels])))
    assert 30 <= int((labels[drawn] == 1).sum()) <= 70
    assert len(drawn) == 100


@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_balanced_runs_train(balance: str, photos: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "balance": balance, "augment": "strong", "max_steps": 3}
    assert np.isfinite(train(output=tmp_path / "run", data=str(photos), **settings).metrics["test"]["loss"])


def test_a_learning_rate_is_found(tmp_path: Path) -> None:
    recipe = Recipe(**{**QUICK, "schedule": "cosine"})
    search = find_learning_rate(recipe, tmp_path / "rates.png", steps=40)
    assert 1e-5 < search.suggestion < 0.3
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert list(search.rates) == sorted(search.rates)


RATES = [1e-5 * 10 ** (step / 20) for step in range(101)]
NOISE = [0.05 * (-1) ** step for step in range(101)]


def test_the_rate_of_the_lowest_loss_is_suggested() -> None:
    """A curve that falls most steeply at step 30 and is lowest at step 50."""
    falling = [2.3 - 1.5 / (1 + np.exp((30 - step) / 5)) for step in range(51)]
    losses = [loss + noise for loss, noise in zip([*falling, *np.linspace(0.8, 5, 50)], NOISE, strict=True)]
    assert suggested_rate(RATES, losses) == pytest.approx(RATES[47], rel=0.5)
    # What comes before a loss that is no number is not trusted: a mean does not show it yet
    lost = [*(2.3 - 0.02 * step + NOISE[step] for step in range(60)), math.nan]
    assert suggested_rate(RATES[:61], lost) == pytest.approx(RATES[53], rel=0.2)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([2.3 + noise for noise in NOISE], "from batch to batch"),
        ([2.3] * 101, "from batch to batch"),
        ([1.0 + 0.02 * step + NOISE[step] for step in range(101)], "from batch to batch"),
        ([2.3, 2.2, math.nan], "no number from the learning rate 1e-05"),
        ([math.inf], "no number from the learning rate 1e-05"),
    ],
)
def test_a_loss_that_chance_alone_moves_suggests_nothing(losses: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        suggested_rate(RATES[: len(losses)], losses)


def test_unreadable_pictures_are_named_in_the_run(photos: Path, tmp_path: Path) -> None:
    (photos / "boot" / "bad.png").write_bytes(b"")
    with pytest.raises(UserError, match="--skip-unreadable"):
        train(output=tmp_path / "run", data=str(photos), **SETTINGS)
    assert not (tmp_path / "run").exists()
    train(output=tmp_path / "run", data=str(photos), skip_unreadable=True, **{**SETTINGS, "max_steps": 1})
    assert "bad.png" in (tmp_path / "run" / "environment.json").read_text()


def test_a_folder_is_the_same_one_from_wherever_and_however_it_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    settings = {**SETTINGS, "data": photos.name, "max_steps": 2, "pictures": False}
    first = train(output=tmp_path / "run", **settings)
    assert load(first.model).info.recipe["data"] == str(photos.resolve())
    assert train(output=tmp_path / "run", resume=True, **settings).metrics["step"] == 2
    recipe = tmp_path / "own.toml"
    recipe.write_text((tmp_path / "run" / "recipe.toml").read_text().replace(str(photos.resolve()), photos.name))
    assert resolve_recipe(recipe, {})[0].data == str(photos.resolve())


@pytest.mark.parametrize("setting", [{"blocks": 5}, {"whiten": True}])
def test_what_the_weights_decide_cannot_be_asked_for(
    setting: dict[str, Any], trained: TrainingResult, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{next(iter(setting))} is for a network made anew"):
        train("fast", output=tmp_path / "run", weights=str(trained.model), **setting)


def test_paths_are_made_whole_and_names_are_left(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.folder.parent)
    resolved, _, _ = resolve_recipe("fast", {"weights": trained.folder.name, "data_dir": "bundled"})
    assert (resolved.data, resolved.data_dir, resolved.weights) == ("fashion-mnist", "bundled", str(trained.folder))
    assert resolve_recipe("fast", {"data_dir": "."})[0].data_dir == str(trained.folder.parent)


def test_what_was_chosen_for_a_folder_is_chosen_again_when_resumed(photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": str(photos), "max_steps": 2, "pictures": False}
    train("pictures", output=tmp_path / "run", **settings)
    assert train("pictures", output=tmp_path / "run", resume=True, **settings).metrics["step"] == 2

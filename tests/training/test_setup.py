"""From a recipe to a trainer: settings chosen for a folder, starting weights, whitening, and errors before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import googlenet
from googlenet import RunError, Trainer, TrainingResult, UserError, load_recipe, train
from googlenet.training.auto import resolve_recipe
from googlenet.training.processes import make_accelerator
from tests.conftest import QUICK, TINY, write_photos
from tests.training.helpers import small_net

pytestmark = pytest.mark.usefixtures("small_data")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"batch_size": 321}, "batch_size = 321.*320"),
        ({"variant": "torchvision", "image_size": 2}, "torchvision|too small|at least"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"device": "abacus"}, "abacus"),
        ({"precision": "fp16", "device": "cpu"}, "fp16"),
        ({"data": "imagenet"}, "imagenet.*fashion-mnist"),
        ({"data_dir": "/nowhere"}, "/nowhere"),
        ({"tracker": "wandb"}, "tracker.*wandb.*pip install"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "nesterov.*momentum"),
        ({"whiten": True, "variant": "paper"}, "whiten.*paper"),
        ({"validation": 0.0001}, "validation = 0.0001"),
        ({"select_by": "validation"}, "select_by.*validation"),
        ({"patience": 2}, r"patience.*validation"),
        ({"patience": 2, "validation": 0.2, "select_by": "last"}, r"patience.*select_by"),
        ({"weights": "/missing.safetensors"}, "/missing.safetensors"),
    ],
)
def test_errors_before_anything_is_written(settings: dict[str, Any], names: str, tmp_path: Path) -> None:
    base = {name: value for name, value in QUICK.items() if name != "stem_stride" or "weights" not in settings}
    with pytest.raises(UserError, match=names) as error:
        train(output=tmp_path / "run", **{**base, **settings})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_output_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    for name in ("file", "file/run", "full"):
        with pytest.raises(UserError, match=f"{name}.*--output"):
            train(output=tmp_path / name, **QUICK)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["something"]


def test_disk_errors_are_known_before_the_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("googlenet.training.setup.load_joined", lambda *_, **__: pytest.fail("read the data"))
    with pytest.raises(RunError, match=r"recipe\.toml"):
        train(output=tmp_path / "run", **QUICK)


def test_settings_chosen_for_a_folder(photos: Path) -> None:
    recipe, name, reason = resolve_recipe(None, {"data": str(photos), "device": "cpu"})
    assert name == "images"
    assert (recipe.image_size, recipe.batch_size, recipe.epochs) == (64, 9, 100)
    assert all(words in reason for words in ("image size 64", "batch size 9", "learning rate", "100 epochs"))
    given = {"data": str(photos), "device": "cpu", "image_size": 96, "epochs": 2}
    resolved, _, reason = resolve_recipe(None, given)
    assert (resolved.image_size, resolved.epochs, resolved.batch_size) == (96, 2, 9)
    assert "batch size 9" in reason and "image size" not in reason and "epochs" not in reason
    assert resolve_recipe(None, {**given, "batch_size": 8, "learning_rate": 0.01})[2] == ""
    with pytest.raises(UserError, match="image_size"):
        resolve_recipe(None, {**given, "image_size": 0})
    resolved, _, _ = resolve_recipe(None, {**given, "batch_size": 64, "gradient_accumulation": 64})
    assert resolved.gradient_accumulation == 64
    resolved, _, reason = resolve_recipe("fast", {"data": str(photos)})
    assert (resolved.image_size, reason) == (28, "")
    assert resolve_recipe(None, {})[1] == "fast"


def test_settings_are_chosen_for_the_old_images_too(photos: Path, small_data: Path) -> None:
    given = {"data": str(photos), "device": "cpu", "data_dir": str(small_data)}
    alone, both = (resolve_recipe(None, given | also)[0] for also in ({}, {"also": "fashion-mnist"}))
    assert both.batch_size > alone.batch_size and both.epochs < alone.epochs


def test_a_path_is_never_the_name_of_a_data_set(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos.rename("fashion-mnist")
    recipe, name, _ = resolve_recipe(None, {"data": Path("fashion-mnist"), "device": "cpu"})
    assert (recipe.data, name) == (str(tmp_path / "fashion-mnist"), "images")
    assert load_recipe(data=Path("fashion-mnist")).data == str(tmp_path / "fashion-mnist")
    assert resolve_recipe(None, {"data": "fashion-mnist"})[1] == "fast"
    with pytest.raises(UserError, match="variant"):
        load_recipe(variant=Path("bn"))


def test_paths_of_a_recipe_are_absolute(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.folder.parent)
    resolved, _, _ = resolve_recipe("fast", {"weights": trained.folder.name, "data_dir": "bundled"})
    assert (resolved.data, resolved.data_dir, resolved.weights) == ("fashion-mnist", "bundled", str(trained.folder))
    assert resolve_recipe("fast", {"data_dir": "."})[0].data_dir == str(trained.folder.parent)


@pytest.mark.parametrize("setting", ["data", "data_dir", "weights"])
def test_a_tilde_is_the_home_folder(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_photos(tmp_path / "x", of_each=2)
    assert getattr(resolve_recipe("fast", {setting: "~/x"})[0], setting) == str(tmp_path / "x")


def test_max_test_images_of_a_folder_are_of_all_classes(tmp_path: Path) -> None:
    """Its images are sorted by class, so the first ones would all be boots."""
    write_photos(tmp_path / "photos", of_each=30)
    settings = {**QUICK, "data": str(tmp_path / "photos"), "batch_size": 8}
    for count, expected in ((2, [1, 1]), (5, [3, 2]), (500, [6, 6])):
        recipe = load_recipe("fast", **settings, max_test_images=count)
        test = Trainer(recipe, make_accelerator(recipe), small_net(classes=2)).dataset.test
        assert sorted(torch.bincount(test.labels, minlength=2).tolist(), reverse=True) == expected


def test_whitening_uses_the_training_images_only() -> None:
    def first_kernels(**changes: Any) -> torch.Tensor:
        recipe = load_recipe("fast", seed=3, **changes)
        return Trainer(recipe, make_accelerator(recipe)).net.conv1.conv.weight.detach()

    whitened = first_kernels()
    torch.testing.assert_close(whitened[32:], -whitened[:32])
    assert torch.equal(whitened, first_kernels())
    assert not torch.allclose(whitened.abs(), first_kernels(validation=0.5).abs())


@pytest.mark.parametrize(
    "setting", [{"variant": "bn"}, {"stem_stride": 1}, {"whiten": True}, {"auxiliary": False}, {"normalize": False}]
)
def test_weights_decide_the_network_and_its_normalization(
    setting: dict[str, Any], trained: TrainingResult, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        train("fast", output=tmp_path / "run", weights=str(trained.model), **setting)
    assert not (tmp_path / "run").exists()


def test_a_recipe_without_normalization_but_with_weights(trained: TrainingResult, tmp_path: Path) -> None:
    """The weights' own mean and standard deviation are used, and recorded as such."""
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'normalize = false\nweights = "{trained.model}"\n')
    settings = {name: value for name, value in TINY.items() if name != "stem_stride"}
    result = train(recipe, output=tmp_path / "run", **settings, max_steps=1)
    assert load_recipe(result.folder / "recipe.toml").normalize is True
    info = googlenet.load(result.model).info
    assert info.recipe["normalize"] is True
    assert info.input.mean == googlenet.load(trained.model).info.input.mean

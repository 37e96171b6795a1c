from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from googlenet import UserError
from googlenet.model.architecture import VARIANTS
from googlenet.recipe import Recipe, load_recipe, recipe_names


def test_the_shipped_recipes_load_and_come_back_from_toml(tmp_path: Path) -> None:
    assert {"fast", "paper", "tutorial"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        (tmp_path / "r.toml").write_text(recipe.to_toml())
        assert load_recipe(tmp_path / "r.toml") == recipe


def test_the_tutorial_recipe_is_the_tutorials() -> None:
    recipe = load_recipe("tutorial")
    told = {"variant": "tutorial", "image_size": 224, "batch_size": 16, "num_workers": 4, "epochs": 3}
    told |= {"optimizer": "adam", "learning_rate": 0.001, "schedule": "constant", "precision": "fp32"}
    told |= {"weight_decay": 0.0, "normalize": False, "flip": False, "crop_padding": 0, "label_smoothing": 0.0}
    assert {name: getattr(recipe, name) for name in told} == told
    assert recipe.initialization is None
    assert VARIANTS["tutorial"].initialization == "default"


def test_the_fixed_tutorial_differs_in_its_weights_alone() -> None:
    fixed, tutorial = (load_recipe(name).model_dump() for name in ("tutorial-fixed", "tutorial"))
    assert {name for name in fixed if fixed[name] != tutorial[name]} == {"initialization"}


def test_named_epochs_are_so_many() -> None:
    assert load_recipe("fast").min_steps > 0
    assert load_recipe("fast", epochs=3).min_steps == 0
    assert load_recipe("fast", epochs=3, min_steps=7).min_steps == 7


def test_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("epochs = 7\nbatch_size = 8\n")
    recipe = load_recipe(tmp_path / "mine.toml", batch_size=9)
    assert (recipe.epochs, recipe.batch_size) == (7, 9)
    assert load_recipe(recipe, epochs=1).batch_size == 9


@given(
    rate=st.floats(1e-8, 10), epochs=st.integers(1, 99), clip=st.none() | st.floats(1e-3, 9), text=st.text(max_size=9)
)
def test_any_valid_recipe_survives_toml(rate: float, epochs: int, clip: float | None, text: str) -> None:
    recipe = Recipe(learning_rate=rate, epochs=epochs, gradient_clip=clip, data=text)
    assert Recipe(**tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0}, r"learning_rate = 0: .*greater than 0"),
        ({"learning_rate": -1.0}, "greater than 0"),
        ({"learning_rate": float("nan")}, "finite number|greater than 0"),
        ({"learning_rate": "fast"}, "learning_rate = 'fast'"),
        ({"epochs": 0}, "epochs = 0"),
        ({"epochs": "1"}, "epochs = '1'"),
        ({"batch_size": True}, "batch_size = True"),
        ({"optimizer": "adamx"}, "'sgd', 'adam'"),
        ({"variant": "v3"}, "variant = 'v3'"),
        ({"learning_rat": 0.1}, "did you mean 'learning_rate'"),
        ({"validation": 1.0}, "validation = 1.0"),
        ({"freeze": 0.5}, "given weights"),
        ({"accumulate": 9, "batch_size": 8}, "more than batch_size"),
    ],
)
def test_bad_settings_are_one_clear_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        load_recipe("fast", **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("epochs = ", "not valid TOML"), ("epochs = 'two'", "epochs = 'two'"), ("epoch = 2", "did you mean 'epochs'")],
)
def test_bad_recipe_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        load_recipe(tmp_path / "mine.toml")
    assert "mine.toml" in str(raised.value)


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are: .*fast"):
        load_recipe("fats")
    with pytest.raises(UserError, match="cannot read the recipe"):
        load_recipe(tmp_path / "missing.toml")


def test_a_preset_of_augmentation_gives_way_to_what_is_named() -> None:
    strong = load_recipe("fast", augment="strong")
    assert (strong.flip, strong.cutmix) == (True, 1.0)
    named = load_recipe("fast", augment="strong", flip=False, cutmix=0.0)
    assert (named.flip, named.cutmix, named.mixup) == (False, 0.0, strong.mixup)
    assert load_recipe(named, augment="none").erasing == 0
    assert Recipe(**tomllib.loads(named.to_toml())) == named

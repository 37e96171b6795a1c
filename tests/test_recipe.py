from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, strategies as st

from googlenet import Recipe, UserError, load_recipe
from googlenet.model.architecture import VARIANTS
from googlenet.recipe import REMOVED, RENAMED, recipe_names, stored_recipe


def as_toml(recipe: Recipe) -> str:
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))


@pytest.mark.parametrize("name", recipe_names())
def test_the_packages_recipes_load_and_survive_toml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "r.toml").write_text(as_toml(recipe))
    assert load_recipe(tmp_path / "r.toml") == recipe
    assert {"fast", "images", "paper", "tutorial"} <= set(recipe_names())


def test_the_tutorial_recipe_is_the_tutorials() -> None:
    recipe = load_recipe("tutorial")
    expected = {"variant": "tutorial", "image_size": 224, "batch_size": 16, "epochs": 3, "optimizer": "adam"}
    expected |= {"learning_rate": 0.001, "schedule": "constant", "precision": "fp32", "weight_decay": 0.0}
    expected |= {"normalize": False, "hflip": False, "crop_padding": 0, "label_smoothing": 0.0}
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert recipe.initialization is None
    assert VARIANTS["tutorial"].initialization == "default"


def test_the_fixed_tutorial_differs_in_its_initialization_only() -> None:
    fixed, tutorial = (load_recipe(name).model_dump() for name in ("tutorial-fixed", "tutorial"))
    assert {name for name in fixed if fixed[name] != tutorial[name]} == {"initialization"}


def test_the_papers_recipe_is_that_of_its_section_6() -> None:
    recipe = load_recipe("paper")
    expected = {"variant": "paper", "momentum": 0.9, "crop_scale": 0.08, "schedule": "step", "step_epochs": 8}
    expected |= {"step_factor": 0.96, "auxiliary_weight": 0.3, "image_size": 224}
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert recipe.ema_decay > 0.99


def test_the_recipe_of_mindcv() -> None:
    """https://github.com/mindspore-lab/mindcv/blob/main/configs/googlenet/googlenet_ascend.yaml"""
    recipe = load_recipe("imagenet-paper")
    expected = {"initialization": "he", "dropout": 0.2, "image_size": 224, "crop_scale": 0.08, "crop_pct": 0.875}
    expected |= {"batch_size": 8 * 32, "epochs": 300, "label_smoothing": 0.1, "schedule": "cosine", "optimizer": "sgd"}
    expected |= {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.00004, "nesterov": False, "hflip": True}
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert VARIANTS[recipe.variant].normalization == "none" and not VARIANTS[recipe.variant].auxiliary


def test_given_epochs_replace_min_steps() -> None:
    assert load_recipe("fast").min_steps > 0
    assert load_recipe("fast", epochs=3).min_steps == 0
    assert load_recipe("fast", epochs=3, min_steps=7).min_steps == 7


def test_given_settings_override_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("epochs = 7\nbatch_size = 8\n")
    recipe = load_recipe(tmp_path / "mine.toml", batch_size=9)
    assert (recipe.epochs, recipe.batch_size) == (7, 9)
    assert load_recipe(recipe, epochs=1).batch_size == 9


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("epochs = 7  # größer\n", encoding=encoding)
    assert load_recipe(tmp_path / "mine.toml").epochs == 7


def test_a_recipe_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.toml").write_text("epochs = 7\n")
    assert load_recipe("~/mine.toml").epochs == 7


@given(
    rate=st.floats(1e-8, 10), epochs=st.integers(1, 99), clip=st.none() | st.floats(1e-3, 9), text=st.text(max_size=9)
)
def test_any_valid_recipe_survives_toml(rate: float, epochs: int, clip: float | None, text: str) -> None:
    recipe = Recipe(learning_rate=rate, epochs=epochs, gradient_clip=clip, data=text)
    assert Recipe(**tomllib.loads(as_toml(recipe))) == recipe


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"learning_rate": 0}, r"^learning_rate = 0: .*0"),
        ({"learning_rate": -1.0}, r"^learning_rate = -1\.0: .*0"),
        ({"learning_rate": float("nan")}, "^learning_rate = nan"),
        ({"learning_rate": "fast"}, "^learning_rate = 'fast'"),
        ({"epochs": 0}, "^epochs = 0"),
        ({"epochs": "1"}, "^epochs = '1'"),
        ({"batch_size": True}, "^batch_size = True"),
        ({"optimizer": "adamx"}, "'sgd', 'adam'"),
        ({"variant": "v9"}, "^variant = 'v9'"),
        ({"learning_rat": 0.1}, "learning_rat'.*'learning_rate'"),
        ({"validation": 1.0}, r"^validation = 1\.0"),
        ({"freeze_fraction": 0.5}, "^freeze_fraction.*weights"),
        ({"backbone_lr_scale": 0.5}, "^.*backbone_lr_scale.*weights"),
        ({"gradient_accumulation": 9, "batch_size": 8}, "^gradient_accumulation = 9.*batch_size = 8"),
        ({"nesterov": True, "momentum": 0.0}, "^nesterov.*momentum"),
        ({"whiten": True, "variant": "tutorial"}, "^whiten.*tutorial"),
        ({"schedule": "one-cycle"}, "^schedule = 'one-cycle'.*'linear'"),
        ({"weights": "x", "stem_stride": 1}, "^stem_stride"),
        ({"weights": "x", "normalize": False}, "^normalize"),
    ],
)
def test_settings_that_are_not_valid(settings: dict[str, Any], names: str, tmp_path: Path) -> None:
    """One line that begins with the setting, whatever pydantic says; and with the file if it is there."""
    with pytest.raises(UserError, match=names) as error:
        load_recipe("fast", **settings)
    assert "\n" not in str(error.value) and "Value error" not in str(error.value)
    if "weights" not in settings and "whiten" not in settings:
        (tmp_path / "mine.toml").write_text(tomli_w.dumps(settings))
        with pytest.raises(UserError, match=r"mine\.toml: ") as error:
            load_recipe(tmp_path / "mine.toml")
        assert str(error.value).startswith(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "names"), [("epochs = ", "TOML"), ("epochs = 'two'", "epochs = 'two'"), ("epoch = 2", "'epochs'")]
)
def test_recipe_files_that_are_not_valid(text: str, names: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError, match=rf"mine\.toml.*{names}"):
        load_recipe(tmp_path / "mine.toml")


def test_recipes_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fats.*fast"):
        load_recipe("fats")
    with pytest.raises(UserError, match=r"missing\.toml"):
        load_recipe(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes("data = 'Grüße'".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.toml"):
        load_recipe(tmp_path / "latin.toml")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_renamed_settings(old: str, new: str, tmp_path: Path) -> None:
    assert new in Recipe.model_fields and old not in Recipe.model_fields
    (tmp_path / "old.toml").write_text(f"{old} = {'true' if old in ('flip', 'pictures') else 1}\n")
    for call in (lambda: load_recipe(tmp_path / "old.toml"), lambda: load_recipe("fast", **{old: 1})):
        with pytest.raises(UserError, match=f"'{old}'.*'{new}'"):
            call()


@pytest.mark.parametrize("old", REMOVED)
def test_removed_settings(old: str, tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text(f"{old} = 1\n")
    with pytest.raises(UserError, match=rf"old\.toml: .*'{old}'.*{REMOVED[old][:8]}"):
        load_recipe(tmp_path / "old.toml")


def test_recipes_in_checkpoints_of_version_0_1() -> None:
    recipe = load_recipe("fast", weights="x", freeze_fraction=0.1, random_erasing=0.2, plots=False)
    names = {new: old for old, new in RENAMED.items()}
    stored = {names.get(name, name): value for name, value in recipe.model_dump(exclude_none=True).items()}
    assert stored_recipe({**stored, "schedule": "one-cycle", "num_workers": 4}) == recipe
    with pytest.raises(UserError, match="blocks"):
        stored_recipe({**stored, "blocks": 5})


def test_augmentation_presets() -> None:
    strong = load_recipe("fast", augment="strong")
    assert (strong.hflip, strong.cutmix) == (True, 1.0)
    changed = load_recipe("fast", augment="strong", hflip=False, cutmix=0.0)
    assert (changed.hflip, changed.cutmix, changed.mixup) == (False, 0.0, strong.mixup)
    assert load_recipe(changed, augment="none").random_erasing == 0
    assert Recipe(**tomllib.loads(as_toml(changed))) == changed

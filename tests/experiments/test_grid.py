from __future__ import annotations

import pytest

from googlenet import UserError, create_model
from experiments.convergence.grid import (
    BASELINE,
    FULL,
    QUICK,
    RATES,
    cell,
    choose,
    configurations,
    equal_width,
    rates,
    scaled,
)
from googlenet.recipe import ARCHITECTURE_SETTINGS, load_recipe

BY_NAME = {configuration.name: configuration for configuration in configurations(FULL)}


def network(name: str, **changes: object) -> int:
    """Parameters of a configuration's network."""
    settings = {key: value for key, value in BY_NAME[name].settings.items() if key in ARCHITECTURE_SETTINGS}
    net = create_model("tutorial", num_classes=10, in_channels=1, **settings, **changes)
    return sum(parameter.numel() for parameter in net.parameters())


def test_every_configuration_differs_in_one_thing_from_what_it_is_held_against() -> None:
    assert len(BY_NAME) == len(configurations(FULL))
    for configuration in BY_NAME.values():
        reference = BY_NAME[configuration.against].settings
        added = {key: value for key, value in configuration.settings.items() if reference.get(key) != value}
        assert set(reference) <= set(configuration.settings)
        # A head in AlexNet's manner is two settings and one thing
        assert len({key.partition("_")[0] for key in added}) == (configuration.name != BASELINE)


def test_every_cell_is_a_recipe_that_differs_from_the_tutorials_where_it_says_so() -> None:
    for configuration in configurations(FULL):
        settings = cell(configuration, FULL, learning_rate=0.01, seed=4).settings
        recipe = load_recipe("tutorial", **settings)
        assert (recipe.learning_rate, recipe.seed, recipe.precision, recipe.pictures) == (0.01, 4, "fp32", False)
        assert {name: getattr(recipe, name) for name in configuration.settings} == configuration.settings


def test_folders_of_cells_do_not_collide() -> None:
    cells = [cell(c, FULL, learning_rate=r, seed=s) for c in BY_NAME.values() for r in (1e-3, 3e-3) for s in (0, 1)]
    assert len({each.folder_name for each in cells}) == len(cells)


def test_heads_compared_at_equal_parameters_have_them() -> None:
    assert network("head=average-wide") == pytest.approx(network("head=alexnet"), rel=2e-4)
    assert network("head=flattened") - network("tutorial") == 3 * 1024 * 10
    assert equal_width(1, 77) == 77


def test_the_quick_grid_asks_the_decisive_questions() -> None:
    quick = {configuration.name for configuration in choose(configurations(QUICK), (), quick=True)}
    decisive = {"tutorial", "initialization=he", "normalization=batch", "head=flattened", "head=alexnet"}
    assert decisive | {"pair=he+flattened", "pair=he+alexnet", "pair=batch+alexnet"} <= quick
    assert len(quick) < len(BY_NAME)


def test_what_is_asked_for_comes_with_what_it_is_held_against() -> None:
    chosen = choose(configurations(FULL), ["pair=batch+alexnet", "optimizer"], quick=False)
    assert [c.name for c in chosen] == ["tutorial", "normalization=batch", "optimizer=sgd", "pair=batch+alexnet"]
    quick = choose(configurations(QUICK), ["blocks", "pair=he+sgd"], quick=True)
    assert [c.name for c in quick] == ["tutorial", "initialization=he", "blocks=2", "pair=he+sgd"]
    with pytest.raises(UserError, match=r"no 'heads'; it has: .*head"):
        choose(configurations(FULL), ["heads"], quick=False)


def test_learning_rates_are_the_optimizers_or_those_given() -> None:
    assert 1e-3 in rates(BY_NAME[BASELINE], FULL)
    assert rates(BY_NAME["optimizer=sgd"], FULL) == RATES["sgd"]
    assert rates(BY_NAME["optimizer=sgd"], scaled(rates="0.5,1")) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 1 or more"),
        ({"seeds": -1}, "seeds is 1"),
        ({"rates": "a"}, "numbers separated"),
        ({"rates": "0"}, "above 0"),
    ],
)
def test_scales_that_cannot_be(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scaled(quick=True, **wrong)


def test_a_pair_comes_with_everything_down_to_the_baseline() -> None:
    chosen = choose(configurations(QUICK), ["pair=he+alexnet"], quick=True)
    assert [c.name for c in chosen] == ["tutorial", "initialization=he", "pair=he+alexnet"]

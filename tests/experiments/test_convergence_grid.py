from __future__ import annotations

import dataclasses

import pytest
import torch

import googlenet
from experiments.convergence.__main__ import parse_arguments
from experiments.convergence.grid import BASELINE, FULL, QUICK, RATES, cell, choose, configurations, rates
from experiments.convergence.networks import Network, build, equal_width

GRID = configurations()
BY_NAME = {configuration.name: configuration for configuration in GRID}


def parameters(network: Network, *, image_size: int = 48, head_width: int = 2048) -> int:
    return sum(p.numel() for p in build(network, image_size, head_width, seed=0).parameters())


def test_every_configuration_differs_in_one_thing_from_the_one_it_is_compared_with() -> None:
    assert len(BY_NAME) == len(GRID)
    for configuration in GRID:
        mine, reference = (
            {**dataclasses.asdict(one.network), "optimizer": "adam", "batch_size": 16, "image_size": 48, **one.settings}
            for one in (configuration, BY_NAME[configuration.against])
        )
        assert sum(mine[name] != reference[name] for name in mine) == (configuration.name != BASELINE)


def test_every_cell_is_a_recipe_that_differs_from_the_tutorials_in_its_settings_only() -> None:
    for configuration in GRID:
        settings = cell(configuration, FULL, learning_rate=0.01, seed=4).settings
        recipe = googlenet.load_recipe("tutorial", **settings)
        assert (recipe.learning_rate, recipe.seed, recipe.precision, recipe.plots) == (0.01, 4, "fp32", False)
        assert {name: getattr(recipe, name) for name in configuration.settings} == configuration.settings


def test_folders_of_cells_differ() -> None:
    cells = [cell(c, FULL, learning_rate=r, seed=s) for c in GRID for r in (1e-3, 3e-3) for s in (0, 1)]
    assert len({each.folder_name for each in cells}) == len(cells)


@pytest.mark.parametrize("name", {(c.network, c.settings.get("image_size")): c.name for c in reversed(GRID)}.values())
def test_every_network_answers_and_has_its_weights_by_seed(name: str) -> None:
    net, other = (cell(BY_NAME[name], FULL, learning_rate=1e-3, seed=seed).build() for seed in (0, 1))
    assert not torch.equal(net.conv3.conv.weight, other.conv3.conv.weight)
    if name == BASELINE:
        again = cell(BY_NAME[name], FULL, learning_rate=1e-3, seed=0).build()
        assert torch.equal(net.conv3.conv.weight, again.conv3.conv.weight)
    size = BY_NAME[name].settings.get("image_size", 48)
    output = net(torch.rand(2, 1, size, size))
    logits = output[0] if BY_NAME[name].network.auxiliary else output
    assert logits.shape == (2, 10) and net.training


@pytest.mark.parametrize(("blocks", "channels"), [(2, 480), (5, 512), (9, 1024)])
def test_fewer_blocks_take_their_pools_with_them(blocks: int, channels: int) -> None:
    net = build(Network(blocks=blocks), 48, 0, seed=0).eval()
    assert sum(isinstance(child, googlenet.Inception) for child in net.children()) == blocks
    side = 48 // {2: 8, 5: 16, 9: 32}[blocks] + (blocks == 9)
    assert net.forward_features(torch.rand(1, 1, 48, 48)).shape == (1, channels, side, side)


def test_heads_compared_at_equal_parameters_have_them() -> None:
    assert parameters(Network(head="average-wide")) == pytest.approx(parameters(Network(head="alexnet")), rel=2e-4)
    assert parameters(Network(head="flattened")) - parameters(Network()) == 3 * 1024 * 10
    assert equal_width(1, 77) == 77


def test_he_weights_of_a_head_are_larger_than_the_default() -> None:
    he, default = (
        build(Network(initialization=scheme, head="alexnet"), 48, 64, seed=0).fc[1].weight.std()  # type: ignore[arg-type]
        for scheme in ("he", "default")
    )
    assert he > 2 * default


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises((googlenet.UserError, SystemExit)):
        build(Network(), 0, 64, seed=0)


def test_the_quick_grid_has_the_decisive_configurations() -> None:
    quick = {configuration.name for configuration in choose(GRID, (), quick=True)}
    decisive = {"tutorial", "initialization=he", "normalization=batch", "head=flattened", "head=alexnet"}
    assert decisive | {"pair=he+flattened", "pair=he+alexnet", "pair=batch+alexnet"} <= quick
    assert len(quick) < len(BY_NAME)


def test_configurations_come_with_those_they_are_compared_with() -> None:
    def names(*only: str, quick: bool = False) -> list[str]:
        return [configuration.name for configuration in choose(GRID, only, quick=quick)]

    assert names("pair=batch+alexnet", "optimizer") == [
        "tutorial", "normalization=batch", "optimizer=sgd", "pair=batch+alexnet",
    ]  # fmt: skip
    assert names("blocks", "pair=he+sgd", quick=True) == ["tutorial", "initialization=he", "blocks=2", "pair=he+sgd"]
    with pytest.raises(googlenet.UserError, match=r"--only.*'heads'.*head"):
        names("heads")


def test_learning_rates_are_the_optimizers_or_those_given() -> None:
    assert 1e-3 in rates(BY_NAME[BASELINE], FULL)
    assert rates(BY_NAME["optimizer=sgd"], FULL) == RATES["sgd"]
    _, scale = parse_arguments(["--quick", "--learning-rates", "0.5,1"])
    assert scale == dataclasses.replace(QUICK, rates=(0.5, 1.0))
    assert rates(BY_NAME["optimizer=sgd"], scale) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--steps", "0"), ("--seeds", "-1"), ("--learning-rates", "a"), ("--learning-rates", "0"), ("--workers", "0")],
)
def test_unusable_options_are_usage_errors(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse_arguments([option, value])
    assert error.value.code == 2
    assert option in capsys.readouterr().err

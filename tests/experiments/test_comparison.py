from __future__ import annotations

import dataclasses
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

import googlenet
from experiments.comparison.__main__ import main, parse_arguments
from experiments.comparison.compare import Entry, Speed, count, measure_speed, plot, to_table
from experiments.comparison.networks import BASELINES, Fire, SqueezeNet, choose
from experiments.comparison.training import Training, train_for

SIZE = (3, 224, 224)


def entry(name: str, **changes: Any) -> Entry:
    return dataclasses.replace(count(BASELINES[name], SIZE, 1000), **changes)


@pytest.mark.parametrize("name", list(BASELINES))
def test_multiply_adds_agree_with_torchs_counter(name: str) -> None:
    counted = count(BASELINES[name], (1, 96, 96), 10)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net = BASELINES[name].build(1, 10).eval()
        net(torch.empty(1, 1, 96, 96))
    assert counted.multiply_adds * 2 == counter.get_total_flops()
    assert counted.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_the_tutorials_claims_about_size_as_counted() -> None:
    parameters = {name: count(BASELINES[name], SIZE, 1000).parameters for name in ("paper", "alexnet", "vgg-16")}
    assert parameters["paper"] == 6_998_552
    assert round(parameters["alexnet"] / parameters["paper"], 1) == 8.7
    assert round(parameters["vgg-16"] / parameters["alexnet"], 1) == 2.3


def test_auxiliary_heads_are_not_counted() -> None:
    whole = googlenet.summarize(googlenet.create_model("torchvision"), SIZE)
    counted = count(BASELINES["torchvision"], SIZE, 1000)
    assert counted.parameters == whole.parameters - whole.auxiliary_parameters == 6_624_904
    assert (counted.multiply_adds, counted.activation_bytes) == (whole.multiply_adds, whole.activation_bytes)


def test_activations_of_a_fire_module_by_hand() -> None:
    """Squeeze, the two expansions and their concatenation; ReLUs work in place."""
    with torch.device("meta"):
        net = torch.nn.Sequential(Fire(64, 16, 32))
    maps = 10 * 10 * 4
    assert googlenet.summarize(net, (64, 10, 10)).activation_bytes == (16 + 32 + 32 + 64) * maps


def test_activations_of_a_residual_block_by_hand() -> None:
    with torch.device("meta"):
        net = torch.nn.Sequential(BASELINES["resnet-18"].build(3, 10)[4])
    convolutions_norms_and_sum = 2 + 2 + 1
    assert googlenet.summarize(net, (64, 7, 7)).activation_bytes == convolutions_norms_and_sum * 64 * 7 * 7 * 4


def test_the_file_size_is_that_of_a_file(tmp_path: Path) -> None:
    save_file(SqueezeNet(3, 1000).state_dict(), tmp_path / "weights.safetensors")
    size = (tmp_path / "weights.safetensors").stat().st_size
    counted = count(BASELINES["squeezenet-1.1"], SIZE, 1000).file_bytes
    assert counted < size < counted + 10_000


def test_unusable_networks_and_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(googlenet.UserError, match="'lenet'"):
        choose(["bn", "lenet"])
    with pytest.raises(googlenet.UserError, match=r"alexnet.*3x20x20"):
        count(BASELINES["alexnet"], (3, 20, 20), 10)
    with pytest.raises(googlenet.UserError, match="--plot"):
        plot([entry("bn")], tmp_path / "unused.png")
    assert not (tmp_path / "unused.png").exists()


@pytest.mark.parametrize("option", ["--num-classes", "--rounds", "--seconds", "--image-size"])
def test_options_must_be_above_0(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse_arguments(["bn", option, "0"])
    assert error.value.code == 2
    assert option in capsys.readouterr().err


def test_a_size_that_one_of_them_cannot_take_is_refused_before_any_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(googlenet, "train", lambda *_, **__: pytest.fail("one was trained"))
    with pytest.raises(SystemExit) as error:
        main(["bn", "alexnet", "--train", "--image-size", "28"])
    assert error.value.code == 2
    assert "1x28x28" in capsys.readouterr().err


def test_a_network_named_twice_is_compared_once() -> None:
    assert [baseline.name for baseline in choose(["bn", "nin", "bn"])] == ["bn", "nin"]


def test_the_table_has_the_columns_that_were_measured() -> None:
    columns = to_table([entry("bn"), entry("vgg-16")], SIZE, 1000).columns
    assert [str(column.header) for column in columns][-1] == "ImageNet top-1"
    speed = Speed("fp32", 0.0125, 16, 99.5, 3 * 2**20)
    training = Training(0.8125, 60.4, 10, 640, 1e-3)
    console = Console(width=200, file=StringIO(), record=True)
    console.print(to_table([entry("vgg-16", speed=speed, training=training)], SIZE, 1000))
    text = console.export_text()
    for value in ("VGG-16", "138,357,544", "15.470 G", "12.5 ms", "99.5 images/s", "3 MiB", "640 images", "81.25%"):
        assert value in text


def test_the_speed_and_memory_of_a_network_are_measured() -> None:
    (speed,) = measure_speed(choose(["squeezenet-1.1"]), (1, 32, 32), 10, torch.device("cpu"), rounds=1)
    assert speed.latency_seconds > 0 and speed.images_per_second > 0
    assert speed.peak_bytes is None or speed.peak_bytes > 2**20
    assert torch.get_default_dtype() == torch.float32


def test_bubbles_are_drawn(tmp_path: Path) -> None:
    plot([entry("bn"), entry("vgg-16"), entry("mobilenet-v2")], tmp_path / "published.png")
    trained = [entry("bn", training=Training(0.9, 1.0, 1, 64, 1e-3)), entry("nin")]
    plot(trained, tmp_path / "trained.png")
    for name in ("published", "trained"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 600


@pytest.mark.usefixtures("small_data")
def test_a_network_trains_for_the_time_given() -> None:
    training = train_for(BASELINES["squeezenet-1.1"], 0.2, image_size=28)
    assert training.images == 64 * training.steps >= 64
    assert training.seconds > 0
    assert 0 <= training.accuracy <= 1


@pytest.mark.usefixtures("small_data")
def test_an_interrupted_training_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    train, runs = googlenet.train, []

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        runs.append(settings)
        if len(runs) == 1:  # the pace
            return train(*arguments, **settings)
        return googlenet.TrainingResult(Path(), Path(), {}, 0.0, interrupted=True)

    monkeypatch.setattr(googlenet, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_for(BASELINES["squeezenet-1.1"], 0.01, image_size=28)

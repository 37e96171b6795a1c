from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from googlenet import UserError, create_model, summarize
from googlenet.weights.model_file import save_weights
from googlenet.insight import compare, contest
from experiments.comparison.plots import plot_bubbles
from experiments.comparison.compare import Entry, count, to_table, trained
from experiments.comparison.baselines import BASELINES, contenders
from experiments.comparison.equal_time import Training, train_for
from experiments.comparison.speed import Speed
from experiments.comparison.networks import Fire, SqueezeNet
from googlenet.training.loop import TrainingResult
from googlenet.training.setup import Run

SIZE = (3, 224, 224)


def entry(name: str, **changes: object) -> Entry:
    counted = count(BASELINES[name], SIZE, 1000)
    return Entry(**{**counted.__dict__, **changes})


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
    whole = summarize(create_model("torchvision"), SIZE)
    counted = count(BASELINES["torchvision"], SIZE, 1000)
    assert counted.parameters == whole.parameters - whole.auxiliary_parameters == 6_624_904
    assert (counted.multiply_adds, counted.activation_bytes) == (whole.multiply_adds, whole.activation_bytes)


def test_activations_of_a_fire_module_by_hand() -> None:
    """Squeeze, the two expansions and their concatenation; ReLUs work in place."""
    with torch.device("meta"):
        net = torch.nn.Sequential(Fire(64, 16, 32))
    maps = 10 * 10 * 4
    assert summarize(net, (64, 10, 10)).activation_bytes == (16 + 32 + 32 + 64) * maps


def test_activations_of_a_residual_by_hand() -> None:
    with torch.device("meta"):
        net = torch.nn.Sequential(BASELINES["resnet-18"].build(3, 10)[4])
    convolutions_norms_and_sum = 2 + 2 + 1
    assert summarize(net, (64, 7, 7)).activation_bytes == convolutions_norms_and_sum * 64 * 7 * 7 * 4


def test_the_size_of_the_file_is_that_of_a_file(tmp_path: Path) -> None:
    save_weights(SqueezeNet(3, 1000), tmp_path / "weights.safetensors")
    size = (tmp_path / "weights.safetensors").stat().st_size
    counted = count(BASELINES["squeezenet-1.1"], SIZE, 1000).file_bytes
    assert counted < size < counted + 10_000


def test_wrong_calls_are_told() -> None:
    with pytest.raises(UserError, match="no network 'lenet'"):
        contenders(["bn", "lenet"])
    with pytest.raises(UserError, match="alexnet cannot take images of 3x20x20"):
        count(BASELINES["alexnet"], (3, 20, 20), 10)
    with pytest.raises(UserError, match="1 class or more"):
        count(BASELINES["bn"], SIZE, 0)
    with pytest.raises(UserError, match="more than 0 seconds"):
        train_for(BASELINES["bn"], 0, image_size=64)
    with pytest.raises(UserError, match="a published accuracy"):
        plot_bubbles([entry("bn")], Path("unused.png"))
    assert not Path("unused.png").exists()


def test_a_size_that_one_of_them_cannot_take_is_told_before_any_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "train_for", lambda *_, **__: pytest.fail("one has trained"))
    with pytest.raises(UserError, match="alexnet cannot take images of 1x28x28"):
        trained([entry("bn"), entry("alexnet")], 1, image_size=28)


def test_a_network_named_twice_is_compared_once() -> None:
    assert [contender.name for contender in contenders(["bn", "nin", "bn"])] == ["bn", "nin"]


def test_the_table_shows_what_was_measured_and_nothing_else() -> None:
    plain = to_table([entry("bn"), entry("vgg-16")], SIZE, 1000)
    assert [str(column.header) for column in plain.columns][-1] == "ImageNet top-1"
    speed = Speed("fp32", 0.0125, 16, 99.5, 3 * 2**20)
    training = Training(0.8125, 60.4, 10, 640, 1e-3)
    console = Console(width=200, file=StringIO(), record=True)
    console.print(to_table([entry("vgg-16", speed=speed, training=training)], SIZE, 1000))
    text = console.export_text()
    for words in ("VGG-16", "138,357,544", "15.470 G", "12.5 ms", "99.5 images/s", "3 MiB", "640 images", "81.25%"):
        assert words in text


def test_bubbles_are_drawn(tmp_path: Path) -> None:
    plot_bubbles([entry("bn"), entry("vgg-16"), entry("mobilenet-v2")], tmp_path / "published.png")
    trained = [entry("bn", training=Training(0.9, 1.0, 1, 64, 1e-3)), entry("nin")]
    plot_bubbles(trained, tmp_path / "trained.png")
    for name in ("published", "trained"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 600


def test_a_rival_trains_for_the_time_given_through_the_projects_training(
    small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = train_for(BASELINES["squeezenet-1.1"], 0.2, image_size=28)
    assert training.steps >= 1
    assert training.images == 64 * training.steps
    assert training.seconds > 0
    assert 0 <= training.accuracy <= 1
    assert "SqueezeNet: 726,474 parameters" in capsys.readouterr().out


def test_a_stopped_training_stops_the_comparison(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(run: Run) -> TrainingResult:
        return TrainingResult(run.folder.path, run.folder.model, {}, 0.0, interrupted=True)

    monkeypatch.setattr(contest, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_for(BASELINES["squeezenet-1.1"], 0.01, image_size=28)

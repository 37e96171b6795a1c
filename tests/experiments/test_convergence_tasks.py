from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import googlenet
from experiments.convergence import tasks
from experiments.convergence.grid import Cell, Configuration
from experiments.convergence.networks import LayerProbe, Network, build, probe
from experiments.convergence.tasks import CellTask, ProbeTask, milestones, smoothed

SMALL: dict[str, Any] = {"image_size": 16, "batch_size": 4, "max_steps": 3, "max_test_images": 20, "log_every": 1}


def small_cell(network: Network | None = None, **settings: Any) -> Cell:
    settings = {**SMALL, "plots": False, "learning_rate": 1e-3, "seed": 1, **settings}
    return Cell(Configuration("head", "any", network or Network()), 1e-3, 1, 8, settings)


def rows(losses: list[float], every: int = 20) -> list[dict[str, Any]]:
    return [
        {"step": every * number, "loss": loss, "accuracy": 1 - loss / 3, "seconds": float(number)}
        for number, loss in enumerate(losses, start=1)
    ]


def test_smoothing_averages_over_the_steps_up_to_each_row() -> None:
    uneven = [
        {"step": 10, "loss": 4.0},
        {"step": 20, "loss": 2.0},
        {"step": 25, "loss": 1.0},
        {"step": 40, "loss": 0.0},
    ]
    assert smoothed(uneven, 15, "loss")[1:] == [3.0, (10 * 2.0 + 5 * 1.0) / 15, 0.0]
    assert math.isnan(smoothed(uneven, 15, "loss")[0])


def test_the_plateau_ends_where_the_loss_stays_below_it() -> None:
    marks = milestones(rows([2.3, 2.1, 2.3, 2.19, 2.0, 1.5]))
    assert (marks["plateau_steps"], marks["plateau_seconds"]) == (80, 4.0)
    assert milestones(rows([2.3, 2.1, 2.0, 2.2]))["plateau_steps"] is None
    assert milestones(rows([2.1, 2.0]), diverged=True)["plateau_steps"] is None


def test_milestones_are_averages_over_a_hundred_steps() -> None:
    marks = milestones(rows([1.5, 1.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.1]))
    assert marks["loss_1_steps"] == 100
    assert marks["loss_0.5_steps"] == 140
    assert marks["accuracy_85_steps"] == 160
    assert marks["accuracy_90_steps"] is None
    assert marks["final_loss"] == pytest.approx(0.25)


@pytest.mark.usefixtures("small_data")
def test_a_cell_is_trained_once_and_leaves_what_the_report_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "PROBED", (2,))
    task = CellTask(small_cell(), tmp_path)
    assert task.steps_left == 3
    run = task.file.parent / "run"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("half a run")
    result = task()
    assert [step for step, _ in result["curve"]] == [1, 2, 3]
    assert {row["step"] for row in result["on_the_way"]} == {2}
    assert [row["layer"] for row in result["on_the_way"]][-1] == "fc"
    assert result["test_accuracy"] * 20 == pytest.approx(round(result["test_accuracy"] * 20))
    small = {"environment.json", "evaluation.json", "metrics.jsonl", "predictions.csv", "recipe.toml"}
    assert {path.name for path in run.iterdir()} == small
    monkeypatch.setattr(CellTask, "work", lambda _: pytest.fail("trained again"))
    again = CellTask(small_cell(), tmp_path)
    assert (again(), again.steps_left) == (result, 0)


@pytest.mark.usefixtures("small_data")
def test_auxiliary_losses_do_not_add_up(tmp_path: Path) -> None:
    result = CellTask(small_cell(Network(auxiliary=True), image_size=48, max_steps=1), tmp_path)()
    assert result["final_loss"] == pytest.approx(math.log(10), abs=0.1)


@pytest.mark.usefixtures("small_data")
def test_a_cell_whose_loss_is_not_finite_has_diverged(tmp_path: Path) -> None:
    result = CellTask(small_cell(optimizer="sgd", learning_rate=1e30), tmp_path)()
    assert (result["diverged"], result["final_loss"], result["test_accuracy"]) == (True, None, None)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.usefixtures("small_data")
def test_another_error_is_not_taken_for_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise googlenet.RunError("the disk is full")

    monkeypatch.setattr(googlenet, "train", full_disk)
    task = CellTask(small_cell(), tmp_path)
    with pytest.raises(googlenet.RunError):
        task()
    assert not task.file.exists()


def test_an_interrupted_cell_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        interrupted = True

    monkeypatch.setattr(googlenet, "train", lambda *_, **__: Interrupted())
    task = CellTask(small_cell(), tmp_path)
    assert task() is None
    assert not task.file.exists()


@pytest.mark.usefixtures("small_data")
def test_a_network_is_probed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ProbeTask(small_cell(), tmp_path)()
    assert {(layer["configuration"], layer["seed"]) for layer in layers} == {("head=any", 1)}
    monkeypatch.setattr(ProbeTask, "work", lambda _: pytest.fail("probed again"))
    assert ProbeTask(small_cell(), tmp_path)() == layers


def probe_of(network: Network, image_size: int = 16, dropout: float | None = None) -> list[LayerProbe]:
    net = build(network, image_size, 8, seed=0)
    if dropout is not None:
        net.dropout.p = dropout
    split = googlenet.load_dataset("fashion-mnist").train
    return probe(net, googlenet.InputSpec(1, image_size, (0.0,), (1.0,)), split)


@pytest.mark.usefixtures("small_data")
def test_the_default_weights_lose_the_image_and_he_weights_do_not() -> None:
    default, he = probe_of(Network()), probe_of(Network(initialization="he"))
    assert [layer.layer for layer in he][:3] == ["conv1", "conv2", "conv3"]
    assert [layer.layer for layer in he][-2:] == ["inception5b", "fc"]
    assert default[0].spread > 1000 * default[-1].spread
    assert he[-1].spread > 0.01
    assert he[0].gradient > 1000 * default[0].gradient


@pytest.mark.usefixtures("small_data")
def test_dropout_is_not_taken_for_a_difference_between_images() -> None:
    spread = probe_of(Network(head="alexnet"))[-1].spread
    assert probe_of(Network(head="alexnet"), dropout=0.9)[-1].spread == pytest.approx(spread)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    "network", [Network(normalization="batch"), Network(auxiliary=True), Network(head="alexnet"), Network(blocks=2)]
)
def test_probes_of_other_networks(network: Network) -> None:
    before = torch.get_rng_state()
    layers = probe_of(network, image_size=32)
    assert all(layer.variance > 0 and layer.gradient > 0 for layer in layers)
    assert any(layer.layer == "hidden" for layer in layers) == (network.head == "alexnet")
    assert len(layers) == 4 + network.blocks + (network.head == "alexnet")
    torch.set_rng_state(before)

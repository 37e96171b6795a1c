from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from googlenet.insight.study import cell as cell_module
from experiments.convergence.cell import CellTask, ProbeTask, milestones, smoothed
from experiments.convergence.grid import QUICK, Cell, Configuration, cell
from experiments.convergence.probe import probe_start

SMALL: dict[str, Any] = {"image_size": 16, "max_steps": 3, "test_images": 20, "log_every": 1}


def small_cell(**settings: Any) -> Cell:
    made = cell(Configuration("head", "any", {**SMALL, **settings}), QUICK, learning_rate=1e-3, seed=1)
    return made if "learning_rate" not in settings else Cell(made.configuration, 1, 1, {**made.settings, **settings})


def rows(losses: list[float], every: int = 20) -> list[dict[str, Any]]:
    return [
        {"step": every * number, "loss": loss, "accuracy": 1 - loss / 3, "seconds": float(number)}
        for number, loss in enumerate(losses, start=1)
    ]


def test_smoothing_is_over_so_many_steps_up_to_each_row() -> None:
    uneven = [
        {"step": 10, "loss": 4.0},
        {"step": 20, "loss": 2.0},
        {"step": 25, "loss": 1.0},
        {"step": 40, "loss": 0.0},
    ]
    assert smoothed(uneven, 15, "loss")[1:] == [3.0, (10 * 2.0 + 5 * 1.0) / 15, 0.0]
    assert math.isnan(smoothed(uneven, 15, "loss")[0])


def test_the_plateau_is_left_for_good() -> None:
    found = milestones(rows([2.3, 2.1, 2.3, 2.19, 2.0, 1.5]))
    assert (found["plateau_steps"], found["plateau_seconds"]) == (80, 4.0)
    assert milestones(rows([2.3, 2.1, 2.0, 2.2]))["plateau_steps"] is None
    assert milestones(rows([2.1, 2.0]), diverged=True)["plateau_steps"] is None


def test_marks_are_averages_over_a_hundred_steps() -> None:
    found = milestones(rows([1.5, 1.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.1]))
    assert found["loss_1_steps"] == 100
    assert found["loss_0.5_steps"] == 140
    assert found["accuracy_85_steps"] == 160
    assert found["accuracy_90_steps"] is None
    assert found["final_loss"] == pytest.approx(0.25)


def test_a_cell_is_trained_once_and_leaves_what_the_report_needs(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "PROBED", (2,))
    task = CellTask(small_cell(), tmp_path)
    assert task.steps_left == 3
    task.kept.parent.mkdir(parents=True)
    (task.kept.parent / "run").mkdir()
    (task.kept.parent / "run" / "metrics.jsonl").write_text("half a run")
    result = task()
    assert [step for step, _ in result["curve"]] == [1, 2, 3]
    assert {row["step"] for row in result["on_the_way"]} == {2}
    assert [row["layer"] for row in result["on_the_way"]][-1] == "fc"
    assert result["test_accuracy"] * 20 == pytest.approx(round(result["test_accuracy"] * 20))
    assert {path.name for path in (task.kept.parent / "run").iterdir()} == {
        "environment.json",
        "metrics.jsonl",
        "recipe.toml",
    }
    monkeypatch.setattr(cell_module, "train", lambda *_, **__: pytest.fail("trained again"))
    again = CellTask(small_cell(), tmp_path)
    assert (again(), again.steps_left) == (result, 0)


def test_auxiliary_losses_do_not_count_as_more_loss(small_data: Path, tmp_path: Path) -> None:
    result = CellTask(small_cell(auxiliary=True, image_size=48), tmp_path)()
    assert result["final_loss"] == pytest.approx(math.log(10), abs=0.1)


def test_a_cell_whose_loss_is_no_number_has_diverged(small_data: Path, tmp_path: Path) -> None:
    result = CellTask(small_cell(optimizer="sgd", learning_rate=1e30), tmp_path)()
    assert (result["diverged"], result["final_loss"], result["test_accuracy"]) == (True, None, None)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_cell_that_is_told_to_stop_keeps_nothing(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        interrupted = True

    monkeypatch.setattr(cell_module, "train", lambda *_, **__: Interrupted())
    task = CellTask(small_cell(), tmp_path)
    assert task() is None
    assert not task.kept.exists()


def test_a_probe_is_made_once(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ProbeTask(small_cell(), tmp_path)()
    assert {(layer["configuration"], layer["seed"]) for layer in layers} == {("head=any", 1)}
    monkeypatch.setattr(cell_module, "probe_start", lambda _: pytest.fail("probed again"))
    assert ProbeTask(small_cell(), tmp_path)() == layers


def test_the_default_loses_the_image_on_its_way_and_he_does_not(small_data: Path) -> None:
    default = probe_start({**SMALL})
    he = probe_start({**SMALL, "initialization": "he"})
    assert [layer.layer for layer in he][:3] == ["conv1", "conv2", "conv3"]
    assert [layer.layer for layer in he][-2:] == ["inception5b", "fc"]
    assert default[0].spread > 1000 * default[-1].spread
    assert he[-1].spread > 0.01
    assert he[0].gradient > 1000 * default[0].gradient


def test_dropout_is_not_taken_for_a_difference_between_images(small_data: Path) -> None:
    settings = {**SMALL, "head_width": 8}
    assert probe_start({**settings, "dropout": 0.9})[-1].spread == pytest.approx(probe_start(settings)[-1].spread)


@pytest.mark.parametrize("settings", [{"normalization": "batch"}, {"auxiliary": True}, {"head_width": 8}])
def test_probes_of_other_networks(settings: dict[str, Any], small_data: Path) -> None:
    layers = probe_start({**SMALL, "image_size": 48, **settings})
    assert all(layer.variance > 0 and layer.gradient > 0 for layer in layers)
    assert any(layer.layer == "hidden" for layer in layers) == ("head_width" in settings)

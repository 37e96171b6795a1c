from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.report import PAGE, filled
from benchmarks import accuracy
from benchmarks.data_path import make_photographs
from benchmarks.inference import eager_inference
from benchmarks.limits import Peaks, flops_per_image
from benchmarks.phases import Phases
from benchmarks.tables import Table
from benchmarks.training import training_steps
from googlenet.explanation.summary import summarize
from googlenet.model.googlenet import create_model
from googlenet.recipe import load_recipe
from benchmarks.timing import Timing, alternate
from googlenet.training.loop import train
from googlenet.training.setup import Run


def test_contenders_take_turns() -> None:
    order: list[str] = []
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}
    order.clear()
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=1, calls=2)
    assert order == ["a", "a", "b", "b"] * 3
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {
        "a": 2,
        "b": 2,
    }  # not the first of a turn


def test_a_timing_gives_rates_and_percentiles() -> None:
    timing = Timing((0.1, 0.4, 0.2))
    assert timing.median == 0.2
    assert timing.percentile(0.99) == 0.4
    assert Timing(tuple(range(1, 101))).percentile(0.99) == 99
    assert timing.rates(4) == pytest.approx({"images/s": 20, "slowest": 10, "fastest": 40})


def test_operations_counted_are_those_of_the_summary() -> None:
    net = create_model("tutorial", num_classes=10, in_channels=1)
    forward = flops_per_image(net, 64, training=False)
    assert forward == 2 * summarize(net, (1, 64, 64)).multiply_adds
    # The gradients by the input and by the weights each cost a forward pass; the first layer needs none by its input
    assert 2.8 * forward < flops_per_image(net, 64, training=True) < 3 * forward
    assert Peaks(bf16=200.0, fp32=100.0, copy=1.0).share(50.0, "bf16") == 25


def test_every_contender_trains_and_answers_alike() -> None:
    torch.manual_seed(0)
    net = create_model("bn", num_classes=10, in_channels=1, dropout=0.0)
    images, labels = torch.rand(8, 1, 64, 64), torch.arange(8) % 10
    before = net.conv1.conv.weight.clone()
    for step, _ in training_steps(net, images, labels).values():
        step()
    assert torch.equal(net.conv1.conv.weight, before)  # each has a network of its own
    answers = [run() for run, _ in eager_inference(net, images).values()]
    torch.testing.assert_close(*(answer.float() for answer in answers), rtol=0.05, atol=0.1)  # type: ignore[attr-defined]


def test_a_table_is_the_same_in_every_form() -> None:
    table = Table("speed", [{"who": "a", "images/s": 1234.5, "times": 1.0}], "of one run")
    assert "| a | 1,234 | 1.00 |" in table.to_markdown()
    assert Table(**json.loads(json.dumps(table.to_dict()))) == table
    assert [column.header for column in table.to_rich().columns] == ["who", "images/s", "times"]


def test_the_page_of_figures_holds_what_was_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page


def test_photographs_made_for_the_measurement_decode(tmp_path: Path) -> None:
    (path,) = make_photographs(tmp_path, (120, 160), 1)
    assert 0.1 < path.stat().st_size / (120 * 160) < 1  # bytes a pixel


@pytest.mark.usefixtures("small_data")
def test_a_recipe_is_timed_whole_and_by_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(
        "fast",
        max_steps=13,
        batch_size=16,
        image_size=16,
        test_images=20,
        pictures=False,
        optimizer="adamw",
        accumulate=2,
    )
    monkeypatch.setattr(accuracy, "load_recipe", lambda *_, **__: recipe)
    whole, phases = accuracy.measure_accuracy(["fast"], 2, "cpu")
    assert [row["seed"][:4] for row in whole.rows] == ["0", "1", "mean"]
    assert all(0 < row["training, s"] < row["whole run, s"] for row in whole.rows)
    assert [row["phase"][:5] for row in phases.rows] == ["batch", "forwa", "loss,", "updat"]
    assert all(row["ms"] > 0 for row in phases.rows)
    assert sum(row["%"] for row in phases.rows) == pytest.approx(100)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("slow", ["forward", "backward", "update"])
def test_each_phase_gets_its_own_time(slow: str, tmp_path: Path) -> None:
    phases, pause = Phases(warmup=2), 0.2

    def on_step(run: Run) -> None:
        phases(run)
        if run.progress.step == 1:
            if slow == "forward":
                run.net.register_forward_pre_hook(lambda *_: time.sleep(pause))
            elif slow == "backward":
                run.net.fc.register_full_backward_hook(lambda *_: time.sleep(pause))  # type: ignore[operator, union-attr]
            else:
                run.optimizer.optimizer.register_step_pre_hook(lambda *_: time.sleep(pause))  # type: ignore[attr-defined]

    settings = {"max_steps": 5, "batch_size": 16, "image_size": 16, "test_images": 20, "pictures": False}
    train("fast", output=tmp_path / "run", on_step=on_step, **settings)
    assert len(phases.steps) == 3  # those after the second
    for step in phases.steps:
        assert min(step.values()) > 0
        assert max(step, key=lambda phase: step[phase]) == slow


def test_a_run_that_was_stopped_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        interrupted = True

    monkeypatch.setattr(accuracy, "train", lambda *_, **__: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        next(accuracy.measure_accuracy(["fast"], 2, "cpu"))

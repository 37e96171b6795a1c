from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import googlenet
from benchmarks import accuracy, data, training
from benchmarks.__main__ import main, parse_arguments
from benchmarks.accuracy import Phases, measure_accuracy
from benchmarks.inference import ours, plain, save_network
from benchmarks.machine import Peaks, describe, flops_per_image
from benchmarks.measuring import Table, Timing, alternate, can_measure_memory, peak_memory
from benchmarks.report import RESULTS, render
from benchmarks.training import OURS, alternate_with_train, baseline_steps

CPU = torch.device("cpu")


def test_methods_take_turns() -> None:
    order: list[str] = []
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}
    order.clear()
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warmup=1, calls=2)
    assert order == ["a", "a", "b", "b"] * 3
    # The first call of a turn does not count
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 2, "b": 2}


def test_rates_and_percentiles_of_a_timing() -> None:
    timing = Timing((0.1, 0.4, 0.2))
    assert timing.median == 0.2
    assert timing.percentile(0.99) == 0.4
    assert Timing(tuple(range(1, 101))).percentile(0.99) == 99
    assert timing.rates(4) == pytest.approx({"images/s": 20, "slowest": 10, "fastest": 40})


def test_operations_agree_with_the_summary() -> None:
    net = googlenet.create_model("tutorial", num_classes=10, in_channels=1)
    forward = flops_per_image(net, (1, 64, 64), training=False)
    assert forward == 2 * googlenet.summarize(net, (1, 64, 64)).multiply_adds
    # The gradients of the input and of the weights each cost a forward pass; the first layer needs none of its input
    assert 2.8 * forward < flops_per_image(net, (1, 64, 64), training=True) < 3 * forward
    assert Peaks(bf16=200.0, fp32=100.0, copy=1.0).share(50.0, "bf16") == 25


@pytest.mark.skipif(not can_measure_memory(CPU), reason="needs /proc")
def test_peak_memory_counts_what_is_freed_too() -> None:
    def work() -> None:
        torch.ones(64 * 2**20, dtype=torch.uint8)

    assert 60 * 2**20 < peak_memory(lambda: work, CPU) < 200 * 2**20


@pytest.mark.usefixtures("small_data")
def test_training_alternates_with_its_baselines() -> None:
    torch.manual_seed(0)
    net = googlenet.create_model("bn", num_classes=10, in_channels=1, stem_stride=1)
    before = net.conv1.conv.weight.clone()
    baselines = baseline_steps(net, torch.rand(4, 1, 28, 28))
    timings = alternate_with_train(net, baselines, 4, 28, CPU, rounds=2)
    assert set(timings) == {OURS, *baselines} and "plain" in baselines
    assert all(len(timing.seconds) == 2 and min(timing.seconds) > 0 for timing in timings.values())
    assert torch.equal(net.conv1.conv.weight, before)  # each has its own network


def test_plain_inference_and_the_predictor_agree(tmp_path: Path) -> None:
    model = save_network(tmp_path / "model.safetensors")
    images = torch.randint(0, 256, (2, 1, 224, 224), dtype=torch.uint8)
    classes = googlenet.load(model).info.classes
    values, indices = plain(model, images, CPU).run().topk(3, dim=1)
    for prediction, best, probabilities in zip(ours(model, images, CPU).run(), indices, values, strict=True):
        assert prediction.probabilities == pytest.approx(probabilities.tolist(), abs=0.02)
        assert prediction.classes[0] == classes[int(best[0])] or probabilities[0] - probabilities[1] < 0.02


def test_a_table_in_all_its_forms() -> None:
    table = Table("speed", [{"method": "a", "images/s": 1234.5, "times": 1.0}], "of one run")
    assert "| a | 1,234 | 1.00 |" in table.to_markdown()
    assert Table(**json.loads(json.dumps(table.to_dict()))) == table
    assert [column.header for column in table.to_rich().columns] == ["method", "images/s", "times"]


def test_the_page_of_tables_is_up_to_date() -> None:
    assert (RESULTS / "TABLES.md").read_text(encoding="utf-8") == render()


def test_the_report_has_a_section_for_each_result(tmp_path: Path) -> None:
    tables = {"startup": [Table("start-up", [{"command": "x", "seconds": 0.25}]).to_dict()]}
    content = {"machine": describe(CPU), "peaks": {"bf16": 2e9, "fp32": 1e9, "copy": 3e9}, "measures": tables}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    (tmp_path / "transfer.json").write_text("{}")
    page = render(tmp_path)
    assert "mine.json" in page and "| x | 0.25 |" in page and "transfer.json" not in page


def test_jpegs_made_for_the_measurement_decode(tmp_path: Path) -> None:
    (file,) = data.write_jpegs(tmp_path / "jpegs", (120, 160), 1)
    with Image.open(file) as image:
        assert image.size == (160, 120)
    assert 0.1 < file.stat().st_size / (120 * 160) < 1  # bytes per pixel


@pytest.mark.usefixtures("small_data")
def test_the_data_path_of_a_folder_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_IMAGES", 16)
    table = data._folder_of_jpegs("80x60", (60, 80), CPU, rounds=1)
    assert len(table.rows) == 4
    assert all(row["images/s"] > 0 for row in table.rows)


@pytest.mark.usefixtures("small_data")
def test_a_recipe_is_timed_whole_and_by_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"max_steps": 2, "batch_size": 16, "image_size": 16, "max_test_images": 20, "plots": False}
    recipe = googlenet.load_recipe("fast", optimizer="adamw", gradient_accumulation=2, **settings)
    monkeypatch.setattr(googlenet, "load_recipe", lambda *_, **__: recipe)
    monkeypatch.setattr(accuracy, "_WATCHED_STEPS", 13)
    whole, phases = measure_accuracy(["fast"], 2, "cpu")
    assert [row["seed"][:4] for row in whole.rows] == ["0", "1", "mean"]
    assert all(0 < row["training, s"] < row["whole run, s"] for row in whole.rows)
    assert [row["phase"][:5] for row in phases.rows] == ["batch", "forwa", "loss,", "updat"]
    assert all(row["ms"] > 0 for row in phases.rows)
    assert sum(row["%"] for row in phases.rows) == pytest.approx(100)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("slow", ["forward", "backward", "update"])
def test_each_phase_gets_its_own_time(slow: str, tmp_path: Path) -> None:
    phases, pause = Phases(warmup=2), 0.5

    def on_step(trainer: Any) -> None:
        phases(trainer)
        if trainer.step == 1:
            if slow == "forward":
                trainer.net.register_forward_pre_hook(lambda *_: time.sleep(pause))
            elif slow == "backward":
                trainer.net.fc.register_full_backward_hook(lambda *_: time.sleep(pause))
            else:
                trainer.optimizer.optimizer.register_step_pre_hook(lambda *_: time.sleep(pause))

    settings: dict[str, Any] = {
        "max_steps": 5,
        "batch_size": 4,
        "image_size": 16,
        "max_test_images": 20,
        "plots": False,
    }
    settings["optimizer"] = "sgd"  # Muon's update is slow enough to be confused with the pause
    googlenet.train("fast", output=tmp_path / "run", on_step=on_step, **settings)
    assert len(phases.steps) == 3  # those after the second
    for step in phases.steps:
        assert min(step.values()) > 0
        assert max(step, key=lambda phase: step[phase]) == slow


def test_an_interrupted_run_is_not_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        interrupted = True

    monkeypatch.setattr(googlenet, "train", lambda *_, **__: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        next(accuracy.measure_accuracy(["fast"], 2, "cpu"))
    with pytest.raises(KeyboardInterrupt):
        training.run_short(torch.nn.Linear(1, 1), 1, None, 8, 28, CPU)


@pytest.mark.parametrize(
    "words", [["speed"], ["--rounds", "0"], ["--seeds", "0"], ["--output", "no/such/folder/x.json"]]
)
def test_unusable_options_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse_arguments(words)
    assert error.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_results_are_printed_and_written_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import machine, startup

    monkeypatch.setattr(machine, "measure_peaks", lambda _: Peaks(2.0, 1.0, 3.0))
    monkeypatch.setattr(startup, "measure_startup", lambda _: iter([Table("start-up", [{"seconds": 0.5}])]))
    main(["startup", "--device", "cpu", "--json", "--output", str(tmp_path / "results.json")])
    printed = json.loads(capsys.readouterr().out)
    assert printed["measures"]["startup"][0]["rows"] == [{"seconds": 0.5}]
    assert json.loads((tmp_path / "results.json").read_text()) == printed

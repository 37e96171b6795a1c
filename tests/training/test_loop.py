"""The training loop: rows, model file, what selects the model, when a run ends, and its errors."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import googlenet
from googlenet import RunError, RunFolder, Trainer, TrainingResult, UserError, load_dataset, train
from googlenet.data.dataset import split_validation
from googlenet.evaluation.calibration import fit_temperature
from googlenet.evaluation.metrics import collect_logits
from googlenet.recipe import load_recipe
from googlenet.training import finish, loop, selection
from tests.conftest import QUICK, TINY
from tests.training.helpers import assert_same_weights, rows, small_net, weights

pytestmark = pytest.mark.usefixtures("small_data")


def test_files_of_a_run(trained: TrainingResult) -> None:
    assert {path.name for path in trained.folder.iterdir()} == {
        "recipe.toml", "metrics.jsonl", "model.safetensors", "checkpoints", "environment.json", "evaluation.json",
        "curves.png", "confusion_matrix.png", "predictions.png", "mistakes.png", "report.html", "predictions.csv",
    }  # fmt: skip
    predictions = list(csv.DictReader((trained.folder / "predictions.csv").open(encoding="utf-8")))
    assert [row["file"] for row in predictions] == [str(number) for number in range(160)]
    accuracy = sum(row["class"] == row["predicted"] for row in predictions) / 160
    assert accuracy == pytest.approx(trained.metrics["test"]["accuracy"])
    for plot in trained.folder.glob("*.png"):
        with Image.open(plot) as image:
            assert min(image.size) > 200
    environment = json.loads((trained.folder / "environment.json").read_text())
    assert environment["data"]["train_images"] == 320
    assert (environment["precision"], environment["processes"], environment["device"]) == ("fp32", 1, "cpu")
    assert load_recipe(trained.folder / "recipe.toml").image_size == 28


def test_fields_of_a_row(trained: TrainingResult) -> None:
    found = rows(trained)
    fields = {"step", "epoch", "split", "loss", "accuracy", "learning_rate", "images_per_second", "seconds"}
    assert all(set(row) == fields for row in found)
    assert [(row["step"], row["epoch"], row["split"]) for row in found] == [
        (10, 1, "train"),
        (10, 1, "test"),
        (20, 2, "train"),
        (20, 2, "test"),
    ]
    assert found[2]["loss"] < found[0]["loss"]
    assert trained.seconds == pytest.approx(found[-1]["seconds"], abs=0.01)
    assert 0 <= found[-1]["accuracy"] <= 1


def test_model_file(trained: TrainingResult) -> None:
    net = googlenet.load(trained.model)
    info = net.info
    assert info.classes[9] == "Ankle boot"
    assert (info.input.channels, info.input.size) == (1, 28)
    assert info.input.mean[0] == pytest.approx(0.29, abs=0.03)
    assert info.recipe["batch_size"] == 32
    assert info.metrics["test"]["accuracy"] == rows(trained)[-1]["accuracy"]
    assert (info.metrics["selected_by"], info.metrics["step"], info.metrics["epoch"]) == ("last", 20, 2)
    assert info.temperature == trained.temperature == 1  # the test split is never used to fit one
    evaluation = googlenet.evaluate(net, load_dataset().test, precision="fp32", batch_size=7)
    assert evaluation.accuracy == trained.metrics["test"]["accuracy"]


def test_seed_and_repetition_from_the_recipe_of_a_run(tmp_path: Path) -> None:
    train(output=tmp_path / "a", **TINY, max_steps=2)
    train(tmp_path / "a" / "recipe.toml", output=tmp_path / "repeated")
    train(output=tmp_path / "other", **TINY, max_steps=2, seed=1)
    assert_same_weights(tmp_path / "a", tmp_path / "repeated")
    assert not torch.equal(weights(tmp_path / "a")["fc.weight"], weights(tmp_path / "other")["fc.weight"])


def test_on_step_is_called_after_each_step_and_its_time_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []
    perf_counter = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: perf_counter() + 1e6 * len(seen))

    def look(trainer: Trainer) -> None:
        assert trainer.dataset.classes[0] == "T-shirt/top"
        assert trainer.input_spec.size == 28
        seen.append((trainer.step, float(next(trainer.net.parameters()).detach().sum())))

    settings = {**QUICK, "max_steps": 3}
    result = train(output=tmp_path / "run", model=small_net(), on_step=look, **settings)
    assert [step for step, _ in seen] == [1, 2, 3]
    assert len({total for _, total in seen}) == 3
    row = rows(result)[0]
    assert row["seconds"] < 1e5 and row["images_per_second"] > 1
    assert result.seconds < 1e5
    assert_same_weights(result.folder, train(output=tmp_path / "plain", model=small_net(), **settings).folder)


def test_max_steps_ends_the_run_and_the_schedule(tmp_path: Path) -> None:
    found = rows(train(output=tmp_path / "run", model=small_net(), **QUICK, max_steps=13))
    assert [row["step"] for row in found] == [10, 10, 13, 13]
    assert found[-1]["learning_rate"] < 0.2 * QUICK["learning_rate"]


@pytest.mark.parametrize(
    ("settings", "steps"), [({"epochs": 0.5}, 5), ({"epochs": 1, "min_steps": 14}, 14), ({"min_steps": 14}, 20)]
)
def test_fractions_of_epochs_and_min_steps(settings: dict[str, Any], steps: int, tmp_path: Path) -> None:
    found = rows(train(output=tmp_path / "run", model=small_net(), **{**QUICK, **settings}))
    assert (found[-1]["step"], found[-1]["split"]) == (steps, "test")
    assert found[-1]["learning_rate"] < 0.35 * QUICK["learning_rate"]


def test_rows_and_progress_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**QUICK, "batch_size": 2, "epochs": 1, "validation": 0.2}
    found = rows(train(output=tmp_path / "run", model=small_net(), **settings))
    expected = [*((step, "train") for step in (20, 40, 60, 80, 100, 120, 128)), (128, "validation"), (128, "test")]
    assert [(row["step"], row["split"]) for row in found] == expected
    lines = capsys.readouterr().out.splitlines()
    assert sum("100/128" in line and "images/s" in line and "left" in line for line in lines) == 1
    (last,) = [line for line in lines if "train loss" in line]
    for field in ("epoch 1/1", "train accuracy", "validation loss", "validation accuracy", "time"):
        assert field in last


@pytest.mark.parametrize("checkpoint_every", [33, 64])
def test_progress_lines_with_checkpoints_within_an_epoch(
    checkpoint_every: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**QUICK, "batch_size": 1, "max_steps": 210, "checkpoint_every": checkpoint_every}
    train(output=tmp_path / "run", model=small_net(), **settings)
    lines = [line for line in capsys.readouterr().out.splitlines() if "images/s" in line]
    assert [f"{step}/320" in line for step, line in zip((100, 200), lines, strict=True)] == [True, True]


def test_log_every_and_max_test_images(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**QUICK, "epochs": 1, "log_every": 2, "max_test_images": 10}
    result = train(output=tmp_path / "run", model=small_net(), **settings)
    assert [row["step"] for row in rows(result)] == [2, 4, 6, 8, 10, 10]
    assert result.metrics["test"]["accuracy"] * 10 == pytest.approx(round(result.metrics["test"]["accuracy"] * 10))
    assert not list(result.folder.glob("*.png"))
    assert json.loads((result.folder / "environment.json").read_text())["data"]["test_images"] == 10


def test_the_fixed_tutorial_learns_at_once(tmp_path: Path) -> None:
    """docs/convergence.md: the recipe `tutorial` has not started to learn after a thousand steps."""
    settings: dict[str, Any] = {"image_size": 24, "max_steps": 40, "plots": False, "max_test_images": 100}
    result = train("tutorial-fixed", output=tmp_path / "run", **settings)
    assert result.metrics["test"]["loss"] < 2.1


def scripted_accuracies(accuracies: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The accuracies by which the next run selects its model."""
    left, save_best = iter(accuracies), loop.save_best

    def scripted(trainer: Trainer, folder: RunFolder, row: dict[str, Any]) -> None:
        save_best(trainer, folder, {**row, "accuracy": next(left)})

    monkeypatch.setattr(loop, "save_best", scripted)


def test_validation_selects_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_accuracies([0.5, 0.7, 0.6], monkeypatch)
    result = train(output=tmp_path / "run", **{**TINY, "epochs": 3, "batch_size": 80}, validation=0.25)
    info = googlenet.load(result.model).info
    assert (info.metrics["epoch"], info.metrics["selected_by"]) == (2, "validation")
    assert info.metrics["validation"]["accuracy"] == 0.7
    assert set(info.metrics["test"]) == {"loss", "accuracy"}
    tested = [row for row in rows(result) if row["split"] == "test"]
    assert [(row["epoch"], row["accuracy"]) for row in tested] == [(2, info.metrics["test"]["accuracy"])]
    train(output=tmp_path / "run", resume=True)
    assert [row for row in rows(result) if row["split"] == "test"] == tested


@pytest.mark.parametrize("select_by", ["auto", "test"])
def test_the_temperature_is_fitted_to_the_saved_model_on_validation_images(
    select_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_accuracies([0.9, 0.1], monkeypatch)  # so that the first epoch's model is saved, not the last one's
    net = googlenet.create_model("bn", num_classes=10, in_channels=1)
    settings = {**TINY, "epochs": 2, "max_steps": 9, "validation": 0.25, "select_by": select_by}
    result = train(output=tmp_path / "run", model=net, **settings)
    saved = googlenet.load(result.model)
    assert saved.info.metrics["epoch"] == 1
    _, held_out = split_validation(load_dataset().train, 0.25, seed=0)
    evaluation = googlenet.evaluate(saved, held_out, precision="fp32")
    expected = fit_temperature(evaluation.logits, evaluation.labels)
    assert expected != pytest.approx(1, abs=0.02)
    assert saved.info.temperature == result.temperature == pytest.approx(expected, rel=1e-4)
    assert train(output=tmp_path / "run", resume=True).temperature == pytest.approx(expected, rel=1e-4)
    assert googlenet.load(result.model).info.temperature == pytest.approx(expected, rel=1e-4)


def test_few_validation_images_do_not_calibrate(tmp_path: Path) -> None:
    """A temperature fitted to them would be worse than none, and so would a threshold for unknown images."""
    settings = {**TINY, "max_steps": 2, "validation": 0.06}
    result = train(
        output=tmp_path / "run", model=googlenet.create_model("bn", num_classes=10, in_channels=1), **settings
    )
    info = googlenet.load(result.model).info
    assert info.temperature == result.temperature == 1
    assert info.known is not None and info.known.fitted_on == "test"


def test_patience_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_accuracies([0.5, 0.4, 0.3, 0.2], monkeypatch)
    settings = {**QUICK, "epochs": 4, "patience": 2, "select_by": "test"}
    result = train(output=tmp_path / "run", model=small_net(), **settings)
    assert result.metrics["epoch"] == 1
    assert rows(result)[-1]["epoch"] == 3


class Diverging(nn.Module):
    """Its output is NaN in training mode, or in eval mode."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.net, self.mode = small_net(), training

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (math.nan if self.training == self.mode else 1)


@pytest.mark.parametrize(("training", "split", "step"), [(True, "train", "step 1"), (False, "test", "step 2")])
def test_a_loss_that_is_nan_ends_the_run_with_advice(training: bool, split: str, step: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{split} loss .*{step}[ ,].*--learning-rate .*--gradient-clip") as error:
        train(output=tmp_path / "run", model=Diverging(training), **QUICK, max_steps=2)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_batch_norm_on_one_pixel_is_a_user_error(tmp_path: Path) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 10))
    with pytest.raises(UserError, match=r"--batch-size.*--image-size"):
        train(output=tmp_path / "run", model=net, **{**QUICK, "batch_size": 1})


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory: you"])
def test_out_of_memory_in_a_step_names_the_settings_to_change(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(loop.Accelerator, "backward", refuse)
    for batch, options in ((32, "--batch-size.*--gradient-accumulation 2"), (2, "--image-size")):
        with pytest.raises(RunError, match=options):
            train(output=tmp_path / str(batch), model=small_net(), **{**QUICK, "batch_size": batch})


def test_other_errors_in_a_step_are_not_explained(tmp_path: Path) -> None:
    def fail(_: Trainer) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes") as error:
        train(output=tmp_path / "run", model=small_net(), on_step=fail, **QUICK)
    assert type(error.value) is RuntimeError


def test_a_plot_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise RunError("cannot write curves.png: No space left on device")

    monkeypatch.setattr(finish, "plot_curves", refuse)
    with pytest.raises(RunError, match="curves"):
        train(output=tmp_path / "run", **{**TINY, "max_steps": 1, "plots": True})
    assert googlenet.load(tmp_path / "run").info.metrics["test"]


def test_bf16_learns_like_fp32(tmp_path: Path) -> None:
    settings = {**TINY, "max_steps": 3, "batch_size": 16}
    fp32, bf16 = (
        rows(train(output=tmp_path / precision, **{**settings, "precision": precision}))[0]["loss"]
        for precision in ("fp32", "bf16")
    )
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=0.15)


def test_gradient_accumulation_changes_memory_not_the_update(tmp_path: Path) -> None:
    """Without batch norm, whose statistics are each part's own, four parts have the gradient of the whole."""
    settings = {**TINY, "variant": "tutorial", "initialization": "he", "dropout": 0.0, "max_steps": 2}
    settings |= {"optimizer": "sgd", "learning_rate": 1e-3}
    whole = train(output=tmp_path / "whole", **settings)
    parts = train(output=tmp_path / "parts", **settings, gradient_accumulation=4)
    for name, tensor in weights(whole.folder).items():
        torch.testing.assert_close(tensor, weights(parts.folder)[name], rtol=1e-4, atol=1e-5)


def test_no_part_of_a_batch_is_a_single_image(tmp_path: Path) -> None:
    """Batch norm over maps of one pixel cannot work on one."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 10))
    settings = {**QUICK, "batch_size": 61, "max_steps": 1, "gradient_accumulation": 40}
    assert train(output=tmp_path / "run", model=net, **settings).metrics["step"] == 1


def test_auxiliary_heads_and_gradient_clipping(tmp_path: Path) -> None:
    settings = {**TINY, "variant": "torchvision", "image_size": 32, "max_steps": 2, "gradient_clip": 0.5}
    settings |= {"schedule": "polynomial", "optimizer": "sgd"}
    result = train(output=tmp_path / "run", **settings)
    assert googlenet.load(result.model).aux1 is not None
    assert math.isfinite(rows(result)[-1]["loss"])


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    result = train(output=tmp_path / "run", model=small_net(), **{**QUICK, "max_steps": 3}, tracker="tensorboard")
    assert list(result.folder.rglob("events.out.tfevents*"))


def test_evaluation_uses_batches_that_fit_if_training_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def spy(*args: Any, batch_size: int, **settings: Any) -> Tensor:
        sizes.append(batch_size)
        return collect_logits(*args, batch_size=batch_size, **settings)

    monkeypatch.setattr(selection, "collect_logits", spy)
    settings = {**QUICK, "max_steps": 1, "batch_size": 8, "gradient_accumulation": 2}
    train(output=tmp_path / "run", model=small_net(), **settings)
    assert sizes == [16]


def test_the_average_of_a_short_run_is_trained(tmp_path: Path) -> None:
    """With a constant decay of 0.999, the average of 80 steps would still be mostly the initial weights."""
    settings = {**QUICK, "epochs": 8, "learning_rate": 0.01, "schedule": "constant"}
    plain = train(output=tmp_path / "plain", model=small_net(), **settings)
    averaged = train(output=tmp_path / "averaged", model=small_net(), **settings, ema_decay=0.999)
    untrained = 0.1
    assert plain.metrics["test"]["accuracy"] > 0.6
    assert averaged.metrics["test"]["accuracy"] > max(0.9 * plain.metrics["test"]["accuracy"], 4 * untrained)
    assert any(
        not torch.equal(tensor, weights(plain.folder)[name]) for name, tensor in weights(averaged.folder).items()
    )

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

import googlenet
from googlenet import RunError, UserError
from googlenet.data.dataset import load_dataset
from googlenet.data.dataset import split_validation
from googlenet.evaluation.calibration import fit_temperature
from googlenet.recipe import load_recipe
from googlenet.training import display, fit, outcome
from googlenet.training.loop import train
from googlenet.training.loop import TrainingResult
from googlenet.training.setup import make_network
from googlenet.training.setup import Run
from tests.conftest import QUICK

pytestmark = pytest.mark.usefixtures("small_data")


def rows(result: TrainingResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


def test_a_run_folder_holds_what_the_contract_names(trained: TrainingResult) -> None:
    names = {path.name for path in trained.folder.iterdir()}
    assert names == {
        "recipe.toml", "metrics.jsonl", "model.safetensors", "checkpoints", "environment.json",
        "curves.png", "confusion_matrix.png", "predictions.png", "mistakes.png",
    }  # fmt: skip
    for picture in trained.folder.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 200
    environment = json.loads((trained.folder / "environment.json").read_text())
    assert environment["data"]["train_images"] == 320
    assert environment["precision"] == "fp32"
    assert load_recipe(trained.folder / "recipe.toml").image_size == 28


def test_whoever_asks_is_called_after_each_step_and_it_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []
    real = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: real() + 1e6 * len(seen))

    def look(run: Run) -> None:
        seen.append((run.progress.step, float(next(run.net.parameters()).detach().sum())))

    settings = {**QUICK, "max_steps": 3}
    result = train(output=tmp_path / "run", on_step=look, **settings)
    assert [step for step, _ in seen] == [1, 2, 3]
    assert len({total for _, total in seen}) == 3
    row = rows(result)[0]
    assert row["seconds"] < 1e5 and row["images_per_second"] > 1
    assert_same_weights(result.folder, train(output=tmp_path / "unseen", **settings).folder)


def test_rows_have_the_contracts_fields(trained: TrainingResult) -> None:
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


def test_the_model_file_says_what_it_is(trained: TrainingResult) -> None:
    info = googlenet.load(trained.model).info
    assert info.classes[9] == "Ankle boot"
    assert (info.input.channels, info.input.size) == (1, 28)
    assert info.input.mean[0] == pytest.approx(0.29, abs=0.03)
    assert info.recipe["batch_size"] == 32
    assert info.metrics["test"]["accuracy"] == rows(trained)[-1]["accuracy"]
    assert (info.metrics["chosen_by"], info.metrics["step"], info.metrics["epoch"]) == ("last", 20, 2)


def test_the_reported_accuracy_is_the_kept_models(trained: TrainingResult) -> None:
    net = googlenet.load(trained.model)
    data = load_dataset("fashion-mnist")
    evaluation = googlenet.evaluate(net, data.test, net.info.input, net.info.classes, precision="fp32", batch_size=7)
    assert evaluation.accuracy == trained.metrics["test"]["accuracy"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trained: TrainingResult, tmp_path: Path) -> None:
    train(output=tmp_path / "again", **QUICK)
    assert_same_weights(trained.folder, tmp_path / "again")
    train(output=tmp_path / "other", **QUICK, seed=1)
    assert not torch.equal(weights(trained.folder)["fc.weight"], weights(tmp_path / "other")["fc.weight"])


def test_a_runs_own_recipe_runs_it_again(trained: TrainingResult, tmp_path: Path) -> None:
    train(trained.folder / "recipe.toml", output=tmp_path / "again")
    assert_same_weights(trained.folder, tmp_path / "again")


def test_max_steps_ends_the_run_and_the_schedule(tmp_path: Path) -> None:
    result = train(output=tmp_path / "run", **QUICK, max_steps=13)
    found = rows(result)
    assert [row["step"] for row in found] == [10, 10, 13, 13]
    assert found[-1]["learning_rate"] < 0.2 * QUICK["learning_rate"]


@pytest.mark.parametrize(
    ("settings", "steps"), [({"epochs": 0.5}, 5), ({"epochs": 1, "min_steps": 14}, 14), ({"min_steps": 14}, 20)]
)
def test_parts_of_epochs_and_a_least_number_of_steps(settings: dict[str, Any], steps: int, tmp_path: Path) -> None:
    found = rows(train(output=tmp_path / "run", **{**QUICK, **settings}))
    assert (found[-1]["step"], found[-1]["split"]) == (steps, "test")
    assert found[-1]["learning_rate"] < 0.35 * QUICK["learning_rate"]


def test_rows_at_even_distances_and_at_the_end_and_lines_every_hundred_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**QUICK, "batch_size": 2, "epochs": 1, "image_size": 16, "validation": 0.2}
    found = rows(train(output=tmp_path / "run", **settings))
    expected = [*((step, "train") for step in (20, 40, 60, 80, 100, 120, 128)), (128, "validation"), (128, "test")]
    assert [(row["step"], row["split"]) for row in found] == expected
    lines = capsys.readouterr().out.splitlines()
    assert sum("batch 100/128" in line and "images/s" in line and "left" in line for line in lines) == 1
    (last,) = [line for line in lines if line.startswith("epoch 1/1  train loss")]
    for field in ("train accuracy", "validation loss", "validation accuracy", "time"):
        assert field in last


def test_a_trial_is_judged_on_fewer_images_without_pictures(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**QUICK, "epochs": 1, "log_every": 2, "test_images": 10}
    result = train(output=tmp_path / "r", **settings)
    assert [row["step"] for row in rows(result)] == [2, 4, 6, 8, 10, 10]
    assert result.metrics["test"]["accuracy"] * 10 == pytest.approx(round(result.metrics["test"]["accuracy"] * 10))
    assert not list(result.folder.glob("*.png"))
    assert json.loads((result.folder / "environment.json").read_text())["data"]["test_images"] == 10


def test_settings_change_the_variants_network(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"normalization": "lrn", "blocks": 3, "head_grid": 2, "head_width": 16}
    result = train(output=tmp_path / "r", **{**QUICK, "max_steps": 1}, **changes)
    described = googlenet.load(result.model).architecture
    assert {name: getattr(described, name) for name in changes} == changes


def test_a_recipe_that_whitens_starts_from_its_training_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def first_kernels(**changes: Any) -> torch.Tensor:
        recipe = load_recipe("fast", seed=3, whiten=True, **changes)
        data = load_dataset("fashion-mnist")
        training = data.train if "validation" not in changes else split_validation(data.train, 0.5, 3)[0]
        net, _ = make_network(recipe, data, training)
        return net.conv1.conv.weight.detach()  # type: ignore[no-any-return, union-attr]

    whitened = first_kernels()
    torch.testing.assert_close(whitened[32:], -whitened[:32])
    assert torch.equal(whitened, first_kernels())
    assert not torch.allclose(whitened.abs(), first_kernels(validation=0.5).abs())  # what is held out has no part in it

    train(output=tmp_path / "run", **{**QUICK, "max_steps": 1}, whiten=True)
    train(output=tmp_path / "again", weights=tmp_path / "run", **{**QUICK, "max_steps": 1, "stem_stride": None})
    assert capsys.readouterr().out.count("whitened stem") == 1


def test_the_fixed_tutorial_learns_at_once(tmp_path: Path) -> None:
    """docs/convergence.md: where the recipe `tutorial` is still guessing after a thousand steps."""
    size: dict[str, Any] = {"image_size": 48, "epochs": 3, "num_workers": 0, "pictures": False}
    result = train("tutorial-fixed", output=tmp_path / "r", **size)
    assert rows(result)[-1]["step"] == 60
    assert result.metrics["test"]["loss"] < 2.1


def test_validation_chooses_and_the_test_split_only_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.7, 0.6])
    real = fit.judge

    def scored(run: Any, display: Any) -> Any:
        row, evaluation = real(run, display)
        return {**row, "accuracy": next(scores)}, evaluation

    monkeypatch.setattr(fit, "judge", scored)
    result = train(output=tmp_path / "run", **{**QUICK, "epochs": 3}, validation=0.25)
    info = googlenet.load(result.model).info
    assert (info.metrics["epoch"], info.metrics["chosen_by"]) == (2, "validation")
    assert info.metrics["validation"]["accuracy"] == 0.7
    assert set(info.metrics["test"]) == {"loss", "accuracy"}
    tested = [row for row in rows(result) if row["split"] == "test"]
    assert [(row["epoch"], row["accuracy"]) for row in tested] == [(2, info.metrics["test"]["accuracy"])]
    train(output=tmp_path / "run", resume=True)
    assert [row for row in rows(result) if row["split"] == "test"] == tested


@pytest.mark.parametrize("select", ["auto", "test"])
def test_the_temperature_is_the_kept_models_and_fitted_on_the_validation_images(
    select: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.9, 0.1])  # so that the first epoch's model is kept, not the last one's
    real = fit.judge

    def scored(run: Any, display: Any) -> Any:
        row, evaluation = real(run, display)
        return {**row, "accuracy": next(scores)}, evaluation

    monkeypatch.setattr(fit, "judge", scored)
    result = train(output=tmp_path / "run", **QUICK, validation=0.25, select=select)
    net = googlenet.load(result.model)
    assert net.info.metrics["epoch"] == 1
    data = load_dataset("fashion-mnist")
    _, held_out = split_validation(data.train, 0.25, seed=0)
    of = googlenet.evaluate(net, held_out, net.info.input, net.info.classes, precision="fp32")
    expected = fit_temperature(of.logits, of.labels)
    assert expected != pytest.approx(1, abs=0.02)
    assert net.info.temperature == result.temperature == pytest.approx(expected, rel=1e-4)
    assert train(output=tmp_path / "run", resume=True).temperature == pytest.approx(expected, rel=1e-4)
    assert googlenet.load(result.model).info.temperature == pytest.approx(expected, rel=1e-4)


def test_without_validation_images_nothing_is_fitted(trained: TrainingResult) -> None:
    """The test split is there to judge, so it is never what a temperature is fitted on."""
    assert trained.temperature == googlenet.load(trained.model).info.temperature == 1


def test_patience_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.4, 0.3, 0.2])
    real = fit.judge

    def scored(run: Any, display: Any) -> Any:
        row, evaluation = real(run, display)
        return {**row, "accuracy": next(scores)}, evaluation

    monkeypatch.setattr(fit, "judge", scored)
    settings = {**QUICK, "epochs": 4, "max_steps": None}
    result = train(output=tmp_path / "run", **{k: v for k, v in settings.items() if v}, patience=2, select="test")
    assert result.metrics["epoch"] == 1
    assert rows(result)[-1]["epoch"] == 3


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "training_loss", lambda output, *_: output.sum() * math.nan)
    with pytest.raises(RunError, match=r"train loss is nan at step 1, learning rate .*; try --learning-rate"):
        train(output=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_one_image_of_one_pixel_is_told_plainly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="single image whose maps have shrunk"):
        train(output=tmp_path / "run", **{**QUICK, "image_size": 16, "batch_size": 1})


def test_a_diverged_network_is_not_kept(tmp_path: Path) -> None:
    settings = {
        **QUICK,
        "variant": "tutorial",
        "optimizer": "sgd",
        "learning_rate": 1e30,
        "max_steps": 1,
        "warmup": 0.0,
    }
    with pytest.raises(RunError, match="test loss is nan"):
        train(output=tmp_path / "run", **settings, initialization="he")
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 321}, "batch_size = 321 is more than the 320 training images"),
        ({"variant": "torchvision", "image_size": 2}, "too small"),
        ({"device": "cuda:7"}, "no device 'cuda:7'"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"precision": "fp16", "device": "cpu"}, "needs a GPU"),
        ({"data": "imagenet"}, "no data set 'imagenet'"),
        ({"data_dir": "/nowhere"}, "holds no Fashion-MNIST"),
        ({"track": "wandb"}, "not installed"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(output=tmp_path / "run", **{**QUICK, **settings})
    assert not (tmp_path / "run").exists()


def test_output_folders_that_will_not_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("")
    for name, message in (("file", "file in the way"), ("file/run", "file in the way"), ("full", "holds something")):
        with pytest.raises(UserError, match=message):
            train(output=tmp_path / name, **QUICK)
    assert (tmp_path / "full" / "something").exists()


def test_a_picture_that_cannot_be_written_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise RunError("cannot write curves.png: No space left on device")

    monkeypatch.setattr(outcome, "plot_curves", refuse)
    with pytest.raises(RunError, match="No space left"):
        train(output=tmp_path / "run", **{**QUICK, "epochs": 1, "pictures": True})
    assert googlenet.load(tmp_path / "run").info.metrics["test"]


def test_bf16_learns_like_fp32(trained: TrainingResult, tmp_path: Path) -> None:
    result = train(output=tmp_path / "run", **{**QUICK, "precision": "bf16"})
    assert rows(result)[2]["loss"] == pytest.approx(rows(trained)[2]["loss"], rel=0.15)


def test_accumulation_changes_memory_not_the_update(tmp_path: Path) -> None:
    """Without batch normalization, whose statistics are a part's own, four parts make the gradient of the whole."""
    settings = {**QUICK, "variant": "tutorial", "initialization": "he", "dropout": 0.0, "max_steps": 3}
    settings |= {"optimizer": "sgd", "learning_rate": 1e-3}
    whole = train(output=tmp_path / "whole", **settings)
    parts = train(output=tmp_path / "parts", **settings, accumulate=4)
    for name, tensor in weights(whole.folder).items():
        torch.testing.assert_close(tensor, weights(parts.folder)[name], rtol=1e-4, atol=1e-5)


def test_no_part_of_a_batch_is_a_single_image(tmp_path: Path) -> None:
    """Batch normalization over maps of one pixel cannot work on one."""
    settings = {**QUICK, "stem_stride": 2, "image_size": 28, "batch_size": 61, "max_steps": 1, "accumulate": 20}
    assert train(output=tmp_path / "run", **settings).metrics["step"] == 1


def test_auxiliary_heads_and_clipping_train(tmp_path: Path) -> None:
    settings = {**QUICK, "variant": "torchvision", "image_size": 32, "max_steps": 4, "gradient_clip": 0.5}
    settings |= {"schedule": "polynomial", "optimizer": "sgd", "num_workers": 1}
    result = train(output=tmp_path / "run", **settings)
    assert googlenet.load(result.model).aux1 is not None
    assert math.isfinite(rows(result)[-1]["loss"])


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    result = train(output=tmp_path / "run", **{**QUICK, "max_steps": 3}, track="tensorboard")
    assert list(result.folder.rglob("events.out.tfevents*"))


def test_judging_that_takes_long_is_explained_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "LONG", -1)
    train(output=tmp_path / "run", **{**QUICK, "epochs": 2, "batch_size": 8})
    lines = capsys.readouterr().out.splitlines()
    judging = [line for line in lines if line.startswith("judging test images  left 0:")]
    assert len(judging) == 2  # once an epoch, whose images take several batches each
    assert sum("train loss" in line and "test loss" in line and "test accuracy" in line for line in lines) == 2


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_memory_that_runs_out_anywhere_in_a_step_is_told(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(Accelerator, "backward", refuse)
    with pytest.raises(RunError, match=r"step of 32 images; try a smaller --batch-size, or --accumulate 2"):
        train(output=tmp_path / "run", **QUICK)


def test_evaluation_takes_no_more_images_at_once_than_training_makes_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = outcome.collect_logits

    def noted(*args: Any, batch_size: int, **settings: Any) -> Any:
        sizes.append(batch_size)
        return real(*args, batch_size=batch_size, **settings)

    monkeypatch.setattr(outcome, "collect_logits", noted)
    train(output=tmp_path / "run", **{**QUICK, "max_steps": 1, "batch_size": 8, "accumulate": 2})
    assert sizes == [16]

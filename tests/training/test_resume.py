"""Runs that are stopped or killed, or fill the disk, and continue from their last checkpoint."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import googlenet
from googlenet import RunError, RunFolder, Trainer, UserError, load_dataset, load_recipe, train
from googlenet.errors import Terminated
from googlenet.recipe import RENAMED
from googlenet.training import loop, setup
from googlenet.weights.model_file import save
from tests.conftest import QUICK, TINY, needs_signals
from tests.soak.kills import differences
from tests.training.helpers import assert_same_weights, rows, rows_without_times, small_net, weights

pytestmark = pytest.mark.usefixtures("small_data")


class Killed(BaseException):
    """Ends a run at any place, as a kill would."""


def killed_at(step: int) -> Callable[[Trainer], None]:
    def die(trainer: Trainer) -> None:
        if trainer.step == step:
            raise Killed

    return die


def signaled_at(step: int, number: signal.Signals = signal.SIGINT) -> Callable[[Trainer], None]:
    def interrupt(trainer: Trainer) -> None:
        if trainer.step == step:
            os.kill(os.getpid(), number)

    return interrupt


VARIED: dict[str, Any] = {
    **QUICK,
    "ema_decay": 0.9,
    "crop_padding": 1,
    "dropout": 0.3,
    "checkpoint_every": 3,
    "gradient_accumulation": 2,
}


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("step", [6, 10, 20])
def test_a_killed_run_resumes_bit_for_bit(step: int, optimizer: str, tmp_path: Path) -> None:
    settings = {**VARIED, "optimizer": optimizer, "mixup": 0.2}
    whole = train(output=tmp_path / "whole", model=small_net(), **settings)
    with pytest.raises(Killed):
        train(output=tmp_path / "killed", model=small_net(), on_step=killed_at(step), **settings)
    resumed = train(output=tmp_path / "killed", model=small_net(), resume=True)
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)


def test_a_googlenet_resumes_bit_for_bit(tmp_path: Path) -> None:
    settings = {**VARIED, **TINY, "batch_size": 16, "max_steps": 5, "optimizer": "muon", "random_erasing": 0.5}
    whole = train(output=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        train(output=tmp_path / "killed", on_step=killed_at(4), **settings)
    resumed = train(output=tmp_path / "killed", resume=True)
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_which_can_be_resumed(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    whole = train(output=tmp_path / "whole", model=small_net(), **QUICK)
    settings = {**QUICK, "plots": number == signal.SIGINT}
    result = train(output=tmp_path / "run", model=small_net(), on_step=signaled_at(14, number), **settings)
    assert result.interrupted
    assert result.metrics["step"] == 10
    if settings["plots"]:
        assert {path.name for path in result.folder.glob("*.png")} >= {"curves.png", "confusion_matrix.png"}
    assert result.terminated == (number == signal.SIGTERM)
    assert signal.getsignal(number) == before
    resumed = train(output=tmp_path / "run", model=small_net(), resume=True)
    assert not resumed.interrupted
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)


@needs_signals
@pytest.mark.parametrize("step", [10, 20])
def test_a_signal_in_the_last_step_of_an_epoch(step: int, tmp_path: Path) -> None:
    whole = train(output=tmp_path / "whole", model=small_net(), **QUICK)
    result = train(output=tmp_path / "run", model=small_net(), on_step=signaled_at(step), **QUICK)
    assert result.interrupted
    assert result.metrics["step"] == 10
    train(output=tmp_path / "run", model=small_net(), resume=True)
    assert_same_weights(whole.folder, tmp_path / "run")
    assert [row["step"] for row in rows(result)] == [10, 10, 20, 20]


@needs_signals
def test_interrupted_before_the_first_evaluation(tmp_path: Path) -> None:
    settings = {**TINY, "plots": True}
    result = train(output=tmp_path / "run", on_step=signaled_at(1), **settings)
    assert googlenet.load(result.model).info.metrics["step"] == 1
    assert not list(result.folder.glob("*.png"))  # there is no row to draw


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(output=tmp_path / "run", **{**TINY, "max_steps": 2})
    before, rows_before = weights(result.folder), rows(result)
    capsys.readouterr()
    again = train(output=tmp_path / "run", resume=True)
    assert "step 2" in capsys.readouterr().out
    assert again.metrics == result.metrics
    assert rows(again) == rows_before
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(result.folder).items())


def test_resuming_needs_a_run_and_its_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.*--output"):
        train(output=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="--output"):
        train(resume=True)
    train(output=tmp_path / "run", model=small_net(), **{**QUICK, "max_steps": 1})
    with pytest.raises(UserError, match="batch_size = 32, not 16"):
        train(output=tmp_path / "run", resume=True, batch_size=16)
    (path,) = RunFolder(tmp_path / "run").checkpoints()
    path.write_bytes(b"half of a")
    with pytest.raises(UserError, match=rf"{path.name}.*--weights"):
        train(output=tmp_path / "run", resume=True)


def test_resuming_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(output=tmp_path / "run", model=small_net(), **{**QUICK, "max_steps": 1})

    def other(name: str, also: str | None, data_dir: str | None, **_: object) -> Any:
        return dataclasses.replace(load_dataset(name, data_dir), digest="another")

    monkeypatch.setattr(setup, "load_joined", other)
    with pytest.raises(UserError, match=r"fashion-mnist.*environment\.json"):
        train(output=tmp_path / "run", model=small_net(), resume=True)


def test_resuming_with_other_starting_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = train(output="base", **{**TINY, "max_steps": 1})
    settings = {name: value for name, value in TINY.items() if name != "stem_stride"}
    tuned = train(output="tuned", weights="base", **{**settings, "max_steps": 1})
    assert load_recipe(tuned.folder / "recipe.toml").weights == str(tmp_path / "base")
    assert train(output="tuned", resume=True).metrics["step"] == 1
    net = googlenet.load(base.model)
    save(net, dataclasses.replace(net.info, input=dataclasses.replace(net.info.input, mean=(0.9,))), base.model)
    with pytest.raises(UserError, match="base"):
        train(output="tuned", resume=True)
    with torch.no_grad():
        net.conv1.conv.weight[0] += 1e-3
    save(net, net.info, base.model)
    with pytest.raises(UserError, match="base"):
        train(output="tuned", resume=True)


def _as_version_0_1(folder: RunFolder) -> tuple[dict[str, Any], Path]:
    """The checkpoint without what that version did not have, and the file it was in; the newer ones are deleted."""
    state = folder.load_checkpoint()
    for path in folder.checkpoints():
        path.unlink()
    for name in ("keep_checkpoints", "on_save_error", "on_nan"):
        del state["recipe"][name]
    state["recipe"].setdefault("checkpoint_every", 500)
    fields = ("step", "epoch", "seconds", "best_accuracy", "best_epoch", "best_metrics")
    state["progress"] = {name: state["progress"][name] for name in fields}
    del state["weights"]
    return state, folder.path / "checkpoints" / "last.pt"


def test_a_checkpoint_and_a_model_of_version_0_1(tmp_path: Path) -> None:
    """As the version before wrote them: old names of settings, fields and groups."""
    settings: dict[str, Any] = {**TINY, "max_steps": 4, "validation": 0.1, "checkpoint_every": 2, "hflip": False}
    settings |= {"color_jitter": 0.1, "random_erasing": 0.2, "ema_decay": 0.9, "gradient_accumulation": 2}
    whole = train(output=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        train(output=tmp_path / "old", on_step=killed_at(3), **settings)

    names = {new: old for old, new in RENAMED.items()}
    state, path = _as_version_0_1(RunFolder(tmp_path / "old"))
    recipe = {names.get(name, name): value for name, value in state["recipe"].items()}
    state["recipe"] = {**recipe, "schedule": "one-cycle", "num_workers": 0}
    state["input"]["crop_share"] = state["input"].pop("crop_pct")
    for group in state["optimizer"]["param_groups"]:
        group["trunk"] = group.pop("backbone")
    torch.save(state, path)
    resumed = train(output=tmp_path / "old", resume=True)
    assert_same_weights(whole.folder, resumed.folder)
    assert resumed.metrics["selected_by"] == "validation"

    with safe_open(resumed.model, framework="pt") as file:
        text = file.metadata()["googlenet"]
    for new, old in {**names, "crop_pct": "crop_share", "selected_by": "chosen_by", "linear": "one-cycle"}.items():
        text = text.replace(f'"{new}"', f'"{old}"')
    text = text.replace('"stem_stride"', '"blocks": 9, "head_grid": 1, "head_width": 0, "stem_stride"', 1)
    assert '"trunk_rate"' in text and '"blocks"' in text
    old_model = tmp_path / "old.safetensors"
    save_file(load_file(resumed.model), old_model, {"format": "pt", "googlenet": text})
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(googlenet.load(old_model)(x), googlenet.load(resumed.model)(x))
    base = {name: value for name, value in TINY.items() if name != "stem_stride"}
    assert train(output=tmp_path / "tuned", weights=str(old_model), **base, max_steps=1).metrics["step"] == 1


def test_metrics_of_version_0_1(tmp_path: Path) -> None:
    result = train(output=tmp_path / "run", model=small_net(), **{**QUICK, "max_steps": 1})
    state, path = _as_version_0_1(RunFolder(result.folder))
    state["progress"]["best_metrics"]["chosen_by"] = state["progress"]["best_metrics"].pop("selected_by")
    torch.save(state, path)
    resumed = train(output=tmp_path / "run", model=small_net(), resume=True)
    assert resumed.metrics["selected_by"] == "last" and "chosen_by" not in resumed.metrics


def test_a_cut_last_row(tmp_path: Path) -> None:
    result = train(output=tmp_path / "run", model=small_net(), **{**QUICK, "max_steps": 3})
    with (result.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ep')
    train(output=tmp_path / "run", model=small_net(), resume=True)
    assert [row["step"] for row in rows(result)] == [3, 3]


@pytest.fixture
def full_disk() -> Iterator[Callable[[bool], None]]:
    """Fills the disk, in that no file may grow past a limit, or makes room again."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(full: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, before[1]) if full else before)

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_checkpoint(full_disk: Callable[[bool], None], tmp_path: Path) -> None:
    def fill(trainer: Trainer) -> None:
        full_disk(trainer.step == 11)

    whole = train(output=tmp_path / "whole", model=small_net(), **QUICK)
    settings = {**QUICK, "checkpoint_every": 11}
    with pytest.raises(RunError, match=r"step-11.*--resume.*--on-save-error"):
        train(output=tmp_path / "run", model=small_net(), on_step=fill, **settings)
    full_disk(False)
    folder = RunFolder(tmp_path / "run")
    (path,) = folder.path.joinpath("checkpoints").iterdir()
    assert path.name.startswith("step-10-")
    resumed = train(output=tmp_path / "run", model=small_net(), resume=True)
    assert_same_weights(whole.folder, resumed.folder)


@pytest.mark.parametrize("until", [17, 99])
def test_training_goes_on_while_the_disk_is_full(
    until: int, full_disk: Callable[[bool], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the end of the first epoch, with its rows, model and checkpoint, or through the end of the run."""

    def fill(trainer: Trainer) -> None:
        full_disk(5 <= trainer.step < until)

    settings = {**QUICK, "checkpoint_every": 3, "log_every": 1}
    whole = train(output=tmp_path / "whole", model=small_net(), **settings)
    capsys.readouterr()
    options = {"output": tmp_path / "run", "on_step": fill, "model": small_net(), "on_save_error": "continue"}
    if until == 99:
        with pytest.raises(RunError, match=r"metrics\.jsonl|model\.safetensors"):
            train(**options, **settings)
        full_disk(False)
        assert RunFolder(tmp_path / "run").load_checkpoint()["progress"]["step"] == 3
        resumed = train(output=tmp_path / "run", model=small_net(), resume=True)
    else:
        resumed = train(**options, **settings)
    out = capsys.readouterr().out
    assert out.count("training goes on") == 1 and ("can be written again" in out) == (until == 17)
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)


def test_a_disk_that_is_full_at_the_very_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model is written once more, with its temperature."""

    def full(*arguments: Any) -> Any:
        monkeypatch.setattr(arguments[1], "_write_model", fail)
        return finish(*arguments)

    def fail() -> None:
        raise RunError("cannot write model.safetensors")

    finish = loop.finish
    monkeypatch.setattr(loop, "finish", full)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        train(output=tmp_path / "run", model=small_net(), on_save_error="continue", **{**QUICK, "max_steps": 1})


@needs_signals
def test_a_signal_in_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch is trained but not evaluated; the resumed run begins with the evaluation."""
    whole = train(output=tmp_path / "whole", model=small_net(), **QUICK)
    evaluate = loop.evaluate

    def die(*_: object) -> None:
        raise Killed

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", interrupted)
        result = train(output=tmp_path / "run", model=small_net(), **QUICK)
    assert result.terminated and [row["split"] for row in rows(result)] == ["train"]
    # Killed after the row of the evaluation, before a checkpoint
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "save_best", die)
        train(output=tmp_path / "run", model=small_net(), resume=True)
    assert [row["split"] for row in rows(result)] == ["train", "test"]
    resumed = train(output=tmp_path / "run", model=small_net(), resume=True)
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_evaluation(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is trained; what is left is the evaluation of its model, with which the resumed run begins."""
    settings = {**QUICK, "max_steps": 2}
    whole = train(output=tmp_path / "whole", model=small_net(), **settings)
    save_best = loop.save_best

    def interrupted(*arguments: Any) -> None:
        save_best(*arguments)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as error:
        patch.setattr(loop, "save_best", interrupted)
        train(output=tmp_path / "run", model=small_net(), **settings)
    assert isinstance(error.value, Terminated) == (number == signal.SIGTERM)
    assert not (tmp_path / "run" / "evaluation.json").exists()
    resumed = train(output=tmp_path / "run", model=small_net(), resume=True)
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)
    assert resumed.metrics == whole.metrics


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_ends_the_run_at_once(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(setup, "load_joined", lambda *_, **__: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt) as error:
        train(output=tmp_path / "run", model=small_net(), **QUICK)
    assert isinstance(error.value, Terminated) == (number == signal.SIGTERM)
    assert signal.getsignal(number) == before


@needs_signals
def test_a_second_ctrl_c_ends_a_run_at_once(tmp_path: Path) -> None:
    def press_twice(_: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(output=tmp_path / "run", model=small_net(), on_step=press_twice, **QUICK)
    assert RunFolder(tmp_path / "run").rows() == []


def test_the_same_command_starts_and_continues_a_run(tmp_path: Path) -> None:
    """Also after a kill before the first checkpoint, which leaves a folder with a recipe."""
    settings: dict[str, Any] = {**QUICK, "epochs": 1, "output": tmp_path / "run", "resume": True}
    with pytest.raises(Killed):
        train(model=small_net(), on_step=killed_at(1), **settings)
    assert not RunFolder(tmp_path / "run").checkpoints()
    result = train(model=small_net(), **settings)
    assert_same_weights(
        result.folder, train(output=tmp_path / "whole", model=small_net(), **{**QUICK, "epochs": 1}).folder
    )
    assert train(model=small_net(), **settings).metrics == result.metrics


def test_the_first_checkpoint_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**QUICK, "checkpoint_every": 3}
    whole = train(output=tmp_path / "whole", model=small_net(), **settings)
    with pytest.raises(Killed):
        train(output=tmp_path / "run", model=small_net(), on_step=killed_at(14), **settings)
    newest, older = RunFolder(tmp_path / "run").checkpoints()[:2]
    with newest.open("rb+") as file:
        file.truncate(100)
    capsys.readouterr()
    resumed = train(output=tmp_path / "run", model=small_net(), resume=True)
    out = capsys.readouterr().out
    assert newest.name in out and older.name in out
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)


def test_a_run_repeated_from_its_recipe(photos: Path, tmp_path: Path) -> None:
    """With most of what is random: the split, the order, augmentation, mixup, dropout, erasing."""
    settings: dict[str, Any] = {**VARIED, "batch_size": 8, "mixup": 0.3, "random_erasing": 0.5, "color_jitter": 0.2}
    settings |= {"data": photos, "validation": 0.2, "balance": "sampling", "image_size": 20, "crop_scale": 0.5}
    train("fast", output=tmp_path / "one", model=small_net(classes=2, size=20), **settings)
    train(tmp_path / "one" / "recipe.toml", output=tmp_path / "again", model=small_net(classes=2, size=20))
    assert differences(tmp_path / "one", tmp_path / "again") == []

"""Runs that are stopped, killed or out of room, and go on from their last checkpoint."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import googlenet
from googlenet import RunError, UserError, load
from googlenet.weights.model_file import save
from googlenet.data.dataset import load_dataset
from googlenet.recipe import load_recipe
from googlenet.training import checkpoint, fit
from googlenet.training.loop import train
from googlenet.training.loop import TrainingResult
from tests.conftest import QUICK
from tests.training.test_fit import assert_same_weights, rows, weights

pytestmark = pytest.mark.usefixtures("small_data")


class Killed(BaseException):
    """What the tests end a run with at a place of their choosing, as a kill would."""


VARIED = {
    **QUICK,
    "ema": 0.9,
    "crop_padding": 1,
    "dropout": 0.3,
    "checkpoint_every": 3,
    "accumulate": 2,
    "image_size": 16,
}


@pytest.mark.parametrize(("die_at", "optimizer"), [(5, "adamw"), (9, "muon"), (19, "sgd")])
def test_a_killed_run_resumes_bit_for_bit(
    die_at: int, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**VARIED, "optimizer": optimizer}
    whole = train(output=tmp_path / "whole", **settings)
    real = fit.train_step

    def dying(run: Any, *rest: Any) -> None:
        if run.progress.step == die_at:
            raise Killed
        real(run, *rest)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "train_step", dying)
        train(output=tmp_path / "killed", **settings)
    resumed = train(output=tmp_path / "killed", resume=True)
    assert_same_weights(whole.folder, resumed.folder)

    def shown(result: TrainingResult) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows(result)]

    assert shown(whole) == shown(resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_cleanly_and_it_can_go_on(
    number: signal.Signals, trained: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = fit.train_step, signal.getsignal(number)

    def interrupted(run: Any, *rest: Any) -> None:
        real(run, *rest)
        if run.progress.step == 13:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_step", interrupted)
        result = train(output=tmp_path / "run", **{**QUICK, "pictures": True})
    assert result.interrupted
    assert googlenet.load(result.model).info.metrics["step"] == 10
    assert {path.name for path in result.folder.glob("*.png")} >= {"curves.png", "confusion_matrix.png"}
    assert rows(result)[-1]["step"] == 14
    assert signal.getsignal(number) == before
    resumed = train(output=tmp_path / "run", resume=True)
    assert not resumed.interrupted
    assert_same_weights(trained.folder, resumed.folder)


@pytest.mark.parametrize("step", [10, 20])
def test_a_signal_in_an_epochs_last_step_still_has_it_judged(
    step: int, trained: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fit.judge

    def interrupted(run: Any, display: Any) -> Any:
        if run.progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(run, display)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "judge", interrupted)
        result = train(output=tmp_path / "run", **QUICK)
    assert result.interrupted == (step == 10)
    assert googlenet.load(result.model).info.metrics["step"] == step
    train(output=tmp_path / "run", resume=True)
    assert_same_weights(trained.folder, tmp_path / "run")
    assert [row["step"] for row in rows(result)] == [10, 10, 20, 20]


def test_interrupted_before_the_first_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fit.train_step

    def interrupted(run: Any, *rest: Any) -> None:
        real(run, *rest)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(fit, "train_step", interrupted)
    result = train(output=tmp_path / "run", **{**QUICK, "pictures": True})
    assert googlenet.load(result.model).info.metrics["step"] == 1
    assert (result.folder / "curves.png").exists()


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    result = train(output=tmp_path / "run", **{**QUICK, "epochs": 1})
    before = weights(result.folder)
    again = train(output=tmp_path / "run", resume=True)
    assert again.metrics["test"] == result.metrics["test"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(result.folder).items())


def test_resuming_needs_a_run_and_its_own_settings(trained: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        train(output=tmp_path / "none", resume=True)
    with pytest.raises(UserError, match="--output"):
        train(resume=True)
    with pytest.raises(UserError, match="has batch_size = 32, not 16"):
        train(output=trained.folder, resume=True, batch_size=16)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"half of a")
    with pytest.raises(UserError, match="damaged"):
        train(output=tmp_path, resume=True)


def test_resuming_with_other_data_is_refused(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    from googlenet.training import preparation

    def other(name: str, data_dir: str | None, **_: object) -> Any:
        return dataclasses.replace(load_dataset(name, data_dir), digest="another")

    monkeypatch.setattr(preparation, "load_dataset", other)
    with pytest.raises(UserError, match="not the copy that this run began with"):
        train(output=trained.folder, resume=True)


def test_a_run_from_weights_goes_on_with_the_same_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = train(output="base", **{**QUICK, "max_steps": 1})
    settings = {name: value for name, value in QUICK.items() if name != "stem_stride"}
    tuned = train(output="tuned", weights="base", **{**settings, "max_steps": 1})
    assert load_recipe(tuned.folder / "recipe.toml").weights == str(tmp_path / "base")

    checkpoint_file = tuned.folder / "checkpoints" / "last.pt"
    now = torch.load(checkpoint_file)
    before = {name: value for name, value in now.items() if name != "input"}  # as the version before wrote it
    torch.save({**before, "recipe": {**now["recipe"], "weights": "base"}}, checkpoint_file)
    assert train(output="tuned", resume=True).metrics["step"] == 1

    torch.save(now, checkpoint_file)
    net = load(base.model)
    save(net, dataclasses.replace(net.info, input=dataclasses.replace(net.info.input, mean=(0.9,))), base.model)
    with pytest.raises(UserError, match="not the file that this run began with"):
        train(output="tuned", resume=True)


def test_a_cut_last_row_does_not_stop_a_resumption(tmp_path: Path) -> None:
    result = train(output=tmp_path / "run", **{**QUICK, "max_steps": 3})
    with (result.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ep')
    train(output=tmp_path / "run", resume=True)
    assert [row["step"] for row in rows(result)] == [3, 3]


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system lets no file grow past a limit from the second epoch on, which is what a full disk looks like."""
    real = fit.judge
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(run: Any, display: Any) -> Any:
        if run.progress.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        return real(run, display)

    monkeypatch.setattr(fit, "judge", limited)
    monkeypatch.setattr(fit, "keep", lambda run, judged: None)
    try:
        with pytest.raises(RunError, match="cannot write"):
            train(output=tmp_path / "run", **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.pt"]
    assert checkpoint.read_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["progress"]["step"] == 10


def test_a_run_that_ended_says_so_when_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(output=tmp_path / "run", **{**QUICK, "max_steps": 2})
    again = train(output=result.folder, resume=True)
    assert "the run ended at step 2; its kept model is judged once more" in capsys.readouterr().out
    assert again.metrics == result.metrics

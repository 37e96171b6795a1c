"""The files of a run."""

from __future__ import annotations

import contextlib
import errno
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from googlenet import RunError, RunFolder, UserError


def test_rows(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.rows() == []
    folder.describe({"epochs": 2}, {"python": "3"}, None)
    for step in (1, 2, 3):
        folder.append({"step": step, "epoch": step, "split": "train"})
    folder.append({"step": 3, "epoch": 3, "split": "test"})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4')  # a kill cut it
    assert [row["step"] for row in folder.rows()] == [1, 2, 3, 3]
    folder.rewind(3, epoch=3)
    assert [row["split"] for row in folder.rows()] == ["train", "train", "train", "test"]
    folder.rewind(3, epoch=2)  # its evaluation is still to come
    assert [row["split"] for row in folder.rows()] == ["train", "train", "train"]
    folder.rewind(2, epoch=2)
    assert [row["step"] for row in folder.rows()] == [1, 2]
    assert folder.metrics.read_text().endswith("}\n")
    assert {path.name for path in folder.path.iterdir()} == {"recipe.toml", "environment.json", "metrics.jsonl"}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff", b"{", b"[" * 100_000, b"3", b"null", b'{"step": 1}', b'{"step": "1", "epoch": 1, "split": "train"}',
        b'{"step": 1.5, "epoch": 1, "split": "train"}', b'{"step": 1, "epoch": 1, "split": 3}',
        b'{"step": 1, "epoch": null, "split": "train"}', b'{"step": 1, "epoch": 1, "split": "train", "loss": NaN}',
        b'{"step": 1, "epoch": 1, "split": "train", "loss": {}}', b'{"step": true, "epoch": 1, "split": "train"}',
    ],
)  # fmt: skip
def test_damaged_rows(line: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append({"step": 1, "epoch": 1, "split": "train", "loss": 0.5})
    folder.metrics.write_bytes(folder.metrics.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        folder.rows()


def test_new_paths_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("googlenet.training.run_folder.datetime", FixedTime)
    for end in ("", "-2", "-3"):
        path = RunFolder.new_path("recipes/mine.toml")
        assert path == Path(f"runs/mine-20261124-103005{end}") and not path.exists()
        path.mkdir(parents=True)


class FixedTime(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> FixedTime:
        return cls(2026, 11, 24, 10, 30, 5)


def test_a_new_run_needs_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunFolder(tmp_path / "new" / "deep").check_new()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path):
        with pytest.raises(UserError, match="--output"):
            RunFolder(path).check_new()

    def refuse(path: Path) -> None:
        raise RunError(f"{path} is read-only")

    monkeypatch.setattr("googlenet.training.run_folder.check_writable", refuse)
    with pytest.raises(RunError, match=r"recipe\.toml"):
        RunFolder(tmp_path / "new").check_new()


def test_what_describes_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.describe({"epochs": 2}, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]
    folder.describe({"epochs": 3}, {"python": "3"}, (["file", "class"], [("a.png", "boot")]))
    assert folder.recipe.read_text() == "epochs = 3\n"
    assert json.loads((tmp_path / "environment.json").read_text()) == {"python": "3"}
    assert (tmp_path / "split.csv").read_text() == "file,class\na.png,boot\n"


class HalfFile:
    """A file on a disk that has room for half of what is written."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> HalfFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: bytes) -> int:
        return self.file.write(content[: len(content) // 2])


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_row_that_does_not_fit(
    goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"step": 1, "epoch": 1, "split": "train"}
    folder, before = RunFolder(tmp_path, goes_on=goes_on), Path.open
    folder.append(row)
    intact = folder.metrics.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *words, **more: HalfFile(before(path, *words, **more)))
        for number in range(2):
            with contextlib.nullcontext() if goes_on else pytest.raises(RunError, match=r"metrics\.jsonl.*--resume"):
                folder.append(row)
            assert folder.metrics.read_bytes() == intact
            assert ("training goes on" in capsys.readouterr().out) == (goes_on and number == 0)  # said once
        with pytest.raises(RunError, match=r"metrics\.jsonl"):
            folder.flush()
    folder.append({**row, "step": 2})
    assert [each["step"] for each in folder.rows()] == [1, 1, 1, 2]
    assert ("can be written again" in capsys.readouterr().out) == goes_on
    folder.append({**row, "step": 3})
    assert "can be written again" not in capsys.readouterr().out


def test_rows_that_wait_for_room(tmp_path: Path) -> None:
    """They are written before the next checkpoint, and forgotten by a run that goes back."""
    row = {"step": 1, "epoch": 1, "split": "train"}
    folder = RunFolder(tmp_path, goes_on=True)
    for step, goes_back in ((1, False), (2, True)):
        folder.metrics.rename(tmp_path / "rows") if folder.metrics.exists() else None
        folder.metrics.mkdir()
        folder.append({**row, "step": step})
        folder.metrics.rmdir()
        (tmp_path / "rows").rename(folder.metrics) if (tmp_path / "rows").exists() else None
        if goes_back:
            folder.rewind(1, epoch=1)
        folder.save_checkpoint(state_at(step))
        assert [each["step"] for each in folder.rows()] == [1]


def test_a_default_run_does_not_go_on(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError):
        RunFolder(tmp_path).append({"step": 1})


def test_a_model_that_does_not_fit_is_written_later(tmp_path: Path) -> None:
    folder, net, saved, is_full = RunFolder(tmp_path, goes_on=True), nn.Linear(1, 1), list[float](), True

    def save(net: nn.Module) -> None:
        if is_full:
            raise RunError("the disk is full")
        saved.append(net.bias.item())

    net.bias.data.fill_(1.0)
    folder.save_model(net, save)
    net.bias.data.fill_(2.0)  # training goes on
    with pytest.raises(RunError):
        folder.flush()
    is_full = False
    folder.flush()
    folder.flush()
    assert saved == [1.0]
    folder.save_model(net, save)
    assert saved == [1.0, 2.0]
    is_full = True
    folder.save_model(net, save)
    folder.rewind(0, epoch=0)  # what is not written yet is of a time that will come again
    is_full = False
    folder.flush()
    assert saved == [1.0, 2.0]
    is_full = True
    with pytest.raises(RunError, match="--on-save-error"):
        RunFolder(tmp_path).save_model(net, save)


def test_one_checkpoint_per_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_checkpoint({**state_at(1), "data": "first"}, keep=3)
    started = time.perf_counter()
    folder.save_checkpoint(state_at(1), keep=3)
    assert 0 < folder.save_seconds < time.perf_counter() - started
    assert steps(folder) == [1] and folder.load_checkpoint()["data"] == ""
    folder.save_checkpoint(state_at(2))
    assert steps(folder) == [2]
    (tmp_path / "checkpoints" / "notes.pt").write_text("")
    assert steps(folder) == [2]
    torch.save(state_at(3), tmp_path / "checkpoints" / "last.pt")
    assert [path.name for path in folder.checkpoints()][1:] == ["last.pt"]


def state_at(step: int, best: int | None = None) -> dict[str, Any]:
    progress = {"step": step, "best_metrics": {} if best is None else {"step": best}}
    return {
        "recipe": {}, "net": {"a": torch.full((1000,), step)}, "progress": progress, "data": "", "input": {},
        "optimizer": {},
    }  # fmt: skip


def steps(folder: RunFolder) -> list[int]:
    return [int(path.name.split("-")[1]) for path in folder.checkpoints()]


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (9, 10, 100, 101):
        folder.save_checkpoint(state_at(step, best=9), keep=2)
    assert steps(folder) == [101, 100, 9]
    folder.save_checkpoint(state_at(101, best=101), keep=2)
    assert steps(folder) == [101, 100]
    assert folder.load_checkpoint()["progress"]["best_metrics"] == {"step": 101}
    assert len(list(folder.checkpoints()[0].parent.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.save_checkpoint(state_at(step), keep=2)
    newest, older = folder.checkpoints()
    content = newest.read_bytes()
    middle = len(content) // 2
    newest.write_bytes({
        "cut": content[:-1],
        "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "other": older.read_bytes(),
    }[damage])  # fmt: skip
    assert folder.load_checkpoint()["progress"]["step"] == 1
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and newest.name in line and older.name in line
    folder.rewind(1, epoch=1)
    assert folder.checkpoints() == [older]
    older.write_bytes(b"half of a")
    with pytest.raises(UserError, match=rf"{older.name}.*--weights"):
        folder.load_checkpoint()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.save_checkpoint(state_at(step), keep=2)

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "read_bytes") if isinstance(error, OSError) else (torch, "load")), fail)
        with pytest.raises(RunError if isinstance(error, OSError) else MemoryError):
            folder.load_checkpoint()
    assert folder.load_checkpoint()["progress"]["step"] == 2


def test_without_checkpoints_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output"):
        RunFolder(tmp_path).load_checkpoint()


def test_a_checkpoint_of_version_0_1_and_one_without_its_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save(state_at(3), tmp_path / "checkpoints" / "last.pt")
    assert folder.load_checkpoint()["progress"]["step"] == 3
    folder.save_checkpoint({"recipe": {}, "progress": {"step": 4}}, keep=2)
    assert folder.load_checkpoint()["progress"]["step"] == 3
    assert "last.pt" in capsys.readouterr().out


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(state_at(1))
    for path in (tmp_path / ".model.safetensors.ab.tmp", tmp_path / "checkpoints" / ".step-2.ab.tmp"):
        path.write_bytes(b"half")
    folder.rewind(1, epoch=1)
    assert not list(tmp_path.rglob("*.tmp")) and steps(folder) == [1]
    new = RunFolder(tmp_path / "new")
    new.path.mkdir()
    (new.path / ".recipe.toml.ab.tmp").write_bytes(b"half")
    new.check_new()
    new.describe({}, None, None)
    assert [path.name for path in new.path.iterdir()] == ["recipe.toml"]
    with pytest.raises(UserError, match="not empty"):
        new.check_new()

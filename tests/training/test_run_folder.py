"""The files of a run."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

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
    paths = set()
    for _ in range(3):
        path = RunFolder.new_path("recipes/mine.toml")
        assert path.parent == Path("runs") and path.name.startswith("mine-") and not path.exists()
        path.mkdir(parents=True)
        paths.add(path)
    assert len(paths) == 3


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

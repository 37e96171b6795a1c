"""The files of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from googlenet import RunFolder, UserError


def test_rows(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.rows() == []
    folder.create({"epochs": 2}, {"python": "3"})
    for step in (1, 2, 3):
        folder.append({"step": step, "loss": 0.1})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4')  # a kill cut it
    assert [row["step"] for row in folder.rows()] == [1, 2, 3]
    folder.drop_rows_after(2)
    assert [row["step"] for row in folder.rows()] == [1, 2]
    assert folder.metrics.read_text().endswith("}\n")
    assert {path.name for path in folder.path.iterdir()} == {"recipe.toml", "environment.json", "metrics.jsonl"}


def test_new_paths_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = set()
    for _ in range(3):
        path = RunFolder.new_path("recipes/mine.toml")
        assert path.parent == Path("runs") and path.name.startswith("mine-") and not path.exists()
        path.mkdir(parents=True)
        paths.add(path)
    assert len(paths) == 3


@pytest.mark.parametrize("content", [b"", b"half of a", None])
def test_damaged_and_missing_checkpoints(content: bytes | None, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    if content is not None:
        folder.checkpoint.parent.mkdir()
        folder.checkpoint.write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pt"):
        folder.load_checkpoint()


def test_a_checkpoint_without_its_parts(tmp_path: Path) -> None:
    RunFolder(tmp_path).save_checkpoint({"recipe": {}, "net": {}})
    with pytest.raises(UserError, match=r"last\.pt"):
        RunFolder(tmp_path).load_checkpoint()
    state = {
        "recipe": {},
        "net": {"a": torch.ones(1)},
        "progress": {"step": 3},
        "data": "",
        "input": {},
        "optimizer": {},
    }
    RunFolder(tmp_path).save_checkpoint(state)
    assert RunFolder(tmp_path).load_checkpoint() == state

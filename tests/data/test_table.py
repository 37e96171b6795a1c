"""Tables of image files: what they may say, and what is wrong with them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import googlenet
from googlenet.data.dataset import find_units
from googlenet.data.decode import Header
from googlenet.data.folder import ImageFile
from googlenet.data.table import list_table
from googlenet.errors import UserError
from tests.conftest import TINY, Call

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def rows(photos: Path) -> Rows:
    return [
        {"file": str(path), "class": path.parent.name, "group": f"camera {number % 6}"}
        for number, path in enumerate(sorted(photos.rglob("*.png")))
    ]


def test_a_table_without_splits_is_like_its_folder(photos: Path, rows: Rows) -> None:
    for row in rows:
        del row["group"]
    dataset, folder = googlenet.load_dataset(write(photos / "all.csv", rows), size=16), None
    (photos / "all.csv").unlink()
    folder = googlenet.load_dataset(photos, size=16)
    assert dataset.classes == folder.classes and dataset.test.files == folder.test.files
    assert torch.equal(dataset.train.images, folder.train.images)


def test_groups_stay_together(photos: Path, rows: Rows, tmp_path: Path) -> None:
    dataset = googlenet.load_dataset(write(tmp_path / "t.csv", rows), size=16)
    train, test = (set(split.columns["group"]) for split in (dataset.train, dataset.test))
    assert not train & test and test
    result = googlenet.train(data=tmp_path / "t.csv", output=tmp_path / "run", validation=0.3, recipe="fast", **QUICK)
    with (result.folder / "split.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(rows)
    groups: dict[str, set[str]] = {}
    for row in written:
        groups.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in groups.values())
    assert {split for splits in groups.values() for split in splits} == {"train", "validation", "test"}


QUICK = {**TINY, "batch_size": 4, "max_steps": 1, "image_size": 16, "whiten": False}


def test_the_split_of_a_run_can_be_used_again(photos: Path, tmp_path: Path, call: Call) -> None:
    run = googlenet.train(data=photos, output=tmp_path / "run", recipe="fast", **QUICK)
    split = run.folder / "split.csv"
    again = googlenet.load_dataset(split, size=16)
    folder = googlenet.load_dataset(photos, size=16)
    assert sorted(again.test.files) == sorted(folder.test.files)
    assert sorted(again.train.files) == sorted(folder.train.files)
    accuracy = json.loads(call("evaluate", run.folder, "--data", split, "--json")[0])["accuracy"]
    assert accuracy == json.loads(call("evaluate", run.folder, "--json")[0])["accuracy"]
    other = googlenet.train(data=split, output=tmp_path / "other", recipe="fast", **QUICK)
    assert (other.folder / "split.csv").read_text() == split.read_text()
    assert call("data", "show", split, "--count", 4, "--output", tmp_path / "show.png")[0]
    assert call("ablate", run.folder, "--data", split, "--json")[0]


def test_paths_relative_to_the_table_and_splits_of_any_spelling(photos: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["file"] = Path(row["file"]).relative_to(photos)
        row["split"] = ("Train", "training", "val", "TEST")[number % 4]
    dataset = googlenet.load_dataset(write(photos / "t.csv", rows), size=16)
    assert dataset.validation is not None
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (12, 6, 6)


def test_parquet(rows: Rows, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    csv_file = write(tmp_path / "t.csv", rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert list_table(tmp_path / "t.parquet") == list_table(csv_file)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"broken\.parquet"):
        list_table(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda rows: rows[3].update(file="gone.png"), "gone.png"),
        (lambda rows: rows[3].update({"class": ""}), "row 5"),
        (lambda rows: rows[3].update(file=""), "row 5"),
        (lambda rows: rows.append(dict(rows[0])), "row 2"),
        (lambda rows: rows.append({**rows[0], "class": "other"}), "row 2"),
        (lambda rows: [row.update({"class": "boot"}) for row in rows], "class"),
        (lambda rows: [row.update({"split": "somewhere"}) for row in rows], "somewhere"),
        (lambda rows: [row.update({"split": "test"}) for row in rows], "train"),
        (lambda rows: [row.update(split="test" if row["class"] == "boot" else "train") for row in rows], "boot"),
        (lambda rows: [row.pop("class") for row in rows], "class"),
        (lambda rows: [row.update(name=row.pop("file")) for row in rows], "file"),
        (lambda rows: rows.clear(), "file"),
    ],
)
def test_what_is_wrong_with_a_table(change: Any, named: str, rows: Rows, tmp_path: Path, call: Call) -> None:
    columns = {"file": "", "class": ""}
    change(rows)
    table = write(tmp_path / "t.csv", rows or [columns])
    if not rows:
        table.write_text("")
    _, err = call("train", "--data", table, "--output", tmp_path / "run", "--image-size", 16, code=2)
    assert (named in err and "t.csv" in err) or named in err
    assert not (tmp_path / "run").exists()


def test_a_row_with_too_few_values_and_a_byte_order_mark(rows: Rows, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", rows)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(list_table(table).files) == 24
    table.write_text(table.read_text(encoding="utf-8-sig") + f"{rows[0]['file']}\n")
    with pytest.raises(UserError, match="26"):
        list_table(table)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_is_a_table_or_an_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = tmp_path_factory.mktemp("any") / "t.csv"
    table.write_text("file,class\n" + text, encoding="utf-8", errors="replace")
    with pytest.raises(UserError):
        list_table(table)


@settings(max_examples=60, deadline=None)
@given(members=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5)), max_size=30))
def test_units_are_the_connected_files(members: list[tuple[int, int]]) -> None:
    """Each file has a content and a group (0: none); files that share one are in one unit, and so on."""
    files = [
        ImageFile(Path(str(number)), 0, None, number, bytes([content]), Header("L", (1, 1), 1))
        for number, (content, _) in enumerate(members)
    ]
    units = find_units(files, ["" if group == 0 else str(group) for _, group in members])
    reached = {number: {number} for number in range(len(files))}
    for _ in files:
        for number, (content, group) in enumerate(members):
            for other, (its_content, its_group) in enumerate(members):
                if content == its_content or (group and group == its_group):
                    reached[number] |= reached[other]
    for number, others in reached.items():
        same = {other for other in range(len(files)) if units[Path(str(other))] == units[Path(str(number))]}
        assert same == others


def test_a_moved_folder_resumes_and_a_changed_one_does_not(photos: Path, tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    settings = {**QUICK, "max_steps": 4, "checkpoint_every": 2}
    stop = {"on_step": lambda trainer: _interrupt(trainer.step)}
    result = googlenet.train(data=photos, output=run, recipe="fast", **settings, **stop)
    assert result.interrupted
    moved = tmp_path / "moved"
    shutil.move(photos, moved)
    _, err = call("train", "--resume", "--output", run, code=2)
    assert "--data" in err and str(photos) in err
    call("train", "--resume", "--output", run, "--data", moved)
    assert str(moved) in (run / "recipe.toml").read_text() and str(moved) in (run / "split.csv").read_text()
    assert call("evaluate", run, "--json")[0]
    next((moved / "boot").iterdir()).unlink()
    _, err = call("train", "--resume", "--output", run, "--data", moved, code=2)
    assert "--data" in err


def _interrupt(step: int) -> None:
    import os
    import signal

    if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)

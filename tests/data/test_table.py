"""Tables of image files: what they may say, and what is wrong with them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import googlenet
from googlenet.data.dataset import ImageSplit, split_validation
from googlenet.data.decode import Header
from googlenet.data.folder import ImageFile, scan
from googlenet.data.splits import find_units, split_files
from googlenet.data.table import list_table
from googlenet.errors import UserError
from tests.conftest import TINY, Call, needs_signals

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


def test_a_small_parquet_file_with_many_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    one = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(10**6, np.int8)), ["x.png"])
    long = pyarrow.array(["x" * 2**20 + str(number) for number in range(40)])
    for columns in ({"file": one, "class": one}, {"file": long, "class": long}):
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet", compression="zstd")
        with pytest.raises(UserError, match="too few"):
            list_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["a\0b", "../a\0b/c"])
def test_a_name_that_no_file_has(name: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"file,class\n{name},x\n")
    with pytest.raises(UserError, match=r"t\.csv"):
        list_table(tmp_path / "t.csv")


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
        row["file"], row["group"] = Path(row["file"]).relative_to(photos), ""
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


def _separate_the_classes(rows: Rows) -> None:
    for row in rows:
        row.update(group="", split="test" if row["class"] == "boot" else "train")


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
        (
            lambda rows: [row.update(group="", split="test" if row["class"] == "boot" else "train") for row in rows],
            "boot",
        ),
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


@needs_signals
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
    if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)


def test_tables_with_other_splits_or_classes_are_other_data(rows: Rows, tmp_path: Path) -> None:
    digests = set()
    for number in range(3):
        for row in rows:
            row.pop("group", None)
            row["split"] = "test" if int(Path(row["file"]).stem) % 3 == number else "train"
        digests.add(scan(list_table(write(tmp_path / f"{number}.csv", rows))).digest)
    rows[0]["class"], rows[-1]["class"] = rows[-1]["class"], rows[0]["class"]
    digests.add(scan(list_table(write(tmp_path / "swapped.csv", rows))).digest)
    assert len(digests) == 4


@settings(max_examples=40, deadline=None)
@given(groups=st.integers(3, 25), classes=st.integers(2, 8), fraction=st.sampled_from([0.1, 0.2, 0.5]))
def test_groups_of_several_classes_do_not_swell_the_test_split(groups: int, classes: int, fraction: float) -> None:
    """Every group has two images of every class."""
    files = [
        ImageFile(Path(f"{group}-{label}-{copy}"), label, None, number, f"{number}".encode(), Header("L", (1, 1), 1))
        for number, (group, label, copy) in enumerate(product(range(groups), range(classes), range(2)))
    ]
    units = find_units(files, [str(file.path).partition("-")[0] for file in files])
    test = split_files(files, units, 0, fraction, grouped=True)["test"]
    assert abs(len(test) - fraction * len(files)) <= 2 * classes


def test_a_row_without_split_follows_its_group(photos: Path, rows: Rows, tmp_path: Path) -> None:
    for number, row in enumerate(rows):
        row["split"] = ("train", "test")[number % 2] if number < 6 else ""
    dataset = googlenet.load_dataset(write(tmp_path / "t.csv", rows), size=16)
    assert not set(dataset.train.columns["group"]) & set(dataset.test.columns["group"])
    rows[6]["split"] = "test"  # its group, that of the first row, is in train
    with pytest.raises(UserError, match="camera 0"):
        list_table(write(tmp_path / "t.csv", rows))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 50), groups=st.integers(4, 12), of_each=st.integers(1, 9))
def test_validation_holds_out_whole_groups(seed: int, groups: int, of_each: int) -> None:
    units = torch.arange(groups).repeat_interleave(of_each)
    labels = units % 2
    names = [str(unit) for unit in units.tolist()]
    split = ImageSplit(
        torch.zeros(len(units), 1, 1, 1, dtype=torch.uint8), labels, columns={"group": names}, units=units
    )
    rest, held_out = split_validation(split, 0.3, seed)
    assert not set(rest.columns["group"]) & set(held_out.columns["group"])
    assert rest.labels.unique().tolist() == [0, 1]
    assert abs(len(held_out) - 0.3 * len(split)) <= of_each * 1.1


def test_a_link_to_a_table(photos: Path, rows: Rows, tmp_path: Path) -> None:
    for row in rows:
        row["file"] = Path(row["file"]).relative_to(photos)
    table = write(tmp_path / "elsewhere" / "t.csv", rows)
    (photos / "link.csv").symlink_to(table)
    result = googlenet.train(data=photos / "link.csv", output=tmp_path / "run", recipe="fast", **QUICK)
    assert "link.csv" in (result.folder / "recipe.toml").read_text()


def test_the_folder_above_a_link_is_that_of_its_target(photos: Path, rows: Rows, tmp_path: Path) -> None:
    """`link/..` is the folder in which the target is, not the one in which the link is."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(photos / "boot")
    for row in rows:
        row["file"] = elsewhere / "link" / ".." / Path(row["file"]).relative_to(photos)
    listing = list_table(write(tmp_path / "t.csv", rows))
    assert {path.parent.parent for path, *_ in listing.files} == {photos.resolve()}
    rows.append({**rows[0], "file": str(rows[0]["file"]).replace("link/..", "link/../boot/..")})
    with pytest.raises(UserError, match="row 2"):
        list_table(write(tmp_path / "t.csv", rows))

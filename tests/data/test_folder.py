"""Folders of images as users have them: every layout, and every kind of broken file, made by the tests."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from googlenet import UserError
from googlenet.data.dataset import load_dataset
from googlenet.data.decode import Header
from googlenet.data.folder import ImageFile, list_folder, scan
from googlenet.data.splits import find_units, split_files
from tests.data.conftest import deny_listing, write_image


def test_a_folder_of_classes_is_split_alike_in_every_class(pets: Path) -> None:
    write_image(pets / "cats" / "deep" / "ü x.PNG", 100)
    write_image(pets / ".thumbnails" / "x.png", 101)
    (pets / "notes.txt").write_text("mine")
    data = load_dataset(str(pets), size=16, seed=3)
    assert (data.classes, data.channels, data.name) == (("cats", "dogs"), 3, "pets")
    assert data.class_counts() == {"cats": {"train": 9, "test": 2}, "dogs": {"train": 8, "test": 2}}
    assert data.train.images.shape == (17, 3, 16, 16)
    again, other = load_dataset(str(pets), size=16, seed=3), load_dataset(str(pets), size=16, seed=4)
    assert torch.equal(again.test.images, data.test.images)
    assert again.digest == data.digest
    assert not torch.equal(other.test.images, data.test.images)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid"), ("train", "test"), ("train",)])
def test_folders_for_each_split(names: tuple[str, ...], tmp_path: Path) -> None:
    for split, name in enumerate(names):
        for number in range(5):
            write_image(tmp_path / name / ("a", "b")[number % 2] / f"{number}.jpg", 10 * split + number)
    data = load_dataset(str(tmp_path), size=16)
    if len(names) == 1:
        assert (len(data.train), len(data.test), data.validation) == (4, 1, None)
    else:
        assert (len(data.train), len(data.test)) == (5, 5)
        assert (data.validation is not None) == (len(names) == 3)


def test_gray_images_have_one_channel(tmp_path: Path) -> None:
    for number in range(10):
        write_image(tmp_path / "ab"[number % 2] / f"{number}.png", number, mode="LA" if number == 3 else "L")
    assert load_dataset(str(tmp_path), size=16).channels == 1
    write_image(tmp_path / "a" / "colored.png", 99)
    assert load_dataset(str(tmp_path), size=16).channels == 3


def test_a_file_that_cannot_be_read_is_an_error_or_skipped(pets: Path) -> None:
    whole = write_image(pets / "cats" / "cut.jpg", 7, (300, 300)).read_bytes()
    (pets / "cats" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "dogs" / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.png.*--skip-unreadable"):
        load_dataset(str(pets), size=16)
    data = load_dataset(str(pets), size=16, skip_unreadable=True)
    assert len(data.train) + len(data.test) == 20
    assert "2" in data.note
    assert sorted(Path(line.partition(":")[0]).name for line in data.skipped) == ["cut.jpg", "empty.png"]
    assert all(line.count("cut.jpg") + line.count("empty.png") == 1 for line in data.skipped)
    assert json.dumps(data.provenance()["skipped"])


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5), fraction=st.floats(0.05, 0.95), seed=st.integers(0, 99)
)
def test_every_image_is_in_one_split_and_classes_are_split_alike(sizes: list[int], fraction: float, seed: int) -> None:
    files = [
        ImageFile(Path(f"{label}/{number}"), label, None, 0, f"{label} {number // 2}".encode(), Header("L", (1, 1), 1))
        for label, size in enumerate(sizes)
        for number in range(size)
    ]
    splits = split_files(files, find_units(files), seed, fraction)
    assert sorted(file.path for members in splits.values() for file in members) == sorted(file.path for file in files)
    for label, size in enumerate(sizes):
        held_out = {file.digest for file in splits["test"] if file.label == label}
        assert len(held_out) == round(fraction * -(-size // 2))
        assert not held_out & {file.digest for file in splits["train"]}


def test_an_unknown_folder_next_to_train_is_an_error(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "split" / "train")
    shutil.copytree(pets, tmp_path / "split" / "holdout")
    with pytest.raises(UserError, match="holdout"):
        list_folder(tmp_path / "split")


def test_another_image_leaves_the_others_in_their_splits(pets: Path) -> None:
    before = {image.numpy().tobytes() for image in load_dataset(str(pets), size=16).test.images}
    write_image(pets / "cats" / "another.png", 77)
    after = {image.numpy().tobytes() for image in load_dataset(str(pets), size=16).test.images}
    assert len(before - after) <= 1


def test_a_class_without_training_images_is_an_error(pets: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    shutil.copytree(pets, split / "train")
    shutil.copytree(pets / "cats", split / "val" / "Cats")
    with pytest.raises(UserError, match="Cats"):
        load_dataset(str(split), size=16)


def test_names_of_files_need_not_be_text(pets: Path) -> None:
    odd = Path(os.fsdecode(b"\xff\xfe.png"))
    write_image(pets / "cats" / odd, 50)
    data = load_dataset(str(pets), size=16)
    assert len(data.train) + len(data.test) == 21
    (pets / odd.stem).mkdir()
    write_image(pets / odd.stem / "x.png", 51)
    with pytest.raises(UserError, match=r"\\xff\\xfe"):
        load_dataset(str(pets), size=16)


def test_duplicates_stay_in_one_split_and_leaks_are_found(
    pets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        shutil.copy(pets / "cats" / "0.png", pets / "cats" / f"copy{number}.png")
    for seed in range(5):
        data = load_dataset(str(pets), size=16, seed=seed)
        trained = {image.numpy().tobytes() for image in data.train.images}
        assert not any(image.numpy().tobytes() in trained for image in data.test.images)
    split = tmp_path / "split"
    shutil.copytree(pets, split / "train")
    shutil.copytree(pets / "cats", split / "test" / "cats")
    report = scan(list_folder(split))
    assert len(report.leaks) == 10
    assert max(map(len, report.duplicates)) == 22
    assert not report.contradictions
    monkeypatch.setattr("googlenet.console.log.propagate", True)
    load_dataset(split, size=16)
    assert "leakage: 10" in caplog.text and "duplicates: 30" in caplog.text


def test_one_image_in_two_classes_is_found(pets: Path) -> None:
    shutil.copy(pets / "cats" / "0.png", pets / "dogs" / "same.png")
    report = scan(list_folder(pets))
    assert [[file.path.name for file in group] for group in report.contradictions] == [["0.png", "same.png"]]
    assert any("contradiction" in line and "same.png" in line for line in report.lines())


def test_findings_have_numbers(pets: Path) -> None:
    for number in range(40):
        write_image(pets / "cats" / f"more{number}.png", 1000 + number)
    (pets / "dogs" / "notes.txt").write_text("")
    lines = scan(list_folder(pets)).lines()
    for line, names in zip(
        lines, (("60", "2", "cats 50", "dogs 10"), ("20", "RGB 60"), ("5", "--balance"), (".txt 1",)), strict=True
    ):
        assert all(name in line for name in names), line


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ((), "FOLDER/CLASS"),
        (("only/x.png",), "FOLDER/CLASS"),
        (("x.png",), "pets is a class"),
        (("a/x.png", "b/x.png"), "test"),
        (("train/a/x.png", "train/b/x.png", "val/a/bad.txt"), "test"),
    ],
)
def test_folders_that_cannot_be_used(files: tuple[str, ...], named: str, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    for seed, name in enumerate(files):
        write_image((tmp_path / "pets" / name).with_suffix(".png"), seed).rename(tmp_path / "pets" / name)
    with pytest.raises(UserError, match=named):
        load_dataset(tmp_path / "pets")


def test_other_classes_than_the_models_are_named(pets: Path) -> None:
    with pytest.raises(UserError, match="dogs"):
        list_folder(pets, ("cats", "third"))
    assert list_folder(pets, ("third", "dogs", "cats")).counts() == [0, 10, 10]


@pytest.mark.parametrize("folder", ["missing", "file", "dangling", "loop", "x" * 300])
def test_what_is_not_a_folder_is_an_error(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=folder):
        load_dataset(tmp_path / folder)
    with pytest.raises(UserError, match=folder):
        list_folder(tmp_path / folder)


def break_links(folder: Path) -> dict[str, str]:
    """Links that lead nowhere, in a class folder and as a class; returns those with the suffix of an image."""
    links = {"loop": "loop", "ping": "pong", "pong": "ping", "dangling": "nothing", "below": "0.png/x"}
    for name, target in links.items():
        (folder / "cats" / name).symlink_to(target)
        (folder / "cats" / f"{name}.png").symlink_to(f"{target}.png" if target in links else target)
    (folder / "class loop").symlink_to("class loop")
    (folder / "cats" / "up").symlink_to("..")
    (folder / "dogs" / "cycle").mkdir()
    (folder / "dogs" / "cycle" / "back").symlink_to("..")
    return {f"{name}.png": target for name, target in links.items()}


def test_broken_and_cyclic_links_are_unreadable_files(pets: Path) -> None:
    broken = break_links(pets)
    listing = list_folder(pets)
    assert {"loop", "ping", "dangling", "class loop"} <= {path.name for path in listing.other_files}
    assert {path.name for path in scan(listing).unreadable} == set(broken)
    with pytest.raises(UserError, match="--skip-unreadable"):
        load_dataset(pets, size=16)
    data = load_dataset(pets, size=16, skip_unreadable=True)
    assert len(data.skipped) >= len(broken)


def test_folders_that_cannot_be_listed_are_reported(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pets / "cats" / "private").mkdir()
    (pets / "secret").mkdir()
    deny_listing({"private", "secret"}, monkeypatch)
    assert {path.name for path in list_folder(pets).unlistable} == {"private", "secret"}
    with pytest.raises(UserError, match="private"):
        load_dataset(pets, size=16)
    data = load_dataset(pets, size=16, skip_unreadable=True)
    assert len(data.train) + len(data.test) == 20
    assert len(data.skipped) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(pets: Path) -> None:
    os.mkfifo(pets / "cats" / "pipe.png")
    assert [path.name for path in scan(list_folder(pets)).unreadable] == ["pipe.png"]
    with pytest.raises(UserError, match=r"pipe\.png"):
        load_dataset(str(pets), size=16)

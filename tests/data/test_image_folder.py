"""Folders as people have them: every layout, every kind of messy file, made by the test."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from googlenet import UserError
from googlenet.data import image_folder
from googlenet.data.loader import load_dataset
from googlenet.data.decode import walk
from googlenet.data.folder_check import check
from googlenet.data.folder import ImageFile, inspect, list_folder


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with ten pictures each."""
    for number in range(20):
        picture(tmp_path / "photos" / ("cats", "dogs")[number % 2] / f"{number}.png", number)
    return tmp_path / "photos"


def test_a_folder_of_classes_is_split_alike_in_every_class(photos: Path) -> None:
    picture(photos / "cats" / "deep" / "ü x.PNG", 100)
    picture(photos / ".thumbnails" / "x.png", 101)
    (photos / "notes.txt").write_text("mine")
    data = load_dataset(str(photos), size=16, seed=3)
    assert (data.classes, data.channels, data.name) == (("cats", "dogs"), 3, "photos")
    assert data.class_counts() == {"cats": {"train": 9, "test": 2}, "dogs": {"train": 8, "test": 2}}
    assert data.train.images.shape == (17, 3, 16, 16)
    again, other = load_dataset(str(photos), size=16, seed=3), load_dataset(str(photos), size=16, seed=4)
    assert torch.equal(again.test.images, data.test.images)
    assert again.digest == data.digest
    assert not torch.equal(other.test.images, data.test.images)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid"), ("train", "test"), ("train",)])
def test_a_folder_with_splits_of_its_own(names: tuple[str, ...], tmp_path: Path) -> None:
    for split, name in enumerate(names):
        for number in range(5):
            picture(tmp_path / name / ("a", "b")[number % 2] / f"{number}.jpg", 10 * split + number)
    data = load_dataset(str(tmp_path), size=16)
    if len(names) == 1:
        assert (len(data.train), len(data.test), data.validation) == (4, 1, None)
    else:
        assert (len(data.train), len(data.test)) == (5, 5)
        assert (data.validation is not None) == (len(names) == 3)


def test_names_of_files_need_not_be_text(photos: Path) -> None:
    odd = Path(os.fsdecode(b"\xff\xfe.png"))
    picture(photos / "cats" / odd, 50)
    data = load_dataset(str(photos), size=16)
    assert len(data.train) + len(data.test) == 21
    (photos / odd.stem).mkdir()
    picture(photos / odd.stem / "x.png", 51)
    with pytest.raises(UserError, match=r"class \\xff\\xfe .* rename"):
        load_dataset(str(photos), size=16)


def test_gray_pictures_make_one_channel(tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / "ab"[number % 2] / f"{number}.png", number, mode="LA" if number == 3 else "L")
    assert load_dataset(str(tmp_path), size=16).channels == 1
    picture(tmp_path / "a" / "colored.png", 99)
    assert load_dataset(str(tmp_path), size=16).channels == 3


def test_a_file_that_cannot_be_read_stops_or_is_listed(photos: Path) -> None:
    whole = picture(photos / "cats" / "cut.jpg", 7, (300, 300)).read_bytes()
    (photos / "cats" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "dogs" / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.png.*--skip-unreadable"):
        load_dataset(str(photos), size=16)
    data = load_dataset(str(photos), size=16, skip_unreadable=True)
    assert len(data.train) + len(data.test) == 20
    assert "2 files" in data.note
    assert sorted(Path(line.partition(":")[0]).name for line in data.skipped) == ["cut.jpg", "empty.png"]
    assert all(line.count("cut.jpg") + line.count("empty.png") == 1 for line in data.skipped)
    assert json.dumps(data.provenance()["skipped"])


def test_copies_stay_on_one_side_and_leaks_are_told(photos: Path, tmp_path: Path) -> None:
    for number in range(10):
        shutil.copy(photos / "cats" / "0.png", photos / "cats" / f"copy{number}.png")
    for seed in range(5):
        data = load_dataset(str(photos), size=16, seed=seed)
        trained = {image.numpy().tobytes() for image in data.train.images}
        assert not any(image.numpy().tobytes() in trained for image in data.test.images)
    split = tmp_path / "split"
    shutil.copytree(photos, split / "train")
    shutil.copytree(photos / "cats", split / "test" / "cats")
    lines: list[str] = []
    load_dataset(str(split), size=16, say=lines.append)
    assert any(line.startswith("leakage") and ("split: 20," in line or "split: 10," in line) for line in lines), lines
    assert any("exact copies" in line for line in lines)


def test_one_picture_in_two_classes_is_to_be_mended(photos: Path) -> None:
    shutil.copy(photos / "cats" / "0.png", photos / "dogs" / "same.png")
    found = check(photos)
    assert not found.is_clean
    (said,) = (line for line in found.lines() if line.startswith("contradiction"))
    assert "class: 1," in said and "same.png" in said
    assert found.lines()[-1].startswith("worth mending")
    assert len(found.to_dict()["contradictions"]) == 1
    (photos / "dogs" / "same.png").unlink()
    assert check(photos).lines()[-1] == "nothing to mend"
    cut = picture(photos / "cats" / "cut.jpg", 7, (300, 300))
    cut.write_bytes(cut.read_bytes()[:5000])
    shutil.copy(cut, photos / "dogs" / "cut.jpg")
    assert check(photos, photos.parent / "aside").is_clean  # both are moved away, and contradict each other no more


def test_what_is_found_is_said(photos: Path) -> None:
    for number in range(40):
        picture(photos / "cats" / f"more{number}.png", 1000 + number)
    (photos / "dogs" / "notes.txt").write_text("")
    lines: list[str] = []
    load_dataset(str(photos), size=16, say=lines.append)
    assert lines[0] == "60 pictures in 2 classes: cats 50, dogs 10"
    assert "shorter side 20 to 20 pixels" in lines[1]
    assert any(line.startswith("imbalance") and "5 times" in line for line in lines)
    assert "other files, left alone: 1 (.txt 1)" in lines


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pictures"):
        load_dataset(str(tmp_path))
    picture(tmp_path / "only" / "x.png")
    with pytest.raises(UserError, match="one class"):
        load_dataset(str(tmp_path))
    with pytest.raises(UserError, match=r"pictures in no folder of a class \(1\).*if only is a class itself"):
        load_dataset(str(tmp_path / "only"))
    with pytest.raises(UserError, match="no data set"):
        load_dataset(str(tmp_path / "none"))
    picture(tmp_path / "other" / "x.png", 1)
    with pytest.raises(UserError, match="no picture to test with"):
        load_dataset(str(tmp_path))
    with pytest.raises(UserError, match="'only'"):
        list_folder(tmp_path, ("other", "third"))


def test_links_are_followed_and_circles_are_not(photos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    picture(elsewhere / "linked.png", 50)
    (photos / "cats" / "link").symlink_to(elsewhere)
    (photos / "cats" / "circle").symlink_to(photos)
    names = [path.name for path in walk(photos)]
    assert names.count("linked.png") == 1
    assert names.count("1.png") == 1


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_every_picture_is_in_one_split_and_classes_are_shared_alike(sizes: list[int], share: float, seed: int) -> None:
    facts = [
        ImageFile(Path(f"{label}/{number}"), label, None, f"{label} {number // 2}".encode(), "")
        for label, size in enumerate(sizes)
        for number in range(size)
    ]
    splits = image_folder._split(facts, seed, share)
    assert sorted(fact.path for members in splits.values() for fact in members) == sorted(fact.path for fact in facts)
    for label, size in enumerate(sizes):
        held_out = {fact.digest for fact in splits["test"] if fact.label == label}
        assert len(held_out) == round(share * -(-size // 2))
        assert not held_out & {fact.digest for fact in splits["train"]}


def test_every_kind_of_messy_picture_is_checked(photos: Path, tmp_path: Path) -> None:
    cats = photos / "cats"
    rng = np.random.default_rng(0)
    colors = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    colors.convert("CMYK").save(cats / "cmyk.jpg")
    colors.convert("P").save(cats / "palette.gif")
    colors.save(cats / "progressive.jpg", progressive=True)
    colors.save(cats / "animated.gif", save_all=True, append_images=[colors.rotate(90)])
    Image.fromarray(rng.integers(0, 65536, (9, 300), dtype=np.uint16)).save(cats / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    colors.save(cats / "turned.jpg", exif=exif)
    shutil.copy(cats / "cmyk.jpg", cats / "wrong suffix.png")
    Image.new("RGBA", (1, 1)).save(cats / "one.png")
    whole = (cats / "progressive.jpg").read_bytes()
    (cats / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    (cats / "zero.png").write_bytes(b"")
    (cats / "text.jpg").write_text("a page that could not be found")

    found = check(photos)
    assert sorted(path.name for path in found.unreadable) == ["cut.jpg", "text.jpg", "zero.png"]
    text = "\n".join(found.lines())
    for said in (
        "32 pixels or less on a side: ",
        "animated, of which the first frame counts: 1",
        "times as long as wide",
        "the same picture",
    ):
        assert said in text, (said, text)
    assert not found.is_clean

    moved = check(photos, tmp_path / "aside")
    assert sorted(path.name for path in (tmp_path / "aside" / "cats").iterdir()) == ["cut.jpg", "text.jpg", "zero.png"]
    assert moved.is_clean
    assert check(photos).unreadable == {}
    data = load_dataset(str(photos), size=16)
    assert len(data.train) + len(data.test) == 28
    with pytest.raises(UserError, match="lies in"):
        check(photos, photos / "aside")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have names")
def test_a_pipe_is_not_waited_on(photos: Path) -> None:
    os.mkfifo(photos / "cats" / "pipe.png")
    assert list(check(photos).unreadable.values()) == [f"{photos}/cats/pipe.png: is no ordinary file"]
    with pytest.raises(UserError, match="no ordinary file"):
        load_dataset(str(photos), size=16)


def test_the_report_is_json(photos: Path, tmp_path: Path) -> None:
    found = check(photos)
    found.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == found.to_dict()
    assert found.to_dict()["classes"] == {"cats": 10, "dogs": 10}
    assert inspect(list_folder(photos)).unreadable == {}


def test_a_strange_folder_beside_train_is_no_silent_loss(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "split" / "train")
    shutil.copytree(photos, tmp_path / "split" / "holdout")
    with pytest.raises(UserError, match="'holdout' beside train"):
        list_folder(tmp_path / "split")


def test_a_picture_more_leaves_the_others_on_their_side(photos: Path) -> None:
    before = {image.numpy().tobytes() for image in load_dataset(str(photos), size=16).test.images}
    picture(photos / "cats" / "another.png", 77)
    after = {image.numpy().tobytes() for image in load_dataset(str(photos), size=16).test.images}
    assert len(before - after) <= 1


def test_a_class_that_only_one_split_has_is_told(photos: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    shutil.copytree(photos, split / "train")
    shutil.copytree(photos / "cats", split / "val" / "Cats")
    with pytest.raises(UserError, match="no picture of 'Cats' to learn from"):
        load_dataset(str(split), size=16)

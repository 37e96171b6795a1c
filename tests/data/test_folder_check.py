"""`googlenet data check`: what is found in a folder, and what is moved."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from googlenet import RunError, UserError
from googlenet.data.dataset import load_dataset
from googlenet.data.folder_check import check_folder
from tests.conftest import write_photos
from tests.data.conftest import deny_listing, write_image
from tests.data.test_folder import break_links


def test_contradictions_are_a_problem_until_they_are_moved(pets: Path) -> None:
    assert check_folder(pets).is_clean
    shutil.copy(pets / "cats" / "0.png", pets / "dogs" / "same.png")
    check = check_folder(pets)
    assert not check.is_clean
    assert len(check.to_dict()["contradictions"]) == 1
    (pets / "dogs" / "same.png").unlink()
    cut = write_image(pets / "cats" / "cut.jpg", 7, (300, 300))
    cut.write_bytes(cut.read_bytes()[:5000])
    shutil.copy(cut, pets / "dogs" / "cut.jpg")
    assert check_folder(pets, pets.parent / "aside").is_clean


def test_broken_images_of_every_kind(pets: Path, tmp_path: Path) -> None:
    cats = pets / "cats"
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

    bad = ["cut.jpg", "text.jpg", "zero.png"]
    check = check_folder(pets)
    assert sorted(path.name for path in check.unreadable) == bad
    lines = check.lines()
    for name, count in (("pixels", 22), ("animated", 1), ("as long as wide", 1)):
        assert any(name in line and line.endswith(f": {count}") for line in lines), (name, lines)
    assert any("cmyk.jpg" in line and "wrong suffix.png" in line for line in lines)
    assert sum(any(name in line for name in bad) for line in lines) == 3
    assert not check.is_clean

    (tmp_path / "aside" / "cats").mkdir(parents=True)
    (tmp_path / "aside" / "cats" / "zero.png").write_text("in the way")
    moved = check_folder(pets, tmp_path / "aside")
    assert sorted(path.name for path in moved.moved.values()) == ["cut.jpg", "text.jpg", "zero-2.png"]
    assert (tmp_path / "aside" / "cats" / "zero.png").read_text() == "in the way"
    assert moved.is_clean
    assert check_folder(pets).unreadable == {}
    data = load_dataset(str(pets), size=16)
    assert len(data.train) + len(data.test) == 28


def test_the_quarantine_is_outside_and_can_be_written(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--quarantine"):
        check_folder(pets, pets / "aside")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        check_folder(pets, tmp_path / "file" / "aside")


def test_a_file_that_cannot_be_moved_is_a_run_error(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pets / "cats" / "zero.png").write_bytes(b"")
    monkeypatch.setattr(shutil, "move", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(RunError, match=r"zero\.png"):
        check_folder(pets, tmp_path / "aside")


def test_no_line_is_lost_whatever_a_class_is_called(pets: Path) -> None:
    for number, name in enumerate(("cannot be opened", "cannot be read", "[bold]", "duplicates: 3", "%s %d {x}")):
        write_image(pets / name / "x.png", 500 + number)
    (pets / "cannot be opened" / "bad.png").write_bytes(b"")
    (pets / "cannot be opened" / "cannot be opened.txt").write_bytes(b"")
    check = check_folder(pets)
    assert check.lines()[0].startswith("26 images in 7 classes: %s %d {x} 1, [bold] 1, cannot be opened 2")
    assert len(check.lines()) == len(check.report.lines()) + 3
    assert sum("bad.png" in line for line in check.lines()) == 1
    assert any(".txt 1" in line for line in check.lines())


def test_broken_links_are_reported_and_moved(pets: Path, tmp_path: Path) -> None:
    shutil.rmtree(pets / "dogs")
    broken = break_links_of_one_class(pets)
    check = check_folder(pets)
    assert {path.name for path in check.unreadable} == broken
    check_folder(pets, tmp_path / "aside")
    assert {path.name for path in (tmp_path / "aside" / "cats").iterdir()} == broken
    assert check_folder(pets).is_clean


def break_links_of_one_class(folder: Path) -> set[str]:
    write_image(folder / "dogs" / "x.png", 900)
    write_image(folder / "dogs" / "y.png", 901)
    broken = set(break_links(folder))
    (folder / "cats" / "up").unlink()
    return broken


def test_a_folder_that_cannot_be_listed_is_reported_and_not_moved(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pets / "cats" / "private").mkdir()
    deny_listing({"private"}, monkeypatch)
    check = check_folder(pets, tmp_path / "aside")
    assert [path.name for path in check.unreadable] == ["private"]
    assert not check.moved
    assert not check.is_clean


def test_near_duplicates_are_a_problem_in_different_splits_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos / "train", of_each=6)
    write_photos(tmp_path / "others", of_each=9)
    for boot in sorted((tmp_path / "others" / "boot").iterdir()):
        if not (photos / "train" / "boot" / boot.name).exists():
            (photos / "test" / "boot").mkdir(parents=True, exist_ok=True)
            shutil.copy(boot, photos / "test" / "boot" / boot.name)
    one = next((photos / "train" / "boot").iterdir())
    Image.open(one).save(photos / "train" / "trouser" / "again.bmp")  # the same pixels in another file
    Image.new("L", (30, 30), 255).save(photos / "train" / "boot" / "white.png")
    Image.new("L", (30, 30), 250).save(photos / "train" / "trouser" / "gray.png")
    check = check_folder(photos)
    (group,) = check.suspects.groups or []
    assert {suspect.path.name for suspect in group.suspects} == {one.name, "again.bmp"}
    assert group.is_contradiction and not group.is_leak
    assert {path.name for path in check.suspects.blank} == {"white.png", "gray.png"}
    assert check.is_clean
    assert any(one.name in line and "again.bmp" in line for line in check.lines())

    Image.open(one).save(photos / "test" / "boot" / "leak.bmp")
    shutil.copy(photos / "test" / "boot" / "leak.bmp", photos / "test" / "boot" / "exact copy.bmp")
    check = check_folder(photos)
    assert not check.is_clean
    (leak,) = check.to_dict()["near_duplicates"]
    assert leak["is_leak"] and len(leak["files"]) == 2  # again.bmp, leak.bmp and its copy are one image
    monkeypatch.setattr("googlenet.data.folder_check.find_spec", lambda _: None)
    without = check_folder(photos)
    assert without.suspects.groups is None and without.to_dict()["near_duplicates"] is None
    assert any("imagehash" in line for line in without.lines())

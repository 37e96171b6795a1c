"""Folders as people have them: which are splits, which are classes, and what is ignored."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import example, given, settings, strategies as st

from googlenet import UserError
from googlenet.data.dataset import load_dataset
from googlenet.data.decode import SUFFIXES, image_files, walk
from googlenet.data.folder import list_folder, scan
from googlenet.data.folder_check import check_folder
from googlenet.data.folder_layout import SPLITS, split_of
from tests.data.conftest import write_image


def make(top: Path, *names: str) -> Path:
    """A tiny image for each name (others get text), or a folder if it ends in a slash."""
    top.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        path = top / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        elif path.suffix.lower() in SUFFIXES:
            write_image(path, seed, (4, 4))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
    return top


def make_splits(top: Path, *splits: str, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    return make(top, *(f"{split}/{name}/{split[:2]}{n}.png" for split in splits for name in classes for n in range(5)))


def splits_in(top: Path) -> dict[str | None, int]:
    return dict(Counter(split for _, _, split in list_folder(top).files))


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAINING training_set train-set train_images train_data seg_train trainset train2017"),
        (
            "validation",
            "val Valid validation VALIDATION-SET val_images dev devel development valset valid_data val_224",
        ),
        ("test", "test Testing test_set test.images seg_test eval evaluation TEST images_test test_1"),
        (
            None,
            "test_tube trains strain valley device latest training_shoes data images seg holdout 2017 _ cat contest",
        ),
    ],
)
def test_names_of_splits(split: str | None, names: str) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)
    assert {split_of(name.replace("_", " ").title()) for name in names.split()} == {split}


@given(name=st.text(st.sampled_from("trainvledsgu -_2é"), max_size=12), separator=st.sampled_from("-_ "))
def test_case_and_separators_do_not_change_the_split(name: str, separator: str) -> None:
    assert split_of(name) in (None, *SPLITS)
    assert split_of(name) == split_of(name.upper()) == split_of(f"{separator}{name}{separator}1")


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Training", "valid_set", "TEST"), {"train": 10, "validation": 10, "test": 10}),
        (("train images", "dev"), {"train": 10, "validation": 10}),
        (("seg_train/seg_train", "seg_test/seg_test"), {"train": 10, "test": 10}),
        (("train/Train_Set", "test"), {"train": 10, "test": 10}),
        (("train", "training_2", "test"), {"train": 20, "test": 10}),
        (("trainset",), {None: 10}),
    ],
)
def test_split_folders(folders: tuple[str, ...], splits: dict[str, int], tmp_path: Path) -> None:
    top = make_splits(tmp_path / "data", *folders)
    assert list_folder(top).classes == ("cat", "dog")
    assert splits_in(top) == splits
    assert list_folder(top).empty_classes == ()


def test_a_nested_archive_with_unlabeled_images(tmp_path: Path) -> None:
    top = make_splits(tmp_path / "intel", "seg_train/seg_train", "seg_test/seg_test")
    make(top, "seg_pred/seg_pred/1.png", "seg_pred/seg_pred/2.png", "papers/read me.txt")
    listing = list_folder(top)
    assert splits_in(top) == {"train": 10, "test": 10}
    assert sorted(path.name for path in listing.other_files) == ["1.png", "2.png", "read me.txt"]
    for name in ("seg_pred", "papers"):
        assert sum(name in note for note in listing.notes) == 1


@pytest.mark.parametrize("inside", ["x.png", "sub/x.png"])
def test_a_class_may_be_called_like_a_split(inside: str, tmp_path: Path) -> None:
    others = ("bus/x.png", "car/x.png", "test_tube/x.png", "bus/more/y.png")
    top = make(tmp_path / "vehicles", "train/x.png", f"train/{inside}", *others)
    listing = list_folder(top)
    assert listing.classes == ("bus", "car", "test_tube", "train")
    assert {split for _, _, split in listing.files} == {None}
    assert len(listing.notes) == 1 and "train" in listing.notes[0]


def test_the_classes_of_a_model_decide_what_a_folder_is(tmp_path: Path) -> None:
    top = make(tmp_path / "vehicles", "bus/x.png", "train/steam/x.png", "train/diesel/y.png")
    with pytest.raises(UserError, match="bus"):
        list_folder(top)
    assert list_folder(top, ("train", "car", "bus")).counts() == [2, 0, 1]
    split = make(tmp_path / "split", *(f"{name}/train/x.png" for name in ("train", "test")), "train/bus/x.png")
    assert list_folder(split, ("bus", "train")).counts() == [1, 2]
    only = make(tmp_path / "only", "train/train/x.png", "train/bus/x.png")
    assert list_folder(only, ("bus", "train")).counts() == [1, 1]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ("camera1/{} camera2/{}", "camera1"),
        ("day/{} night/{} dusk/{}", "day and dusk"),
        ("cam/{} test/{}", "test"),
        ("val/{} test/{}", "train"),
        ("val/{} train/", "train"),
        ("test/{}", "test"),
        ("val/{} test/x.png", "val and test|test and val"),
        ("train/x.png test/x.png", "class folders"),
        ("train/{} holdout/{}", "holdout"),
        ("train/{} bird/x.png", "bird"),
        ("cat/train/x.png cat/test/x.png dog/train/x.png dog/test/x.png", "FOLDER/train/cat"),
        ("pets/{}", "pets/pets"),
    ],
)
def test_ambiguous_layouts_are_errors(files: str, named: str, tmp_path: Path) -> None:
    names = {file.format(f"{label}/x.png"): None for file in files.split() for label in ("cat", "dog")}
    with pytest.raises(UserError, match=named) as error:
        list_folder(make(tmp_path / "pets", *names))
    assert "\n" not in str(error.value)


def test_classes_with_some_equal_folders_are_classes(tmp_path: Path) -> None:
    inside = "cat/old/1.png", "cat/new/2.png", "dog/old/3.png", "dog/new/4.png"
    assert list_folder(make(tmp_path / "loose", *inside, "cat/5.png")).classes == ("cat", "dog")
    assert list_folder(make(tmp_path / "one", "cat/images/1.png", "dog/images/2.png")).classes == ("cat", "dog")
    assert list_folder(make(tmp_path / "other", *inside, "cat/mid/5.png")).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "test", ["test/1.png", "Test_Images/test_images/1.png", "test/", "test/cat/", "test/cat/x.txt"]
)
@pytest.mark.parametrize("with_val", [False, True])
def test_without_labeled_test_images_there_is_no_test_folder(test: str, with_val: bool, tmp_path: Path) -> None:
    top = make(make_splits(tmp_path / "data", *(("train", "val") if with_val else ("train",))), test)
    data = load_dataset(top, size=8)
    assert (len(data.train), len(data.test)) == ((10, 10) if with_val else (8, 2))
    notes = [line for line in scan(list_folder(top)).lines() if test.partition("/")[0] in line]
    assert len(notes) == 1 and ("val" if with_val else "train") in notes[0]


def test_a_folder_without_images_next_to_train_is_ignored(tmp_path: Path) -> None:
    top = make(make_splits(tmp_path / "data", "train"), "papers/read me.txt")
    assert splits_in(top) == {None: 10}
    (note,) = list_folder(top).notes
    assert "papers" in note and "train" not in note


def test_a_validation_folder_without_class_folders_is_ignored(tmp_path: Path) -> None:
    top = make(make_splits(tmp_path / "data", "train", "test"), "val/1.png")
    assert splits_in(top) == {"train": 10, "test": 10}
    (note,) = list_folder(top).notes
    assert "val" in note


def test_runs_are_neither_classes_nor_searched(tmp_path: Path) -> None:
    top = make(
        tmp_path / "data", "cat/1.png", "dog/2.png", "runs/a/recipe.toml", "runs/a/metrics.jsonl", "runs/a/curves.png",
        "model/model.safetensors", "model/plots/1.png", "dog/best/model.safetensors", "dog/best/1.png",
        "dog/almost/recipe.toml", "dog/almost/3.png",
    )  # fmt: skip
    listing = list_folder(top)
    assert dict(zip(listing.classes, listing.counts(), strict=True)) == {"cat": 1, "dog": 2}
    assert len(listing.notes) == 1 and "3" in listing.notes[0]
    assert check_folder(top).is_clean
    assert sorted(path.name for path in image_files([top])) == ["1.png", "2.png", "3.png"]
    assert {path.name for path in walk(top / "runs" / "a")} == {"recipe.toml", "metrics.jsonl", "curves.png"}
    splits = make(make_splits(tmp_path / "splits", "train", "test"), "runs/a/model.safetensors", "runs/a/curves.png")
    assert len(list_folder(splits).notes) == 1
    assert len(list_folder(splits).files) == 20


def test_what_systems_write_is_ignored(tmp_path: Path) -> None:
    top = make(tmp_path / "data", "cat/1.png", "dog/2.png")
    names = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found", ".cache")
    for folder in (*names, ".ipynb_checkpoints"):
        make(top, f"{folder}/x.png", f"cat/{folder}/cat/x.png")
    make(top, "Thumbs.db", "cat/thumbs.db", "dog/desktop.ini", ".DS_Store", "cat/._1.png")
    assert [path.name for path in walk(top)] == ["1.png", "2.png"]
    listing = list_folder(top)
    assert len(listing.files) == 2
    assert not (listing.other_files or listing.notes or listing.empty_classes)
    assert check_folder(top).is_clean


@pytest.mark.parametrize("name", ["bird/", "bird/x.txt", "bird/sub/", "bird/x.psd", "bird/.hidden/x.png"])
def test_an_empty_class_is_named(name: str, tmp_path: Path) -> None:
    top = make(tmp_path / "data", "cat/1.png", "dog/2.png", name)
    listing = list_folder(top)
    assert (listing.classes, listing.empty_classes) == (("cat", "dog"), ("bird",))
    check = check_folder(top)
    assert not check.is_clean
    assert check.to_dict()["empty_classes"] == ["bird"]
    for lines in (check.lines(), scan(listing).lines()):
        assert sum("bird" in line for line in lines) == 1


def test_an_empty_class_of_a_split_is_named(tmp_path: Path) -> None:
    top = make_splits(tmp_path / "data", "train", "test/test")
    make(top, "test/test/bird/", "train/fish/notes.txt")
    assert sorted(list_folder(top).empty_classes) == ["test/test/bird", "train/fish"]
    assert not check_folder(top).is_clean


@pytest.mark.parametrize("size", [0, 5000])  # without a header, and with one but cut
def test_a_class_of_unreadable_images_is_named(size: int, tmp_path: Path) -> None:
    top = make(tmp_path / "data", "cat/1.png", "dog/2.png")
    content = write_image(top / "bird" / "bad.jpg", 7, (300, 300)).read_bytes()
    (top / "bird" / "bad.jpg").write_bytes(content[:size])
    check = check_folder(top)
    assert check.empty_classes == ["bird"]
    assert sum("bird" in line and "bad.jpg" not in line and "images in" not in line for line in check.lines()) == 1
    moved = check_folder(top, tmp_path / "aside")
    assert moved.moved and not moved.is_clean
    assert not check_folder(top).is_clean


@pytest.mark.parametrize("classes", [None, "NFC", "NFD"])
def test_unicode_forms_of_a_name_are_one_class(classes: str | None, tmp_path: Path) -> None:
    composed, decomposed = normalize("NFC", "Käse"), normalize("NFD", "Käse")
    top = tmp_path / "data"
    make(top, f"train/{composed}/1.png", "train/ham/2.png", f"test/{decomposed}/3.png", "test/ham/4.png")
    make(top, f"train/{decomposed}/5.png")
    given = None if classes is None else (normalize(classes, "Käse"), "ham")
    listing = list_folder(top, given)
    assert listing.classes == (given or (composed, "ham"))
    assert listing.counts() == [3, 2]
    assert not listing.notes


def test_classes_that_differ_in_case_stay_two_and_are_reported(tmp_path: Path) -> None:
    top = make(tmp_path / "data", "Train/Cat/1.png", "Train/cat/2.png", "TEST/Cat/3.png", "TEST/cat/4.png")
    if len(list((top / "Train").iterdir())) == 1:
        pytest.skip("the disk ignores case")
    listing = list_folder(top)
    assert listing.classes == ("Cat", "cat")
    assert splits_in(top) == {"train": 2, "test": 2}
    (note,) = listing.notes
    assert "Cat" in note and "cat" in note


NAMES = st.sampled_from(["train", "Test", "val", "seg_train", "cat", "Cat", "é", "e\u0301", "runs", "@eaDir", ".x"])
FILES = st.sampled_from(["1.png", "2.JPG", "x.txt", "model.safetensors", "Thumbs.db", ""])


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(st.tuples(st.lists(NAMES, max_size=4), FILES), max_size=12),
    classes=st.none() | st.lists(NAMES, min_size=2, max_size=4, unique=True),
)
@example(files=[(["train", "Test", "val"], "1.png"), (["val"], "1.png")], classes=None)
def test_no_tree_loses_an_image_or_raises_another_error(
    files: list[tuple[list[str], str]], classes: list[str] | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for parts, name in files:
            top.joinpath(*parts).mkdir(parents=True, exist_ok=True)
            if name:
                top.joinpath(*parts, name).write_bytes(b"")
        try:
            listing = list_folder(top, classes)
        except UserError as error:
            assert "\n" not in str(error)
            return
        listed = [path for path, _, _ in listing.files] + list(listing.other_files)
        assert sorted(listed) == sorted(walk(top))
        assert all(path.suffix.lower() in SUFFIXES for path, _, _ in listing.files)
        assert len(listing.classes) >= 2
        assert all(0 <= label < len(listing.classes) for _, label, _ in listing.files)
        splits = {split for _, _, split in listing.files}
        assert splits == {None} or "train" in splits

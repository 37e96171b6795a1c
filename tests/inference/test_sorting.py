from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from googlenet import Prediction, Predictor, RunError, TrainingResult, UserError
from googlenet.inference import sorting
from googlenet.inference.sorting import UNKNOWN, UNSURE, sort_images
from tests.conftest import Call, bundled

pytestmark = pytest.mark.usefixtures("small_data")


class Fixed:
    """Instead of a `Predictor`: the class is in the name of the file, and so is whether it is confident."""

    def __init__(self, classes: tuple[str, ...] = ("cat", "dog"), digest: str = "0") -> None:
        self.digest = digest
        self.info = SimpleNamespace(classes=classes)

    def predict(self, files: Any, *, confidence: float, **_: Any) -> Any:
        for file in files:
            if "broken" in file.name:
                yield Prediction(str(file), error="it is broken")
            else:
                name = next(name for name in self.info.classes if name in str(file))
                known = "unknown" not in file.name
                yield Prediction(str(file), (name,), (1.0,), confident="unsure" not in file.name, known=known)


def sort(files: Any, folder: Path, predictor: Any = None, **options: Any) -> dict[str, int]:
    return sort_images(predictor or Fixed(), files, folder, **options)


def listing(folder: Path) -> dict[str, bytes]:
    """The content of each file below a folder, without hidden ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*")}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    names = ["a/cat 1.jpg", "b/cat 1.jpg", "c/cat 1.jpg", "a/dog.jpg", "a/dog unsure.jpg", "a/dog broken.jpg"]
    names += ["a/dog unknown.jpg", "a/dog unsure unknown.jpg"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"%d" % min(number, 1))  # b and c have the same content
    return [tmp_path / name for name in names]


@pytest.mark.parametrize("copy", [False, True])
def test_each_file_is_in_the_folder_of_its_class(copy: bool, files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "sorted"
    expected = {
        "cat/cat 1.jpg": b"0", "cat/cat 1-2.jpg": b"1", "cat/cat 1-3.jpg": b"1", "dog/dog.jpg": b"1",
        f"{UNSURE}/dog unsure.jpg": b"1", f"{UNKNOWN}/dog unknown.jpg": b"1", f"{UNKNOWN}/dog unsure unknown.jpg": b"1",
    }  # fmt: skip
    for _ in range(2):  # the second time, everything is there
        assert sort(files, folder, copy=copy) == {"sorted": 7, "unsure": 1, "unknown": 2, "failed": 1}
        assert listing(folder) == expected
    assert all(path.is_symlink() != copy for path in folder.glob("*/*"))
    assert len(list(folder.rglob("*"))) == 4 + len(expected) + 1  # folders, images and the record: nothing else
    assert all(file.exists() and not file.is_symlink() for file in files)


def test_a_relative_path_becomes_a_link_that_works(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sort([Path("a/dog.jpg")], Path("sorted"))
    assert Path("sorted/dog/dog.jpg").read_bytes() == b"1"


@pytest.mark.parametrize("copy", [False, True])
def test_shards_into_one_folder_equal_the_whole(copy: bool, files: list[Path], tmp_path: Path) -> None:
    files[2].write_bytes(b"2")
    sort(files, tmp_path / "whole", copy=copy)
    for number in (0, 2, 3, 1):
        sort(files[2 * number : 2 * number + 2], tmp_path / "parts", copy=copy)
    whole, parts = listing(tmp_path / "whole"), listing(tmp_path / "parts")
    assert set(parts) == set(whole) and sorted(parts.values()) == sorted(whole.values())


def test_nothing_is_overwritten(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sort(files[:1], tmp_path / "sorted")
    (tmp_path / "sorted/dog").mkdir()
    (tmp_path / "sorted/dog/dog.jpg").write_bytes(b"mine")
    sort(files, tmp_path / "sorted", copy=True)
    assert (tmp_path / "sorted/dog/dog.jpg").read_bytes() == b"mine"
    assert (tmp_path / "sorted/dog/dog-2.jpg").read_bytes() == b"1"
    assert files[0].read_bytes() == b"0"
    # Even if another process makes the name between the look and the link
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    (tmp_path / "other/dog").mkdir(parents=True)
    (tmp_path / "other/.googlenet.json").write_bytes((tmp_path / "sorted/.googlenet.json").read_bytes())
    (tmp_path / "other/dog/dog.jpg").write_bytes(b"mine")
    for copy in (False, True):
        sort(files[3:4], tmp_path / "other", copy=copy)
    assert listing(tmp_path / "other") == {"dog/dog.jpg": b"mine", "dog/dog-2.jpg": b"1", "dog/dog-3.jpg": b"1"}


def test_a_folder_that_holds_something_else(files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "mine.txt").write_text("")
    with pytest.raises(UserError, match="full"):
        sort(files, folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("change", [{"predictor": Fixed(digest="1")}, {"confidence": 0.5}, {"crops": 10}])
def test_another_model_or_confidence(change: dict[str, Any], files: list[Path], tmp_path: Path) -> None:
    sort(files[:1], tmp_path / "sorted")
    with pytest.raises(UserError, match="sorted"):
        sort(files, tmp_path / "sorted", **change)
    assert len(listing(tmp_path / "sorted")) == 1


def test_results_are_never_read_again(files: list[Path], tmp_path: Path) -> None:
    sort(files, tmp_path / "sorted")
    inside = [tmp_path / "sorted/dog/dog.jpg"]
    with pytest.raises(UserError, match="overlap"):
        sort(inside, tmp_path / "sorted")
    (tmp_path / "link").symlink_to(tmp_path / "sorted/dog")
    with pytest.raises(UserError, match="overlap"):
        sort([tmp_path / "link/dog.jpg"], tmp_path / "sorted")
    assert len(listing(tmp_path / "sorted")) == 7


@pytest.mark.parametrize(
    "classes", [("a/b", "a_b"), ("Cat", "cat"), (UNSURE, "b"), (UNKNOWN, "b"), ("..", "b"), ("", "b")]
)
def test_classes_that_cannot_be_folders(classes: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class"):
        sort([], tmp_path / "sorted", Fixed(classes))
    assert not (tmp_path / "sorted").exists()


def test_a_class_with_a_slash(tmp_path: Path) -> None:
    file = tmp_path / "x/y.jpg"
    file.parent.mkdir()
    file.write_bytes(b"1")
    sort([file], tmp_path / "sorted", Fixed(("x/y", "z")))
    assert listing(tmp_path / "sorted") == {"x_y/y.jpg": b"1"}


def test_links_that_the_disk_does_not_have(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", fail)
    with pytest.raises(RunError, match="--copy"):
        sort(files, tmp_path / "sorted")


def test_copies_on_a_disk_without_hard_links(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sort(files, tmp_path / "expected", copy=True)

    def fail(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    for _ in range(2):
        sort(files, tmp_path / "sorted", copy=True)
        assert listing(tmp_path / "sorted") == listing(tmp_path / "expected")


def test_the_command(call: Call, trained: TrainingResult, images: Path) -> None:
    predicted = {Path(p.file).name: p for p in Predictor(trained.model).predict(sorted(images.glob("?.png")))}
    threshold = sorted(p.probabilities[0] for p in predicted.values())[2]
    options = ("--sort-into", "sorted", "--confidence", threshold)
    out, err = call("predict", trained.folder, images, *options, "--json", code=1)
    unknown = [prediction.known for prediction in predicted.values()].count(False)
    unsure = sum(p.probabilities[0] < threshold and p.known is True for p in predicted.values())
    assert json.loads(out) == {"folder": "sorted", "sorted": 5, "unsure": unsure, "unknown": unknown, "failed": 1}
    assert "broken.png" in err
    for name, prediction in predicted.items():
        folder = UNSURE if prediction.probabilities[0] < threshold else prediction.classes[0].replace("/", "_")
        folder = folder if prediction.known else UNKNOWN
        assert (Path("sorted") / folder / name).samefile(images / name)
    assert "sorted" in call("predict", trained.folder, images / "0.png", *options)[0]
    for wrong, name in (
        ((images, "--sort-into", images), "overlap"),
        ((images, "--sort-into", images / "sorted"), "overlap"),
        ((images, "--sort-into", images.parent), "overlap"),
        ((images, "--copy"), "--sort-into"),
        ((images, "--sort-into", "x", "--output", "x.csv"), "--output"),
    ):
        assert name in call("predict", trained.folder, *wrong, code=2)[1]
    assert not (images / "sorted").exists() and not Path("x").exists()


def test_shards_of_a_real_folder(call: Call, trained: TrainingResult, tmp_path: Path) -> None:
    for number, image in enumerate(bundled("t10k-images-idx3-ubyte")[:11]):
        folder = tmp_path / "images" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(image)).save(folder / f"{number}.png")
    whole = call("predict", trained.folder, tmp_path / "images", "--format", "csv")[0].splitlines()
    lines = whole[:1]
    for number in (1, 2):
        call("predict", trained.folder, tmp_path / "images", "--shard", f"{number}/2", "-o", f"{number}.csv")
        lines += Path(f"{number}.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:3] for line in lines] == [line.split(",")[:3] for line in whole]
    _, err = call("predict", trained.folder, tmp_path / "images", "--shard", "2/2", "-o", "1.csv", "--resume", code=2)
    assert "1/2" in err


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a:b", "a_b"), ("what?", "what_"), ("etc.", "etc_"), ("Con", "_Con"), ("nul.x", "_nul.x"), ("boot", "boot")],
)
def test_folders_on_windows(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "_IS_WINDOWS", True)
    assert sorting._folder_name(name) == folder

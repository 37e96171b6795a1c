"""Out-of-fold predictions: what is refused, and what is found with them."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from googlenet import UserError
from googlenet.data.folder import Listing
from googlenet.data.label_errors import OutOfFold, find_label_errors, read_out_of_fold

CLASSES = ("cats", "dogs", "mice")
HEADER = ["file", "class", *(f"probability:{name}" for name in CLASSES)]
ROWS = [["cats/0.png", "cats", "0.7", "0.2", "0.1"], ["dogs/1.png", "dogs", "1", "0", "0"]]


@pytest.fixture(scope="module")
def listing() -> Listing:
    """Files that are only named: none is opened."""
    top = Path("/photos")
    files = tuple(
        (top / name / f"{number}.png", label, None) for label, name in enumerate(CLASSES) for number in range(3)
    )
    return Listing(top, CLASSES, files, (), ())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predictions") / "out_of_fold.csv"


def write(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_columns_may_be_in_any_order(file: Path, listing: Listing) -> None:
    order = [4, 1, 0, 3, 2]
    write(file, [[row[number] for number in order] for row in [HEADER, *ROWS]])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # as a spreadsheet saves it
    paths, labels, probabilities = read_out_of_fold(file, listing)
    assert paths == [Path("/photos/cats/0.png"), Path("/photos/dogs/1.png")]
    assert labels.tolist() == [0, 1]
    assert np.allclose(probabilities, [[0.7, 0.2, 0.1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "'file'"),
        ([HEADER], "0 classes"),
        ([HEADER, ROWS[0]], "1 class;"),
        ([HEADER[:-1], *(row[:-1] for row in ROWS)], "probability:mice"),
        ([[*HEADER, "probability:rats"], *([*row, "0"] for row in ROWS)], "'rats'"),
        ([[*HEADER, "file"], *([*row, "x"] for row in ROWS)], "row 1"),
        ([HEADER, ROWS[0], ROWS[1][:-1]], "row 3"),
        ([HEADER, ROWS[0], ["dogs/9.png", *ROWS[1][1:]]], "row 3.*dogs/9.png"),
        ([HEADER, ROWS[0], ["../photos/dogs/1.png", *ROWS[1][1:]]], "row 3.*photos/dogs"),
        ([HEADER, ROWS[0], ["dogs/1.png", "cats", *ROWS[1][2:]]], "row 3.*dogs/1.png.*'cats'.*'dogs'"),
        ([HEADER, *ROWS, ROWS[0]], "row 4.*cats/0.png"),
        ([HEADER, ROWS[0], [*ROWS[1][:2], "0.5", "0.3", "0.1"]], "row 3.*dogs/1.png.*0.9"),
        ([HEADER, ROWS[0], [*ROWS[1][:2], "nan", "0", "1"]], "row 3.*dogs/1.png"),
        ([HEADER, ROWS[0], [*ROWS[1][:2], "2", "-1", "0"]], "row 3.*dogs/1.png"),
        ([HEADER, ROWS[0], [*ROWS[1][:2], "", "0", "1"]], "row 3.*dogs/1.png"),
    ],
)
def test_an_error_names_the_file_and_the_row(rows: list[list[str]], named: str, file: Path, listing: Listing) -> None:
    with pytest.raises(UserError, match=named) as caught:
        read_out_of_fold(write(file, rows), listing)
    assert file.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_a_folder(tmp_path: Path, listing: Listing) -> None:
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(UserError, match=path.name):
            read_out_of_fold(path, listing)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_a_user_error_in_one_line(data: st.DataObject, file: Path, listing: Listing) -> None:
    content = bytearray(write(file, [HEADER, *ROWS]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b",", b"\n", b"\0", b"\xff", b"1e400", b"-", b"\r"])
        )
    file.write_bytes(bytes(content))
    try:
        read = read_out_of_fold(file, listing)
    except UserError as error:
        assert "\n" not in str(error) and file.name in str(error)
    else:
        assert read.probabilities.shape == (len(read.paths), 3)
        assert np.allclose(read.probabilities.sum(axis=1), 1)


def noisy(count: int, classes: int, wrong: int) -> tuple[OutOfFold, set[Path]]:
    """Predictions of a good network, and the images whose label is not what they show."""
    rng = np.random.default_rng(0)
    true = np.arange(count) % classes
    probabilities = rng.dirichlet(np.ones(classes), count) * 0.3
    probabilities[np.arange(count), true] += 0.7
    given_labels = true.copy()
    changed = random.Random(0).sample(range(count), wrong)
    given_labels[changed] = (true[changed] + 1) % classes
    paths = [Path(f"{number}.png") for number in range(count)]
    return OutOfFold(paths, given_labels, probabilities), {paths[number] for number in changed}


def test_wrong_labels_are_found_with_the_right_class() -> None:
    predictions, changed = noisy(300, 5, 15)
    errors = find_label_errors(predictions)
    assert {error.path for error in errors} <= changed
    assert len(errors) >= 8
    scores = [error.score for error in errors]
    assert sorted(scores, reverse=True) == scores and min(scores) > 0.5 and max(scores) <= 1
    for error in errors:
        assert error.suggested == (error.label - 1) % 5


def test_right_labels_have_no_errors() -> None:
    assert find_label_errors(noisy(300, 5, 0)[0]) == []


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 3], [0, 2, 2]])
def test_few_images_and_classes_without_any(labels: list[int]) -> None:
    probabilities = np.full((len(labels), 4), 0.1)
    probabilities[np.arange(len(labels)), labels] = 0.7
    paths = [Path(f"{number}.png") for number in range(len(labels))]
    assert find_label_errors(OutOfFold(paths, np.array(labels), probabilities)) == []

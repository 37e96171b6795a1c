"""The experiment with wrong labels, without training."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from experiments.label_errors import change_labels, main, parse_arguments, score
from tests.conftest import write_photos


def test_changed_labels_are_links_in_another_class(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", of_each=20)
    before = sorted((tmp_path / "photos").rglob("*"))
    changed = change_labels(tmp_path / "photos", tmp_path / "noisy", 0.1, random.Random(0))
    assert sorted((tmp_path / "photos").rglob("*")) == before
    links = list((tmp_path / "noisy").glob("*/*"))
    assert len(links) == 40 and len(changed) == 4
    wrong = {
        link.relative_to(tmp_path / "noisy").as_posix() for link in links if link.parent.name not in str(link.resolve())
    }
    assert wrong == changed


def test_precision_and_recall() -> None:
    rows = score(["a", "x", "b", "c"], {"a", "b", "d"}, [3, 4])
    assert [(row["hits"], row["precision"], row["recall"]) for row in rows] == [(2, 2 / 3, 2 / 3), (2, 0.5, 2 / 3)]
    assert score([], {"a"}, [0])[0]["precision"] == 0


@pytest.mark.parametrize("words", [["photos", "--wrong", "1"], ["photos", "--folds", "1"]])
def test_wrong_arguments(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(words)
    assert caught.value.code == 2


def test_a_folder_of_results_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "result").write_text("")
    with pytest.raises(SystemExit, match="--work"):
        main(["photos", "--work", str(tmp_path)])

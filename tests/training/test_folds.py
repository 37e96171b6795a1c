"""Cross-validation."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

import googlenet
from googlenet.training import folds
from tests.conftest import TINY, Call

QUICK = {**TINY, "batch_size": 8, "max_steps": 1, "image_size": 16, "whiten": False, "recipe": "fast"}


def options(settings: dict[str, object]) -> list[object]:
    words: list[object] = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        words += [f"--no-{option}"] if value is False else [f"--{option}"] if value is True else [f"--{option}", value]
    return words


def test_every_image_is_tested_once(photos: Path, tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "cv"
    words = ("train", "--data", photos, "--folds", 3, "--output", folder, "--json", *options(QUICK))
    summary = json.loads(call(*words)[0])
    assert len(summary["accuracies"]) == 3 and summary["std"] >= 0
    assert summary["mean"] == pytest.approx(sum(summary["accuracies"]) / 3)
    with (folder / "out_of_fold.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    assert sorted(row["file"] for row in rows) == names
    tested: dict[str, int] = {}
    for number in (1, 2, 3):
        with (folder / f"fold-{number}.csv").open() as file:
            table = list(csv.DictReader(file))
        assert len(table) == len(names)
        for row in table:
            if row["split"] == "test":
                tested[row["file"]] = tested.get(row["file"], 0) + 1
    assert set(tested.values()) == {1} and len(tested) == len(names)
    right = [row["class"] == row["predicted"] for row in rows]
    assert sum(right) / len(right) == pytest.approx(summary["mean"], abs=1e-6)  # folds of equal size
    for row in rows:
        shares = {name: float(row[f"probability:{name}"]) for name in ("boot", "trouser")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert shares[row["predicted"]] == max(shares.values()) == float(row["probability"])
    # The same command continues: here, with the last fold gone
    shutil.rmtree(folder / "fold-3" / "checkpoints")
    again = json.loads(call(*words)[0])
    assert again["accuracies"] == summary["accuracies"]
    assert "fold-1.csv" in call(*("2" if word == 3 else word for word in words), code=2)[1]


def test_several_processes_are_refused(photos: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--folds" in call("train", "--folds", 3, "--data", photos, code=2)[1]


def test_names_fit_the_folder(photos: Path, tmp_path: Path, call: Call) -> None:
    """Also if the images are in split folders: `data check --predictions` takes the file for the same folder."""
    shutil.copytree(photos, photos.parent / "data" / "train")
    data, folder = photos.parent / "data", tmp_path / "cv"
    call("train", "--data", data, "--folds", 2, "--output", folder, *options(QUICK))
    pytest.importorskip("cleanlab")
    call("data", "check", data, "--predictions", folder / "out_of_fold.csv", "--json")


def test_what_cannot_be_cross_validated(photos: Path, small_data: Path, call: Call) -> None:
    assert "--folds" in call("train", "--folds", 3, code=2)[1]
    assert "folds" in call("train", "--folds", 1, "--data", photos, code=2)[1]
    assert "--resume" in call("train", "--folds", 3, "--data", photos, "--resume", "--output", "x", code=2)[1]
    for path in sorted((photos / "boot").iterdir())[1:]:
        path.unlink()
    assert "boot" in call("train", "--folds", 3, "--data", photos, code=2)[1]


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=6, max_size=30), count=st.integers(2, 5), seed=st.integers(0, 9))
def test_folds_are_even_and_keep_groups(
    sizes: list[int], count: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Groups of any size, alternately of two classes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("groups")
    rows, number = ["file,class,group"], 0
    for group, size in enumerate(sizes):
        for _ in range(size):
            number += 1
            Image.new("RGB", (1, 1), (number % 256, number // 256, group)).save(folder / f"{number}.bmp")
            rows.append(f"{number}.bmp,{'ab'[group % 2]},g{group}")
    (folder / "t.csv").write_text("\n".join(rows))
    recipe = googlenet.load_recipe("fast", data=str(folder / "t.csv"), seed=seed)
    listing, files, parts = folds._assign(recipe, count)
    group_of = listing.columns["group"]
    by_group: dict[str, set[int]] = {}
    totals = [0] * count
    for file in files:
        by_group.setdefault(group_of[file.number], set()).add(parts[file.path])
        totals[parts[file.path]] += 1
    assert all(len(found) == 1 for found in by_group.values())
    assert max(totals) - min(totals) <= 2 * max(sizes)

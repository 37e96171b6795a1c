from __future__ import annotations

import csv
import dataclasses
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from googlenet import Evaluation, ImageSplit, RunFolder, UserError
from googlenet.evaluation.charts import ticks
from googlenet.evaluation.comparison import mcnemar
from googlenet.evaluation.html import (
    _NEEDED,
    Answer,
    RunRecord,
    only_correct,
    read_run,
    write_comparison,
    write_run_report,
)
from googlenet.evaluation.old_classes import OldClasses

ROWS: list[dict[str, Any]] = [
    {"step": step, "split": split, "loss": 2 / step, "accuracy": 0.5, "learning_rate": 0.01, "seconds": step / 2}
    for step in (10, 20)
    for split in ("train", "test")
]
NASTY = ("</script><script>alert(1)</script>", "\"><img src=x onerror='alert(2)'>", "{{ 7 * 7 }}")


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text outside of script and style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def evaluated(
    folder: Path, classes: tuple[str, ...], count: int, *, size: int = 28, channels: int = 1, seed: int = 0
) -> tuple[RunRecord, ImageSplit]:
    """A run whose network is right about half of the images of noise."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(classes)
    logits = torch.randn(count, len(classes), generator=generator)
    logits[: count // 2][torch.arange(count // 2), labels[: count // 2]] += 9
    images = torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    split = ImageSplit(images, labels, [f"{classes[label]}/{number}.png" for number, label in enumerate(labels)])
    evaluation = Evaluation(classes, logits, labels, 1.0, temperature=1.5)
    return RunRecord(folder, ROWS).evaluated_as(evaluation, split, "test"), split


def test_every_mistake_is_counted_and_the_most_confident_are_shown(tmp_path: Path) -> None:
    run, split = evaluated(tmp_path / "run", tuple("abcdefghij"), 700)
    wrong = [answer for answer in run.answers if not answer.is_correct]
    result = write_run_report(run, split)
    page = Page(run.path)
    cards = [attributes for attributes in page.all("li") if "data-file" in attributes]
    assert (result["mistakes"], result["shown"], len(cards)) == (len(wrong), 200, 200)
    assert f"{len(wrong)} of 700 test images" in page.text and f"{len(wrong) - 200} more" in page.text
    expected = [each.file for each in sorted(wrong, key=lambda each: -each.probability)[:200]]
    assert [card["data-file"] for card in cards] == expected
    thumbnails = page.all("img")
    assert len(thumbnails) == 200 and all(image["src"].startswith("data:") and image["alt"] for image in thumbnails)  # type: ignore[union-attr]
    assert f"{run.evaluation['accuracy']:.2%}" in page.text
    assert run.path.stat().st_size < 3e6


def test_what_old_classes_lost_is_a_table(tmp_path: Path) -> None:
    run, split = evaluated(tmp_path / "run", ("a", "b", "c"), 30)
    labels, correct = torch.arange(20) % 2, torch.arange(20) < 15
    old = OldClasses(("a", "b"), labels, correct, correct & (labels == 0), correct)
    run.evaluation["old_classes"] = old.to_dict()
    again = run.evaluated_as(Evaluation(("a", "b", "c"), torch.eye(3)[split.labels], split.labels, 1.0), split, "test")
    for each in (run, again):
        write_run_report(each, split)
        page = Page(each.path)
        assert "Old classes" in page.text and "-35.00 points" in page.text
        assert "-70.0" in page.text  # of class b
    assert "old_classes" not in evaluated(tmp_path / "other", ("a", "b"), 30)[0].evaluation


def test_without_the_images_the_mistakes_are_listed(tmp_path: Path) -> None:
    run, split = evaluated(tmp_path / "run", ("a", "b"), 30)
    some = split.subset(torch.arange(0, 30, 2))
    write_run_report(run, some)
    assert 0 < len(Page(run.path).all("img")) < sum(not each.is_correct for each in run.answers)
    write_run_report(run)
    page = Page(run.path)
    assert not page.all("img") and "were not found" in page.text
    assert all(each.file in page.text for each in run.answers if not each.is_correct)


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    run, split = evaluated(tmp_path / "<b>run", NASTY, 30)
    data = {"name": NASTY[0], "source": NASTY[1], "sha256": "0", "note": NASTY[2]}
    data |= dict.fromkeys(("train_images", "validation_images", "test_images"), 9)
    machine = {"device": "cuda", "device_name": NASTY[1], "threads": 1, "precision": "fp32"}
    environment = {**machine, "packages": {"torch": NASTY[1]}, "python": "3", "data": data}
    run = dataclasses.replace(run, recipe={"data": NASTY[0]}, environment=environment)
    write_run_report(run, split)
    write_comparison(
        [run, dataclasses.replace(run, folder=tmp_path / "other", recipe={"data": NASTY[1]})], tmp_path / "c.html"
    )
    for path in (run.path, tmp_path / "c.html"):
        page = Page(path)
        assert len(page.all("script")) == 1 and not page.all("b")
        assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
        assert all(name in page.text for name in (*NASTY, "<b>run"))


def test_a_thousand_classes_are_a_picture_and_a_table(tmp_path: Path) -> None:
    run, split = evaluated(
        tmp_path / "run", tuple(f"class {number}" for number in range(1000)), 1000, size=150, channels=3
    )
    write_run_report(run, split)
    page = Page(run.path)
    assert len(page.all("td")) < 6000  # not a million cells
    assert len([image for image in page.all("img") if image.get("class") == "picture"]) == 1
    assert "class 999" in page.text
    assert run.path.stat().st_size < 3e6


def test_an_interrupted_run_has_what_exists(tmp_path: Path) -> None:
    for rows in (ROWS, ROWS[:1], []):
        run = RunRecord(tmp_path, rows)
        assert write_run_report(run)["mistakes"] == 0
        page = Page(run.path)
        assert "--resume" in page.text
        assert len(page.all("svg")) == (3 if rows else 0)


def test_a_run_is_read_back_from_its_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipe\.toml"):
        read_run(tmp_path, [])
    run, _ = evaluated(tmp_path / "run", ("a", 'b, "c"'), 20)
    (run.folder / "recipe.toml").write_text("seed = 3\n")
    assert read_run(run.folder, ROWS) == RunRecord(run.folder, ROWS, {"seed": 3})
    (run.folder / "evaluation.json").write_text(json.dumps(run.evaluation))
    with (run.folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "predicted", "probability", "loss", "confident", "rank", "camera"])
        writer.writerows(
            [each.file, each.label, each.predicted, each.probability, 1, "true", 1, "x"] for each in run.answers
        )
    assert read_run(run.folder, ROWS) == dataclasses.replace(run, recipe={"seed": 3})
    for name, content in (
        ("predictions.csv", "file\n1\n"),
        ("evaluation.json", "{}]"),
        ("evaluation.json", '{"images": 1}'),
    ):
        before = (run.folder / name).read_text()
        (run.folder / name).write_text(content)
        with pytest.raises(UserError, match=name):
            read_run(run.folder, ROWS)
        (run.folder / name).write_text(before)


def test_a_comparison_shows_what_differs(tmp_path: Path) -> None:
    runs = [
        dataclasses.replace(
            evaluated(tmp_path / name, ("a", "b"), 60, seed=seed)[0], recipe={"seed": seed, "epochs": 2}
        )
        for seed, name in enumerate(("x", "y", "z"))
    ]
    result = write_comparison(runs[:2], tmp_path / "two.html")
    assert list(result["settings"]) == ["seed"]
    (pair,) = result["paired"]
    correct = [sum(each.is_correct for each in run.answers) for run in runs]
    assert pair["only_run"] - pair["only_other"] == correct[1] - correct[0]
    assert "difference" in Page(tmp_path / "two.html").text
    runs[2] = RunRecord(runs[2].folder, [])  # nothing but its recipe
    result = write_comparison(runs, tmp_path / "three.html")
    assert [row["run"] for row in result["runs"]] == ["x", "y", "z"] and len(result["paired"]) == 1
    same = [runs[0], dataclasses.replace(runs[0], folder=tmp_path / "deep" / "x")]
    assert len({row["run"] for row in write_comparison(same, tmp_path / "same.html")["runs"]}) == 2


def test_scores_may_be_undefined(tmp_path: Path) -> None:
    run, split = evaluated(tmp_path / "run", ("a", "b", "none"), 40)
    scores: dict[str, Any] = {"images": 0, "precision": None, "recall": None, "f1": None}
    changed = {"balanced_accuracy": None, "per_class": {**run.evaluation["per_class"], "none": scores}}
    run = dataclasses.replace(run, evaluation={**run.evaluation, **changed})
    write_run_report(run, split)
    assert Page(run.path).text.count("n/a") == 4
    write_comparison([run, run], tmp_path / "page.html")
    assert "none" not in Page(tmp_path / "page.html").text


def test_mcnemar_is_exact() -> None:
    def answers(correct: str) -> list[Answer]:
        return [Answer(str(number), "a", "a" if mark == "1" else "b", 1.0) for number, mark in enumerate(correct)]

    first, second = answers("1" * 15 + "0" * 5 + "10"), answers("0" * 15 + "1" * 5 + "10")
    assert only_correct(first, second) == (15, 5)
    assert mcnemar(15, 5) == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20)
    assert only_correct(first, first) == (0, 0) and mcnemar(0, 0) == 1 and mcnemar(3000, 3000) == 1
    assert only_correct(first, second[1:]) is None and only_correct([], []) is None


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_within_the_range_and_evenly_spaced(low: float, length: float) -> None:
    high = low + length
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 8
    assert all(low - 1e-6 * length <= mark <= high + 1e-6 * length for mark in marks) or length < 1e-6 * abs(low)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluation.json", '{"images": 3}'),
        ("evaluation.json", "[1]"),
        ("evaluation.json", "[" * 100_000),
        ("evaluation.json", json.dumps(dict.fromkeys(sorted(_NEEDED), 3))),
        ("evaluation.json", json.dumps({**dict.fromkeys(sorted(_NEEDED), 3), "per_class": {"a": 1}})),
        ("environment.json", "3"),
        ("evaluation/predictions.csv", "file,class\n1,2\n"),
        ("evaluation/predictions.csv", "file,class,predicted,probability\n1,2,3,x\n"),
        ("recipe.toml", "a = " + "[" * 100_000),
        ("metrics.jsonl", '{"step": 1, "epoch": 1, "split": "train"}\n'),
    ],
)
def test_a_run_folder_with_damaged_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("epochs = 2\n")
    write_run_report(read_run(tmp_path, RunFolder(tmp_path).rows()))
    (tmp_path / "evaluation").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError):
        write_run_report(read_run(tmp_path, RunFolder(tmp_path).rows()))

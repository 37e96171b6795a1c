from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from googlenet import UserError, load
from googlenet.weights.model_file import save
from googlenet.inference.writers import COLUMNS, answered, open_writer, write_predictions
from googlenet.inference.predictor import Prediction, Predictor
from googlenet.training.loop import TrainingResult

ANSWERS = (
    Prediction("a, b.png", ("cat", 'the "dog"'), (0.75, 0.25), sure=True),
    Prediction("ü.png", error="ü.png: is no picture\nthat can be read"),
    Prediction("c.png", ("dog", "cat"), (0.5, 0.5)),
)


def write(path: Path, answers: tuple[Prediction, ...], *, resume: bool = False) -> None:
    with open_writer(path, resume=resume, made_with={"model_sha256": ""}) as writer:
        for answer in answers:
            writer(answer)


@pytest.mark.parametrize("suffix", ["csv", "CSV", "jsonl", "parquet"])
def test_written_in_parts_is_written_at_once(suffix: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    write(whole, ANSWERS)
    assert answered(whole) == {answer.file for answer in ANSWERS}
    assert answered(parts) == set()
    write(parts, ANSWERS[:2])
    with pytest.raises(UserError, match="--resume"):
        write(parts, ANSWERS[2:])
    write(parts, ANSWERS[2:], resume=True)
    if suffix == "parquet":
        import pyarrow.parquet

        assert pyarrow.parquet.read_table(parts).equals(pyarrow.parquet.read_table(whole))
    else:
        assert parts.read_bytes() == whole.read_bytes()


def test_what_is_in_them(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", ANSWERS)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert tuple(table[0]) == COLUMNS
    assert table[1] == ["a, b.png", "1", "cat", "0.75", "true", ""]
    assert table[3] == ["ü.png", "0", "", "", "false", ANSWERS[1].error]
    write(tmp_path / "x.jsonl", ANSWERS)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["file"] for line in lines] == [answer.file for answer in ANSWERS]
    assert lines[0]["classes"] == ["cat", 'the "dog"']


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_name_that_is_no_text_is_written_and_known_again(
    suffix: str, trained: TrainingResult, tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"\xff.png")
    Image.new("L", (28, 28)).save(odd)
    predictor, output = Predictor(trained.model), tmp_path / f"x.{suffix}"
    assert write_predictions(predictor, [odd], output, resume=False) == (1, 0)
    assert answered(output) == {f"{tmp_path}/\\xff.png"}
    assert write_predictions(predictor, [odd], output, resume=True) == (0, 0)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_line_cut_off_by_a_crash_is_answered_again(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    write(path, ANSWERS[:1])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"file": "c' if suffix == "jsonl" else whole + b"c.png,1,d")
    assert answered(path) == {ANSWERS[0].file}
    assert path.read_bytes() == whole


def test_an_answer_cut_between_its_lines_is_given_again(trained: TrainingResult, tmp_path: Path) -> None:
    """A full disk may take the first line of an answer and not its second."""
    for name in ("a, b", "c"):
        Image.new("L", (28, 28)).save(tmp_path / f"{name}.png")
    first, second = tmp_path / "a, b.png", tmp_path / "c.png"
    output, predictor = tmp_path / "x.csv", Predictor(trained.model)
    write_predictions(predictor, [first, second], output, resume=False)
    whole = output.read_bytes()
    for kept in range(2, 8):
        output.write_bytes(b"".join(whole.splitlines(keepends=True)[:kept]))
        left = 2 - (kept - 1) // 3
        assert write_predictions(predictor, [first, second], output, resume=True) == (left, 0)
        assert output.read_bytes() == whole


def test_a_strangers_note_is_not_overwritten(trained: TrainingResult, tmp_path: Path) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "p.png")
    (tmp_path / "x.csv.json").write_text("precious")
    with pytest.raises(UserError, match="in the way"):
        write_predictions(Predictor(trained.model), [tmp_path / "p.png"], tmp_path / "x.csv", resume=False)
    assert (tmp_path / "x.csv.json").read_text() == "precious"
    assert not (tmp_path / "x.csv").exists()


def test_files_that_are_no_output(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.csv, \.jsonl or \.parquet"):
        write(tmp_path / "x.txt", ANSWERS)
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        (tmp_path / name).write_text("something else\n")
        with pytest.raises(UserError, match="no output of predict"):
            answered(tmp_path / name)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_answers_of_another_model_or_settings_are_not_mixed(
    suffix: str, trained: TrainingResult, tmp_path: Path
) -> None:
    for number in range(3):
        Image.new("L", (28, 28), 80 * number).save(tmp_path / f"{number}.png")
    one, two, three = (tmp_path / f"{number}.png" for number in range(3))
    output, predictor = tmp_path / f"x.{suffix}", Predictor(trained.model)
    write_predictions(predictor, [one], output, resume=False, top=2, confidence=0.0)
    if suffix != "parquet":
        output.write_bytes(output.read_bytes() + b"half a li")  # as a crash leaves it
    before = output.read_bytes()
    other = load(trained.model)
    with torch.no_grad():
        other.fc.bias.add_(1)
    other_file = tmp_path / "other.safetensors"
    save(other, other.info, other_file)
    for mixed, changed, message in (
        (predictor, {"top": 1}, "top = 2, not 1"),
        (predictor, {"confidence": 0.5}, "confidence = 0.0, not 0.5"),
        (Predictor(other), {}, "another model"),
        (Predictor(other_file), {}, "another model"),
    ):
        with pytest.raises(UserError, match=message):
            write_predictions(mixed, [two], output, resume=True, **{"top": 2, "confidence": 0.0, **changed})
        assert output.read_bytes() == before
    assert write_predictions(predictor, [one, two], output, resume=True, top=2) == (1, 0)
    note = output.with_name(output.name + ".json")
    for content in (b"[]", b"nonsense", None):
        note.write_bytes(content) if content else note.unlink()
        with pytest.raises(UserError, match="which says what made"):
            write_predictions(predictor, [three], output, resume=True, top=2)


def test_parquet_is_whole_or_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        open_writer(tmp_path / "x.parquet", resume=False, made_with={"model_sha256": ""}) as writer,
    ):
        writer(ANSWERS[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    for name, content in (("x.jsonl", b"[1, 2]"), ("x.csv", b"a;b\nc"), ("report.json", b"{}")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError):
            answered(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("wrong", [{"top": 0}, {"confidence": 2.0}])
def test_a_wrong_call_leaves_no_output(wrong: dict[str, Any], trained: TrainingResult, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.new("L", (28, 28)).save(picture)
    predictor = Predictor(trained.model, device="cpu")
    with pytest.raises(UserError):
        write_predictions(predictor, [picture], tmp_path / "a.csv", resume=False, **wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        write_predictions(predictor, [tmp_path / "empty"], tmp_path / "a.csv", resume=False)
    assert not (tmp_path / "a.csv").exists()

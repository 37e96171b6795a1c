from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from googlenet import Prediction, Predictor, TrainingResult, UserError, load, save
from googlenet.inference.writers import COLUMNS, open_writer, read_predicted, write_predictions

PREDICTIONS = (
    Prediction("a, b.png", ("cat", 'the "dog"'), (0.75, 0.25), confident=True),
    Prediction("ü.png", error="ü.png: not an image\nthat can be read"),
    Prediction("c.png", ("dog", "cat"), (0.5, 0.5)),
)
NAMES = {prediction.file for prediction in PREDICTIONS}
MADE_WITH = {"model_sha256": ""}


def write(path: Path, predictions: tuple[Prediction, ...], size: int | None = None) -> None:
    with open_writer(path, MADE_WITH, size=size) as writer:
        for prediction in predictions:
            writer(prediction)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    files = [tmp_path / name for name in ("a, b.png", "c.png", "d.png")]
    for number, file in enumerate(files):
        Image.new("L", (28, 28), 80 * number).save(file)
    return files


@pytest.mark.parametrize("suffix", ["csv", "CSV", "jsonl", "parquet"])
def test_written_in_parts_equals_written_at_once(suffix: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    write(whole, PREDICTIONS)
    assert read_predicted(whole) == (NAMES, whole.stat().st_size)
    write(parts, PREDICTIONS[:2])
    write(parts, PREDICTIONS[2:], size=read_predicted(parts)[1])
    if suffix == "parquet":
        import pyarrow.parquet

        assert pyarrow.parquet.read_table(parts).equals(pyarrow.parquet.read_table(whole))
    else:
        assert parts.read_bytes() == whole.read_bytes()


def test_columns(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", PREDICTIONS)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert tuple(table[0]) == COLUMNS == ("file", "rank", "class", "probability", "confident", "error")
    assert table[1] == ["a, b.png", "1", "cat", "0.75", "true", ""]
    assert table[3] == ["ü.png", "0", "", "", "false", PREDICTIONS[1].error]
    write(tmp_path / "x.jsonl", PREDICTIONS)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["file"] for line in lines] == [prediction.file for prediction in PREDICTIONS]
    assert lines[0]["classes"] == ["cat", 'the "dog"'] and lines[0]["confident"] is True
    write(tmp_path / "x.parquet", PREDICTIONS)
    import pyarrow.parquet

    assert tuple(pyarrow.parquet.read_table(tmp_path / "x.parquet").column_names) == COLUMNS


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_name_that_is_not_text(suffix: str, trained: TrainingResult, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff\n.png")
    Image.new("L", (28, 28)).save(odd)
    predictor, output = Predictor(trained.model), tmp_path / f"x.{suffix}"
    assert write_predictions(predictor, [odd], output) == (1, 0)
    assert read_predicted(output, 3)[0] == {f"{tmp_path}/\\xff\\x0a.png"}
    assert write_predictions(predictor, [odd], output, resume=True) == (0, 0)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("rest", [b"", b"c", b'{"file": "c', b"c.png,1,dog\n"[:-1]])
def test_reading_does_not_modify_an_incomplete_output(suffix: str, rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    write(path, PREDICTIONS[:2])
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    for _ in range(2):
        assert read_predicted(path, 2) == ({"a, b.png", "ü.png"}, len(whole))
        assert path.read_bytes() == whole + rest
    write(path, PREDICTIONS[2:], size=len(whole))
    write(tmp_path / f"all.{suffix}", PREDICTIONS)
    assert path.read_bytes() == (tmp_path / f"all.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_an_output_cut_anywhere_is_completed(suffix: str, trained: TrainingResult, three: list[Path]) -> None:
    """A crash or a full disk may leave any number of bytes."""
    output, predictor = three[0].parent / f"x.{suffix}", Predictor(trained.model)
    write_predictions(predictor, three[:2], output, batch_size=1)
    whole = output.read_bytes()
    ends = [end for end, byte in enumerate(whole, start=1) if byte == ord("\n")]
    for size in sorted({0, 3, *ends, *(end - 1 for end in ends), *(end + 5 for end in ends[:-1])}):
        output.write_bytes(whole[:size])
        assert write_predictions(predictor, three[:2], output, resume=True, batch_size=1)[1] == 0
        assert output.read_bytes() == whole, size


def test_another_programs_record_is_not_overwritten(trained: TrainingResult, three: list[Path]) -> None:
    output = three[0].parent / "x.csv"
    record = output.with_name("x.csv.json")
    record.write_text("precious")
    with pytest.raises(UserError, match=r"x\.csv\.json"):
        write_predictions(Predictor(trained.model), three, output)
    assert record.read_text() == "precious"
    assert not output.exists()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"a;b\nc"),
        ("x.csv", b"file,rank,class,probability,sure,error\n"),
        ("x.jsonl", b"[1, 2]"),
        ("x.jsonl", b"something else\n"),
        ("x.parquet", b"something else\n"),
    ],
)
def test_other_files_are_not_modified(
    name: str, content: bytes, resume: bool, trained: TrainingResult, three: list[Path]
) -> None:
    output = three[0].parent / name
    output.write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_predicted(output)
    predictor = Predictor(trained.model)
    record = {"model_sha256": predictor.digest, "top": 3, "confidence": 0.0}
    output.with_name(name + ".json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=name):
        write_predictions(predictor, three, output, resume=resume)
    assert output.read_bytes() == content


def test_the_suffix_chooses_the_format(trained: TrainingResult, three: list[Path]) -> None:
    with pytest.raises(UserError, match=r"\.csv, \.jsonl or \.parquet"):
        write_predictions(Predictor(trained.model), three, three[0].parent / "x.txt")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_resuming_with_another_model_or_settings(suffix: str, trained: TrainingResult, three: list[Path]) -> None:
    output, predictor = three[0].parent / f"x.{suffix}", Predictor(trained.model)
    write_predictions(predictor, three[:1], output, top=2)
    with pytest.raises(UserError, match="--resume"):
        write_predictions(predictor, three[:1], output, top=2)
    if suffix != "parquet":
        output.write_bytes(output.read_bytes() + b"half a li")  # as a crash leaves it
    before = output.read_bytes()
    other = load(trained.model)
    with torch.no_grad():
        other.fc.bias.add_(1)
    other_file = three[0].parent / "other.safetensors"
    save(other, other.info, other_file)
    changes: list[tuple[Predictor, dict[str, Any], str]] = [
        (predictor, {"top": 1}, "top = 2, not 1"),
        (predictor, {"confidence": 0.5}, "confidence = 0.0, not 0.5"),
        (predictor, {"crops": 10}, "crops = 1, not 10"),
        (Predictor(other), {}, "model"),
        (Predictor(other_file), {}, "model"),
    ]
    for changed, settings, message in changes:
        with pytest.raises(UserError, match=message):
            write_predictions(changed, three[1:2], output, resume=True, **{"top": 2, **settings})
        assert output.read_bytes() == before
    assert write_predictions(predictor, three[:2], output, resume=True, top=2) == (1, 0)
    record = output.with_name(output.name + ".json")
    for content in (b"[]", b"nonsense", None):
        record.write_bytes(content) if content else record.unlink()
        with pytest.raises(UserError, match=record.name):
            write_predictions(predictor, three[2:], output, resume=True, top=2)


def test_parquet_is_complete_or_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path / "x.parquet", MADE_WITH) as writer:
        writer(PREDICTIONS[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"top": 0}, {"confidence": 2.0}, {"batch_size": 0}])
def test_invalid_settings_leave_no_output(wrong: dict[str, Any], trained: TrainingResult, three: list[Path]) -> None:
    output = three[0].parent / "x.csv"
    with pytest.raises(UserError, match=next(iter(wrong))):
        write_predictions(Predictor(trained.model), three, output, **wrong)
    assert not output.exists()


def test_a_tilde_is_the_home_folder(
    trained: TrainingResult, three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert write_predictions(Predictor(trained.model), three, "~/x.csv") == (3, 0)
    assert (tmp_path / "home" / "x.csv").exists()

"""googlenet predict, called in this process."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from PIL import Image

from googlenet import Predictor, TrainingResult, UserError
from googlenet.cli.predict import parse_shard, take_shard
from googlenet.inference import compiled
from tests.conftest import Call

pytestmark = pytest.mark.usefixtures("small_data")


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_formats(call: Call, images: Path, trained: TrainingResult) -> None:
    out, err = call("predict", trained.folder, images, "--json", code=1)
    predictions = json.loads(out)
    assert [Path(prediction["file"]).name for prediction in predictions] == [
        *(f"{number}.png" for number in range(5)),
        "broken.png",
    ]
    assert err.count("\n") == 1 and "broken.png" in err
    assert call("predict", trained.folder, images, "--format", "json", code=1)[0] == out
    threshold = sorted(p["probabilities"][0] for p in predictions if p["error"] is None)[2]
    arguments = ("predict", trained.folder, images, "--confidence", threshold, "--top", 1)
    predictions = json.loads(call(*arguments, "--json", code=1)[0])
    unconfident = {p["file"] for p in predictions if not p["confident"] and p["error"] is None}
    assert len(unconfident) == 2
    rows = list(csv.DictReader(io.StringIO(call(*arguments, "--format", "csv", code=1)[0])))
    assert {row["file"] for row in rows if row["confident"] == "false" and not row["error"]} == unconfident
    assert {row["confident"] for row in rows} == {"true", "false"}
    lines = call(*arguments, code=1)[0].splitlines()
    assert {line.partition("  ")[0] for line in lines if "  not confident: " in line} == unconfident
    assert [line.partition("  ")[0] for line in lines] == [str(images / f"{number}.png") for number in range(5)]


def test_several_crops(call: Call, images: Path, trained: TrainingResult) -> None:
    image = images / "0.png"
    (prediction,) = json.loads(call("predict", trained.folder, image, "--crops", 10, "--json")[0])
    expected = Predictor(trained.folder).predict(image, crops=10)
    assert prediction["probabilities"] == pytest.approx(expected.probabilities, rel=1e-4)
    assert prediction["probabilities"] != Predictor(trained.folder).predict(image).probabilities


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_names_on_standard_input_keep_their_spaces(
    mark: bytes, line_end: bytes, call: Call, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [" a.png", "b.png ", " ", "\ttab.png", "ü.png", "plain.png"]
    for name in names:
        Image.new("L", (28, 28)).save(name, format="png")
    type_in(monkeypatch, mark + line_end.join(name.encode() for name in ["", *names, "", names[0]]))
    predictions = json.loads(call("predict", trained.folder, "--stdin", "--json")[0])
    assert [p["file"].replace("\\x09", "\t") for p in predictions] == [*names, names[0]]


def test_a_name_on_standard_input_that_is_not_text(
    call: Call, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (28, 28)).save("x.png")
    Path("x.png").rename(b"\xff\r.png".decode(errors="surrogateescape"))
    type_in(monkeypatch, b"\xff\r.png\n")
    (prediction,) = json.loads(call("predict", trained.folder, "--stdin", "--json")[0])
    assert (prediction["file"], prediction["error"]) == ("\\xff\\x0d.png", None)


def test_output_and_resume(call: Call, images: Path, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("predict", trained.folder, images, "--output")
    out, err = call(*arguments, "a.csv", "--json", code=1)
    assert json.loads(out) == {"output": "a.csv", "predicted": 5, "failed": 1}
    assert "broken.png" in err
    before = Path("a.csv").read_bytes()
    _, err = call(*arguments, "a.csv", code=2)
    assert "--resume" in err
    Path("a.csv").write_bytes(before + b"cut")
    _, err = call(*arguments, "a.csv", "--resume", "--top", 1, code=2)
    assert "a.csv" in err and Path("a.csv").read_bytes() == before + b"cut"
    out, _ = call(*arguments, "a.csv", "--resume", "--json")
    assert json.loads(out)["predicted"] == 0
    assert Path("a.csv").read_bytes() == before
    type_in(monkeypatch, f"{images / '0.png'}\n".encode())
    assert "b.jsonl" in call("predict", trained.folder, "--stdin", "-o", "b.jsonl")[0]
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    call("predict", trained.folder, images / "0.png", "--output=~/c.csv")
    assert Path("home/c.csv").exists() and not Path("~").exists()


def test_skipped_files_are_reported_apart_from_the_predictions(
    call: Call, images: Path, trained: TrainingResult
) -> None:
    expected, _ = call("predict", trained.folder, images, "--json", code=1)
    (images / "notes.txt").write_text("")
    (images / "Thumbs.db").write_text("")
    out, err = call("predict", trained.folder, images, "--json", code=1)
    assert out == expected
    assert ".txt 1" in err and "db" not in err


def test_links_to_themselves_in_a_folder(call: Call, images: Path, trained: TrainingResult) -> None:
    (images / "broken.png").unlink()
    (images / "loop").symlink_to("loop")
    (images / "again").symlink_to(images)
    out, _ = call("predict", trained.folder, images, "--json")
    assert len(json.loads(out)) == 5


def test_compiled(call: Call, images: Path, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/inference/test_compiled.py compiles; this is about the command."""
    monkeypatch.setattr(compiled, "compiled_backend", lambda net, dtype: lambda batch: net(batch.to(dtype)).float())
    out, err = call("predict", trained.folder, images / "0.png", "--backend", "compiled", "--json")
    assert len(json.loads(out)) == 1 and "compil" in err


@given(st.integers(0, 200), st.integers(1, 60))
def test_shards_together_are_the_whole(files: int, count: int) -> None:
    whole = [Path(str(number)) for number in range(files)]
    shards = [take_shard(whole, *parse_shard(f"{number}/{count}")) for number in range(1, count + 1)]
    assert [file for shard in shards for file in shard] == whole
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@given(st.text("0123456789/-+. ²", max_size=6))
def test_a_shard_is_parsed_or_an_error(text: str) -> None:
    try:
        number, count = parse_shard(text)
    except UserError as error:
        assert "--shard" in str(error)
    else:
        assert 1 <= number <= count


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((), "--stdin"),
        (("x.png", "--resume"), "--output"),
        (("x.png", "--output", "a.csv", "--format", "json"), "--format"),
        (("x.png", "--output", "a.txt"), ".csv"),
        (("x.png", "--top", 0), "top"),
        (("x.png", "--confidence", 80), "confidence"),
        (("x.png", "--backend", "tensorrt"), "--backend"),
        (("x.png", "--crops", 3), "--crops"),
        (("x.png", "--shard", "0/4"), "--shard"),
        (("x.png", "--shard", "17/16"), "--shard"),
        (("x.png", "--shard", "half"), "--shard"),
    ],
)
def test_usage_errors(arguments: tuple[object, ...], name: str, call: Call, trained: TrainingResult) -> None:
    assert name in call("predict", trained.folder, *arguments, code=2)[1]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command", ["predict", "embed", "explain"])
def test_a_model_after_the_image_is_pointed_out(
    command: str, call: Call, images: Path, trained: TrainingResult
) -> None:
    _, err = call(command, images / "0.png", trained.folder, code=2)
    assert f"googlenet {command} {trained.folder} {images / '0.png'}" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--top", 0),
        ("predict", "--confidence", 80),
        ("predict", "--shard", "0/4"),
        ("predict", "--output", "a.txt"),
        ("predict", "--output", "taken.csv"),
        ("embed", "--output", "a.txt"),
        ("embed", "--output", "taken.npy"),
        ("embed", "--output", "of-names.npy"),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(
    arguments: tuple[object, ...], call: Call, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("taken.csv", "taken.npy", "of-names.npy.txt"):
        Path(name).write_text("precious")
    monkeypatch.setattr("googlenet.inference.predictor.Predictor.__init__", lambda *_, **__: pytest.fail("loaded"))
    call(arguments[0], trained.folder, "x.png", *arguments[1:], code=2)
    assert {path.read_text() for path in Path().iterdir()} == {"precious"}


def test_fewer_classes_than_asked_for_are_announced(call: Call, images: Path, trained: TrainingResult) -> None:
    out, err = call("predict", trained.folder, images / "0.png", "--top", 50, "--json")
    assert len(json.loads(out)[0]["classes"]) == 10
    assert "--top 50" in err and "10 classes" in err

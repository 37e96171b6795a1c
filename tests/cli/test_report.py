from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

import googlenet
from googlenet import TrainingResult
from googlenet.evaluation.report import eval_split
from tests.conftest import Call


@pytest.fixture
def run(trained: TrainingResult, small_data: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, with an evaluation and predictions."""
    shutil.copytree(trained.folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    net = googlenet.load(tmp_path / "run")
    split = eval_split(net.info)
    evaluation = googlenet.evaluate(net, split)
    (tmp_path / "run/evaluation.json").write_text(json.dumps(evaluation.to_dict()))
    probabilities, predicted = (values.tolist() for values in evaluation.probabilities.max(dim=1))
    with (tmp_path / "run/predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "predicted", "probability"])
        for name, label, guess, p in zip(split.files, split.labels.tolist(), predicted, probabilities, strict=True):
            writer.writerow([name, evaluation.classes[label], evaluation.classes[guess], p])
    return tmp_path / "run"


def test_training_writes_a_report(trained: TrainingResult) -> None:
    page = (trained.folder / "report.html").read_text(encoding="utf-8")
    assert f"{trained.metrics['test']['accuracy']:.2%}" in page
    assert page.count('src="data:image/png') == page.count("<li data-file") > 0


def test_the_report_of_a_run_is_written_again(run: Path, trained: TrainingResult, call: Call) -> None:
    before = (run / "report.html").read_text(encoding="utf-8")
    (run / "report.html").unlink()
    result = json.loads(call("report", run, "--json")[0])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert result["report"] == str(run / "report.html")
    assert result["accuracy"] == trained.metrics["test"]["accuracy"]
    assert result["interval"][0] < result["accuracy"] < result["interval"][1]
    assert page.count("<img") == before.count("<img") == result["shown"]


def test_the_report_does_not_need_the_images(run: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = run / "empty"
    empty.mkdir()
    recipe = googlenet.load(run).info.recipe
    assert recipe["data_dir"] != str(empty)
    shutil.move(run / "recipe.toml", run / "recipe.bak")
    call("report", run, code=2)
    shutil.move(run / "recipe.bak", run / "recipe.toml")
    call("report", run, "--data-dir", empty, code=2)  # named, but not there
    monkeypatch.setattr("googlenet.evaluation.report.load_dataset", _no_data)
    call("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<img" not in page and "<li data-file" in page


def _no_data(*_: object, **__: object) -> None:
    raise googlenet.UserError("the data is gone")


def test_several_runs_are_compared(run: Path, call: Call, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    recipe = (other / "recipe.toml").read_text()
    (other / "recipe.toml").write_text(recipe.replace("seed = 0", "seed = 5"))
    result = json.loads(call("report", run, other, "--json")[0])
    assert Path("comparison.html").exists()
    assert result["settings"] == {"seed": ["0", "5"]}
    assert [each["p_value"] for each in result["paired"]] == [1]
    assert call("report", run, other, "-o", tmp_path / "deep/page.html")[0].strip() == str(tmp_path / "deep/page.html")


def test_wrong_calls(run: Path, call: Call, tmp_path: Path) -> None:
    assert "recipe.toml" in call("report", tmp_path, code=2)[1]
    assert "--output" in call("report", run, "--output", "x.html", code=2)[1]
    assert ".html" in call("report", run, run, "--output", "x.pdf", code=2)[1]
    (run / "metrics.jsonl").write_text("{\n")
    assert "metrics.jsonl" in call("report", run, code=2)[1]

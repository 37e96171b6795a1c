"""The report of a run, and the comparison of several, as one HTML file each that needs no other file and no network.

A page is made from what the run folder holds, so `googlenet report` can write it again at any time.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from googlenet.console import clock
from googlenet.data.dataset import ImageSplit
from googlenet.errors import RunError, UserError, reason_of
from googlenet.evaluation.charts import COLORS, Series, line_chart, matrix_image, reliability_chart, thumbnail
from googlenet.evaluation.comparison import mcnemar
from googlenet.evaluation.metrics import Evaluation
from googlenet.evaluation.scores import interval_of
from googlenet.files import parse_json, parse_toml, printable, write_text
from googlenet.weights.model_file import ModelInfo, read_safetensors

MOST_THUMBNAILS = 200
MOST_CONFUSED = 20  # pairs of classes in the table
MOST_NAMED_CLASSES = 30  # with more, the confusion matrix is a picture without names
_NEEDED = {"images", "loss", "accuracy", "calibration", "coverage_curve", "per_class", "confusion_matrix"}
_BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class Answer:
    """The prediction for one image: a row of predictions.csv."""

    file: str
    label: str
    predicted: str
    probability: float  # of the predicted class

    @property
    def is_correct(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class RunRecord:
    """What is known about a run. What it has not written yet is empty."""

    folder: Path
    rows: list[dict[str, Any]]  # metrics.jsonl
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)  # `Evaluation.to_dict()`
    answers: Sequence[Answer] = ()  # for each image of the evaluation
    evaluated: str = "test"  # the split of the evaluation
    info: ModelInfo | None = None
    parameters: int = 0

    @property
    def name(self) -> str:
        return printable(self.folder.resolve().name)

    @property
    def path(self) -> Path:
        return self.folder / "report.html"

    @property
    def interval(self) -> Sequence[float]:
        """The 95% interval of the accuracy, (0, 1) without an evaluation."""
        images = self.evaluation.get("images", 0)
        return (0.0, 1.0) if not images else interval_of(round(images * self.evaluation.get("accuracy", 0)), images)

    def evaluated_as(self, evaluation: Evaluation, split: ImageSplit, evaluated: str) -> RunRecord:
        """The record with the evaluation of a split, in place of the one in its files."""
        probabilities, predicted = (values.tolist() for values in evaluation.probabilities.max(dim=1))
        names = evaluation.classes
        rows = zip(split.files, evaluation.labels.tolist(), predicted, probabilities, strict=True)
        answers = [Answer(printable(file), names[label], names[guess], p) for file, label, guess, p in rows]
        kept = {key: value for key, value in self.evaluation.items() if key == "old_classes"}  # of the same run
        return replace(self, evaluation={**evaluation.to_dict(), **kept}, answers=answers, evaluated=evaluated)


def read_run(folder: Path, rows: list[dict[str, Any]]) -> RunRecord:
    """What the files of a run folder say; `rows` are those of its metrics.jsonl.

    Without an evaluation in the folder itself, the one that `googlenet evaluate` wrote to evaluation/ counts. Raises
    `UserError` if the folder has no recipe, or a file is damaged.
    """
    if not (folder / "recipe.toml").exists():
        raise UserError(f"{printable(folder)} is not a run folder: it has no recipe.toml; name a folder of a run")
    recipe = _read(folder / "recipe.toml", parse_toml)
    source = folder if (folder / "evaluation.json").exists() else folder / "evaluation"
    evaluation = _read(source / "evaluation.json", _object)
    if evaluation and _NEEDED - evaluation.keys():
        raise UserError(f"{printable(source / 'evaluation.json')} is of another version: run googlenet evaluate again")
    info, parameters = None, 0
    if (model := folder / "model.safetensors").exists():
        weights, text = read_safetensors(model)
        parameters = sum(tensor.numel() for name, tensor in weights.items() if not name.endswith(_BUFFERS))
        info = None if text is None else _read(model, ModelInfo.from_json, text)
    return RunRecord(
        folder, rows, recipe, _read(folder / "environment.json", _object),
        evaluation, _read(source / "predictions.csv", _answers) or (), info=info, parameters=parameters,
    )  # fmt: skip


@contextmanager
def _of_readable_files() -> Iterator[None]:
    """Turn whatever odd values in the files of runs lead to into a `UserError`."""
    try:
        yield
    except (UserError, RunError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"a file in the run folder is damaged or of another version: {reason_of(error)}") from error


@_of_readable_files()
def write_run_report(run: RunRecord, split: ImageSplit | None = None) -> dict[str, Any]:
    """Write `report.html` to the run folder, and return its main numbers.

    `split` has the images of the mistakes; without it they are listed without thumbnails. Raises `RunError` if the
    file cannot be written.
    """
    mistakes = sorted((each for each in run.answers if not each.is_correct), key=lambda each: -each.probability)
    shown = mistakes[:MOST_THUMBNAILS]
    evaluation = run.evaluation
    classes = list(evaluation.get("per_class", ()))
    matrix = torch.tensor(evaluation.get("confusion_matrix", ()), dtype=torch.int64).reshape(len(classes), len(classes))
    bins = evaluation["calibration"]["bins"] if evaluation else None
    page = {
        "run": run, "classes": classes, "mistakes": len(mistakes),
        "gallery": list(zip(shown, _thumbnails(shown, split), strict=True)),
        "charts": _curves({"": run}), "matrix": matrix.tolist() if len(classes) <= MOST_NAMED_CLASSES else None,
        "picture": matrix_image(matrix) if len(classes) > MOST_NAMED_CLASSES else None,
        "confused": _most_confused(matrix, classes), "reliability": reliability_chart(bins) if bins else "",
        "coverage": _coverage_chart(evaluation) if evaluation else "", "seconds": _seconds(run),
        "command": f"googlenet train --recipe {_quoted(run.folder / 'recipe.toml')} --output runs/again",
        "resume": f"googlenet train --resume --output {_quoted(run.folder)}",
        "recipe": tomli_w.dumps(run.recipe),
    }  # fmt: skip
    write_text(run.path, _render("report.html.j2", page))
    return {"report": str(run.path), **_summary(run), "mistakes": len(mistakes), "shown": len(shown)}


@_of_readable_files()
def write_comparison(runs: Sequence[RunRecord], path: Path) -> dict[str, Any]:
    """Write a page that compares runs, and return its main numbers. The first run is the one to compare with.

    Raises `RunError` if the file cannot be written.
    """
    names = _distinct_names(runs)
    first = runs[0]
    paired = [
        {"run": name, "other": names[0], "only_run": only[0], "only_other": only[1], "p_value": mcnemar(*only)}
        for name, run in zip(names[1:], runs[1:], strict=True)
        if (only := only_correct(run.answers, first.answers))
    ]
    per_class: list[tuple[str, Any, Any]] = []
    if len(runs) == 2 and all(run.evaluation for run in runs):
        recalls = [{name: row["recall"] for name, row in run.evaluation["per_class"].items()} for run in runs]
        both = [(name, recall, recalls[1].get(name)) for name, recall in recalls[0].items()]
        per_class = [row for row in both if None not in row]  # a class without images has no recall
        per_class.sort(key=lambda row: row[1] - row[2])
    facts = [_facts(run) for run in runs]
    settings = {key: [str(each.get(key, "")) for each in facts] for key in sorted(set().union(*facts))}
    settings = {key: values for key, values in settings.items() if len(set(values)) > 1}
    page = {
        "runs": list(zip(names, runs, [_seconds(run) for run in runs], strict=True)), "settings": settings,
        "charts": _curves(dict(zip(names, runs, strict=True))), "paired": paired, "per_class": per_class,
    }  # fmt: skip
    write_text(path, _render("comparison.html.j2", page))
    summaries = [{"run": name, **_summary(run)} for name, run in zip(names, runs, strict=True)]
    return {"report": str(path), "runs": summaries, "settings": settings, "paired": paired}


def only_correct(answers: Sequence[Answer], others: Sequence[Answer]) -> tuple[int, int] | None:
    """Images that only the first, and only the second, of two runs predicts correctly; None if the images differ."""
    correct, other = ({(each.file, each.label): each.is_correct for each in run} for run in (answers, others))
    if not correct or correct.keys() != other.keys() or len(correct) != len(answers):
        return None
    return sum(correct[key] > other[key] for key in correct), sum(other[key] > correct[key] for key in correct)


def _read(path: Path, parse: Any, text: str | None = None) -> Any:
    """A parsed file; an empty dict if there is none."""
    try:
        return parse(path.read_text(encoding="utf-8") if text is None else text)
    except FileNotFoundError:
        return {}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{printable(path)} is damaged ({reason_of(error)}): write it again, or delete it") from error


def _object(text: str) -> dict[str, Any]:
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _answers(text: str) -> list[Answer]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [Answer(row["file"], row["class"], row["predicted"], float(row["probability"])) for row in rows]


def _render(template: str, page: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("googlenet", "evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = lambda value, digits=1: "n/a" if value is None else f"{value:.{digits}%}"
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["clock"] = clock
    return environment.get_template(template).render(page, written=f"{datetime.now():%Y-%m-%d %H:%M}")


def _thumbnails(answers: Sequence[Answer], split: ImageSplit | None) -> list[str]:
    """A data URI for each answer; empty if its image is not in the split."""
    numbers = {printable(file): number for number, file in enumerate(split.files)} if split is not None else {}
    if split is None or split.channels not in (1, 3):
        return [""] * len(answers)
    return [thumbnail(split[numbers[each.file]][0]) if each.file in numbers else "" for each in answers]


def _curves(runs: dict[str, RunRecord]) -> list[Any]:
    """Charts of the rows of runs by name; the name of a single run is empty."""
    charts, shown = [], (("loss", 1, "loss (nats)"), ("accuracy", 100, "accuracy (%)"), ("learning_rate", 1, "rate"))
    for key, scale, label in shown:
        splits = ("train",) if key == "learning_rate" else ("train", "validation", "test")
        series = []
        for number, (name, run) in enumerate(runs.items()):
            for split in splits:
                points = [(row["step"], scale * row[key]) for row in run.rows if row["split"] == split]
                color = number % COLORS if name else ("train", "test", "validation").index(split)
                series.append(Series(f"{name} {split}".strip(), points, color, markers=split != "train"))
        title = key.replace("_", " ").capitalize()
        charts.append(line_chart(title, series, x_label="step", y_label=label))
    return charts


def _coverage_chart(evaluation: dict[str, Any]) -> Any:
    curve = evaluation["coverage_curve"]
    lines = [
        Series(
            name, [(100 * x, 100 * y) for x, y in zip(curve["confidence"], curve[key], strict=True) if y is not None], n
        )
        for n, (name, key) in enumerate((("images above the threshold", "coverage"), ("accuracy on these", "accuracy")))
    ]
    ranges = {"x_range": (0.0, 100.0), "y_range": (0.0, 100.0)}
    labels = {"x_label": "confidence threshold (%)", "y_label": "%"}
    return line_chart("Confident predictions only", lines, **labels, **ranges)  # type: ignore[arg-type]


def _most_confused(matrix: torch.Tensor, classes: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """True class, predicted class, images, and their share of the true class, from the most images down."""
    if len(classes) <= 2:
        return []
    totals, mistakes = matrix.sum(dim=1), matrix.clone().fill_diagonal_(0).flatten()
    counts, places = mistakes.topk(min(MOST_CONFUSED, len(mistakes)))
    pairs = [
        (*divmod(place, len(classes)), count) for place, count in zip(places.tolist(), counts.tolist(), strict=True)
    ]
    return [(classes[a], classes[b], count, count / int(totals[a])) for a, b, count in pairs if count]


def _seconds(run: RunRecord) -> float:
    """Training time without evaluation."""
    return max((row["seconds"] for row in run.rows), default=0.0)


def _quoted(path: Path) -> str:
    return shlex.quote(printable(path))


def _facts(run: RunRecord) -> dict[str, Any]:
    """What can differ between runs besides their results."""
    environment = run.environment
    data = environment.get("data", {})
    machine = {
        key: environment[key] for key in ("processor", "device_name", "threads", "precision") if key in environment
    }
    found = {f"data: {key}": data[key] for key in ("source", "sha256", "train_images", "test_images") if key in data}
    return {
        **run.recipe,
        **found,
        **{f"machine: {key}": value for key, value in machine.items()},
        "parameters": run.parameters,
    }


def _summary(run: RunRecord) -> dict[str, Any]:
    evaluation = run.evaluation
    figures = {key: evaluation[key] for key in ("images", "loss", "accuracy") if evaluation}
    return {**figures, **({"interval": list(run.interval)} if evaluation else {}), "seconds": _seconds(run)}


def _distinct_names(runs: Sequence[RunRecord]) -> list[str]:
    """The names of the folders, or their paths if two have the same name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [printable(run.folder) for run in runs]

"""Predictions written to a file as they come: CSV, JSON lines or Parquet; and taken up again where they stopped."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from googlenet.data.decode import image_files
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write, check_writable, disk_errors, printable
from googlenet.inference.predictor import TOP, Prediction, Predictor

COLUMNS = ("file", "rank", "class", "probability", "sure", "error")
STDIN = Path("-")
_ROWS_A_GROUP = 10_000


Writer = Callable[[Prediction], None]
Row = tuple[str, int, str, float | None, bool, str]


def rows(answer: Prediction) -> list[Row]:
    """One row a class named, as CSV and Parquet have them; one with its error for a file that could not be read."""
    if answer.error is not None:
        return [(answer.file, 0, "", None, False, answer.error)]
    ranked = enumerate(zip(answer.classes, answer.probabilities, strict=True), start=1)
    return [(answer.file, rank, name, probability, answer.sure, "") for rank, (name, probability) in ranked]


def write_predictions(
    predictor: Predictor, pictures: Iterable[Path], output: Path, *, resume: bool, **settings: Any
) -> tuple[int, int]:
    """Predict every file into `output`, with a progress bar: how many were answered, how many could not be read.

    `settings` are those of `Predictor.predict`. What shapes the answers is noted beside them, in `answers.csv.json`.

    Raises:
        UserError: for an output that is there already, or to be gone on with by another model or settings.
        RunError: where it cannot be written.
    """
    _check_suffix(output)
    check_writable(output)
    ranks = min(settings.get("top", TOP), len(predictor.info.classes))
    confidence = settings.get("confidence", 0.0)
    made_with = {"model_sha256": predictor.digest, "top": ranks, "confidence": confidence}
    if resume and output.exists():
        _check_made_with(output, made_with)
    done = answered(output, ranks) if resume else set()
    files = (file for file in _named(pictures) if printable(file) not in done)
    # What is wrong with these is said before there is a file
    answers, total = predictor.predict(files, **settings), _count(pictures)
    with open_writer(output, resume=resume, made_with=made_with) as write:
        outcomes = Counter[bool]()
        for answer in _with_progress(answers, total, len(done)):
            write(answer)
            _complain(answer)
            outcomes[answer.error is None] += 1
    return outcomes[True], outcomes[False]


def _note_of(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def _note(output: Path, made_with: dict[str, Any]) -> None:
    with atomic_write(_note_of(output)) as temporary:
        temporary.write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")


def _check_made_with(output: Path, made_with: dict[str, Any]) -> None:
    anew = "another --output starts anew"
    try:
        before = json.loads(_note_of(output).read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("it says something else")
    except (OSError, ValueError) as error:
        note = _note_of(output)
        raise UserError(f"cannot read {note}, which says what made {output}: {reason_of(error)}; {anew}") from error
    for name, value in made_with.items():
        if before.get(name) != value:
            what = "another model" if name == "model_sha256" else f"{name} = {before.get(name)}, not {value}"
            raise UserError(f"{output} was made with {what}; {anew}")


def print_predictions(predictor: Predictor, pictures: Iterable[Path], form: str, **settings: Any) -> int:
    """Predict every file to standard output, as `table`, `csv` or `json`: how many could not be read."""
    failed, collected = 0, []
    answers = predictor.predict(_named(pictures), **settings)
    if form == "csv":
        print(",".join(COLUMNS))
    for answer in answers:
        _complain(answer)
        failed += answer.error is not None
        if form == "json":
            collected.append(answer.to_dict())
        elif form == "csv":
            print(csv_lines(answer), end="")
        elif answer.classes:
            ranked = zip(answer.classes, answer.probabilities, strict=True)
            start = answer.file + ("  " if answer.sure else "  unsure: ")
            print(start + "  ".join(f"{name} {share:.1%}" for name, share in ranked))
    if form == "json":
        print(json.dumps(collected, indent=2))
    return failed


def _named(pictures: Iterable[Path]) -> Iterator[Path]:
    """The files that are named, in folders too; `STDIN` stands for a list of files on standard input, one a line."""
    for path in pictures:
        if path == STDIN:
            yield from (Path(line) for line in map(str.strip, sys.stdin) if line)
        else:
            yield from image_files([path])


def _count(pictures: Iterable[Path]) -> int | None:
    """How many files there are, so that the time left can be told; None for a list that has yet to come."""
    named = list(pictures)
    return None if STDIN in named else sum(1 for _ in image_files(named))


def _with_progress(answers: Iterator[Prediction], total: int | None, done: int) -> Iterator[Prediction]:
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("predicting", total=total, completed=done)
        for answer in answers:
            yield answer
            progress.advance(task)


def _complain(answer: Prediction) -> None:
    if answer.error is not None:
        print(f"googlenet: {answer.file}: {answer.error}", file=sys.stderr)


def csv_lines(answer: Prediction) -> str:
    return _as_csv((*row[:4], str(row[4]).lower(), row[5]) for row in rows(answer))


def _as_csv(lines: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def answered(path: Path, ranks: int = 1) -> set[str]:
    """The files that an output already has an answer for; a last one that was cut off is taken out of it: half a line,
    or in CSV, which has a line for each class named, fewer lines than `ranks`.

    Raises:
        UserError: where it is no output of `predict`.
        RunError: where it cannot be read or written.
    """
    if not path.exists():
        return set()
    try:
        if _kind(path) == ".parquet":
            return set(_parquet().read_table(path, columns=["file"])["file"].to_pylist())
        _check_start(path)
        _drop_cut_line(path)
        with path.open(encoding="utf-8", newline="") as file:
            if _kind(path) == ".jsonl":
                return {json.loads(line)["file"] for line in file}
            table = csv.DictReader(file)
            if table.fieldnames and tuple(table.fieldnames) != COLUMNS:
                raise ValueError("other columns")
            names, last = set[str](), list[dict[str, str]]()
            for row in table:
                last = [*last, row] if last and row["file"] == last[0]["file"] else [row]
                names.add(row["file"])
        if last and not last[0]["error"] and len(last) < ranks:
            names.discard(last[0]["file"])
            os.truncate(path, path.stat().st_size - len(_as_csv(row.values() for row in last).encode()))
        return names
    except OSError as error:
        raise RunError(f"cannot go on with {path}: {reason_of(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no output of predict to go on with ({reason_of(error)})") from error


@contextlib.contextmanager
def open_writer(path: Path, *, resume: bool, made_with: dict[str, Any]) -> Iterator[Writer]:
    """What takes the answers one by one. CSV and JSON lines are there as they come; Parquet at the end, whole.

    What they are `made_with` is noted first: a note without answers does no harm, answers without one cannot be gone
    on with.

    Raises:
        UserError: for another suffix, or an output that is there already and is not to be gone on with.
        RunError: where it cannot be written.
    """
    _check_suffix(path)
    if path.exists() and not resume:
        raise UserError(f"{path} is there already; --resume goes on with it, another --output starts anew")
    note = _note_of(path)
    if note.exists() and b'"model_sha256"' not in note.read_bytes():
        raise UserError(f"{note}, which is no note of predict, is in the way; take another --output")
    if _kind(path) == ".parquet":
        with _parquet_writer(path) as take:
            yield take
            _note(path, made_with)
        return
    _note(path, made_with)
    is_new = not path.exists() or path.stat().st_size == 0
    as_text = _json_line if _kind(path) == ".jsonl" else csv_lines
    with disk_errors(path), path.open("a", encoding="utf-8", newline="") as file:
        if is_new and _kind(path) == ".csv":
            file.write(",".join(COLUMNS) + "\n")

        def write(answer: Prediction) -> None:
            file.write(as_text(answer))
            file.flush()  # an answer is in the file whole, or, after a crash, not at all

        yield write


def _json_line(answer: Prediction) -> str:
    return json.dumps(answer.to_dict()) + "\n"


def _kind(path: Path) -> str:
    return path.suffix.lower()


def _check_suffix(path: Path) -> None:
    if _kind(path) not in (".csv", ".jsonl", ".parquet"):
        raise UserError(f"{path}: answers are written to a .csv, .jsonl or .parquet file")


def _check_start(path: Path) -> None:
    """Nothing is cut off a file that did not come from here. Raises `ValueError` for one that did not."""
    with path.open("rb") as file:
        start = file.readline()
    header = (",".join(COLUMNS) + "\n").encode()
    ours = header.startswith(start) if _kind(path) == ".csv" else not start or start.startswith(b'{"file"')
    if not ours:
        raise ValueError("it begins otherwise")


def _drop_cut_line(path: Path) -> None:
    with path.open("rb+") as file:
        whole = 0
        for line in file:
            if line.endswith(b"\n"):
                whole += len(line)
        file.truncate(whole)


@contextlib.contextmanager
def _parquet_writer(path: Path) -> Iterator[Writer]:
    parquet = _parquet()
    import pyarrow

    kinds = (pyarrow.string(), pyarrow.int32(), pyarrow.string(), pyarrow.float64(), pyarrow.bool_(), pyarrow.string())
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with atomic_write(path) as temporary, parquet.ParquetWriter(temporary, schema) as table:
        if path.exists():
            for batch in parquet.ParquetFile(path).iter_batches():
                table.write_batch(batch)
        waiting: list[tuple[Any, ...]] = []

        def flush() -> None:
            columns = list(zip(*waiting, strict=True)) or [()] * len(COLUMNS)
            table.write_table(pyarrow.table([pyarrow.array(c, k) for c, k in zip(columns, kinds, strict=True)], schema))
            waiting.clear()

        def write(answer: Prediction) -> None:
            waiting.extend(rows(answer))
            if len(waiting) >= _ROWS_A_GROUP:
                flush()

        yield write
        flush()


def _parquet() -> Any:
    if not find_spec("pyarrow"):
        raise UserError("Parquet needs pyarrow, which is not installed: pip install pyarrow; or say .csv")
    import pyarrow.parquet

    return pyarrow.parquet

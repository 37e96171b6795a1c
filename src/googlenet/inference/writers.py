"""Write predictions to a CSV, JSON lines or Parquet file as they come, and resume such a file."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from googlenet.choices import Crops
from googlenet.console import log, progress
from googlenet.data.decode import NamedImage, name_of
from googlenet.device import require
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import atomic_write, check_writable, disk_errors, expand, printable, write_json
from googlenet.inference.predictor import Prediction, Predictor

COLUMNS = ("file", "rank", "class", "probability", "confident", "error")
_ROW_GROUP = 10_000
Write = Callable[[Prediction], None]


def columns(has_rule: bool) -> tuple[str, ...]:
    """`COLUMNS`, and `known` if the model has a rule for unknown images."""
    return (*COLUMNS, "known") if has_rule else COLUMNS


def header(has_rule: bool) -> str:
    return ",".join(columns(has_rule)) + "\n"


def write_predictions(
    predictor: Predictor, files: Iterable[Path | NamedImage], output: str | Path, *, total: int | None = None,
    resume: bool = False, top: int = 3, batch_size: int = 32, confidence: float = 0.0, crops: Crops = 1,
    shard: str | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Write the predictions of image files to a .csv, .jsonl or .parquet file, and what they depend on next to it
    (`predictions.csv.json`). Returns how many files were predicted, and how many could not be read.

    `total` is the number of files, if known; `shard` is recorded. With `resume`, files in the output are skipped;
    `UserError` if it was made with another model or other settings. `RunError` if it cannot be written.
    """
    output = expand(output)
    check_predictions_output(output, resume=resume)
    top = min(top, len(predictor.info.classes))
    made_with = {"model_sha256": predictor.digest, "top": top, "confidence": confidence, "shard": shard}
    made_with["crops"] = crops
    done, size = set[str](), None
    if output.exists():
        check_made_with(output, output.with_name(f"{output.name}.json"), made_with, "use another --output")
        done, size = read_predicted(output, top)
    remaining = (file for file in files if printable(name_of(file)) not in done)
    # Checks its arguments now, before there is an output
    predictions = predictor.predict(remaining, top=top, batch_size=batch_size, confidence=confidence, crops=crops)
    predicted = failed = 0
    has_rule = predictor.info.known is not None
    with (
        open_writer(output, made_with, size=size, has_rule=has_rule) as write,
        progress("predicting", total, len(done)) as bar,
    ):
        for prediction in predictions:
            write(prediction)
            if prediction.error is None:
                predicted += 1
            else:
                failed += 1
                log.warning("%s: %s", prediction.file, prediction.error)
            bar.advance()
    return predicted, failed


def check_predictions_output(output: Path, *, resume: bool) -> None:
    """Raises `UserError` for another suffix, or a file that exists without `resume`; whatever `check_writable` does."""
    if output.suffix.lower() not in (".csv", ".jsonl", ".parquet"):
        raise UserError(f"{output}: the output is a .csv, .jsonl or .parquet file")
    check_writable(output)
    if output.exists() and not resume:
        raise UserError(f"{output} exists already: use --resume to continue it, or another --output")


def read_predicted(path: Path, top: int = 1) -> tuple[set[str], int]:
    """The files that an output has predictions for, and the size in bytes of these predictions; it is not modified.

    An incomplete last prediction, left by a crash or a full disk, does not count: half a line, or in CSV fewer than
    `top` rows. Raises `UserError` if it is not an output of `predict`.
    """
    try:
        if path.suffix.lower() == ".parquet":
            require("pyarrow", "Parquet output")
            from pyarrow import parquet

            return set(parquet.read_table(path, columns=["file"])["file"].to_pylist()), path.stat().st_size
        names, size = set[str](), 0
        with path.open("rb") as file:
            start = file.readline()
            file.seek(0)
            if path.suffix.lower() == ".jsonl":
                if not start.startswith(b'{"file"'[: len(start)]):
                    raise ValueError("it does not start with a prediction")
                for line in file:
                    if line.endswith(b"\n"):
                        names.add(json.loads(line)["file"])
                        size += len(line)
                return names, size
            if not any(header(has_rule).encode().startswith(start) for has_rule in (False, True)):
                raise ValueError(f"it does not have the columns {', '.join(COLUMNS)}")

            def whole_lines() -> Iterator[str]:
                nonlocal size
                for line in file:
                    if line.endswith(b"\n"):
                        size += len(line)
                        yield line.decode()

            last: list[dict[str, str]] = []
            for row in csv.DictReader(whole_lines()):
                last = [row] if row["rank"] in ("0", "1") else [*last, row]
                names.add(row["file"])
        if last and last[0]["rank"] != "0" and len(last) < top:
            names.discard(last[0]["file"])
            size -= len(_csv(row.values() for row in last).encode())
        return names, size
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason_of(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an output of predict that can be resumed ({reason_of(error)})") from error


@contextlib.contextmanager
def open_writer(
    path: Path, made_with: dict[str, Any], *, size: int | None = None, has_rule: bool = False
) -> Iterator[Write]:
    """A function that writes one prediction to `path`. CSV and JSON lines are written at once, Parquet at the end.

    `made_with` is recorded first: predictions without it could not be resumed. `size` is how much of the output to keep
    (from `read_predicted`); None: write a new one. Raises `UserError` if another file has the name of the record.
    """
    record = path.with_name(f"{path.name}.json")
    if record.exists() and b'"model_sha256"' not in record.read_bytes():
        raise UserError(f"{record} exists and was not written by predict: use another --output")
    if path.suffix.lower() == ".parquet":
        with _write_parquet(path, has_rule) as write:
            yield write
            write_json(record, made_with)
        return
    write_json(record, made_with)
    is_csv = path.suffix.lower() == ".csv"
    with disk_errors(path), path.open("a", encoding="utf-8", newline="") as file:
        if size is not None:
            file.truncate(size)
        if is_csv and not size:
            file.write(header(has_rule))

        def write_text(prediction: Prediction) -> None:
            file.write(csv_lines(prediction) if is_csv else json.dumps(prediction.to_dict()) + "\n")
            file.flush()

        yield write_text


def csv_lines(prediction: Prediction) -> str:
    """One line per class, or one with the error."""
    return _csv(
        [str(value).lower() if isinstance(value, bool) else value for value in row] for row in _rows(prediction)
    )


def _rows(prediction: Prediction) -> list[tuple[Any, ...]]:
    """The rows of CSV and Parquet, with the columns of `columns`."""
    known = () if prediction.known is None else (prediction.known,)
    if prediction.error is not None:
        return [(prediction.file, 0, "", None, False, prediction.error, *known)]
    ranked = enumerate(zip(prediction.classes, prediction.probabilities, strict=True), start=1)
    return [(prediction.file, rank, name, share, prediction.confident, "", *known) for rank, (name, share) in ranked]


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def check_made_with(output: Path, record: Path, made_with: dict[str, Any], way_out: str) -> None:
    """Raises `UserError` if an output was made with another model or other settings than its record says."""
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("not a JSON object")
        before = {"crops": 1, **before}  # records of version 0.1 do not say
    except (OSError, ValueError) as error:
        reason = f"its record {record} cannot be read ({reason_of(error)})"
        raise UserError(f"{output} cannot be continued: {reason}; {way_out}") from error
    for name, value in made_with.items():
        if before.get(name) != value:
            what = "another model" if name == "model_sha256" else f"{name} = {before.get(name)}, not {value}"
            raise UserError(f"{output} was made with {what}: {way_out}")


@contextlib.contextmanager
def _write_parquet(path: Path, has_rule: bool) -> Iterator[Write]:
    require("pyarrow", "Parquet output")
    import pyarrow
    from pyarrow import parquet

    text, truth = pyarrow.string(), pyarrow.bool_()
    types = (text, pyarrow.int32(), text, pyarrow.float64(), truth, text, *((truth,) if has_rule else ()))
    schema = pyarrow.schema(list(zip(columns(has_rule), types, strict=True)))
    with atomic_write(path) as temporary, parquet.ParquetWriter(temporary, schema) as table:
        if path.exists():
            for batch in parquet.ParquetFile(path).iter_batches():
                table.write_batch(batch)
        rows: list[tuple[Any, ...]] = []

        def flush() -> None:
            values = list(zip(*rows, strict=True)) or [()] * len(types)
            arrays = [pyarrow.array(column, type_) for column, type_ in zip(values, types, strict=True)]
            table.write_table(pyarrow.table(arrays, schema))
            rows.clear()

        def write(prediction: Prediction) -> None:
            rows.extend(_rows(prediction))
            if len(rows) >= _ROW_GROUP:
                flush()

        yield write
        flush()

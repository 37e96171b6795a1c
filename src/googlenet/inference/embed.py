"""Features of many images: written to a file, and the images most similar to one."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from googlenet.console import log, progress
from googlenet.device import require
from googlenet.errors import UserError, check_counts
from googlenet.files import atomic_write, check_writable, expand, printable, write_text
from googlenet.inference.predictor import Embedding, Predictor

_ROW_GROUP = 10_000
Write = Callable[[Embedding], None]


class Neighbor(NamedTuple):
    """An image, and how similar it is to another one."""

    similarity: float  # Cosine of the angle between their features: 1 for the same direction
    file: str


class Embedded(NamedTuple):
    """The result of `embed_files`."""

    embedded: int  # How many files have features
    failed: int  # How many could not be read
    nearest: list[Neighbor]


def embed_files(
    predictor: Predictor, files: Iterable[Path], output: str | Path | None = None, *, block: str | None = None,
    nearest: Path | None = None, top: int = 5, total: int | None = None, batch_size: int = 32,
) -> Embedded:  # fmt: skip
    """Write the features of image files to a .parquet or .npy file, and find the `top` most similar to `nearest`.

    Parquet has the columns `file` and `features`. A .npy file has an array (N, C), and the files are in `OUTPUT.txt`,
    one per line. Files that cannot be read are in neither. The image itself is not among its nearest.

    Raises:
        UserError: as `check_features_output`, or if `nearest` cannot be read.
        RunError: if the output cannot be written.
    """
    check_counts(top=top)
    output = None if output is None else expand(output)
    if output is not None:
        check_features_output(output)
    query, itself = None, ""
    if nearest is not None:
        features = np.asarray(predictor.embed(nearest, block=block))
        query, itself = features / _length(features), printable(nearest.resolve())
    embedded = failed = 0
    best: list[Neighbor] = []
    embeddings = predictor.embeddings(files, block=block, batch_size=batch_size)
    with _open_writer(output) as write, progress("embedding", total) as bar:
        for embedding in embeddings:
            bar.advance()
            if embedding.values is None:
                failed += 1
                log.warning("%s: %s", embedding.file, embedding.error)
                continue
            embedded += 1
            write(embedding)
            if query is not None and str(Path(embedding.file).resolve()) != itself:
                similarity = float(query @ embedding.values / _length(embedding.values))
                best = heapq.nlargest(top, [*best, Neighbor(similarity, embedding.file)])
    return Embedded(embedded, failed, best)


def check_features_output(output: Path) -> None:
    """Raises `UserError` for another suffix, or a file that exists; and whatever `check_writable` raises."""
    if output.suffix.lower() not in _WRITERS:
        raise UserError(f"{output}: the output is a .parquet or .npy file")
    for file in (output, output.with_name(f"{output.name}.txt")):
        if file.exists() and (file == output or output.suffix.lower() == ".npy"):
            raise UserError(f"{file} exists already: use another --output, or delete it")
    check_writable(output)


def _length(features: NDArray[np.float32]) -> float:
    return max(float(np.linalg.norm(features)), 1e-12)


@contextlib.contextmanager
def _open_writer(output: Path | None) -> Iterator[Write]:
    if output is None:
        yield lambda _: None
        return
    with _WRITERS[output.suffix.lower()](output) as write:
        yield write


@contextlib.contextmanager
def _write_npy(path: Path) -> Iterator[Write]:
    """Row by row: the header comes first, with room for any number of rows, and is written again at the end."""
    names: list[str] = []
    columns = 0

    with atomic_write(path) as temporary, temporary.open("wb") as file:

        def write_header() -> None:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, {**header, "shape": (len(names), columns)})

        def write(embedding: Embedding) -> None:
            nonlocal columns
            assert embedding.values is not None
            if not names:
                columns = len(embedding.values)
                write_header()
            names.append(embedding.file)
            file.write(embedding.values.astype(np.float32).tobytes())

        yield write
        file.seek(0)
        write_header()
    write_text(path.with_name(f"{path.name}.txt"), "".join(f"{name}\n" for name in names))


@contextlib.contextmanager
def _write_parquet(path: Path) -> Iterator[Write]:
    require("pyarrow", "Parquet output")
    import pyarrow
    from pyarrow import parquet

    rows: list[Embedding] = []
    writer: Any = None
    with atomic_write(path) as temporary:

        def flush() -> None:
            nonlocal writer
            if writer is None:
                width = len(rows[0].values) if rows and rows[0].values is not None else 1
                features = pyarrow.list_(pyarrow.float32(), width)
                schema = pyarrow.schema([("file", pyarrow.string()), ("features", features)])
                writer = parquet.ParquetWriter(temporary, schema)
            values = np.concatenate([row.values for row in rows if row.values is not None] or [np.empty(0, np.float32)])
            features = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values), type=writer.schema.types[1])
            writer.write_table(pyarrow.table([pyarrow.array([r.file for r in rows]), features], writer.schema))
            rows.clear()

        def write(embedding: Embedding) -> None:
            rows.append(embedding)
            if len(rows) == _ROW_GROUP:
                flush()

        try:
            yield write
            flush()
        finally:
            if writer is not None:
                writer.close()


_WRITERS = {".npy": _write_npy, ".parquet": _write_parquet}

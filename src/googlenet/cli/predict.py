"""googlenet predict."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.console import on_stderr
from googlenet.errors import UserError, check_confidence, check_counts, plural

if TYPE_CHECKING:
    from googlenet.data.decode import NamedImage


@options.app.command
def predict(
    model: Annotated[Path, Parameter(help="Model file, run folder, name, or a file from export.")],
    /,
    *images: Annotated[Path, Parameter(name="IMAGE", help="Image files, or folders of them; or one folder of shards.")],
    stdin: Annotated[bool, Parameter(help="Read file names from standard input, one per line.", negative="")] = False,
    top: Annotated[
        int | None, Parameter(help="How many classes to print, the most probable first. Default: 3.")
    ] = None,
    confidence: Annotated[float, Parameter(help="Mark predictions below this probability as not confident.")] = 0.0,
    format: Annotated[Literal["table", "json", "csv"], Parameter(help="Format to print in.")] = "table",
    json: Annotated[bool, Parameter(help="Print JSON; with --output, a summary.", negative="")] = False,
    output: Annotated[Path | None, options.Output, Parameter(help="File to write: .csv, .jsonl or .parquet.")] = None,
    resume: Annotated[bool, Parameter(help="Continue --output: skip the files in it.", negative="")] = False,
    shard: Annotated[
        str | None,
        Parameter(help="Part of the images, such as 3/16 for the third of 16 jobs; together they predict each once."),
    ] = None,
    sort_into: Annotated[
        Path | None,
        options.Folder,
        Parameter(help="Folder to link the images into: one folder per class, _unsure below --confidence, _unknown."),
    ] = None,
    copy: Annotated[bool, Parameter(help="With --sort-into: copy the images instead.", negative="")] = False,
    backend: Annotated[
        Literal["auto", "torch", "compiled", "onnxruntime", "openvino"],
        Parameter(
            help="What runs the network. auto: torch for a model file, the fastest one installed for an exported "
            "file. compiled: torch, compiled for this processor and batch size, which takes 20 to 40 s."
        ),
    ] = "auto",
    crops: options.CropCount = 1,
    batch_size: options.BatchSize = 32,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
) -> int:
    """Classify images. An image that cannot be read is reported, the others are classified, and the exit code is 1."""
    options.check_order("predict", model, images)
    if not images and not stdin:
        raise UserError("predict needs IMAGE: files or folders, or --stdin with file names on standard input")
    if resume and output is None:
        raise UserError("--resume needs the --output to continue")
    if output is not None and format != "table":
        raise UserError(f"--format is for printing; the format of --output is in its name: {output}")
    if copy and sort_into is None:
        raise UserError("--copy is for --sort-into DIR")
    if sort_into is not None and (output is not None or format != "table"):
        raise UserError("--sort-into writes no file and prints no predictions: run it without --output and --format")
    part = None if shard is None else parse_shard(shard)
    check_counts(top=top, batch_size=batch_size)
    check_confidence(confidence)
    from googlenet.data.decode import image_files
    from googlenet.data.sharded import ShardImages
    from googlenet.inference.predictor import Predictor

    if output is not None:
        from googlenet.inference.writers import check_predictions_output, write_predictions

        check_predictions_output(output, resume=resume)
    if sort_into is not None:
        from googlenet.inference.sorting import check_apart, sort_images

        for path in images:
            check_apart(path, sort_into.resolve())
    if backend == "compiled":
        print("compiling the network for this processor at the first batch: 20 to 40 s", file=sys.stderr)
    predictor = Predictor(model, device=device, precision=precision, backend=backend)
    if top is not None and top > (count := len(predictor.info.classes)):
        print(f"--top {top}: the model has {plural(count, 'class')}", file=sys.stderr)
    files: Iterable[Path | NamedImage]
    total: int | None
    with on_stderr():
        if (shards := _find_shards(images)) is not None:
            if stdin or sort_into is not None or len(images) > 1:
                raise UserError(f"{shards} is in shards: predict it alone, without --stdin and --sort-into")
            content = ShardImages(shards)
            start, stop = shard_bounds(len(content), *part or (1, 1))
            files, total = content.between(start, stop), stop - start
        else:
            listed = list(image_files(images))
            if part is not None:
                listed = take_shard([*listed, *_read_names()] if stdin else listed, *part)
                stdin = False
            files, total = chain(listed, _read_names() if stdin else ()), None if stdin else len(listed)
    settings: dict[str, Any] = {"top": top or 3, "batch_size": batch_size, "confidence": confidence, "crops": crops}
    if sort_into is not None:
        del settings["top"]
        with on_stderr():
            counts = sort_images(predictor, cast(Iterable[Path], files), sort_into, copy=copy, total=total, **settings)
        summary = (
            "{sorted:,} sorted, of which {unsure:,} unsure and {unknown:,} unknown; {failed:,} cannot be read".format(
                **counts
            )
        )
        options.print_json({"folder": str(sort_into), **counts}) if json else print(f"{sort_into}: {summary}")
        return 1 if counts["failed"] else 0
    if output is not None:
        with on_stderr():
            predicted, failed = write_predictions(
                predictor, files, output, total=total, resume=resume, shard=shard, **settings
            )
        result = {"output": str(output), "predicted": predicted, "failed": failed}
        options.print_json(result) if json else print(f"{output}: {predicted:,} predicted, {failed:,} cannot be read")
        return 1 if failed else 0
    from googlenet.inference.writers import csv_lines, header

    predictions, failed, format = [], 0, "json" if json else format
    if format == "csv":
        print(header(predictor.info.known is not None), end="")
    for prediction in predictor.predict(files, **settings):
        if prediction.error is not None:
            failed += 1
            print(f"googlenet: {prediction.file}: {prediction.error}", file=sys.stderr)
        if format == "json":
            predictions.append(prediction.to_dict())
        elif format == "csv":
            print(csv_lines(prediction), end="")
        elif prediction.classes:
            ranked = zip(prediction.classes, prediction.probabilities, strict=True)
            mark = "none of these? " if prediction.known is False else ""
            mark += "" if prediction.confident else "not confident: "
            print(f"{prediction.file}  {mark}" + "  ".join(f"{name} {share:.1%}" for name, share in ranked))
    if format == "json":
        options.print_json(predictions)
    return 1 if failed else 0


def parse_shard(text: str) -> tuple[int, int]:
    """`3/16` is the third of 16. Raises `UserError` for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard must be a part of a number of parts, from 1/N to N/N, such as 3/16, not {text!r}")
    return int(match[1]), int(match[2])


def take_shard(files: list[Path], number: int, count: int) -> list[Path]:
    """A part in the order of the whole: the parts 1 to `count`, one after the other, are the whole."""
    return files[slice(*shard_bounds(len(files), number, count))]


def shard_bounds(images: int, number: int, count: int) -> tuple[int, int]:
    """Number of the first image of a part, and of the one after its last."""
    return images * (number - 1) // count, images * number // count


def _find_shards(images: Sequence[Path]) -> str | None:
    """The first of the arguments that is shards. Made a path, an address has lost a slash."""
    from googlenet.data.dataset import has_shards

    texts = (re.sub(r"^([a-z0-9]+):/(?!/)", r"\1://", str(path)) for path in images)
    return next((text for text in texts if has_shards(text)), None)


def _read_names() -> Iterator[Path]:
    """File names on standard input. Only the line end is removed: a name may start or end with spaces."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="\n")  # -sig: skips a BOM
    for line in sys.stdin:
        if name := line.removesuffix("\n").removesuffix("\r"):
            yield Path(name)

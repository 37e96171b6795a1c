"""googlenet evaluate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypedDict

from cyclopts import Parameter
from rich.console import Console

from googlenet.cli.app import (
    BatchSize,
    DataDir,
    Device,
    Json,
    EvalData,
    EvalPrecision,
    Output,
    SkipUnreadable,
    app,
    load_eval_data_with_progress,
    print_json,
)
from googlenet.files import check_writable
from googlenet.recipe import Recipe

# Every setting of a recipe is an option of `train`; those that are not given are not in the dictionary.
Settings = TypedDict(  # type: ignore[misc]
    "Settings",
    {
        name: Annotated[field.annotation, Parameter(help=f"{field.description}.")]
        for name, field in Recipe.model_fields.items()
    },
    total=False,
)


@app.command
def evaluate(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    *,
    data: EvalData = None,
    data_dir: DataDir = None,
    skip_unreadable: SkipUnreadable = False,
    output: Annotated[
        Path | None, Output, Parameter(help="Folder for the report; left out: evaluation/ beside the model.")
    ] = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    precision: EvalPrecision = None,
    confidence: Annotated[
        float, Parameter(help="Also count what is answered, and rightly, at this probability and above, 0 to 1.")
    ] = 0.0,
    json: Json = False,
) -> int:
    """Judge a model on a data set's test images: figures, confusion matrix, worst mistakes, calibration."""
    from googlenet.evaluation.metrics import evaluate as run_evaluation
    from googlenet.evaluation.report import evaluation_table, write_report
    from googlenet.weights.model_file import load

    net = load(model)
    folder = output or (model if model.is_dir() else model.parent) / "evaluation"
    check_writable(folder / "evaluation.json")
    dataset = load_eval_data_with_progress(net.info, data, data_dir, skip_unreadable=skip_unreadable, json=json)
    evaluation = run_evaluation(
        net,
        dataset.test,
        net.info.input,
        net.info.classes,
        device=device,
        precision=precision or net.info.recipe.get("precision", "auto"),
        batch_size=batch_size,
        temperature=net.info.temperature,
        confidence=confidence,
    )
    if json:
        print_json(evaluation.to_dict())
    else:
        Console().print(evaluation_table(evaluation))
    write_report(evaluation, dataset.test, folder)
    print(f"report: {folder}", file=sys.stderr if json else sys.stdout)
    return 0

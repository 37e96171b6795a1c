"""googlenet evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.console import on_stderr
from googlenet.errors import check_confidence
from googlenet.files import check_writable


@options.app.command
def evaluate(
    model: Annotated[Path, Parameter(help="Model file or run folder.")],
    *,
    data: options.EvalData = None,
    data_dir: options.DataDir = None,
    skip_unreadable: options.SkipUnreadable = False,
    output: Annotated[
        Path | None, options.Output, Parameter(help="Folder for the report; default: evaluation/ next to the model.")
    ] = None,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    precision: options.EvalPrecision = None,
    confidence: Annotated[
        float, Parameter(help="Also report coverage and accuracy at this confidence threshold, 0 to 1.")
    ] = 0.0,
    json: options.Json = False,
) -> int:
    """Evaluate a model on test images: accuracy, confusion matrix, worst mistakes, calibration."""
    from googlenet.console import log, print_table
    from googlenet.evaluation.report import eval_split, evaluate as evaluate_network, evaluation_table, write_report
    from googlenet.weights.model_file import load

    check_confidence(confidence)
    net = load(model)
    folder = output or (model if model.is_dir() else model.parent) / "evaluation"
    check_writable(folder / "evaluation.json")
    with on_stderr(json):
        split = eval_split(net.info, data, data_dir, skip_unreadable=skip_unreadable)
        evaluation = evaluate_network(
            net, split, device=device, precision=precision, batch_size=batch_size, confidence=confidence
        )
        if json:
            options.print_json(evaluation.to_dict())
        else:
            print_table(evaluation_table(evaluation))
        write_report(evaluation, split, folder)
        log.info("report: %s", folder)
    return 0

"""googlenet evaluate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.console import on_stderr
from googlenet.errors import UserError, check_confidence
from googlenet.files import check_writable


@options.app.command
def evaluate(
    model: options.Model,
    other: Annotated[Path | None, Parameter(help="A second model, to compare with on the same images.")] = None,
    /,
    *,
    data: options.EvalData = None,
    data_dir: options.DataDir = None,
    skip_unreadable: options.SkipUnreadable = False,
    output: Annotated[
        Path | None, options.Output, Parameter(help="Folder for the report; default: evaluation/ next to the model.")
    ] = None,
    by: Annotated[
        str | None, Parameter(help="Also report the accuracy for each value of this column of a table of files.")
    ] = None,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    precision: options.EvalPrecision = None,
    confidence: Annotated[
        float, Parameter(help="Also report coverage and accuracy at this confidence threshold, 0 to 1.")
    ] = 0.0,
    unknown: Annotated[
        Path | None, Parameter(help="Folder of images of none of the classes: how many are recognized as unknown.")
    ] = None,
    fit_known: Annotated[
        bool,
        Parameter(
            help="Fit the threshold below which an image is unknown, so that 95% of these images pass, and write it "
            "to the model file.",
            negative="",
        ),
    ] = False,
    crops: options.CropCount = 1,
    json: options.Json = False,
) -> int:
    """Evaluate a model on test images: accuracy, scores by class, mistakes by file name, calibration.

    The report has a row for each image in predictions.csv. With two models A and B: whether B is more often correct
    than A on the same images, by more than chance, and in comparison.csv the images that they predict differently.
    """
    from googlenet.console import log, print_table
    from googlenet.evaluation import tables
    from googlenet.evaluation.comparison import Comparison, same_images
    from googlenet.evaluation.metrics import check_column
    from googlenet.evaluation.report import eval_split, evaluate as evaluate_network, write_report
    from googlenet.weights.load import is_named, load, output_stem
    from googlenet.weights.model_file import model_path, save

    check_confidence(confidence)
    if fit_known and crops > 1:
        raise UserError("--fit-known fits the threshold for predictions from one crop: omit --crops")
    if other is not None and (by is not None or confidence > 0 or unknown is not None or fit_known):
        raise UserError(
            "--by, --confidence, --unknown and --fit-known are about one model: evaluate each of the two separately"
        )
    if fit_known and is_named(model):
        raise UserError(f"--fit-known writes to the model file: import or copy {model} to a file of yours first")
    file = model_path(model).resolve()  # a link stays one
    if fit_known:
        check_writable(file)
    net, second = load(model), None if other is None else load(other)
    folder = output or output_stem(model).with_name("evaluation")
    check_writable(folder / ("evaluation.json" if other is None else "comparison.json"))
    settings: dict[str, Any] = {"device": device, "precision": precision, "batch_size": batch_size, "crops": crops}
    with on_stderr(json):
        split = eval_split(net.info, data, data_dir, skip_unreadable=skip_unreadable, crops=crops)
        if by is not None:
            check_column(split.columns, by)
        if second is not None:
            images = same_images(
                split, net.info, second.info, data, data_dir, skip_unreadable=skip_unreadable, crops=crops
            )
            comparison = Comparison(
                evaluate_network(net, split, **settings), evaluate_network(second, images, **settings)
            )
            if json:
                options.print_json(comparison.to_dict())
            else:
                print_table(tables.comparison_table(comparison, (str(model), str(other))))
            comparison.write(folder)
        else:
            evaluation = evaluate_network(
                net, split, confidence=confidence, unknown=unknown, skip_unreadable=skip_unreadable, **settings
            )
            if fit_known:
                evaluation = replace(evaluation, rule=evaluation.fit_known(data or "test"))
                save(net, replace(net.info, known=evaluation.rule), file)
                log.info("another threshold for unknown images is in %s now; export the model again", file)
            if json:
                options.print_json(evaluation.to_dict(by))
            else:
                print_table(tables.evaluation_table(evaluation))
                if by is not None:
                    print_table(tables.slices_table(evaluation, by))
                if evaluation.accuracy < 1:
                    print_table(tables.mistakes_table(evaluation))
            write_report(evaluation, split, folder, by=by)
        log.info("report: %s", folder)
    return 0

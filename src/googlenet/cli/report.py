"""googlenet report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.console import log, on_stderr
from googlenet.errors import UserError
from googlenet.files import check_output, expand

if TYPE_CHECKING:
    from googlenet.data.dataset import ImageSplit
    from googlenet.evaluation.html import RunRecord


@options.app.command
def report(
    runs: Annotated[list[Path], Parameter(help="Run folder; with several, each is compared with the first.")],
    /,
    *,
    output: Annotated[
        Path | None, options.Output, Parameter(help="HTML file of a comparison; default: comparison.html.")
    ] = None,
    data: options.EvalData = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> int:
    """Write the report of a run (report.html in its folder), or a page that compares several runs."""
    from googlenet.evaluation.html import write_comparison, write_run_report

    if output is not None and len(runs) == 1:
        raise UserError("--output is for the comparison of several runs; the report of one run is in its folder")
    if len(runs) > 1:
        check_output(page := output or Path("comparison.html"), ".html")
    with on_stderr(json):
        records = [_read(expand(run)) for run in runs]
        if len(records) > 1:
            result = write_comparison(records, page)
        else:
            result = write_run_report(records[0], _images(records[0], data, data_dir))
    options.print_json(result) if json else print(result["report"])
    return 0


def _read(folder: Path) -> RunRecord:
    from googlenet.evaluation.html import read_run
    from googlenet.training.run_folder import RunFolder

    return read_run(folder, RunFolder(folder).rows())


def _images(run: RunRecord, data: str | None, data_dir: str | None) -> ImageSplit | None:
    """The test images of a run; None if there is nothing to show, or they are not there any more."""
    from googlenet.evaluation.report import load_eval_data

    if run.info is None or not run.answers:
        return None
    try:
        return load_eval_data(run.info, data, data_dir, on_demand=True).test
    except UserError as error:
        if data is not None or data_dir is not None:
            raise
        log.info("the report has no images: %s", error)
        return None

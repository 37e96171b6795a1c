"""googlenet report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.console import on_stderr
from googlenet.errors import UserError
from googlenet.files import check_output, expand


@options.app.command
def report(
    runs: Annotated[list[Path], Parameter(help="Run folders; several are compared with the first.", negative="")],
    *,
    output: Annotated[
        Path | None, options.Output, Parameter(help="HTML file of a comparison; default: comparison.html.")
    ] = None,
    data: options.EvalData = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> int:
    """Write report.html of a run, or a page that compares several runs."""
    from googlenet.console import log
    from googlenet.evaluation.html import RunRecord, read_run, write_comparison, write_run_report
    from googlenet.evaluation.report import load_eval_data
    from googlenet.training.run_folder import RunFolder

    runs = [expand(run) for run in runs]
    if output is not None and len(runs) == 1:
        raise UserError("--output is for a comparison of several runs; the report of one run is in its folder")
    path = output or Path("comparison.html")
    if len(runs) > 1:
        check_output(path, ".html")

    def images_of(run: RunRecord):  # type: ignore[no-untyped-def]
        """The test images of a run; None if they cannot be found."""
        if run.info is None or not run.answers:
            return None
        try:
            return load_eval_data(run.info, data, data_dir).test
        except UserError as error:
            if data is not None or data_dir is not None:
                raise
            log.info("the report has no images: %s", error)
            return None

    with on_stderr(json):
        records = [read_run(run, RunFolder(run).rows()) for run in runs]
        if len(records) > 1:
            result = write_comparison(records, path)
        else:
            result = write_run_report(records[0], images_of(records[0]))
    options.print_json(result) if json else print(result["report"])
    return 0

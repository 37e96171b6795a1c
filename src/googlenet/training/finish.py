"""The end of a run: the final evaluation of the saved model, and the plots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from accelerate.utils import broadcast_object_list

from googlenet.console import log
from googlenet.evaluation.calibration import FEWEST_IMAGES, fit_temperature
from googlenet.evaluation.html import read_run, write_run_report
from googlenet.evaluation.metrics import Evaluation
from googlenet.evaluation.old_classes import compare_old_classes
from googlenet.evaluation.plots import plot_confusion_matrix, plot_curves, plot_predictions
from googlenet.files import write_columns, write_json
from googlenet.training.records import record, row_of
from googlenet.training.run_folder import RunFolder
from googlenet.training.selection import eval_model, evaluate, save_model
from googlenet.training.setup import Trainer
from googlenet.weights.model_file import read_weights


def finish(trainer: Trainer, folder: RunFolder, latest: Evaluation | None) -> tuple[Evaluation, dict[str, Any] | None]:
    """Evaluate the saved model, and write evaluation.json and the predictions. `latest` is the last epoch's evaluation.

    Returns the evaluation, and what a network that learned more classes lost on the old ones.
    """
    evaluation, old_classes = final_evaluation(trainer, folder, latest), None
    if trainer.accelerator.is_main_process:
        old_classes = report_old_classes(trainer, evaluation)
        result = evaluation.to_dict() | ({} if old_classes is None else {"old_classes": old_classes})
        write_columns(folder.path / "predictions.csv", evaluation.predictions())
        write_json(folder.path / "evaluation.json", result)
    return evaluation, broadcast_object_list([old_classes])[0]


def final_evaluation(trainer: Trainer, folder: RunFolder, latest: Evaluation | None) -> Evaluation:
    """Evaluate the saved model on the test split, with the temperature that fits the validation split, if any, and the
    rule for unknown images, which is fitted on the same images or else on the test images."""
    metrics, evaluation = trainer.state.best_metrics, latest
    if metrics["step"] != trainer.state.step or "test" not in metrics:
        evaluation = None  # the latest evaluation is of another model, or of the validation split
    if evaluation is None:
        if trainer.accelerator.is_main_process:
            eval_model(trainer).load_state_dict(read_weights(folder.model))
        evaluation = evaluate(trainer, "test")
        metrics["test"] = {"loss": evaluation.loss, "accuracy": evaluation.accuracy}
        rows = folder.rows()  # resuming a finished run must not repeat its last row
        if not any(row["split"] == "test" and row["step"] == metrics["step"] for row in rows):
            figures = (evaluation.loss, evaluation.accuracy, evaluation.images_per_second)
            record(trainer, folder, row_of(trainer, "test", *figures, metrics["step"], metrics["epoch"]))
    rule, temperature = evaluation.fit_known("test"), 1.0
    if trainer.validation is not None and len(trainer.validation) < FEWEST_IMAGES:
        log.warning(
            "only %d validation images: probabilities are not calibrated on them, which needs %d",
            len(trainer.validation), FEWEST_IMAGES,
        )  # fmt: skip
    elif trainer.validation is not None:
        held_out = evaluate(trainer, "validation")
        rule, temperature = held_out.fit_known("validation"), fit_temperature(held_out.logits, held_out.labels)
    save_model(trainer, folder, temperature, rule)
    return replace(evaluation, temperature=temperature, rule=rule)


def report_old_classes(trainer: Trainer, evaluation: Evaluation) -> dict[str, Any] | None:
    """What the network lost on the classes of the run that it started from; None if it learned no other classes."""
    if trainer.source is None or not trainer.source.info.recipe or trainer.source.info.classes == evaluation.classes:
        return None
    device, precision = trainer.accelerator.device, trainer.precision
    old = compare_old_classes(trainer.source, evaluation, trainer.dataset.test, device=device, precision=precision)
    if old is None:
        return None
    log.info(old.line())
    return old.to_dict()


def draw_plots(trainer: Trainer, folder: RunFolder, evaluation: Evaluation | None, evaluated: str) -> None:
    """Curves from the rows; the rest from the final or, if interrupted, latest evaluation; and a report of it all."""
    path, rows, split = folder.path, folder.rows(), None
    record = read_run(path, rows)
    if evaluation is not None:
        split = trainer.validation if evaluated == "validation" else trainer.dataset.test
        assert split is not None
        captions = evaluation.captions
        matrix, mistakes = evaluation.confusion_matrix, evaluation.worst_mistakes(32)
        plot_confusion_matrix(matrix, evaluation.classes, path / "confusion_matrix.png")
        plot_predictions(split, captions, path / "predictions.png")
        plot_predictions(split, captions, path / "mistakes.png", mistakes=mistakes)
        record = record.evaluated_as(evaluation, split, evaluated)
    plot_curves(rows, path / "curves.png")
    write_run_report(record, split)

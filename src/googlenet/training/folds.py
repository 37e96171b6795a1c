"""Cross-validation: every image is in the test split of one of k runs."""

from __future__ import annotations

import csv
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from googlenet.console import log
from googlenet.data.dataset import check_unreadable, has_files, list_files
from googlenet.data.folder import ImageFile, Listing, scan
from googlenet.data.label_errors import PREFIX
from googlenet.data.splits import find_units
from googlenet.errors import UserError
from googlenet.evaluation.metrics import Evaluation
from googlenet.evaluation.report import evaluate
from googlenet.files import expand, printable, write_json, write_table
from googlenet.recipe import Recipe, load_recipe
from googlenet.training.auto import resolve_recipe
from googlenet.training.loop import train
from googlenet.training.resume import resolve_again
from googlenet.training.run_folder import RunFolder
from googlenet.weights.load import load


@dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` leaves: the test accuracy of each fold, their mean and sample standard deviation."""

    folder: Path
    accuracies: tuple[float, ...]
    mean: float
    std: float
    seconds: float  # of training, all folds together
    out_of_fold: Path | None
    """A table with a prediction for every image, by the model that was not trained on it; None if interrupted."""
    interrupted: bool = False
    terminated: bool = False  # by SIGTERM

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "folder": str(self.folder), "out_of_fold": self.out_of_fold and str(self.out_of_fold)}


def cross_validate(
    recipe: str | Path | Recipe | None = None, *, folds: int = 5, output: str | Path | None = None, **settings: Any
) -> CrossValidation:
    """Train and evaluate `folds` networks, each tested on a part of the images that the others learn from.

    Every class has about the same share of each part; images with the same content or of one group are in one part.
    If the data has a test split of its own, its images are left out. Each fold is an ordinary run in
    `OUTPUT/fold-1/`, ..., on a table of files next to it. Called again with the same arguments, it continues.

    Args:
        recipe, settings: as for `train`; `data` must be a folder or a table of files.
        folds: 2 or more.
        output: the folder for all of it. Default: a new one in `runs/`.

    Raises:
        UserError: for arguments that are not usable, as `train`; or a class with too few images for the folds.
    """
    first = None if output is None else RunFolder(expand(output) / "fold-1").recipe
    if first is not None and first.is_file():
        resolved, name, _ = resolve_again(recipe, settings, load_recipe(first))
    else:
        resolved, name, _ = resolve_recipe(recipe, settings)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("--folds trains in one process: start it without a launcher")
    if folds < 2:
        raise UserError(f"folds must be 2 or more, not {folds}")
    if not has_files(resolved.data):
        raise UserError(f"--folds needs a folder of images or a table of files, not {resolved.data}")
    if resolved.also is not None:
        raise UserError("--folds and --also exclude each other: put the images of both into one folder or table")
    folder = RunFolder.new_path(f"{name}-folds") if output is None else expand(output)
    listing, files, parts = _assign(resolved, folds)
    evaluations: list[Evaluation] = []
    accuracies: list[float] = []
    seconds = 0.0
    for fold in range(folds):
        table, run = folder / f"fold-{fold + 1}.csv", folder / f"fold-{fold + 1}"
        _write_table(table, listing, files, parts, fold)
        log.info(f"fold {fold + 1} of {folds}")
        resolved = resolved.model_copy(update={"data": str(table.absolute())})
        result = train(resolved, output=run, resume=True)
        seconds += result.seconds
        if result.interrupted:
            means = _spread(accuracies)
            return CrossValidation(folder, tuple(accuracies), *means, seconds, None, True, result.terminated)
        evaluations.append(evaluate(load(result.model), str(table), device=resolved.device))
        accuracies.append(evaluations[-1].accuracy)
    out_of_fold = folder / "out_of_fold.csv"
    top = Path(os.path.commonpath([file.path.absolute().parent for file in files]))  # that a table's names start from
    _write_predictions(out_of_fold, evaluations, top, listing.folder.absolute())
    summary = CrossValidation(folder, tuple(accuracies), *_spread(accuracies), seconds, out_of_fold)
    write_json(folder / "folds.json", summary.to_dict())
    return summary


def _spread(accuracies: Sequence[float]) -> tuple[float, float]:
    mean = statistics.fmean(accuracies) if accuracies else 0.0
    return mean, statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0


def _assign(recipe: Recipe, folds: int) -> tuple[Listing, list[ImageFile], dict[Path, int]]:
    """The files of the data and the fold that each of them is tested in."""
    report = scan(list_files(recipe.data))
    check_unreadable(report.unreadable, recipe.skip_unreadable)
    files = [file for file in report.files if file.split != "test"]
    if len(files) < len(report.files):
        log.info(f"{len(report.files) - len(files):,} images of the test split are left out of the folds")
    units = find_units(files, report.listing.columns.get("group"))
    members: dict[int, list[ImageFile]] = defaultdict(list)
    for file in files:
        members[units[file.path]].append(file)

    def order(unit: int) -> tuple[int, bytes]:  # the largest first, the others shuffled by the seed
        group = members[unit]
        return -len(group), sha256(f"{recipe.seed} ".encode() + min(file.digest for file in group)).digest()

    counts = [[0] * len(report.listing.classes) for _ in range(folds)]
    parts: dict[Path, int] = {}
    for unit in sorted(members, key=order):
        labels = [file.label for file in members[unit]]
        # Where this class is rarest, then where there are fewest images
        fold = min(
            range(folds), key=lambda number: (sum(counts[number][label] for label in labels), sum(counts[number]))
        )
        for file in members[unit]:
            counts[fold][file.label] += 1
            parts[file.path] = fold
    if empty := sum(not any(count) for count in counts):
        raise UserError(f"{empty} of {folds} folds would have no images: there are too few images or groups; use fewer")
    for label, class_name in enumerate(report.listing.classes):
        if (found := sum(count[label] > 0 for count in counts)) < 2:
            raise UserError(
                f"the class {class_name!r} is in {found} of {folds} folds; it needs at least two images or groups"
            )
    return report.listing, files, parts


def _write_table(path: Path, listing: Listing, files: Sequence[ImageFile], parts: dict[Path, int], fold: int) -> None:
    rows = [
        (
            str(file.path.absolute()),
            listing.classes[file.label],
            "test" if parts[file.path] == fold else "train",
            *(values[file.number] for values in listing.columns.values()),
        )
        for file in files
    ]
    columns = ("file", "class", "split", *listing.columns)
    if path.exists():
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file_before:
            if list(csv.reader(file_before)) != [list(columns), *map(list, rows)]:
                raise UserError(f"{path} is of other images, classes or folds; use another --output")
        return
    write_table(path, columns, rows)


def _write_predictions(path: Path, evaluations: Sequence[Evaluation], top: Path, folder: Path) -> None:
    """One row per image: file (relative to the folder), class, predicted, probability, and that of each class."""
    classes = evaluations[0].classes
    rows = []
    for evaluation in evaluations:
        probabilities = evaluation.probabilities
        confidence, predicted = probabilities.max(dim=1)
        rows += [
            (
                printable((top / file).relative_to(folder).as_posix()),
                classes[label],
                classes[guess],
                f"{best:.6f}",
                *(f"{value:.6f}" for value in values),
            )
            for file, label, guess, best, values in zip(
                evaluation.files,
                evaluation.labels.tolist(),
                predicted.tolist(),
                confidence.tolist(),
                probabilities.tolist(),
                strict=True,
            )
        ]
    columns = ("file", "class", "predicted", "probability", *(PREFIX + name for name in classes))
    write_table(path, columns, sorted(rows))

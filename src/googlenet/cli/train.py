"""googlenet train"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from cyclopts import Group, Parameter

from googlenet.cli import options
from googlenet.console import log, on_stderr
from googlenet.errors import TERMINATED, UserError
from googlenet.files import check_output
from googlenet.recipe import GROUPS, Recipe, recipe_names, settings_of_recipes

if TYPE_CHECKING:
    from googlenet.training.folds import CrossValidation
    from googlenet.training.loop import TrainingResult

_CHANGED, _RECIPES = settings_of_recipes(), ", ".join(recipe_names())


def _options() -> dict[str, Any]:
    """Every setting as an option, in groups, with its default in the style of the other commands."""
    options: dict[str, Any] = {}
    group = Group("")
    for name, field in Recipe.model_fields.items():
        if name in GROUPS:
            group = Group(GROUPS[name], sort_key=len(options) + 1)
        text, _, default = str(field.description).partition("; default: ")
        default = default or ("none" if field.default is None else str(field.default))
        source = "from the recipe, else " if name in _CHANGED else ""
        help_text = f"{text[0].upper()}{text[1:]}. [default: {source}{default}]"
        annotation: Any = int | Literal["auto"] if name == "batch_size" else field.annotation
        options[name] = Annotated[annotation, Parameter(help=help_text, group=group)]
    return options


# Every setting of a recipe is an option; those that are not given are not in the dictionary
Settings = TypedDict("Settings", _options(), total=False)  # type: ignore[misc]


def train(
    *,
    recipe: Annotated[
        str | None, Parameter(help=f"{_RECIPES} or a FILE.toml; default: fast, or images for a folder.")
    ] = None,
    output: Annotated[
        Path | None,
        options.Output,
        Parameter(help="Run folder, or with --find-learning-rate a PNG; default: a new folder in runs/."),
    ] = None,
    resume: Annotated[
        bool,
        Parameter(
            help="Continue the run in --output from its last checkpoint; with its settings: start it if there is none.",
            negative="",
        ),
    ] = False,
    find_learning_rate: Annotated[
        bool, Parameter(help="Do not train: plot the loss over a growing learning rate, and suggest one.", negative="")
    ] = False,
    folds: Annotated[
        int | None, Parameter(help="Cross-validate: train this many networks, each tested on another part.")
    ] = None,
    json: options.Json = False,
    settings: Annotated[Settings, Parameter(name="*")] = None,  # type: ignore[assignment]
) -> int:
    """Train a network. Every setting of a recipe is an option; the others are the recipe's."""
    given: dict[str, Any] = dict(settings or {})
    if folds is not None and (resume or find_learning_rate):
        option = "--resume" if resume else "--find-learning-rate"
        raise UserError(f"--folds and {option} exclude each other; the same command with --folds continues")
    if find_learning_rate:
        if resume:
            raise UserError("--find-learning-rate does not train, so --resume does not apply; omit one of them")
        return _find_learning_rate(recipe, output or Path("learning_rate.png"), given, json=json)
    if folds is not None:
        return _cross_validate(recipe, folds, output, given, json=json)
    from googlenet.training.loop import train as run_training

    with on_stderr() if json else nullcontext():
        result = run_training(recipe, output=output, resume=resume, **given)
    if os.environ.get("RANK", "0") != "0":
        pass  # of several processes, the first one prints
    elif json:
        options.print_json({**dataclasses.asdict(result), "folder": str(result.folder), "model": str(result.model)})
    elif result.interrupted:
        print(f"interrupted; to continue: {_command_name()} train --resume --output {shlex.quote(str(result.folder))}")
    else:
        metrics = result.metrics
        split, epoch = metrics["selected_by"], metrics["epoch"]
        best = "" if split == "last" else f"; the model is that of epoch {epoch}, the best on the {split} images"
        print(f"test accuracy {metrics['test']['accuracy']:.2%} after {result.seconds:.0f} s of training{best}")
        print(f"run folder: {result.folder}")
        print(f"next: {_command_name()} predict {shlex.quote(str(result.model))} IMAGE ...")
    return _exit_code(result)


def _exit_code(result: TrainingResult | CrossValidation) -> int:
    return TERMINATED if result.terminated else 130 if result.interrupted else 0


def _cross_validate(
    recipe: str | None, folds: int, output: Path | None, settings: dict[str, Any], *, json: bool
) -> int:
    from googlenet.training.folds import cross_validate
    from googlenet.training.interruption import Interruption

    with on_stderr() if json else nullcontext(), Interruption():  # also between two runs
        result = cross_validate(recipe, folds=folds, output=output, **settings)
    if os.environ.get("RANK", "0") != "0":
        pass
    elif json:
        options.print_json(result.to_dict())
    elif result.interrupted:
        print(f"interrupted; the same command continues with --output {shlex.quote(str(result.folder))}")
    else:
        each = ", ".join(f"{accuracy:.2%}" for accuracy in result.accuracies)
        print(f"test accuracy {result.mean:.2%} ± {result.std:.2%} (standard deviation of {folds} folds: {each})")
        print(f"predictions for every image: {result.out_of_fold}")
    return _exit_code(result)


def _command_name() -> str:
    """How to call this command in a shell: by its path if it is not on PATH."""
    if shutil.which("googlenet"):
        return "googlenet"
    path = Path(sys.executable).with_name("googlenet")
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _find_learning_rate(recipe: str | None, output: Path, settings: dict[str, Any], *, json: bool) -> int:
    check_output(output, ".png")
    from googlenet.training.auto import resolve_recipe
    from googlenet.training.lr_finder import find_learning_rate

    with on_stderr():
        resolved, _, reason = resolve_recipe(recipe, settings)
        if reason:
            log.info(reason)
        search = find_learning_rate(resolved, output)
    if json:
        options.print_json({"plot": str(output), **search.to_dict()})
    else:
        print(f"suggested: --learning-rate {search.suggestion:g}; the curve: {output}")
    return 0

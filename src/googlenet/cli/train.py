"""A network trained and judged."""

from __future__ import annotations

import dataclasses
import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, TypedDict

from cyclopts import Parameter

from googlenet.cli.app import (
    Json,
    Output,
    app,
    command_name,
    print_json,
)
from googlenet.errors import UserError
from googlenet.files import check_output
from googlenet.recipe import Recipe, recipe_names

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
def train(
    *,
    recipe: Annotated[
        str | None,
        Parameter(help=f"{', '.join(recipe_names())}, or a FILE.toml; left out: fast, for a folder pictures."),
    ] = None,
    output: Annotated[
        Path | None, Output, Parameter(help="Run folder; left out: a new one in runs/. Of --find-learning-rate, a PNG.")
    ] = None,
    resume: Annotated[
        bool, Parameter(help="Go on with the run in --output from its last checkpoint.", negative="")
    ] = False,
    find_learning_rate: Annotated[
        bool,
        Parameter(help="Do not train: draw the loss over a growing learning rate, and suggest one.", negative=""),
    ] = False,
    json: Json = False,
    settings: Annotated[Settings, Parameter(name="*")] = None,  # type: ignore[assignment]
) -> int:
    """Train a network. Every setting of a recipe can be given by its name; those left out are the recipe's."""
    if find_learning_rate:
        target = output or Path("learning_rate.png")
        if resume:
            raise UserError("with --find-learning-rate nothing is trained, so there is nothing to --resume")
        check_output(target, ".png")
        return _find_learning_rate(recipe, target, dict(settings or {}), json=json)
    from googlenet.training.loop import train as run_training

    with redirect_stdout(sys.stderr) if json else nullcontext():
        result = run_training(recipe, output=output, resume=resume, **(settings or {}))
    if os.environ.get("RANK", "0") != "0":
        pass  # of several processes, the first speaks
    elif json:
        print_json({**dataclasses.asdict(result), "folder": str(result.folder), "model": str(result.model)})
    elif result.interrupted:
        print(f"stopped. To go on: {command_name()} train --resume --output '{result.folder}'")
    else:
        print(f"test accuracy {result.metrics['test']['accuracy']:.2%} after {result.seconds:.0f} s of training")
        print(f"run folder: {result.folder}")
        print(f"next: {command_name()} predict '{result.model}' PICTURE ...")
    return 130 if result.interrupted else 0


def _find_learning_rate(recipe: str | None, output: Path, settings: dict[str, Any], *, json: bool) -> int:
    from googlenet.training.lr_finder import find_learning_rate
    from googlenet.training.setup import resolve_recipe

    resolved, _, reason = resolve_recipe(recipe, settings)
    with redirect_stdout(sys.stderr):
        print(reason, end="\n" if reason else "")
        search = find_learning_rate(resolved, output)
    if json:
        print_json({"picture": str(output), **search.to_dict()})
    else:
        print(f"suggested: --learning-rate {search.suggestion:g}; the curve: {output}")
    return 0

"""Which run `train` is asked for: a new one, or one that continues."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from googlenet.console import log
from googlenet.data.dataset import has_files, has_shards
from googlenet.errors import UserError
from googlenet.files import expand
from googlenet.recipe import Recipe, load_recipe, stored_recipe
from googlenet.training.auto import resolve_recipe
from googlenet.training.processes import is_restarted
from googlenet.training.run_folder import RunFolder


@dataclass(frozen=True)
class Plan:
    """What `train` is about to do: settings, folder, and the checkpoint to continue from, if any."""

    recipe: Recipe
    folder: RunFolder
    checkpoint: dict[str, Any] | None = None
    is_resumed: bool = False  # even without a checkpoint: a run that was stopped before its first one
    reason: str = ""  # for the settings that were chosen for the data


def plan_run(
    recipe: str | Path | Recipe | None, output: str | Path | None, resume: bool, settings: dict[str, Any],
    *, has_model: bool,
) -> Plan:  # fmt: skip
    """The run of these arguments of `train`. Raises `UserError` if they are not usable, or of another run."""
    if has_model and settings.get("batch_size") == "auto":
        raise UserError(
            'batch_size = "auto" counts the memory of the recipe\'s own network, not of model; set a number'
        )
    is_again = is_restarted(None if output is None else RunFolder(expand(output)).environment)
    if not (resume or is_again):
        return _new_run(recipe, output, settings)
    if output is None:
        raise UserError(
            "resume needs the run folder: set --output runs/NAME"
            if resume
            else "torchrun has restarted a run without a name, which cannot be continued: set --output runs/NAME"
        )
    folder = RunFolder(expand(output))
    checkpoint = folder.load_checkpoint() if folder.checkpoints() else None
    if checkpoint is not None:
        stored = stored_recipe(checkpoint["recipe"])
    elif folder.recipe.is_file():
        log.info(f"{folder.path} was stopped before its first checkpoint: starting over")
        stored = load_recipe(folder.recipe)
    elif recipe is None and not settings and not is_again:
        raise UserError(f"nothing to resume: {folder.path} is not a run folder; check --output")
    else:
        # The same command can be repeated until the run is finished
        log.info(f"nothing to resume in {folder.path} yet: starting the run")
        return _new_run(recipe, output, settings)
    now = resolve_again(recipe or stored, settings, stored)[0]
    # The same images may lie elsewhere now; their digest decides
    stored = stored.model_copy(update={"data": now.data, "also": now.also, "data_dir": now.data_dir})
    for option, data in (("--data", now.data), ("--also", now.also)):
        if data is not None and Path(data).is_absolute() and not (has_files(data) or has_shards(data)):
            raise UserError(f"the images of this run are not in {data} any more: say where they are with {option}")
    for name, value in now.model_copy(update={"whiten": False} if has_model else {}).model_dump().items():
        if value != (before := getattr(stored, name)) and name not in _FREE:
            raise UserError(f"the run to resume has {name} = {before!r}, not {value!r}; omit it or start another run")
    stored = stored.model_copy(update={name: getattr(now, name) for name in _FREE})
    return Plan(stored, folder, checkpoint, is_resumed=True)


def resolve_again(
    recipe: str | Path | Recipe | None, settings: dict[str, Any], stored: Recipe
) -> tuple[Recipe, str, str]:
    """`resolve_recipe`, but `batch_size = "auto"` is what it was for the `stored` recipe: memory may be free or not."""
    if settings.get("batch_size") != "auto":
        return resolve_recipe(recipe, settings)
    others = {setting: value for setting, value in settings.items() if setting != "batch_size"}
    resolved, name, reason = resolve_recipe(recipe, others)
    return resolved.model_copy(update={"batch_size": stored.batch_size}), name, reason


_FREE = ("keep_checkpoints", "on_save_error", "process_timeout")
"""Settings that do not change what a run computes, so a resumed one may have others."""


def _new_run(recipe: str | Path | Recipe | None, output: str | Path | None, settings: dict[str, Any]) -> Plan:
    resolved, name, reason = resolve_recipe(recipe, settings)
    folder = RunFolder(RunFolder.new_path(name) if output is None else expand(output))
    if os.environ.get("RANK", "0") == "0":
        folder.check_new()  # before minutes of decoding
    return Plan(resolved, folder, reason=reason)

"""The recipe of a run: the default one for its data, with settings chosen for a folder or table of images."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

from googlenet.data.dataset import has_files, has_shards, is_folder, list_files, load_dataset
from googlenet.data.decode import read_header
from googlenet.data.sharded import open_shards
from googlenet.device import memory_bytes, resolve_device
from googlenet.errors import UserError
from googlenet.recipe import Recipe, load_recipe
from googlenet.training.batch_size import fit_batch_size
from googlenet.training.grow import growth_recipe
from googlenet.weights.load import is_named, load_or_import

_SAMPLE = 200  # image files whose headers choose the image size
# Memory of a training step per image of 224x224: 17 MiB measured (docs/performance.md), plus a third for safety
_ACTIVATION_BYTES = 22 * 2**20
# Training images at the largest size that a run takes: about four minutes on two cores
_IMAGES_PER_RUN = {"cpu": 34_000, "gpu": 600_000}
# On 570 training images, 100 epochs are 2.7 points better than 40, which a CPU takes minutes for (docs/performance.md)
_ENOUGH_EPOCHS = {"cpu": 40, "gpu": 100}
_ENOUGH_STEPS = 700


def resolve_recipe(recipe: str | Path | Recipe | None, settings: dict[str, Any]) -> tuple[Recipe, str, str]:
    """The recipe of a run, its name, and a line about the settings that were chosen for its data, if any.

    The default recipe is `images` for a folder or table, else `fast`; with `also` and the weights of an earlier run, it
    is that of the run, but shorter (`growth_recipe`). Given settings have priority over chosen ones. Raises `UserError`
    as `load_recipe` does, or for weights, a folder or a device that is not usable.
    """
    if settings.get("batch_size") == "auto":
        others = {setting: value for setting, value in settings.items() if setting != "batch_size"}
        resolved, name, reason = resolve_recipe(recipe, others)
        size, line = fit_batch_size(resolved)
        return resolved.model_copy(update={"batch_size": size}), name, f"{reason}; {line}" if reason else line
    data, reason = settings.get("data"), ""
    with_files = isinstance(data, str | Path) and (has_files(data) or has_shards(data))
    name = str(recipe) if isinstance(recipe, str | Path) else "run"
    if recipe is None:
        name = recipe = "images" if with_files else "fast"
        if None not in (settings.get("also"), settings.get("weights")):
            info = load_or_import(load_recipe("fast", weights=settings["weights"]).weights or "").info
            if info.recipe:
                name, (recipe, reason) = "grown", growth_recipe(info)
    resolved = load_recipe(recipe, **settings)
    if recipe == "images" and with_files:
        chosen, reason = _choose_settings(resolved.data, resolved.also, settings)
        resolved = load_recipe(recipe, **chosen, **settings)
    # Absolute paths: the same files wherever the run is resumed from
    paths: dict[str, str] = {}
    for setting in ("data", "also"):
        source = getattr(resolved, setting)
        if source is not None and has_shards(source):
            paths[setting] = str(Path(source).resolve()) if is_folder(source) else source
        elif source is not None and has_files(source):  # rows of a table are relative to the link to it, not its target
            path = Path(source)
            paths[setting] = str(path.resolve() if is_folder(path) else path.absolute())
    for setting in ("data_dir", "weights"):
        path = getattr(resolved, setting)
        if path not in (None, "bundled") and not (setting == "weights" and is_named(path)):
            paths[setting] = str(Path(path).absolute())  # a link keeps its name, which may say more than its target's
    return resolved.model_copy(update=paths), name, reason


def _choose_settings(folder: str, also: str | None, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Image size, batch size, learning rate and epochs for a folder, unless given; and the reasons in one line."""
    count, paths, sides = 0, list[Path](), list[int]()
    for source in (folder,) if also is None else (folder, also):
        if has_shards(source):
            index = open_shards(source)[0]
            count += len(index.splits["train"].labels) if "train" in index.splits else 1
            sides.append(index.side)
            continue
        if not has_files(source):
            count += len(load_dataset(source, given.get("data_dir"), splits=("train",)).train)
            continue
        found = list_files(source, min_classes=1 if also else 2).files
        training = [path for path, _, split in found if split in (None, "train")]
        count += max(round(len(training) * (0.8 if len(training) == len(found) else 1.0)), 1)
        paths += [path for path, _, _ in found]
    for path in random.Random(0).sample(paths, min(_SAMPLE, len(paths))):
        try:
            sides.append(min(read_header(path).size))
        except UserError:  # reported when every file is read
            continue
    side = statistics.median(sides) if sides else 128

    on_gpu = resolve_device(given.get("device", "auto")).type != "cpu"
    kind, largest = ("gpu", 224) if on_gpu else ("cpu", 128)
    size = given.get("image_size", min(max(32 * round(side / 32), 64), largest))
    batch = 32 if count < 4_000 else 64 if count < 20_000 else 128
    memory = memory_bytes()
    fits = int(memory / 4 / (_ACTIVATION_BYTES * (size / 224) ** 2)) if memory else batch
    # Each class rounds its share, and a validation split may take more
    batch = given.get("batch_size", max(min(batch, fits, count // 2), 1))
    most = min(max(_ENOUGH_EPOCHS[kind], round(_ENOUGH_STEPS * batch / count)), 100)
    epochs = max(min(round(_IMAGES_PER_RUN[kind] * (largest / size) ** 2 / count), most), 8)
    rate = round(0.006 * (batch / 128) ** 0.5, 5)
    reasons = {
        "image_size": (size, f"image size {size} (half of the images have a shorter side of {side:.0f} or less; "
                       f"at most {largest} on a {kind.upper()})"),
        "batch_size": (batch, f"batch size {batch} (about {count:,} training images)"),
        "learning_rate": (rate, f"learning rate {rate} (for that batch size)"),
        "epochs": (epochs, f"{epochs} epochs (a run of some minutes)"),
    }  # fmt: skip
    chosen = {name: value for name, (value, _) in reasons.items() if name not in given}
    line = ", ".join(reasons[name][1] for name in chosen)
    return chosen, f"chosen for this folder: {line}; each is an option of the same name" if chosen else ""

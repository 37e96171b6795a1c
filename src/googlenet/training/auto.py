"""The recipe of a run: the default one for its data, with settings chosen for a folder or table of images."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

from googlenet.data.dataset import has_files, is_folder, list_files
from googlenet.data.decode import read_header
from googlenet.device import memory_bytes, resolve_device
from googlenet.errors import UserError
from googlenet.recipe import Recipe, load_recipe

_SAMPLE = 200  # image files whose headers choose the image size
# Memory of a training step per image of 224x224: 17 MiB measured (docs/performance.md), plus a third for safety
_ACTIVATION_BYTES = 22 * 2**20
# Training images at the largest size that a run takes: about four minutes on two cores
_IMAGES_PER_RUN = {"cpu": 34_000, "gpu": 600_000}
# More gained nothing on 570 training images (docs/images.md)
_ENOUGH_EPOCHS, _ENOUGH_STEPS = 40, 700


def resolve_recipe(recipe: str | Path | Recipe | None, settings: dict[str, Any]) -> tuple[Recipe, str, str]:
    """The recipe of a run, its name, and a line about the settings that were chosen for its data, if any.

    The default recipe is `images` for a folder or table, else `fast`. Given settings have priority over chosen ones.
    Raises `UserError` as `load_recipe` does, or for a folder or device that is not usable.
    """
    data, reason = settings.get("data"), ""
    with_files = isinstance(data, str | Path) and has_files(data)
    if recipe is None:
        recipe = "images" if with_files else "fast"
    name = str(recipe) if isinstance(recipe, str | Path) else "run"
    resolved = load_recipe(recipe, **settings)
    if recipe == "images" and with_files:
        chosen, reason = _choose_settings(resolved.data, settings)
        resolved = load_recipe(recipe, **chosen, **settings)
    # Absolute paths: the same files wherever the run is resumed from
    paths: dict[str, str] = {}
    if has_files(resolved.data):  # rows of a table are relative to the link to it, not to its target
        data_path = Path(resolved.data)
        paths["data"] = str(data_path.resolve() if is_folder(data_path) else data_path.absolute())
    for setting in ("data_dir", "weights"):
        if (path := getattr(resolved, setting)) not in (None, "bundled"):
            paths[setting] = str(Path(path).absolute())  # a link keeps its name, which may say more than its target's
    return resolved.model_copy(update=paths), name, reason


def _choose_settings(folder: str, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Image size, batch size, learning rate and epochs for a folder, unless given; and the reasons in one line."""
    listing = list_files(folder)
    training = [path for path, _, split in listing.files if split in (None, "train")]
    count = max(round(len(training) * (0.8 if len(training) == len(listing.files) else 1.0)), 1)
    sides = []
    for path, _, _ in random.Random(0).sample(listing.files, min(_SAMPLE, len(listing.files))):
        try:
            sides.append(min(read_header(path).size))
        except UserError:  # reported when every file is read
            continue
    side = statistics.median(sides) if sides else 128

    on_gpu = resolve_device(given.get("device", "auto")).type != "cpu"
    largest = 224 if on_gpu else 128
    size = given.get("image_size", min(max(32 * round(side / 32), 64), largest))
    batch = 32 if count < 4_000 else 64 if count < 20_000 else 128
    memory = memory_bytes()
    fits = int(memory / 4 / (_ACTIVATION_BYTES * (size / 224) ** 2)) if memory else batch
    # Each class rounds its share, and a validation split may take more
    batch = given.get("batch_size", max(min(batch, fits, count // 2), 1))
    most = min(max(_ENOUGH_EPOCHS, round(_ENOUGH_STEPS * batch / count)), 100)
    epochs = max(min(round(_IMAGES_PER_RUN["gpu" if on_gpu else "cpu"] * (largest / size) ** 2 / count), most), 8)
    rate = round(0.006 * (batch / 128) ** 0.5, 5)
    reasons = {
        "image_size": (size, f"image size {size} (half of the images have a shorter side of {side:.0f} or less; "
                       f"at most {largest} on {'a GPU' if on_gpu else 'a CPU'})"),
        "batch_size": (batch, f"batch size {batch} (about {count:,} training images)"),
        "learning_rate": (rate, f"learning rate {rate} (for that batch size)"),
        "epochs": (epochs, f"{epochs} epochs (a run of some minutes)"),
    }  # fmt: skip
    chosen = {name: value for name, (value, _) in reasons.items() if name not in given}
    line = ", ".join(reasons[name][1] for name in chosen)
    return chosen, f"chosen for this folder: {line}; each is an option of the same name" if chosen else ""

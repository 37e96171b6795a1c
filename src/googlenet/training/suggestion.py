"""Settings for a folder of pictures, chosen from what is in it and from the machine."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

from googlenet.data import fashion_mnist
from googlenet.data.catalog import is_folder
from googlenet.data.decode import read_header
from googlenet.data.folder_listing import list_folder
from googlenet.errors import UserError
from googlenet.machine import memory_bytes, resolve_device
from googlenet.recipe import Recipe, load_recipe, place_as_text

PICTURES = "pictures"
"""The recipe for folders."""
_READ = ("image_size", "batch_size", "device")
"""Settings that others are chosen by."""
_LOOKED_AT = 200
_ACTIVATION_BYTES = 22 * 2**20
"""Of a training step, an image of 224x224: measured (docs/performance.md: 17 MiB), and a third on top."""
_IMAGES = {"cpu": 34_000, "gpu": 600_000}
"""Training images seen in a run at the largest size: some four minutes on two cores."""


def resolve_recipe(recipe: str | Path | Recipe | None, settings: dict[str, Any]) -> tuple[Recipe, str, str]:
    """What a run is to be: the recipe, its name, and a line on what was chosen for its data, if anything was.

    Where no recipe is named, it is `pictures` for a folder and `fast` else. What is in `settings` counts before what
    is chosen.

    Raises:
        UserError: as `load_recipe` and `suggest` do.
    """
    data, reason = place_as_text(settings.get("data")), ""
    if data is not None:
        settings = {**settings, "data": data}
    if recipe is None:
        recipe = PICTURES if data is not None and is_folder(data) else "fast"
    if recipe == PICTURES and data is not None and is_folder(data):
        load_recipe(recipe, **{name: settings[name] for name in _READ if name in settings})  # or refuses them
        settings, reason = suggest(data, settings)
    name = str(recipe) if isinstance(recipe, str | Path) else "run"
    return at_whole_path(load_recipe(recipe, **settings)), name, reason


def at_whole_path(recipe: Recipe) -> Recipe:
    """The recipe with its paths whole: the same files from wherever they are asked for."""
    whole = {"data": str(Path(recipe.data).resolve())} if is_folder(recipe.data) else {}
    for name in ("data_dir", "weights"):
        if (path := getattr(recipe, name)) not in (None, fashion_mnist.BUNDLED):
            whole[name] = str(Path(path).absolute())  # not what a link leads to, whose name may say less
    return recipe.model_copy(update=whole)


def suggest(folder: str, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The settings that are given, and those of image size, batch size, epochs and learning rate that are not: chosen
    for a folder, and why, in one line.

    Raises:
        UserError: for a folder that will not do, or a device that is not there.
    """
    listing = list_folder(folder)
    files = [path for path, _, split in listing.files if split in (None, "train")]
    count = max(round(len(files) * (0.8 if len(files) == len(listing.files) else 1.0)), 1)
    on_gpu = resolve_device(given.get("device", "auto")).type != "cpu"
    side = _usual_side(listing.files)

    largest = 224 if on_gpu else 128
    size = given.get("image_size", min(max(32 * round(side / 32), 64), largest))
    batch = 32 if count < 4_000 else 64 if count < 20_000 else 128
    fits = int(memory_bytes() / 4 / (_ACTIVATION_BYTES * (size / 224) ** 2)) if memory_bytes() else batch
    # every class rounds its share, and some may be held out besides
    batch = given.get("batch_size", max(min(batch, fits, count // 2), 1))
    seen = _IMAGES["gpu" if on_gpu else "cpu"] * (largest / size) ** 2
    epochs = max(min(round(seen / count), 100), 8)
    rate = round(0.006 * (batch / 128) ** 0.5, 5)
    chosen = {"image_size": size, "batch_size": batch, "learning_rate": rate, "epochs": epochs}
    reasons = {
        "image_size": f"{size}x{size} pixels (half of the pictures are {side:.0f} or less on the shorter side, on "
        f"{'a GPU' if on_gpu else 'a CPU'} {largest} at most)",
        "batch_size": f"batch {batch} (for about {count:,} training pictures)",
        "learning_rate": f"learning rate {rate} (for batches of {batch})",
        "epochs": f"{epochs} epochs (a run of some minutes)",
    }
    said = ", ".join(reason for name, reason in reasons.items() if name not in given)
    return {**chosen, **given}, f"chosen: {said}; any of them by its own name instead" if said else ""


def _usual_side(files: tuple[Any, ...]) -> float:
    """The median shorter side in pixels, of a sample."""
    sides = []
    for path, _, _ in random.Random(0).sample(files, min(_LOOKED_AT, len(files))):
        try:
            sides.append(min(read_header(path).size))
        except UserError:  # it is told of when every file is read
            continue
    return statistics.median(sides) if sides else 128

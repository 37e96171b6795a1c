"""What a model is judged on: the data that it was trained on, whose test images chose nothing, or other data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from googlenet.artifact.model_file import ModelInfo
from googlenet.data import image_folder
from googlenet.data.catalog import entry, is_folder
from googlenet.data.dataset import ImageDataset
from googlenet.data.parallel import Progress
from googlenet.errors import UserError


def judged_data(
    info: ModelInfo,
    data: str | None = None,
    data_dir: str | Path | None = None,
    *,
    skip_unreadable: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> ImageDataset:
    """A data set whose labels are the model's classes.

    Of the folder that the model was trained on, wherever it lies now, the same pictures are held out as then; of
    another one that has no test pictures of its own, every picture is judged.

    Args:
        info: of the model.
        data: a name from the catalog or a folder; left out, what the model was trained on.
        data_dir: the folder with the files of a data set of the catalog.
        skip_unreadable: leave picture files out that cannot be read, as is done in any case where the training did.
        say: gets what was found in a folder, line by line.
        progress: see `parallel.Progress`.

    Raises:
        UserError: where the model does not say what it was trained on, that is gone, or the data are of other classes.
    """
    trained_on = info.recipe.get("data")
    name = data or trained_on
    if name is None:
        raise UserError("the model file does not say what it was trained on: name the data with --data")
    if data is None and Path(name).is_absolute() and not is_folder(name):
        raise UserError(
            f"{name}, which the model was trained on, is not there any more; name where it is with --data, or pictures "
            "to export with by --calibration"
        )
    if not is_folder(name):
        known = entry(name).load(data_dir or (info.recipe.get("data_dir") if name == trained_on else None))
        numbers = tuple(map(str, range(len(known.classes))))  # of weights that came in without names
        if info.classes not in (known.classes, numbers):
            raise UserError(f"{name} has other classes than the model, or in another order; name other data")
        return known
    read = partial(
        image_folder.load,
        name,
        size=info.input.decoded_size,
        resize=info.input.resize,
        seed=info.recipe.get("seed", 0),
        skip_unreadable=skip_unreadable or info.recipe.get("skip_unreadable", False),
        channels=info.input.channels,
        classes=info.classes,
        progress=progress,
    )
    same = trained_on is not None and Path(name).resolve() == Path(trained_on).resolve()
    dataset = read(say=say) if same else read(say=say, test_share=1.0)
    if same and info.data_digest not in ("", dataset.digest):
        say("the folder has changed since the training: what was learnt from may be among the pictures judged")
    if not same and info.data_digest == dataset.digest:
        say("the folder holds the pictures of the training: those are judged that were held out then")
        return dataset if len(dataset.train) else read()
    return dataset

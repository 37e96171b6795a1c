"""The tutorial's data loaders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from googlenet.console import log
from googlenet.data.dataset import load_dataset
from googlenet.data.transforms import InputSpec
from googlenet.device import available_cores
from googlenet.errors import UserError, check_counts

Batch = tuple[Tensor, Tensor]


def load_data(
    batch_size: int, num_workers: int = 0, resize: int | None = None, *, data: str | Path = "fashion-mnist",
    data_dir: str | Path | None = None,
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:  # fmt: skip
    """The tutorial's data loaders: (training, test). The training images are shuffled again in each pass.

    A batch is float32 images (N, C, H, W) with pixels in 0..1, and int64 labels (N,).

    Args:
        batch_size: images per batch; the last batch may have fewer.
        num_workers: processes that prepare batches (gather, resize, convert to float) while the network trains, at most
            one per core; 0: the calling process prepares them.
        resize: height and width in pixels; default: 28 for Fashion-MNIST, 224 for a folder.
        data: name or folder, and `data_dir`: as for `load_dataset`, which says what is raised, too.
    """
    check_counts(batch_size=batch_size, resize=resize)
    if num_workers < 0:
        raise UserError(f"num_workers must be 0 or more, not {num_workers}")
    dataset = load_dataset(data, data_dir, size=resize or 224, splits=("train", "test"))
    if dataset.note:
        log.warning(dataset.note)
    channels = dataset.channels
    spec = InputSpec(channels, resize or dataset.train[0][0].shape[-1], (0.0,) * channels, (1.0,) * channels)
    loader = partial(
        DataLoader,
        batch_size=batch_size,
        num_workers=min(num_workers, available_cores()),
        collate_fn=partial(_prepare, spec),  # called in the workers
        persistent_workers=num_workers > 0,
    )
    return loader(dataset.train, shuffle=True), loader(dataset.test)


def _prepare(spec: InputSpec, batch: Batch) -> Batch:
    images, labels = batch
    return spec.prepare(images), labels

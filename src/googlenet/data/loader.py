"""The tutorial's data loaders."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from googlenet.console import log
from googlenet.data.dataset import ImageSplit, load_dataset
from googlenet.data.transforms import InputSpec
from googlenet.device import available_cores
from googlenet.errors import RunError, UserError, check_counts, reason_of

Batch = tuple[Tensor, Tensor]
_SHARED_MEMORY = "/dev/shm"  # noqa: S108
_AHEAD = 3  # batches of a worker: two that PyTorch asks for in advance, and one that is used
_TIMEOUT = 120  # seconds for a batch
_BUFFER = 8192  # images of shards that are mixed at a time, over all workers


def load_data(
    batch_size: int, num_workers: int = 0, resize: int | None = None, *, data: str | Path = "fashion-mnist",
    data_dir: str | Path | None = None,
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:  # fmt: skip
    """The tutorial's data loaders: (training, test). The training images are shuffled again in each pass.

    A batch is float32 images (N, C, H, W) with pixels in 0..1, and int64 labels (N,). Of images in shards, each process
    reads its own part, so the order of the test images depends on `num_workers`.

    Args:
        batch_size: images per batch; the last batch may have fewer.
        num_workers: processes that prepare batches (gather, resize, convert to float) while the network trains, at most
            one per core; 0, or too little shared memory for their batches: the calling process prepares them. Iterating
            raises `RunError` if one of them dies, or takes two minutes for a batch.
        resize: height and width in pixels; default: 28 for Fashion-MNIST, 224 for a folder.
        data: name, folder or shards, and `data_dir`: as for `load_dataset`, which says what is raised, too.
    """
    check_counts(batch_size=batch_size, resize=resize)
    if num_workers < 0:
        raise UserError(f"num_workers must be 0 or more, not {num_workers}")
    dataset = load_dataset(data, data_dir, size=resize or 224, splits=("train", "test"))
    if dataset.note:
        log.warning(dataset.note)
    channels = dataset.channels
    spec = InputSpec(channels, resize or dataset.train[0][0].shape[-1], (0.0,) * channels, (1.0,) * channels)
    workers = min(num_workers, available_cores())
    needed = workers * _AHEAD * batch_size * channels * spec.size**2 * 4
    if needed > (free := _shared_memory()):
        log.warning(
            f"num_workers = {num_workers}: {_SHARED_MEMORY} has {free / 1e6:.1f} MB, and {workers} workers need "
            f"{needed / 1e6:.1f}; the calling process prepares the batches"
        )
        workers = 0
    loader = partial(
        _Loader,
        num_workers=workers,
        collate_fn=partial(_prepare, spec),  # called in the workers
        persistent_workers=workers > 0,
        timeout=_TIMEOUT if workers > 0 else 0,
    )
    if dataset.train.is_streamed:
        streams = (
            _Stream(dataset.train, batch_size, workers, shuffle=True),
            _Stream(dataset.test, batch_size, workers),
        )
        training, test = (loader(stream, batch_size=None) for stream in streams)
        return training, test
    return loader(dataset.train, batch_size=batch_size, shuffle=True), loader(dataset.test, batch_size=batch_size)


class _Stream(IterableDataset[Batch]):
    """The batches of images in shards, of which each worker reads its own part."""

    def __init__(self, split: ImageSplit, batch_size: int, workers: int, *, shuffle: bool = False) -> None:
        self._split, self._batch_size, self._parts, self._shuffle = split, batch_size, max(workers, 1), shuffle
        self._passes = 0

    def __len__(self) -> int:
        """Batches; the last one of each worker may have fewer images."""
        return sum(-(-len(part) // self._batch_size) for part in self._divided(torch.arange(len(self._split))))

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        # The same in all workers, and another one in each pass
        seed = int(torch.randint(2**60, ())) if worker is None else worker.seed - worker.id + self._passes
        self._passes += 1
        order = torch.arange(len(self._split))
        if self._shuffle:
            generator = torch.Generator().manual_seed(seed)
            order = self._split.shuffled(generator, self._batch_size * self._parts, self._parts, _BUFFER)
        part = self._divided(order)[0 if worker is None else worker.id]
        return self._split.batches(part.split(self._batch_size))

    def _divided(self, order: Tensor) -> Sequence[Tensor]:
        """The part of each worker: shuffled as processes that train share a batch, else neighbors."""
        if self._shuffle:
            batches = order.split(self._batch_size * self._parts)
            return [torch.cat([batch[number :: self._parts] for batch in batches]) for number in range(self._parts)]
        return order.tensor_split(self._parts)


class _Loader(DataLoader[Batch]):
    """A data loader whose errors say what to change."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except (RuntimeError, EOFError, ConnectionError) as error:
            if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
                raise
            raise RunError(
                f"a process that prepares batches died or does not answer ({reason_of(error)}); if memory is short, "
                f"set num_workers to less than {self.num_workers} (0: no processes), or use a smaller batch_size"
            ) from error


def _shared_memory() -> float:
    """Bytes that processes may exchange batches in, in Linux's folder for it; infinite on other systems."""
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return math.inf


def _prepare(spec: InputSpec, batch: Batch) -> Batch:
    images, labels = batch
    return spec.prepare(images), labels

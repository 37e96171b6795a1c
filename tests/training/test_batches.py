"""The batches of an epoch: every image once, shared by the processes, resumable."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from googlenet import ImageSplit, InputSpec, Recipe, Trainer
from googlenet.data.transforms import Augmentation


def batches(
    count: int,
    batch: int,
    seed: int,
    *,
    epoch: int = 0,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
    weights: Tensor | None = None,
) -> list[Tensor]:
    """The indices of each batch, with images whose label is their index."""
    whole, rest = divmod(count, batch)
    trainer = SimpleNamespace(
        train_split=ImageSplit(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count)),
        recipe=Recipe(batch_size=batch, seed=seed),
        accelerator=SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu")),
        input_spec=InputSpec(1, 1, (0.0,), (1.0,)),
        augmentation=Augmentation(),
        dataset=SimpleNamespace(classes=()),
        sampling_weights=weights,
        steps_per_epoch=whole + (rest > 1),
    )
    trainer.indices = functools.partial(Trainer.indices, trainer)
    trainer.batch_length = functools.partial(Trainer.batch_length, trainer)
    found = []
    for _, _, labels in Trainer.batches(trainer, epoch, first):
        assert trainer.shares[rank] == len(labels) and len(trainer.shares) == world
        found.append(labels)
    return found


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), batch=st.integers(1, 64), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_image_once_an_epoch(count: int, batch: int, seed: int, epoch: int) -> None:
    batch = min(batch, count)
    indices = batches(count, batch, seed, epoch=epoch)
    assert sorted(torch.cat(indices).tolist()) == list(range(count))
    assert all(len(part) > 1 for part in indices) or batch == 1 or count == 1


@settings(max_examples=30, deadline=None)
@given(count=st.integers(8, 60), batch=st.integers(2, 8), world=st.integers(1, 3), data=st.data())
def test_processes_share_each_batch_and_a_late_start_continues(
    count: int, batch: int, world: int, data: st.DataObject
) -> None:
    whole = batches(count, batch, 1)
    shares = [batches(count, batch, 1, rank=rank, world=world) for rank in range(world)]
    for number, indices in enumerate(whole):
        parts = [share[number] for share in shares]
        assert min(map(len, parts)) > 1
        if len(indices) >= 2 * world:
            assert sorted(torch.cat(parts).tolist()) == sorted(indices.tolist())
        else:  # a process would have a single image, or none
            assert all(torch.equal(part, indices) for part in parts)
    first = data.draw(st.integers(0, len(whole)))
    late = batches(count, batch, 1, first=first, world=world)
    assert [part.tolist() for part in late] == [part.tolist() for part in shares[0][first:]]


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = [tuple(torch.cat(batches(100, 10, s, epoch=e)).tolist()) for s, e in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len(set(orders)) == 3


def test_sampling_weights_are_followed() -> None:
    weights = torch.tensor([100 / 180] * 90 + [5.0] * 10)
    drawn = torch.cat(batches(100, 20, 0, weights=weights))
    assert len(drawn) == 100
    assert 30 <= int((drawn >= 90).sum()) <= 70

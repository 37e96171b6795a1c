from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from googlenet import UserError
from googlenet.data.loader import ShuffledBatches


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 200), batch=st.integers(1, 64), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_image_once_an_epoch(count: int, batch: int, seed: int, epoch: int) -> None:
    if batch > count:
        with pytest.raises(UserError, match="more than the"):
            ShuffledBatches(count, batch, seed)
        return
    batches = ShuffledBatches(count, batch, seed)
    batches.epoch = epoch
    seen = list(batches)
    assert len(seen) == len(batches)
    assert sorted(torch.cat(seen).tolist()) == list(range(count))
    assert all(len(indices) > 1 for indices in seen) or batch == 1 or count == 1


@settings(max_examples=30, deadline=None)
@given(count=st.integers(8, 200), batch=st.integers(2, 8), world=st.integers(1, 3), data=st.data())
def test_processes_share_each_batch_and_a_late_start_goes_on(
    count: int, batch: int, world: int, data: st.DataObject
) -> None:
    *first, last = torch.cat(list(ShuffledBatches(count, batch, 1))).split(batch)
    if len(last) < batch and len(last) <= world:  # a process would have a single image, or none
        *first, last = *first[:-1], torch.cat([first[-1], last])
    whole = [*first, last]
    shares = [list(ShuffledBatches(count, batch, 1, rank=rank, world=world)) for rank in range(world)]
    for number, indices in enumerate(whole):
        parts = [share[number] for share in shares]
        assert len({len(part) for part in parts}) == 1
        assert len(parts[0]) > 1 or batch <= world
        assert set(torch.cat(parts).tolist()) == set(indices.tolist())
    late = ShuffledBatches(count, batch, 1, rank=0, world=world)
    late.first = data.draw(st.integers(0, len(whole)))
    assert [b.tolist() for b in late] == [b.tolist() for b in shares[0][late.first :]]


def test_the_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = ShuffledBatches(100, 10, seed)
        batches.epoch = epoch
        return torch.cat(list(batches)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*which)) for which in ((0, 0), (0, 1), (1, 0))}) == 3

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import googlenet
from googlenet import UserError
from googlenet.data.transforms import Augmentation
from googlenet.data.dataset import ImageSplit, split_validation
from googlenet.data.transforms import InputSpec
from googlenet.data.loader import ShuffledBatches
from googlenet.data.dataset import anonymous_memmap
from googlenet.device import available_cores


def numbered(count: int, classes: int = 10) -> ImageSplit:
    images = torch.arange(count).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return ImageSplit(images, torch.arange(count) % classes)


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


def test_more_workers_than_cores_are_neither_started_nor_warned_of(small_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_iter, _ = googlenet.load_data(batch_size=48, num_workers=1000)
    assert train_iter.num_workers == available_cores()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_tutorials_loaders(workers: int, small_data: Path) -> None:
    train_iter, test_iter = googlenet.load_data(batch_size=48, num_workers=workers, resize=56)
    images, labels = next(iter(train_iter))
    assert (images.shape, images.dtype) == ((48, 1, 56, 56), torch.float32)
    assert (labels.shape, labels.dtype) == ((48,), torch.int64)
    assert images.min() >= 0
    assert 0.9 < images.max() <= 1
    tested = [labels for _, labels in test_iter]
    assert [len(labels) for labels in tested] == [48, 48, 48, 16]
    first, second = (torch.cat([labels for _, labels in train_iter]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat(tested), torch.cat([labels for _, labels in test_iter]))


def test_the_tutorials_loop_runs_on_them(small_data: Path) -> None:
    """Its hand-written training, a few batches of it, on our network and loaders."""
    train_iter, _ = googlenet.load_data(batch_size=16, num_workers=0, resize=56)
    net = googlenet.create_model("tutorial", num_classes=10, in_channels=1)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for (images, labels), _ in zip(train_iter, range(3), strict=False):
        loss = criterion(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"resize": 0}, {"num_workers": -1}])
def test_loaders_refuse_nonsense(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="load_data needs"):
        googlenet.load_data(**{"batch_size": 4, **wrong})


@settings(max_examples=30, deadline=None)
@given(count=st.integers(20, 300), share=st.floats(0.05, 0.9), seed=st.integers(0, 9))
def test_validation_is_held_out_by_class_and_seed(count: int, share: float, seed: int) -> None:
    split = numbered(min(count, 255), classes=3)
    expected = [round(share * int((split.labels == label).sum())) for label in range(3)]
    assume(0 < sum(expected) < len(split))
    rest, held = split_validation(split, share, seed)
    assert sorted(rest.images[:, 0, 0, 0].tolist() + held.images[:, 0, 0, 0].tolist()) == list(range(len(split)))
    assert torch.bincount(held.labels, minlength=3).tolist() == expected
    again = split_validation(split, share, seed)[1]
    assert torch.equal(held.images, again.images)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_held_out_images_need_not_fit_into_the_memory() -> None:
    def anonymous() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    images = torch.from_numpy(anonymous_memmap((2000, 3, 128, 128)))  # 94 MiB
    images[:, 0, 0, :2] = torch.stack((torch.arange(2000) // 256, torch.arange(2000) % 256), dim=1)
    split = ImageSplit(images, torch.arange(2000) % 4)
    before = anonymous()
    rest, held = split_validation(split, 0.25, seed=0)
    assert anonymous() - before < 20 * 2**20
    assert (len(rest), len(held)) == (1500, 500)
    assert torch.bincount(held.labels).tolist() == [125] * 4


def test_validation_needs_two_sides() -> None:
    with pytest.raises(UserError, match="empty"):
        split_validation(numbered(10), 0.01, 0)


def test_pixel_statistics_are_exact() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 6, 5), dtype=np.uint8))
    mean, std = ImageSplit(images, torch.zeros(50, dtype=torch.int64)).pixel_statistics()
    scaled = images.double() / 255
    assert mean == pytest.approx(scaled.mean(dim=(0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(scaled.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-4)
    flat = ImageSplit(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    assert flat.pixel_statistics() == ((0.0,), (1.0,))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 64),
    channels=st.sampled_from([1, 3]),
    rule=st.sampled_from(["stretch", "crop"]),
)
def test_every_shape_becomes_the_input(height: int, width: int, size: int, channels: int, rule: str) -> None:
    spec = InputSpec(channels, size, (0.5,) * channels, (0.25,) * channels, rule, 0.875)  # type: ignore[arg-type]
    prepared = spec.prepare(torch.full((2, channels, height, width), 255, dtype=torch.uint8))
    assert prepared.shape == (2, channels, size, size)
    torch.testing.assert_close(prepared, torch.full_like(prepared, 2.0), rtol=1e-4, atol=1e-4)


def test_augmentation_moves_pixels_and_invents_none() -> None:
    torch.manual_seed(0)
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(200, 1, 1, 1)
    flipped = Augmentation(flip=True)(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) ^ mirrored).all()
    assert 60 < int(mirrored.sum()) < 140
    shifted = Augmentation(crop_padding=2)(images)
    assert (shifted.dtype, shifted.shape) == (images.dtype, images.shape)
    assert {int(image[0, 4, 4]) for image in shifted} == {
        36 + 8 * dy + dx for dy in range(-2, 3) for dx in range(-2, 3)
    }
    assert Augmentation()(images) is images


def test_erasing_covers_one_rectangle() -> None:
    torch.manual_seed(0)
    images = torch.full((400, 2, 20, 30), 7, dtype=torch.uint8)
    erased = Augmentation(erasing=0.5)(images)
    changed = (erased != images).any(dim=1)
    hit = changed.flatten(1).any(dim=1)
    assert 0.4 < float(hit.double().mean()) < 0.6
    for image in changed[hit]:
        rows, columns = torch.nonzero(image.any(dim=1)).squeeze(1), torch.nonzero(image.any(dim=0)).squeeze(1)
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert float(box.double().mean()) > 0.9  # noise may hit on the pixel's own value
        assert box.numel() <= 0.5 * image.numel()
    assert erased.dtype == torch.uint8


def test_copies_are_held_out_together() -> None:
    images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(3, 1, 4, 4)
    split = ImageSplit(images, torch.zeros(120, dtype=torch.int64))
    kept, held_out = split_validation(split, 0.3, seed=1)
    assert len(kept) + len(held_out) == 120
    assert not set(kept.images.flatten().tolist()) & set(held_out.images.flatten().tolist())


def test_the_bundled_part_is_not_taken_for_the_whole() -> None:
    with pytest.warns(UserWarning, match="10,000"):
        train_iter, _ = googlenet.load_data(batch_size=100)
    assert len(train_iter) == 100

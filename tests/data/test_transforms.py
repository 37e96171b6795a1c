"""What a network sees of an image, and what training may do to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import Tensor

from googlenet.data import transforms
from googlenet.data.decode import decode_resized, make_square
from googlenet.data.transforms import Augmentation, InputSpec, Window


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (90, 90), (64, 64)])
@pytest.mark.parametrize(("resize", "crop_pct"), [("stretch", 1.0), ("crop", 1.0), ("crop", 0.8)])
def test_the_window_is_what_the_network_sees(height: int, width: int, resize: str, crop_pct: float) -> None:
    """In an image whose pixels are their row and column, the first and last pixel after `prepare` are the window's."""
    spec = InputSpec(2, 64, (0.0, 0.0), (1.0, 1.0), resize=resize, crop_pct=crop_pct)  # type: ignore[arg-type]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    prepared = 255 * spec.prepare(torch.stack((rows, columns)).to(torch.uint8)[None])[0]
    window = spec.window(height, width)
    first, last = prepared[:, 0, 0], prepared[:, -1, -1]
    assert first.tolist() == pytest.approx([window.top, window.left], abs=1.5)
    assert last.tolist() == pytest.approx([window.top + window.height - 1, window.left + window.width - 1], abs=1.5)


def test_an_image_of_the_input_size_is_cropped_like_any_other() -> None:
    """As torchvision evaluates: resize to 256 first, whatever the size was, then crop the middle 224."""
    spec = InputSpec(3, 224, (0.5,) * 3, (0.5,) * 3, resize="crop", crop_pct=0.875)
    assert spec.window(224, 224) == Window(14, 14, 196, 196)
    whole = InputSpec(3, 64, (0.5,) * 3, (0.5,) * 3, resize="crop", crop_pct=1.0)
    assert whole.window(64, 64) == Window(0, 0, 64, 64)


def test_input_specs_survive_a_model_file_of_either_version() -> None:
    spec = InputSpec(3, 224, (0.5,) * 3, (0.25,) * 3, resize="crop", crop_pct=0.875)
    fields = dataclasses.asdict(spec)
    assert InputSpec.from_dict({**fields, "mean": [0.5] * 3}) == spec
    fields["crop_share"] = fields.pop("crop_pct")
    assert InputSpec.from_dict(fields) == spec


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


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 64))
def test_padding_keeps_the_shape_and_adds_gray(height: int, width: int, size: int) -> None:
    """White images: a white rectangle of their shape in the middle, gray around it, and the window says where."""
    spec = InputSpec(1, size, (0.0,), (1.0,), resize="pad")
    white = torch.full((1, 1, height, width), 255, dtype=torch.uint8)
    prepared = (255 * spec.prepare(white))[0, 0].round()
    assert set(prepared.unique().tolist()) <= {255.0, 128.0}
    rows, columns = ((prepared == 255).any(dim=side) for side in (1, 0))
    assert max(int(rows.sum()), int(columns.sum())) == size
    assert abs(int(rows.sum()) / size - height / max(height, width)) <= 1 / size
    assert int((prepared == 255).sum()) == int(rows.sum()) * int(columns.sum())
    top = rows.nonzero()[0].item()
    assert abs(top - (size - int(rows.sum()) - top)) <= 1
    window = spec.window(height, width)
    assert window.top == pytest.approx(-top * height / int(rows.sum()))
    image = Image.fromarray(white[0, 0].numpy())
    assert torch.equal(decode_resized(image, 1, size, "pad")[0].float(), prepared)


@pytest.mark.parametrize("device_path", [transforms._resize_each, transforms._resize_all])
def test_crops_are_cut_from_larger_images(device_path: Callable[..., Tensor]) -> None:
    """A crop of a stored image that is twice as large has details that the small image has lost."""
    stripes = (torch.arange(64) // 2 % 2 * 255).to(torch.uint8).expand(4, 1, 64, 64)
    small = make_square(stripes, 32, "stretch")
    corner = torch.tensor([[0, 0, 16, 16]] * 4)
    sharp = device_path(stripes, 2 * corner, (16, 16))
    blurred = device_path(small, corner, (16, 16))
    assert sharp.shape == blurred.shape == (4, 1, 16, 16)
    quarter = device_path(stripes, corner, (16, 16))  # a quarter of each side at full detail
    assert quarter.float().std() > 1.5 * blurred.float().std()


def test_augmenting_to_another_size() -> None:
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    for augmentation in (Augmentation(), Augmentation(hflip=True, crop_padding=2), Augmentation(crop_scale=0.5)):
        resized = augmentation(images, 20)
        assert (resized.shape, resized.dtype) == ((3, 3, 20, 20), torch.uint8)


def test_flips_and_shifts_move_pixels_only() -> None:
    torch.manual_seed(0)
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(200, 1, 1, 1)
    flipped = Augmentation(hflip=True)(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) ^ mirrored).all()
    assert 60 < int(mirrored.sum()) < 140
    shifted = Augmentation(crop_padding=2)(images)
    assert (shifted.dtype, shifted.shape) == (images.dtype, images.shape)
    assert {int(image[0, 4, 4]) for image in shifted} == {
        36 + 8 * dy + dx for dy in range(-2, 3) for dx in range(-2, 3)
    }
    assert Augmentation()(images) is images


def test_random_erasing_covers_one_rectangle() -> None:
    torch.manual_seed(0)
    images = torch.full((400, 2, 20, 30), 7, dtype=torch.uint8)
    erased = Augmentation(random_erasing=0.5)(images)
    changed = (erased != images).any(dim=1)
    hit = changed.flatten(1).any(dim=1)
    assert 0.4 < float(hit.double().mean()) < 0.6
    for image in changed[hit]:
        rows, columns = torch.nonzero(image.any(dim=1)).squeeze(1), torch.nonzero(image.any(dim=0)).squeeze(1)
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert float(box.double().mean()) > 0.9  # noise may equal the pixel's value
        assert box.numel() <= 0.5 * image.numel()
    assert erased.dtype == torch.uint8


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_and_color_jitter(channels: int) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (16, channels, 20, 30), dtype=torch.uint8)
    for augmentation in (Augmentation(crop_scale=0.3), Augmentation(color_jitter=0.4)):
        changed = augmentation(images)
        assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
        assert not torch.equal(changed, images)
    ramp = torch.arange(0, 240, 8, dtype=torch.uint8).expand(64, channels, 20, 30)
    cropped = Augmentation(crop_scale=0.25)(ramp).float()
    steps = cropped[:, :, :, 16] - cropped[:, :, :, 14]  # a crop stretches the ramp, and never turns or shrinks it
    assert (steps >= 0).all()
    assert (steps <= 17).all()
    assert steps.mean() < 15
    assert torch.equal(Augmentation(crop_scale=1.0)(images), images)
    rows, columns = torch.meshgrid(torch.arange(0, 240, 2), torch.arange(0, 240, 2), indexing="ij")
    both = torch.stack([rows, columns]).to(torch.uint8).expand(64, 2, 120, 120)
    nearly_whole = Augmentation(crop_scale=0.99)(both).float()
    area = (nearly_whole[:, 0, -1, 0] - nearly_whole[:, 0, 0, 0]) * (
        nearly_whole[:, 1, 0, -1] - nearly_whole[:, 1, 0, 0]
    )
    assert area.min() > 0.97 * 238**2


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), min_area=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_rectangles_are_resized_alike_one_by_one_and_together(
    height: int, width: int, min_area: float, seed: int
) -> None:
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (6, 3, height, width), dtype=torch.uint8)
    rectangles = transforms._random_rectangles(images, min_area)
    assert (rectangles[:, :2] >= 0).all() and (rectangles[:, 2:] >= 1).all()
    assert (rectangles[:, :2] + rectangles[:, 2:] <= torch.tensor([height, width])).all()
    one_by_one = transforms._resize_each(images, rectangles, images.shape[2:]).int()
    assert (one_by_one - transforms._resize_all(images, rectangles, images.shape[2:]).int()).abs().max() <= 1


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_labels_are_mixed_like_the_images(mixup: float, cutmix: float) -> None:
    torch.manual_seed(0)
    labels = torch.arange(8)
    images = labels.view(-1, 1, 1, 1).expand(-1, 1, 20, 20).float()
    for _ in range(20):
        mixed, targets = Augmentation(mixup=mixup, cutmix=cutmix).mix(images, labels, 8)
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        # each pixel holds its image's label, so the mean pixel is the mean label
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), targets @ torch.arange(8.0), atol=1e-4, rtol=1e-4)


def test_nothing_is_mixed_by_default() -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    mixed, targets = Augmentation().mix(images, labels, 4)
    assert mixed is images and targets is labels

from __future__ import annotations

import pytest
import torch
from torch import nn

from googlenet import load_data
from googlenet.data.dataset import ImageSplit
from googlenet.data.transforms import InputSpec
from googlenet.model import init
from googlenet.model.init import whiten


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """(1000, 1, 28, 28)"""
    train, _ = load_data(batch_size=1000, data_dir="bundled")
    return next(iter(train))[0]


def correlation(responses: torch.Tensor) -> float:
    """Between two channels of (N, C, H, W), on average over all pairs, regardless of its sign."""
    between = torch.corrcoef(responses.detach().transpose(0, 1).flatten(1)).abs()
    channels = len(between)
    return float((between.sum() - channels) / (channels * (channels - 1)))


@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_of_a_whitened_convolution_are_uncorrelated(images: torch.Tensor, channels: int) -> None:
    torch.manual_seed(0)
    inputs = torch.cat([images.roll(shift, 3) for shift in range(channels)], dim=1)
    convolution = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
    drawn = convolution.weight.detach().clone()
    before = convolution(inputs)
    whiten(convolution, inputs[:400])
    after = convolution(inputs)[:, :32]
    assert correlation(before[:, :32]) > 0.3
    assert correlation(after) < 0.05
    deviations = after.std(dim=(0, 2, 3))
    assert deviations.max() < 3 * deviations.min()
    weight = convolution.weight.detach()
    torch.testing.assert_close(weight[32:], -weight[:32])
    assert float(weight.std()) == pytest.approx(float(drawn.std()), rel=0.01)


def test_kernels_beyond_the_directions_of_a_patch_stay_as_drawn(images: torch.Tensor) -> None:
    convolution = nn.Conv2d(1, 64, 3, padding=1)
    drawn = convolution.weight.detach().clone()
    whiten(convolution, images)
    changed = (convolution.weight != drawn).flatten(1).any(dim=1)
    assert changed.tolist() == [True] * 18 + [False] * 46


@pytest.mark.parametrize("color", [0, 7, 255])
def test_images_of_one_color_leave_the_kernels_alone(color: int) -> None:
    split = ImageSplit(torch.full((4, 1, 28, 28), color, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    spec = InputSpec(1, 28, *split.pixel_statistics())
    convolution = nn.Conv2d(1, 8, 7, padding=3)
    drawn = convolution.weight.detach().clone()
    whiten(convolution, spec.prepare(split.images))
    assert torch.equal(convolution.weight, drawn)


def test_directions_without_variance_are_not_used() -> None:
    stripes = torch.randn(50, 1, 28, 1).expand(50, 1, 28, 28)  # they vary from row to row alone
    convolution = nn.Conv2d(1, 64, 7, padding=3)
    drawn = convolution.weight.detach().clone()
    whiten(convolution, stripes)
    assert (convolution.weight == drawn).flatten(1).all(dim=1).any()
    assert convolution(stripes).std(dim=(0, 2, 3)).min() > 0.01


def test_parts_make_no_difference(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one, other = (nn.Conv2d(1, 64, 7, padding=3) for _ in range(2))
    other.load_state_dict(one.state_dict())
    whiten(one, images)
    monkeypatch.setattr(init, "_PIXELS_AT_ONCE", 28 * 28 * 30)
    whiten(other, images)
    responses = [convolution(images).abs() for convolution in (one, other)]  # a direction's sign is free
    torch.testing.assert_close(*responses, rtol=1e-3, atol=1e-3)

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from googlenet import GoogLeNet, Predictor, UserError, create_model, explain, save
from googlenet.explanation.explain import _default_block, draw_explanation
from googlenet.model.tables import TABLE_1
from tests.explanation.pass_through import connect, pass_through
from tests.networks import GOOGLENETS, with_info

grad_cam = partial(explain, method="grad-cam")
EVERY_VARIANT = pytest.mark.parametrize("variant", GOOGLENETS)


def two_corners(height: int = 112, width: int = 112, side: int = 24) -> Tensor:
    """A black image whose first channel is bright in the upper right corner, and the second in the lower left."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, :side, -side:] = 255
    image[1, -side:, :side] = 200
    return image


def random_network(variant: str, channels: int = 3, size: int = 64) -> GoogLeNet:
    torch.manual_seed(1)
    net = create_model(variant, num_classes=4, in_channels=channels, initialization="he")
    return with_info(net, ("a", "b", "c", "d"), size)


def random_image(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def center_of(heat: Tensor) -> tuple[float, float]:
    """Row and column of the heat's center of mass, in pixels."""
    rows, columns = heat.sum(dim=1), heat.sum(dim=0)
    return float(rows @ torch.arange(1.0 * len(rows)) / rows.sum()), float(
        columns @ torch.arange(1.0 * len(columns)) / columns.sum()
    )


@EVERY_VARIANT
def test_heat_is_where_the_class_is(variant: str) -> None:
    net = pass_through(variant, 112)
    first = grad_cam(net, two_corners())
    assert first.explained == first.classes[0] == "first channel"
    assert first.block == "4e"
    assert first.heat_map.shape == (7, 7)
    assert first.heat_map.max() == 1
    assert first.heat.shape == (112, 112)
    assert first.heat[:56, -56:].sum() / first.heat.sum() > 0.99
    other = grad_cam(net, two_corners(), class_name="Second Channel")
    assert other.explained == "second channel"
    assert other.probability == other.probabilities[1] < other.probabilities[0]
    assert other.heat[-56:, :56].sum() / other.heat.sum() > 0.99


@EVERY_VARIANT
def test_grad_cam_of_the_last_block_equals_class_activation_maps(variant: str) -> None:
    """As it must before a global average pool (Selvaraju et al. 2017, section 3.1)."""
    net = random_network(variant, size=96)
    image = random_image(3, 96, 96)
    explanation = grad_cam(net, image, class_name="c", block="5b")
    with torch.no_grad():
        maps = net.forward_features(net.info.input.prepare(image[None]))[0]
        expected = F.relu((net.fc.weight[2][:, None, None] * maps).sum(dim=0))
    assert expected.max() > 0
    torch.testing.assert_close(explanation.heat_map, expected / expected.max(), rtol=1e-3, atol=1e-4)


@EVERY_VARIANT
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shares_of_every_block_sum_to_1(variant: str, channels: int) -> None:
    explanation = grad_cam(random_network(variant, channels), random_image(channels, 40, 50))
    assert tuple(explanation.shares) == tuple(row.name for row in TABLE_1)
    for shares in explanation.shares.values():
        assert tuple(shares) == ("1x1", "3x3", "3x3 (third)" if variant == "torchvision" else "5x5", "pool")
        assert sum(shares.values()) == pytest.approx(1)
        assert all(0 < share < 1 for share in shares.values())


def test_shares_by_hand() -> None:
    """Block 3a passes the channel through three branches, which block 3b weights 0.2, -0.6 and 0.2."""
    net = pass_through("tutorial", 64)
    block, above = net.inception3a, net.inception3b.branch1.conv
    connect(block.branch2[0].conv, 0, 0)
    connect(block.branch2[1].conv, 0, 0)
    connect(block.branch4[1].conv, 0, 0)
    for target, weight in ((0, 0.2), (64, -0.6), (64 + 128 + 32, 0.2)):  # evidence against the class counts too
        connect(above, target, 0, weight)
    above.bias.data[0] = 10
    image = torch.full((3, 64, 64), 100, dtype=torch.uint8)
    explanation = grad_cam(net, image, class_name="first channel")
    shares = explanation.shares["3a"]
    assert shares == pytest.approx({"1x1": 0.2, "3x3": 0.6, "5x5": 0, "pool": 0.2}, abs=1e-6)
    assert explanation.shares["4a"] == pytest.approx({"1x1": 1, "3x3": 0, "5x5": 0, "pool": 0})


@pytest.mark.parametrize(
    ("size", "stem_stride", "block"), [(224, 2, "5b"), (96, 2, "3b"), (28, 1, "3b"), (28, 2, "3b")]
)
def test_the_default_block_is_the_last_with_enough_cells(size: int, stem_stride: int, block: str) -> None:
    net = with_info(create_model("bn", num_classes=2, stem_stride=stem_stride), ("a", "b"), size)
    image = random_image(3, size, size)
    assert grad_cam(net, image).block == block
    assert grad_cam(net, image, block="4c").block == "4c"


@pytest.mark.parametrize(("height", "width"), [(112, 300), (300, 112)])
def test_heat_stays_in_the_window(height: int, width: int) -> None:
    """`crop` removes the corners of the image, `stretch` does not."""
    image = two_corners(height, width)
    cropped = grad_cam(pass_through("bn", 112, resize="crop", crop_pct=0.875), image, class_name="first channel")
    assert cropped.window.height == cropped.window.width == pytest.approx(98)
    assert not cropped.heat.any()
    top, left = height // 2 - 40, width // 2 + 20
    image[0, top : top + 20, left : left + 20] = 255
    cropped = grad_cam(pass_through("bn", 112, resize="crop", crop_pct=0.875), image)
    one_cell = 14
    row, column = center_of(cropped.heat)
    assert row == pytest.approx(top + 10, abs=one_cell)
    assert column == pytest.approx(left + 10, abs=one_cell)
    whole = grad_cam(pass_through("bn", 112), image)
    assert whole.window == (0, 0, height, width)
    assert whole.heat[: height // 4, -width // 4 :].max() > 0.5
    padded = grad_cam(pass_through("bn", 112, resize="pad"), image)
    assert min(padded.window) < 0 and padded.heat.shape == (height, width)
    assert padded.seen == (slice(0, height), slice(0, width))
    assert padded.heat[: height // 4, -width // 4 :].max() > 0.5


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_probabilities_are_those_of_the_predictor(temperature: float, tmp_path: Path) -> None:
    net = random_network("bn", channels=1)
    net.info = dataclasses.replace(net.info, temperature=temperature)
    image = random_image(1, 50, 70)
    Image.fromarray(image[0].numpy()).save(tmp_path / "a.png")
    explanation = explain(net, image)
    (prediction,) = Predictor(net, precision="fp32").predict([tmp_path / "a.png"], top=10)
    assert explanation.classes == prediction.classes
    # The predictor rounds pixels to 8 bits after resizing
    assert explanation.probabilities == pytest.approx(prediction.probabilities, abs=5e-3)
    as_json = json.loads(json.dumps(explanation.to_dict()))
    assert as_json["explained"] == prediction.classes[0]
    assert as_json["window"] == {"top": 0, "left": 0, "height": 1, "width": 1}
    assert len(as_json["shares"]) == 9


def test_images_of_every_kind_are_explained_alike(tmp_path: Path) -> None:
    image = random_image(3, 50, 70)
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    net = random_network("bn")
    save(net, net.info, tmp_path / "model.safetensors")
    expected = explain(net, image)
    file = tmp_path / "a.png"
    for source in (file, str(file), file.read_bytes(), Image.fromarray(pixels), pixels):
        explanation = explain(tmp_path, source)
        assert torch.equal(explanation.image, image)
        assert explanation.probabilities == expected.probabilities
        assert torch.equal(explanation.heat_map, expected.heat_map)
    gray = explain(random_network("bn", channels=1), np.zeros((20, 30), np.uint8))
    assert gray.image.shape == (1, 20, 30)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_network_is_left_as_it_was(context: type) -> None:
    net = random_network("paper").train().requires_grad_(False)
    net.inception3a.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with context():
        explanation = explain(net, random_image(3, 32, 32))
    assert sum(explanation.shares["5b"].values()) == pytest.approx(1)
    assert net.training and not net.inception3a.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_large_image_is_reduced_with_its_heat() -> None:
    explanation = grad_cam(pass_through("bn", 112), two_corners(3000, 1500, 600), class_name="first channel")
    assert explanation.image.shape == (3, 1024, 512)
    assert explanation.heat.shape == (1024, 512)
    assert explanation.heat[:512, -256:].sum() / explanation.heat.sum() > 0.9


def test_an_image_without_evidence_is_drawn(tmp_path: Path) -> None:
    explanation = explain(pass_through("tutorial", 64), torch.zeros(3, 3, 900, dtype=torch.uint8))
    assert not explanation.heat_map.any()
    assert set(explanation.shares["3a"].values()) == {0}
    draw_explanation(explanation, tmp_path / "dark.png")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_plot(channels: int, tmp_path: Path) -> None:
    net = with_info(create_model("bn", num_classes=8, in_channels=channels), tuple("$a_^{<b" + "c"), 32)
    explanation = explain(net, random_image(channels, 30, 20))
    path = tmp_path / "deep" / "out.png"
    draw_explanation(explanation, path, top=3, name="a $ name.png")
    with Image.open(path) as plot:
        assert plot.format == "PNG"
        assert min(plot.size) > 500
    with pytest.raises(UserError, match="top"):
        draw_explanation(explanation, path, top=0)


def test_what_cannot_be_explained() -> None:
    net = pass_through("bn", 64)
    with pytest.raises(UserError, match=r"'third'.*second channel"):
        explain(net, two_corners(), class_name="third")
    with pytest.raises(UserError, match=r"'6a'.*3a, 3b"):
        explain(net, two_corners(), block="6a")
    for image in (torch.rand(3, 64, 64), random_image(3, 0, 5), random_image(2, 3, 5, 5), "missing.png"):
        with pytest.raises(UserError):
            explain(net, image)
    with pytest.raises(UserError, match=r"googlenet\.load"):
        explain(create_model("bn"), two_corners())


def test_a_block_without_evidence_is_not_the_default() -> None:
    maps = torch.ones(1, 2, 7, 7)
    small = torch.ones(1, 2, 3, 3)
    without = {"3a": (maps, maps), "3b": (maps, -maps), "4a": (small, small)}
    assert _default_block(without) == "3a"
    assert _default_block({**without, "3a": (maps, -maps)}) == "4a"
    assert _default_block({name: (values, -values) for name, (values, _) in without.items()}) == "3b"

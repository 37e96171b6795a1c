from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from googlenet import GoogLeNet, Predictor, UserError, create_model, explain, load
from googlenet.explanation.gradcam import _legible_block
from googlenet.explanation.gradcam import draw_explanation
from googlenet.model.architecture import TABLE_1, VARIANTS
from googlenet.training.loop import TrainingResult
from tests.explanation.see_through import carry, described, see_through

EVERY_VARIANT = pytest.mark.parametrize("variant", list(VARIANTS))


def two_corners(height: int = 112, width: int = 112, side: int = 24) -> Tensor:
    """A black picture whose first channel is bright in the upper right corner, and the second in the lower left."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, :side, -side:] = 255
    image[1, -side:, :side] = 200
    return image


def random_network(variant: str, channels: int = 3, size: int = 64, **rule: object) -> GoogLeNet:
    torch.manual_seed(1)
    net = create_model(variant, num_classes=4, in_channels=channels, initialization="he")
    return described(net, ("a", "b", "c", "d"), size, **rule)


def random_picture(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def center_of(heat: Tensor) -> tuple[float, float]:
    """Row and column of the heat's center of mass, in pixels."""
    rows, columns = heat.sum(dim=1), heat.sum(dim=0)
    return float(rows @ torch.arange(1.0 * len(rows)) / rows.sum()), float(
        columns @ torch.arange(1.0 * len(columns)) / columns.sum()
    )


@EVERY_VARIANT
def test_the_heat_lies_where_the_class_is(variant: str) -> None:
    net = see_through(variant, 112)
    likeliest = explain(net, two_corners())
    assert likeliest.explained == likeliest.classes[0] == "first channel"
    assert likeliest.block == "4e"
    assert likeliest.grad_cam.shape == (7, 7)
    assert likeliest.grad_cam.max() == 1
    assert likeliest.heat.shape == (112, 112)
    assert likeliest.heat[:56, -56:].sum() / likeliest.heat.sum() > 0.99
    other = explain(net, two_corners(), class_name="Second Channel")
    assert other.explained == "second channel"
    assert other.probability == other.probabilities[1] < other.probabilities[0]
    assert other.heat[-56:, :56].sum() / other.heat.sum() > 0.99


@EVERY_VARIANT
def test_at_the_last_block_grad_cam_is_what_the_classifiers_weights_say(variant: str) -> None:
    """Behind a global average pool it equals class activation maps (Selvaraju et al. 2017, section 3.1)."""
    net = random_network(variant, size=96)
    image = random_picture(3, 96, 96)
    found = explain(net, image, class_name="c", block="5b")
    with torch.no_grad():
        maps = net.forward_features(net.info.input.prepare(image[None]))[0]
        by_hand = F.relu((net.fc.weight[2][:, None, None] * maps).sum(dim=0))
    assert by_hand.max() > 0
    torch.testing.assert_close(found.grad_cam, by_hand / by_hand.max(), rtol=1e-3, atol=1e-4)


@EVERY_VARIANT
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shares_of_every_block_sum_to_1(variant: str, channels: int) -> None:
    found = explain(random_network(variant, channels), random_picture(channels, 40, 50))
    assert tuple(found.shares) == tuple(row.name for row in TABLE_1)
    for shares in found.shares.values():
        assert tuple(shares) == ("1x1", "3x3", "3x3 (third)" if variant == "torchvision" else "5x5", "pool")
        assert sum(shares.values()) == pytest.approx(1)
        assert all(0 < share < 1 for share in shares.values())


def test_a_share_is_what_hangs_on_the_branch() -> None:
    """Block 3a carries the channel through three branches, of which block 3b weighs one three to one to one."""
    net = see_through("tutorial", 64)
    block, above = net.inception3a, net.inception3b.branch1.conv
    carry(block.branch2[0].conv, 0, 0)
    carry(block.branch2[1].conv, 0, 0)
    carry(block.branch4[1].conv, 0, 0)
    for target, weight in ((0, 0.2), (64, -0.6), (64 + 128 + 32, 0.2)):  # against the class counts as well
        carry(above, target, 0, weight)
    above.bias.data[0] = 10
    image = torch.full((3, 64, 64), 100, dtype=torch.uint8)
    found = explain(net, image, class_name="first channel")
    shares = found.shares["3a"]
    assert shares == pytest.approx({"1x1": 0.2, "3x3": 0.6, "5x5": 0, "pool": 0.2}, abs=1e-6)
    assert found.shares["4a"] == pytest.approx({"1x1": 1, "3x3": 0, "5x5": 0, "pool": 0})


@pytest.mark.parametrize(
    ("size", "stem_stride", "block"), [(224, 2, "5b"), (96, 2, "3b"), (28, 1, "3b"), (28, 2, "3b")]
)
def test_the_block_is_the_last_that_shows_more_than_a_few_cells(size: int, stem_stride: int, block: str) -> None:
    net = described(create_model("bn", num_classes=2, stem_stride=stem_stride), ("a", "b"), size)
    image = random_picture(3, size, size)
    assert explain(net, image).block == block
    assert explain(net, image, block="4c").block == "4c"


@pytest.mark.parametrize(("height", "width"), [(112, 300), (300, 112)])
def test_heat_stays_in_the_part_that_the_network_saw(height: int, width: int) -> None:
    """The corners of the picture are cut off, the middle is not; the rule `stretch` sees both."""
    image = two_corners(height, width)
    cut = explain(see_through("bn", 112, resize="crop", crop_pct=0.875), image, class_name="first channel")
    assert cut.window.height == cut.window.width == pytest.approx(98)
    assert not cut.heat.any()
    top, left = height // 2 - 40, width // 2 + 20
    image[0, top : top + 20, left : left + 20] = 255
    cut = explain(see_through("bn", 112, resize="crop", crop_pct=0.875), image)
    one_cell = 14
    row, column = center_of(cut.heat)
    assert row == pytest.approx(top + 10, abs=one_cell)
    assert column == pytest.approx(left + 10, abs=one_cell)
    whole = explain(see_through("bn", 112), image)
    assert whole.window == (0, 0, height, width)
    assert whole.heat[: height // 4, -width // 4 :].max() > 0.5


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_probabilities_are_the_predictors(temperature: float, trained: TrainingResult, tmp_path: Path) -> None:
    net = load(trained.model)
    net.info = dataclasses.replace(net.info, temperature=temperature)
    image = random_picture(1, 50, 70)
    Image.fromarray(image[0].numpy()).save(tmp_path / "a.png")
    found = explain(net, image)
    (answer,) = Predictor(net, precision="fp32").predict([tmp_path / "a.png"], top=10)
    assert found.classes == answer.classes
    # the predictor rounds pixels to 8 bits after resizing
    assert found.probabilities == pytest.approx(answer.probabilities, abs=5e-3)
    as_json = json.loads(json.dumps(found.to_dict()))
    assert as_json["explained"] == answer.classes[0]
    assert as_json["window"] == {"top": 0, "left": 0, "height": 1, "width": 1}
    assert len(as_json["shares"]) == 9


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_network_is_left_as_it_was(context: type) -> None:
    net = random_network("paper").train().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with context():
        found = explain(net, random_picture(3, 64, 64))
    assert sum(found.shares["5b"].values()) == pytest.approx(1)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_large_picture_is_kept_small_and_the_heat_in_its_place() -> None:
    found = explain(see_through("bn", 112), two_corners(3000, 1500, 600), class_name="first channel")
    assert found.image.shape == (3, 1024, 512)
    assert found.heat.shape == (1024, 512)
    assert found.heat[:512, -256:].sum() / found.heat.sum() > 0.9


def test_a_network_that_answers_nothing_is_drawn_all_the_same(tmp_path: Path) -> None:
    found = explain(see_through("tutorial", 64), torch.zeros(3, 3, 900, dtype=torch.uint8))
    assert not found.grad_cam.any()
    assert set(found.shares["3a"].values()) == {0}
    draw_explanation(found, tmp_path / "dark.png")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_picture(channels: int, tmp_path: Path) -> None:
    net = described(create_model("bn", num_classes=8, in_channels=channels), tuple("$a_^{<b" + "c"), 32)
    found = explain(net, random_picture(channels, 30, 20))
    path = tmp_path / "deep" / "out.png"
    draw_explanation(found, path, top=3, name="a $ picture.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
    with pytest.raises(UserError, match="1 or more"):
        draw_explanation(found, path, top=0)


def test_what_cannot_be_explained() -> None:
    net = see_through("bn", 64)
    with pytest.raises(UserError, match=r"no class 'third'; it knows: first channel, second channel, neither"):
        explain(net, two_corners(), class_name="third")
    with pytest.raises(UserError, match="no block '6a'; there are: 3a, 3b"):
        explain(net, two_corners(), block="6a")
    with pytest.raises(UserError, match=r"uint8 of shape \(3, H, W\), not uint8 of \(1, 64, 64\)"):
        explain(net, random_picture(1, 64, 64))
    with pytest.raises(UserError, match="not float32"):
        explain(net, torch.rand(3, 64, 64))
    with pytest.raises(UserError, match=r"googlenet\.load"):
        explain(create_model("bn"), two_corners())


@pytest.mark.parametrize("blocks", [1, 5])
def test_a_network_of_fewer_blocks(blocks: int) -> None:
    net = described(create_model("bn", num_classes=3, in_channels=1, blocks=blocks), ("a", "b", "c"), 64)
    found = explain(net, torch.randint(0, 256, (1, 64, 64), dtype=torch.uint8))
    assert len(found.shares) == blocks
    with pytest.raises(UserError, match="no block '5b'; there are: 3a"):
        explain(net, torch.zeros(1, 64, 64, dtype=torch.uint8), block="5b")


def test_a_block_in_which_nothing_speaks_for_the_class_gives_way() -> None:
    maps = torch.ones(1, 2, 7, 7)
    small = torch.ones(1, 2, 3, 3)
    silent = {"3a": (maps, maps), "3b": (maps, -maps), "4a": (small, small)}
    assert _legible_block(silent) == "3a"
    assert _legible_block({**silent, "3a": (maps, -maps)}) == "4a"
    assert _legible_block({name: (values, -values) for name, (values, _) in silent.items()}) == "3b"

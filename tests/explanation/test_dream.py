from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet
from googlenet import GoogLeNet, TrainingResult, UserError, create_model, dream
from googlenet.explanation.units import Probe, parse_unit
from tests.conftest import Call
from tests.networks import thin, with_info


@pytest.fixture(scope="module")
def net(trained: TrainingResult) -> GoogLeNet:
    return googlenet.load(trained.model)


def photo(height: int = 56, width: int = 70) -> Image.Image:
    """Smooth colors, neither black nor white anywhere."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 7), np.cos(columns / 9), np.sin((rows + columns) / 11)]
    return Image.fromarray((128 + 40 * np.stack(waves, 2)).astype(np.uint8))


def excitement(net: GoogLeNet, block: str, image: torch.Tensor) -> float:
    """Of a block by one image, uint8 (C, H, W) of any size."""
    mean, std = net.info.input.mean[0], net.info.input.std[0]
    with torch.no_grad():
        x = (image[None].float().mean(dim=1, keepdim=True) / 255 - mean) / std
        return float(parse_unit(block, net, net.info.classes).activation(Probe(net, block)(x)))


def test_a_dream_excites_its_block_and_keeps_the_colors(net: GoogLeNet) -> None:
    image = photo()
    before = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    after = dream(image, net, block="conv3", steps=10, octaves=2)
    assert after.shape == (3, 56, 70) and after.dtype == torch.uint8
    assert excitement(net, "conv3", after) > 1.2 * excitement(net, "conv3", before)
    colors = [pixels.float() - pixels.float().mean(dim=0) for pixels in (before, after)]
    assert (colors[0] - colors[1]).abs().max() < 2  # rounding: the network sees gray images


def test_a_dream_in_color_of_a_reduced_image() -> None:
    torch.manual_seed(0)
    net = with_info(create_model("bn", num_classes=2, initialization="he"), ("a", "b"), 32)
    after = dream(photo(), net, block="a", steps=1, max_side=40)
    assert after.shape == (3, 32, 40)
    assert torch.equal(after, dream(photo(), net, block="a", steps=1, max_side=40))
    assert dream(photo(), net, block="class", steps=1, max_side=40).shape == after.shape


def test_sizes_that_pools_that_round_up_do_not_fit() -> None:
    changes = {"pool": "ceil", "stem_stride": 1, "initialization": "he"}
    net = with_info(thin(2, 3, "v2", keep=("3c",), **changes), ("a", "b"), 32)
    image = photo(45, 62)
    before = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    with pytest.raises(UserError, match="ceil"):
        net.check_size(45, 62)
    after = dream(image, net, block="4a", steps=2, octaves=2, strength=5)
    assert after.shape == (3, 45, 62) and not torch.equal(after, before)
    assert (after.float() - before.float()).abs().mean() < 2 * 2 * 5  # it is still that image


def test_mistakes(net: GoogLeNet) -> None:
    for arguments in ({"steps": 0}, {"octaves": 0}, {"strength": 0}, {"block": "4z"}, {"block": "3a:0:99,0"}):
        with pytest.raises(UserError, match=next(iter(arguments))):
            dream(photo(), net, **arguments)
    four = with_info(create_model("bn", num_classes=2, in_channels=4), ("a", "b"), 32)
    with pytest.raises(UserError, match="4"):
        dream(photo(), four)


def test_the_command(trained: TrainingResult, images: Path, call: Call) -> None:
    image = images / "0.png"
    out, _ = call("dream", image, "--model", trained.model, "--block", "3a", "--steps", 1, "--json")
    with Image.open(json.loads(out)["image"]) as made:
        assert made.size == (28, 28)
    _, err = call("dream", image, "--model", trained.model, "--block", "3z", code=2)
    assert "--block" in err
    _, err = call("dream", image, "--model", trained.model, "-o", image, code=2)
    assert "--output" in err
    call("dream", images / "broken.png", "--model", trained.model, code=2)

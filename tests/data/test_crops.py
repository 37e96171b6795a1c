"""Crops against a reference that follows the text of the paper: it resizes the whole image, then cuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn import functional as F

import googlenet
from googlenet import Predictor, UserError
from googlenet.data import pack
from googlenet.data.crops import average, check_crops, crops_of, cut_crops
from googlenet.data.dataset import ImageSplit, load_dataset
from googlenet.data.decode import decode_image
from googlenet.data.joined import concatenate
from googlenet.data.transforms import InputSpec
from googlenet.evaluation.metrics import collect_logits
from tests.conftest import write_photos
from tests.data.conftest import write_image
from tests.networks import one_block, with_info


def spec(size: int = 224, **fields: object) -> InputSpec:
    return InputSpec(**{"channels": 3, "size": size, "mean": (0.5,) * 3, "std": (0.5,) * 3, **fields})


def position_image(height: int, width: int) -> Tensor:
    """Each pixel says where it is: its row and its column, as parts of 255, and which half."""
    rows, columns = torch.linspace(0, 255, height), torch.linspace(0, 255, width)
    image = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([image, (image[:1] + image[1:]) / 2]).round().to(torch.uint8)


def resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)[0]


def paper_crops(image: Tensor) -> Iterator[Tensor]:
    """Section 7: the shorter dimension is 256, 288, 320 and 352; left, center and right square, or top, center and
    bottom of portrait images; the 4 corners and the center 224x224 crop, and the square resized to 224x224."""
    for scale in (256, 288, 320, 352):
        height, width = image.shape[1:]
        if height < width:
            whole = resized(image, scale, round(width * scale / height))
        else:
            whole = resized(image, round(height * scale / width), scale)
        for place in ("first", "center", "last"):
            extra = max(whole.shape[1:]) - scale
            start = {"first": 0, "center": extra // 2, "last": extra}[place]
            is_portrait = whole.shape[1] > whole.shape[2]
            square = whole[:, start : start + scale] if is_portrait else whole[:, :, start : start + scale]
            middle = (scale - 224) // 2
            yield square[:, :224, :224]
            yield square[:, :224, -224:]
            yield square[:, -224:, :224]
            yield square[:, -224:, -224:]
            yield square[:, middle : middle + 224, middle : middle + 224]
            yield resized(square, 224, 224)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (450, 260), (256, 256)])
def test_144_crops_are_those_of_the_paper(height: int, width: int) -> None:
    image = position_image(height, width)
    crops = cut_crops(image, spec(resize="crop"), 144)
    assert crops.shape == (144, 3, 224, 224) and crops.dtype == torch.uint8
    expected = torch.stack(list(paper_crops(image)))
    difference = crops[:72].float() - expected
    assert difference.abs().max() <= 1.5  # of 255 from edge to edge: about a pixel
    assert difference.mean(dim=(2, 3)).abs().max() <= 0.5  # the middle square may be half a pixel of the image off
    assert torch.equal(crops[72:], crops[:72].flip(3))


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_10_crops_are_corners_and_center_of_the_square_of_256(resize: str) -> None:
    image = position_image(256, 341)
    crops = cut_crops(image, spec(resize=resize), 10).float()
    if resize == "crop":
        square = image[:, :, 42 : 42 + 256].float()
    elif resize == "stretch":
        square = resized(image, 256, 256)
    else:
        square = F.pad(resized(image, 192, 256), (0, 0, 32, 32), value=128)
    places = ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))
    for crop, (top, left) in zip(crops, places, strict=False):
        assert (crop - square[:, top : top + 224, left : left + 224]).abs().max() <= 1
    assert torch.equal(crops[5:], crops[:5].flip(3))


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 48),
    crops=st.sampled_from([1, 2, 10, 144]), resize=st.sampled_from(["crop", "stretch", "pad"]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_image_and_size(height: int, width: int, size: int, crops: int, resize: str) -> None:
    cut = cut_crops(torch.full((3, height, width), 128, dtype=torch.uint8), spec(size, resize=resize), crops)
    assert cut.shape == (crops, 3, size, size)
    assert (cut == 128).all()


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_one_crop_is_what_the_network_expects(resize: str) -> None:
    image, expects = position_image(60, 90), spec(32, resize=resize, crop_pct=0.875)
    prepared = expects.prepare(image[None])
    for crops in (1, 2):
        cut = cut_crops(image, expects, crops)
        assert torch.equal(InputSpec(3, 32, expects.mean, expects.std).prepare(cut[:1]), prepared)


def test_the_average_of_crops() -> None:
    logits = torch.randn(4, 10, 7, generator=torch.Generator().manual_seed(0)) * 5
    one = average(logits)
    torch.testing.assert_close(one.softmax(1), logits.softmax(2).mean(1))
    torch.testing.assert_close(one.logsumexp(1), logits.logsumexp(2).mean(1))
    torch.testing.assert_close(average(logits[:, :1]), logits[:, 0])


def test_unknown_numbers_of_crops() -> None:
    for crops in (0, 3, 145):
        with pytest.raises(UserError, match="1, 2, 10, 144"):
            check_crops(crops)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images of two classes that are wider than high, or higher than wide."""
    for number in range(4):
        size = (40 + 3 * number, 30) if number % 2 else (30, 44)
        write_image(tmp_path / "pictures" / ("a", "b")[number % 2] / f"{number}.png", number, size)
    return tmp_path / "pictures"


@pytest.mark.parametrize("crops", [2, 144])
def test_evaluate_averages_the_crops_of_the_files(pictures: Path, crops: int) -> None:
    net = with_info(one_block(2, 3), ("a", "b"), 16)
    googlenet.load_dataset(pictures, size=16, test_fraction=1.0)  # squares in the cache must not be used
    evaluation = googlenet.evaluate(net, pictures, crops=crops, batch_size=7, device="cpu", precision="fp32")
    assert evaluation.to_dict()["crops"] == crops
    for file, shares in zip(evaluation.files, evaluation.probabilities, strict=True):
        cut = cut_crops(decode_image(pictures / file, 3), net.info.input, crops)
        inputs = InputSpec(3, 16, net.info.input.mean, net.info.input.std).prepare(cut)
        with torch.inference_mode():
            torch.testing.assert_close(shares, net(inputs).softmax(1).mean(0), rtol=1e-3, atol=1e-5)


def test_predict_agrees_with_evaluate(pictures: Path) -> None:
    net = with_info(one_block(2, 3), ("a", "b"), 16)
    evaluation = googlenet.evaluate(net, pictures, crops=10, device="cpu", precision="fp32")
    files = [pictures / file for file in evaluation.files]
    predictor = Predictor(net, device="cpu", precision="fp32")
    for size in (1, 32):
        for prediction, shares in zip(
            predictor.predict(files, top=2, crops=10, batch_size=size), evaluation.probabilities, strict=True
        ):
            assert sorted(prediction.probabilities) == pytest.approx(sorted(shares.tolist()), abs=1e-4)
    with pytest.raises(UserError):
        predictor.predict(files, crops=3)
    predictor._model = replace(predictor._model, preprocessing=True)  # an exported file takes whole images
    with pytest.raises(UserError, match="preprocessing"):
        predictor.predict(files, crops=2)


def test_unknown_images_are_cut_like_the_others(pictures: Path) -> None:
    net = with_info(one_block(2, 3), ("a", "b"), 16)
    evaluation = googlenet.evaluate(net, pictures, crops=10, unknown=pictures, device="cpu", precision="fp32")
    assert evaluation.unknown_logits is not None
    pairs = (evaluation.logits, evaluation.unknown_logits)
    torch.testing.assert_close(*(logits.sum(1).sort().values for logits in pairs))


def test_originals_of_mixed_sources(pictures: Path) -> None:
    files = googlenet.load_dataset(pictures, size=16, test_fraction=1.0, on_demand=True).test
    memory = ImageSplit(
        torch.arange(3 * 16 * 16, dtype=torch.uint8).view(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64)
    )
    joined = concatenate([memory, files]).subset(torch.tensor([4, 0, 1]))
    assert torch.equal(joined.original(0, 1), decode_image(pictures / files.files[3], 3))
    assert torch.equal(joined.original(1, 1), memory.images[0])
    assert torch.equal(joined.original(2, 1), decode_image(pictures / files.files[0], 3))


def test_images_in_memory_are_cut_as_they_are() -> None:
    images = torch.randint(0, 256, (5, 3, 24, 36), dtype=torch.uint8)
    split = ImageSplit(images, torch.zeros(5, dtype=torch.int64))
    for image, crops in zip(images, crops_of(split, spec(16), 144), strict=True):
        assert torch.equal(crops, cut_crops(image, spec(16), 144))


def test_no_more_crops_are_run_at_once_than_the_batch_size(pictures: Path) -> None:
    net = one_block(2, 3)
    sizes: list[int] = []
    done: list[int] = []

    def forward(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return net(images)

    split = googlenet.load_dataset(pictures, size=16, test_fraction=1.0, on_demand=True).test
    for batch_size, wanted in ((25, [20] * 2), (4, [4, 4, 2] * 4)):
        sizes.clear()
        logits = collect_logits(
            net, split, spec(16), device=torch.device("cpu"), precision="fp32", batch_size=batch_size, crops=10,
            forward=forward, advance=done.append,
        )  # fmt: skip
        assert sizes == wanted and logits.shape == (4, 2)
    assert sum(done) == 2 * 4


def test_crops_of_shards_are_those_of_the_files(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", of_each=12)
    pack.pack(tmp_path / "photos", tmp_path / "shards")
    files = load_dataset(tmp_path / "photos", size=32, on_demand=True, use_store=False).test
    shards = load_dataset(tmp_path / "shards", size=32).test
    assert list(files.files) == list(shards.files)
    for number in range(len(files)):
        assert torch.equal(shards.original(number, 64), files.original(number, 64))

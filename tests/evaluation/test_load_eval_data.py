"""Which images of a folder a model is evaluated on, and that they are what the predictor sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from googlenet import GoogLeNet, InputSpec, ModelInfo, Predictor, UserError, create_model, evaluate, load_dataset
from googlenet.data import fashion_mnist
from googlenet.evaluation.report import load_eval_data
from tests.conftest import bundled
from tests.networks import with_info


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with eight images each, none of them square."""
    generator = np.random.default_rng(0)
    for number in range(16):
        path = tmp_path / "photos" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (4, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90 + number, 50)).save(path)
    return tmp_path / "photos"


def model(data: Path, **rule: object) -> GoogLeNet:
    torch.manual_seed(0)
    net = create_model("bn", num_classes=2)
    return with_info(net, ("cats", "dogs"), 32, recipe={"data": str(data), "seed": 0}, **rule)


def set_digest(net: GoogLeNet, digest: str) -> None:
    net.info = dataclasses.replace(net.info, data_digest=digest)


@pytest.mark.parametrize("rule", [{}, {"resize": "crop", "crop_pct": 0.875}, {"resize": "crop"}])
def test_evaluation_and_prediction_of_a_folder_agree(rule: dict[str, object], photos: Path, tmp_path: Path) -> None:
    net = model(tmp_path / "elsewhere", **rule)
    evaluation = evaluate(net, data=photos, precision="fp32")
    assert len(evaluation.labels) == 16
    files = sorted((photos / "cats").iterdir()) + sorted((photos / "dogs").iterdir())
    predictions = Predictor(net, precision="fp32").predict(files)
    for prediction, row in zip(predictions, evaluation.probabilities, strict=True):
        by_class = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        assert [by_class["cats"], by_class["dogs"]] == pytest.approx(row.tolist(), abs=1e-5)


def test_the_training_folder_is_evaluated_on_its_test_split_only(photos: Path) -> None:
    info = model(photos).info
    dataset = load_eval_data(info)
    split = load_dataset(str(photos), size=32, channels=3)
    assert torch.equal(dataset.test.images, split.test.images)
    assert not len(dataset.train)  # not decoded
    both = load_eval_data(info, splits=("train", "test"))
    assert torch.equal(both.train.images, split.train.images)


def test_unreadable_files_are_an_error_or_skipped(photos: Path) -> None:
    (photos / "cats" / "bad.png").write_bytes(b"nothing")
    info = model(photos).info
    with pytest.raises(UserError, match="--skip-unreadable"):
        load_eval_data(info)
    assert len(load_eval_data(info, skip_unreadable=True).skipped) == 1
    skipping = dataclasses.replace(info, recipe={**info.recipe, "skip_unreadable": True})
    assert len(load_eval_data(skipping).skipped) == 1


def test_a_changed_folder_is_a_warning(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = model(photos)
    set_digest(net, load_eval_data(net.info).digest)
    load_eval_data(net.info)
    assert "changed" not in capsys.readouterr().out
    (photos / "cats" / "0.png").unlink()
    load_eval_data(net.info)
    assert "changed" in capsys.readouterr().out


def test_a_moved_training_folder_keeps_its_test_split(photos: Path) -> None:
    net = model(photos)
    before = load_eval_data(net.info)
    set_digest(net, before.digest)
    moved = photos.rename(photos.with_name("images"))
    after = load_eval_data(net.info, moved)
    assert torch.equal(after.test.images, before.test.images)
    (moved / "cats" / "0.png").unlink()
    assert len(load_eval_data(net.info, str(moved)).test) == 15  # another folder now: every image


def test_another_folder_with_a_test_split_is_evaluated_on_that(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    photos.rename(other / "train")
    for name in ("cats", "dogs"):
        (other / "test" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(other / "test" / name / "one.png")
    assert load_eval_data(model(tmp_path / "elsewhere").info, other).test.labels.tolist() == [0, 1]


@pytest.mark.usefixtures("small_data")
def test_datasets_of_other_classes_are_refused() -> None:
    classes = fashion_mnist.CLASSES
    net = create_model("bn", num_classes=10, in_channels=1)
    for names, fits in ((classes, True), (tuple("0123456789"), True), (classes[::-1], True), (classes[:9], False)):
        info = ModelInfo(net.architecture, names, InputSpec(1, 28, (0.5,), (0.5,)))
        if fits:
            labels = load_eval_data(info, "fashion-mnist").test.labels
            own = [classes[label] for label in bundled("t10k-labels-idx1-ubyte")[:160]]
            assert own == [names[label] if names[0] != "0" else classes[label] for label in labels.tolist()]
        else:
            with pytest.raises(UserError, match="fashion-mnist"):
                load_eval_data(info, "fashion-mnist")


def test_a_missing_training_folder_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data") as error:
        load_eval_data(model(tmp_path / "gone").info)
    assert str(tmp_path / "gone") in str(error.value)

"""Models judged on folders: the same pictures as `predict` sees, and nothing passed over in silence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet
from googlenet import Predictor, UserError
from googlenet.weights.model_file import ModelInfo
from googlenet.data import fashion_mnist
from googlenet.data.transforms import InputSpec
from googlenet.evaluation.metrics import evaluate
from googlenet.evaluation.report import load_eval_data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with eight pictures each, none of them square."""
    generator = np.random.default_rng(0)
    for number in range(16):
        path = tmp_path / "photos" / ("cats", "dogs")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (4, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90 + number, 50)).save(path)
    return tmp_path / "photos"


def model(data: Path, **spec: object) -> googlenet.GoogLeNet:
    torch.manual_seed(0)
    net = googlenet.create_model("bn", num_classes=2)
    info = ModelInfo(
        net.architecture,
        ("cats", "dogs"),
        InputSpec(3, 32, (0.5,) * 3, (0.5,) * 3, **spec),  # type: ignore[arg-type]
        recipe={"data": str(data), "seed": 0},
    )
    net.info = info
    return net.eval()


@pytest.mark.parametrize("spec", [{}, {"resize": "crop", "crop_pct": 0.875}, {"resize": "crop"}])
def test_a_folder_is_judged_as_its_files_are_predicted(spec: dict[str, object], photos: Path, tmp_path: Path) -> None:
    net = model(tmp_path / "elsewhere", **spec)
    test = load_eval_data(net.info, str(photos)).test
    assert len(test) == 16
    judged = evaluate(net, test, net.info.input, net.info.classes, precision="fp32").probabilities
    files = sorted((photos / "cats").iterdir()) + sorted((photos / "dogs").iterdir())
    for answer, row in zip(Predictor(net, precision="fp32").predict(files), judged, strict=True):
        said = dict(zip(answer.classes, answer.probabilities, strict=True))
        assert [said["cats"], said["dogs"]] == pytest.approx(row.tolist(), abs=1e-5)


def test_what_cannot_be_read_is_refused_or_counted(photos: Path) -> None:
    (photos / "cats" / "bad.png").write_bytes(b"nothing")
    net = model(photos)
    with pytest.raises(UserError, match="--skip-unreadable"):
        load_eval_data(net.info)
    assert load_eval_data(net.info, skip_unreadable=True).note == "1 files that cannot be read are left out"


def test_a_folder_that_changed_is_told(photos: Path) -> None:
    net = model(photos)
    said: list[str] = []
    digest = load_eval_data(net.info, say=said.append).digest
    net.info = dataclasses.replace(net.info, data_digest=digest)
    load_eval_data(net.info, say=said.append)
    assert not any("changed" in line for line in said)
    (photos / "cats" / "0.png").unlink()
    load_eval_data(net.info, say=said.append)
    assert "has changed since the training" in said[-1]


def test_the_folder_of_the_training_is_known_wherever_it_lies(photos: Path) -> None:
    net = model(photos)
    then = load_eval_data(net.info)
    net.info = dataclasses.replace(net.info, data_digest=then.digest)
    moved, said = photos.rename(photos.with_name("pictures")), list[str]()
    now = load_eval_data(net.info, str(moved), say=said.append)
    assert torch.equal(now.test.images, then.test.images) and len(now.train)
    assert said[-1].startswith("the folder holds the pictures of the training")
    (moved / "cats" / "0.png").unlink()
    assert len(load_eval_data(net.info, str(moved)).test) == 15  # another folder now: all of it


@pytest.mark.usefixtures("small_data")
def test_a_data_set_of_other_classes_is_not_judged() -> None:
    classes = fashion_mnist.CLASSES
    net = googlenet.create_model("bn", num_classes=10, in_channels=1)
    for names, judged in ((classes, True), (tuple("0123456789"), True), (classes[::-1], False), (classes[:9], False)):
        info = ModelInfo(net.architecture, names, InputSpec(1, 28, (0.5,), (0.5,)))
        if judged:
            assert len(load_eval_data(info, "fashion-mnist").test) == 160
        else:
            with pytest.raises(UserError, match="other classes than the model"):
                load_eval_data(info, "fashion-mnist")


def test_a_folder_that_is_gone_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone, which the model was trained on, is not there any more; name where"):
        load_eval_data(model(tmp_path / "gone").info)

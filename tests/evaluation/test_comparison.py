from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from googlenet import Architecture, Evaluation, InputSpec, ModelInfo, UserError, load_dataset
from googlenet.evaluation.comparison import Comparison, mcnemar, paired_interval, same_images
from googlenet.evaluation.report import eval_split

CLASSES = ("boot", "trouser")


def _evaluation(predicted: list[int], labels: list[int], **fields: Any) -> Evaluation:
    logits = 4.0 * torch.nn.functional.one_hot(torch.tensor(predicted), 2)
    return Evaluation(CLASSES, logits, torch.tensor(labels), 1.0, **fields)


def test_comparison_by_hand(tmp_path: Path) -> None:
    labels = [0, 0, 1, 1, 1]
    data: dict[str, Any] = {"files": ("1", "2", "3", "4", "5"), "columns": {"camera": list("vwxyz")}}
    comparison = Comparison(_evaluation([0, 0, 1, 0, 0], labels, **data), _evaluation([0, 1, 1, 1, 1], labels, **data))
    result = comparison.to_dict()
    assert (result["a"]["accuracy"], result["b"]["accuracy"]) == pytest.approx((0.6, 0.8))
    assert (result["a"]["only_correct"], result["b"]["only_correct"]) == (1, 2)
    assert (result["both_correct"], result["neither_correct"], result["different_predictions"]) == (2, 0, 3)
    assert result["difference"] == pytest.approx(0.2)
    assert result["mcnemar_p"] == 1
    comparison.write(tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text()) == result
    header, *lines = (tmp_path / "comparison.csv").read_text().splitlines()
    assert header == (
        "file,class,correct,predicted_a,predicted_b,probability_a,probability_b,loss_a,loss_b,rank_a,rank_b,camera"
    )
    rows = [line.split(",") for line in lines]
    assert [(row[0], row[2], row[3], row[4], row[-1]) for row in rows] == [
        ("2", "A", "boot", "trouser", "w"),
        ("4", "B", "boot", "trouser", "y"),
        ("5", "B", "boot", "trouser", "z"),
    ]


def test_a_model_compared_with_itself(tmp_path: Path) -> None:
    same = _evaluation([0, 1, 1], [0, 1, 0])
    result = Comparison(same, same).to_dict()
    assert (result["difference"], result["mcnemar_p"], result["different_predictions"]) == (0, 1, 0)
    low, high = result["difference_interval"]
    assert -1 <= low < 0 < high <= 1
    Comparison(same, same).write(tmp_path)
    assert (tmp_path / "comparison.csv").read_text().startswith("file,class,correct,")


@settings(max_examples=50, deadline=None)
@given(only_a=st.integers(0, 60), only_b=st.integers(0, 60))
def test_mcnemar_is_the_sum_of_outcomes_that_are_as_far_from_half(only_a: int, only_b: int) -> None:
    count = only_a + only_b
    distance = abs(only_a - only_b)
    expected = sum(math.comb(count, k) / 2**count for k in range(count + 1) if abs(2 * k - count) >= distance)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a) == pytest.approx(expected)


def test_mcnemar_of_thousands_of_images() -> None:
    assert mcnemar(5000, 5000) == 1
    z = (2600 - 2400 - 1) / math.sqrt(5000)  # normal approximation with continuity correction
    assert mcnemar(2400, 2600) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
    assert 0 <= mcnemar(0, 20000) < 1e-300


def test_paired_interval_by_hand() -> None:
    # (6 + 1) / 102 and (2 + 1) / 102
    center, spread = -4 / 102, math.sqrt((10 / 102 - (4 / 102) ** 2) / 102)
    assert paired_interval(6, 2, 100) == pytest.approx([center - 1.96 * spread, center + 1.96 * spread], abs=1e-5)
    low, high = paired_interval(2, 6, 100)
    assert [-high, -low] == pytest.approx(paired_interval(6, 2, 100))
    assert paired_interval(1, 0, 1)[0] == -1


def test_paired_interval_contains_the_true_difference_in_95_of_100_samples() -> None:
    """Model B is correct on 5 percentage points more of all images: on 12%, only B is, on 7% only A is."""
    generator = torch.Generator().manual_seed(0)
    outcomes = torch.multinomial(torch.tensor([0.81, 0.12, 0.07]), 2000 * 150, replacement=True, generator=generator)
    hits = 0
    for sample in outcomes.view(2000, 150):
        low, high = paired_interval(int((sample == 2).sum()), int((sample == 1).sum()), 150)
        hits += low <= 0.05 <= high
    assert 0.93 < hits / 2000 < 0.97


def _info(folder: Path | str, size: int = 28, seed: int = 0, channels: int = 1) -> ModelInfo:
    spec = InputSpec(channels, size, (0.0,) * channels, (1.0,) * channels)
    return ModelInfo(Architecture("bn", 2, channels), CLASSES, spec, {"data": str(folder), "seed": seed})


def test_the_second_model_gets_the_same_images_in_its_size(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    a, b = _info(photos), _info(photos, size=32)
    split = eval_split(a)
    assert same_images(split, a, a) is split
    images = same_images(split, a, b)
    assert (images.files, images.images.shape[2]) == (split.files, 32)
    assert torch.equal(images.labels, split.labels)
    stranger = dataclasses.replace(b, recipe={"data": "fashion-mnist"})  # trained on other data
    assert same_images(split, a, stranger).files == split.files
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_a_warning_if_the_second_model_was_trained_on_the_images(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = _info(photos), _info(photos, seed=1)
    split, own = eval_split(a), eval_split(b)
    missing = len(set(split.files) - set(own.files))
    assert missing
    assert same_images(split, a, b).files == split.files
    assert f"{missing} of the {len(split)}" in caplog.text


@pytest.mark.usefixtures("small_data")
def test_known_data_is_the_same_for_every_model() -> None:
    split = load_dataset("fashion-mnist").test
    a, b = _info("fashion-mnist"), _info("fashion-mnist", size=32, seed=1)
    assert same_images(split, a, b) is split


def test_models_of_different_classes_or_channels_cannot_be_compared(photos: Path) -> None:
    a = _info(photos)
    split = eval_split(a)
    with pytest.raises(UserError, match="classes"):
        same_images(split, a, dataclasses.replace(a, classes=("trouser", "boot")))
    with pytest.raises(UserError, match="channels"):
        same_images(split, a, _info(photos, channels=3))

"""The experiment with classes left out, without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis as distance
from torch import Tensor

from experiments.open_set import SHRINKAGE, mahalanobis, nearest_neighbor, report, roc_auc
from tests.evaluation.test_known import pairs_in_order


def features(count: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(count)) + shift


def test_mahalanobis_by_its_definition() -> None:
    train, labels, x = features(60), torch.arange(60) % 3, features(5)
    means = np.stack([train[labels == label].mean(0).numpy() for label in range(3)])
    centered = train.numpy() - means[labels.numpy()]
    covariance = centered.T @ centered / 60
    inverse = np.linalg.inv(covariance + SHRINKAGE * np.trace(covariance) / 6 * np.eye(6))
    expected = [-min(distance(row, mean, inverse) ** 2 for mean in means) for row in x.numpy()]
    np.testing.assert_allclose(mahalanobis(train, labels, relative=False)(x), expected, rtol=1e-3)


def test_nearest_neighbor_and_roc_auc() -> None:
    train = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert nearest_neighbor(train, 1)(torch.tensor([[0.0, 1.0]])).tolist() == [-1]
    assert nearest_neighbor(train, 2)(torch.tensor([[0.0, 0.0]])).tolist() == pytest.approx([-5])
    known, unknown = features(40, 0.5).flatten().round(), features(30).flatten().round()
    assert roc_auc(known, unknown) == pytest.approx(pairs_in_order(known.numpy(), unknown.numpy()))


def test_the_report_ranks_what_is_unlike_the_training_images_last(tmp_path: Path) -> None:
    for number in range(2):
        arrays = {"train_labels": (torch.arange(60) % 3).numpy(), "name": np.array(f"class {number}")}
        for part, count, shift in (
            ("train", 60, 3.0),
            ("validation", 30, 3.0),
            ("test", 50, 3.0),
            ("unknown", 40, -3.0),
        ):
            arrays |= {f"{part}_{key}": features(count, shift).numpy() for key in ("logits", "4a", "4e", "5b")}
        np.savez(tmp_path / f"{number}.npz", **arrays)
    rows = {row["score"]: row for row in report(tmp_path, resamples=10)}
    assert rows["energy"]["roc_auc"] > 0.95 and rows["energy"]["rejected"] > 0.9
    assert rows["nearest neighbor, 5b"]["roc_auc"] > 0.95
    assert list(rows["energy"]["by_class"]) == ["class 0", "class 1"]

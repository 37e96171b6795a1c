"""The rule for unknown images: its maths, and evaluations with it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.special import logsumexp

from googlenet import Evaluation, ImageSplit, ModelInfo, UserError, evaluate
from googlenet.evaluation.scores import roc_auc
from googlenet.evaluation.tables import evaluation_table
from googlenet.weights.model_file import KnownRule
from tests.conftest import bundled
from tests.networks import fitted, thin, with_info

CLASSES = ("a", "b", "c")


def pairs_in_order(known: np.ndarray, unknown: np.ndarray) -> float:
    """The fraction of pairs in which the known image has the higher score."""
    from scipy.stats import mannwhitneyu  # takes a second, for which every test process would wait

    return mannwhitneyu(known, unknown).statistic / (len(known) * len(unknown))


def evaluation_of(logits: np.ndarray, **fields: object) -> Evaluation:
    tensor = torch.from_numpy(logits).float()
    return Evaluation(CLASSES, tensor, torch.arange(len(tensor)) % 3, 1.0, **fields)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(images=st.integers(1, 200), levels=st.sampled_from([2, 1000]), seed=st.integers(0, 10**6))
def test_the_smallest_possible_fraction_of_at_least_95_percent_passes(images: int, levels: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(0, levels, (images, 3)).astype(np.float32)
    evaluation = evaluation_of(logits)
    rule = evaluation.fit_known("validation")
    scores = logsumexp(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(rule.scores(evaluation.logits), scores, rtol=1e-5)
    known = dataclasses.replace(evaluation, rule=rule).is_known
    assert known is not None
    assert known.double().mean() >= 0.95
    above = np.sort(scores)[::-1][: math.ceil(0.95 * images - 1e-9)]
    assert rule.threshold == pytest.approx(above[-1], rel=1e-5)
    assert (rule.images, rule.fitted_on, rule.digest) == (images, "validation", evaluation.digest)


@settings(max_examples=50, deadline=None)
@given(sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 10**6))
def test_roc_auc_agrees_with_scipy(sizes: tuple[int, int], seed: int) -> None:
    known, unknown = (np.random.default_rng(seed + size).integers(0, 9, size) for size in sizes)
    area, (low, high) = roc_auc(torch.from_numpy(known).double(), torch.from_numpy(unknown).double())
    assert area == pytest.approx(pairs_in_order(known, unknown))
    assert 0 <= low <= area <= high <= 1


def test_the_interval_has_the_width_of_a_bootstrap() -> None:
    rng = np.random.default_rng(0)
    known, unknown = torch.from_numpy(rng.normal(1, 1, 150)), torch.from_numpy(rng.normal(0, 2, 80))
    areas = [
        roc_auc(known[torch.from_numpy(rng.integers(0, 150, 150))], unknown[torch.from_numpy(rng.integers(0, 80, 80))])[
            0
        ]
        for _ in range(1000)
    ]
    _, (low, high) = roc_auc(known, unknown)
    assert high - low == pytest.approx(np.quantile(areas, 0.975) - np.quantile(areas, 0.025), rel=0.15)


def test_an_evaluation_reports_known_and_unknown_images() -> None:
    logits = np.zeros((40, 3), np.float32)
    logits[:, 0] = np.arange(40)
    plain = evaluation_of(logits)
    assert plain.is_known is None and "known" not in plain.to_dict() and "known" not in plain.predictions()
    rule = plain.fit_known("test")
    unknown = torch.zeros(10, 3)
    unknown[:4, 1] = 30.5
    full = dataclasses.replace(plain, rule=rule, unknown_logits=unknown)
    result = json.loads(json.dumps(full.to_dict(), allow_nan=False))["known"]
    assert (result["fraction"], result["fitted_on"], result["fitted_on_these_images"]) == (0.95, "test", True)
    assert result["unknown"]["rejected"] == 0.6
    expected = pairs_in_order(logsumexp(logits, axis=1), logsumexp(unknown.numpy(), axis=1))
    assert result["unknown"]["roc_auc"] == pytest.approx(expected)
    assert full.predictions()["known"] == [False, False, *[True] * 38]
    caption = " ".join(str(evaluation_table(full).caption).split())
    assert "these same images" in caption and "60.00%" in caption and "10 unknown images" in caption
    others = dataclasses.replace(full, labels=full.labels.flip(0))
    assert not others.to_dict()["known"]["fitted_on_these_images"]
    without = dataclasses.replace(full, rule=None).to_dict()["known"]
    assert set(without) == {"unknown"} and "rejected" not in without["unknown"]


def test_unknown_images_come_from_a_folder(images: Path) -> None:
    """Ten real images of boots and trousers are the classes; noise is unknown."""
    pixels, labels = bundled("t10k-images-idx3-ubyte"), bundled("t10k-labels-idx1-ubyte")
    chosen = np.flatnonzero((labels == 9) | (labels == 1))[:60]
    split = ImageSplit(torch.from_numpy(pixels[chosen])[:, None], torch.from_numpy(labels[chosen] == 1).long())
    net = fitted(split, ("boot", "trouser"), create=thin)
    rule = evaluate(net, split, precision="fp32").fit_known("test")
    net.info = dataclasses.replace(net.info, known=rule)
    with pytest.raises(UserError, match="broken"):
        evaluate(net, split, unknown=images, precision="fp32")
    result = evaluate(net, split, unknown=images, skip_unreadable=True, precision="fp32").to_dict()["known"]
    assert result["fraction"] >= 0.95 and result["unknown"]["images"] == 5
    color = ImageSplit(torch.zeros(1, 3, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UserError, match="channel"):
        evaluate(net, split, unknown=color, precision="fp32")


def test_the_rule_survives_json_and_older_files_have_none() -> None:
    info = with_info(thin(2, 1), ("a", "b"), 28).info
    rule = KnownRule(3.25, "validation", 17, "0" * 64)
    full = dataclasses.replace(info, known=rule)
    assert ModelInfo.from_json(full.to_json()) == full
    fields = json.loads(info.to_json())
    del fields["known"]
    assert ModelInfo.from_json(json.dumps(fields)) == info
    for damaged in ({"threshold": "3"}, 3, {**dataclasses.asdict(rule), "threshold": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            ModelInfo.from_json(json.dumps(fields | {"known": damaged}))

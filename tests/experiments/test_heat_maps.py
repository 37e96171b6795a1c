from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.heat_maps.__main__ import main
from experiments.heat_maps.checks import among_others, deletion_and_insertion, is_hit, on_clouds, rank_correlation
from experiments.heat_maps.methods import METHODS, Case
from googlenet import TrainingResult
from googlenet.evaluation.heat_maps import hide
from tests.explanation.pass_through import pass_through
from tests.networks import thin, with_info


@pytest.fixture
def case() -> Case:
    """The first channel is bright in the upper left corner, and a network that sees it there."""
    image = torch.zeros(3, 28, 28, dtype=torch.uint8)
    image[0, 4:12, 4:12] = 255
    net = pass_through("bn", 28)
    net.get_parameter("fc.weight").data.mul_(20)
    return Case(net, image, 0)


def test_a_true_map_is_better_than_a_wrong_one(case: Case) -> None:
    right = case.x[0, 0]
    deletion, insertion = deletion_and_insertion(case, right, gray=0)
    worst_deletion, worst_insertion = deletion_and_insertion(case, 1 - right, gray=0)
    assert deletion < worst_deletion and insertion > worst_insertion
    assert is_hit(right, (28, 28), (4, 11, 4, 11)) and not is_hit(1 - right, (28, 28), (4, 11, 4, 11))
    assert rank_correlation(right, right, (28, 28)) == pytest.approx(1)
    assert rank_correlation(right, 1 - right, (28, 28)) < 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_a_case(name: str, case: Case) -> None:
    evidence = METHODS[name](case)
    assert evidence.ndim == 2 and evidence.isfinite().all()
    if name in ("masked gradients", "integrated gradients", "RISE, 128 masks"):
        assert is_hit(evidence, (28, 28), (2, 13, 2, 13))


def test_what_hides_is_what_explain_hides_with(case: Case) -> None:
    photo = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for image in (case.image, photo):
        each = Case(case.net, image, 0)
        assert torch.equal(each.hidden, hide(each.x, case.net.info.input))


def test_maps_of_a_network_with_other_blocks() -> None:
    net = with_info(thin(2, 1, "v3", keep=("6a",), initialization="default"), ("a", "b"), 75)
    image = torch.randint(0, 256, (1, 75, 75), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert METHODS["LayerCAM"](Case(net, image, 0)).isfinite().all()


def test_composed_images(case: Case) -> None:
    generator = torch.Generator().manual_seed(3)
    composed, (top, bottom, left, right) = on_clouds(case.image, generator)
    assert composed.shape == (3, 28, 28) and bottom - top in (3, 4) and right - left in (3, 4)
    assert (composed[0, top + 1 : bottom, left + 1 : right] > 200).all()
    assert composed[0, :top].max() < 200 and composed[0, bottom + 1 :].max() < 200
    four = torch.stack([torch.full((1, 5, 5), value, dtype=torch.uint8) for value in (9, 1, 2, 3)])
    composed, (top, bottom, left, right) = among_others(four, generator)
    assert composed.shape == (1, 10, 10) and sorted(composed.unique().tolist()) == [1, 2, 3, 9]
    assert (composed[0, top : bottom + 1, left : right + 1] == 9).all() and (composed == 9).sum() == 25


def test_the_comparison(trained: TrainingResult, small_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    names = ("Grad-CAM", "difference from hidden")
    counts = ("--deletion", 3, "--pointing", 2, "--randomization", 1)
    main([*map(str, (trained.folder, "--gray", 0, *counts, "--output", output, "--methods", *names))])
    report = json.loads(output.read_text(encoding="utf-8"))
    assert set(report) == set(names)
    assert all(0 <= report[name]["deletion"]["mean"] <= 1 for name in names)
    assert report["Grad-CAM"]["deletion"]["images"] == 3

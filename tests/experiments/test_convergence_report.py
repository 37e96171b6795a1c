from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from experiments.convergence.grid import Configuration, Scale
from experiments.convergence.networks import Network
from experiments.convergence.report import mean, write_report
from experiments.convergence.study import Study, study
from googlenet import UserError

SCALE = Scale(steps=40, rates=(0.001, 0.01))
MARKS = ("plateau", "loss_1", "loss_0.5", "accuracy_85", "accuracy_90")


def result(name: str, rate: float, seed: int, loss: float | None, plateau: int | None) -> dict[str, Any]:
    marks = {f"{mark}_{unit}": None for mark in MARKS for unit in ("steps", "seconds")}
    curve = [[step, loss or 2.3] for step in (20, 40)]
    values = {"configuration": name, "learning_rate": rate, "seed": seed, "steps": 40, "diverged": loss is None}
    probed = {"variance": 1.0, "spread": 0.01 * (1 + seed), "gradient": 1e-9}
    way = [{"step": 10, "layer": layer, **probed} for layer in ("conv1", "fc")]
    test = {"test_loss": loss, "test_accuracy": None if loss is None else 0.5}
    seconds = {"plateau_steps": plateau, "plateau_seconds": None if plateau is None else plateau / 10}
    return {**values, **marks, **seconds, "final_loss": loss, **test, "curve": curve, "on_the_way": way}


def whole_study(*, all_diverge: bool = False) -> Study:
    he = Configuration("initialization", "he", Network(initialization="he"))
    results = [result("tutorial", 0.001, seed, 2.3 + seed / 100, None) for seed in range(3)]
    results.append(result("tutorial", 0.01, 0, 2.4, None))
    results.append(result("initialization=he", 0.001, 0, None if all_diverge else 1.9, 40))
    rises = [None if all_diverge else 1.5 + seed / 100 for seed in range(3)]
    results += [
        result("initialization=he", 0.01, seed, loss, None if seed == 2 else 20) for seed, loss in enumerate(rises)
    ]
    probes = [
        {
            "configuration": name,
            "seed": seed,
            "step": 0,
            "layer": layer,
            "variance": 1.0,
            "spread": 0.01,
            "gradient": 1e-9,
        }
        for name in ("tutorial", "initialization=he")
        for seed in range(3)
        for layer in ("conv1", "fc")
    ]
    return Study(SCALE, [Configuration("baseline", "tutorial"), he], results, probes)


def test_the_report_has_every_result(tmp_path: Path) -> None:
    text = write_report(whole_study(), tmp_path).read_text()
    for line in (
        "| initialization=he | 20 ± 0 (2 of 3) | - | - | - | - | 2.0 ± 0.0 |",
        "| initialization=he | 0.01 | 1.510 ± 0.025 | **-0.800 ± 0.000** to tutorial | 50.0 ± 0.0 |",
        "| tutorial | **2.300** | 2.400 |",
        "| tutorial | 1.0e-02 | 1.0e-02 | 1.0e-09 | 1.0e-09 |",
        "| tutorial | 1.0e-02 | 1.8e-02 |  |",
    ):
        assert line in text
    for plot in ("losses.png", "plateau.png", "probes.png", "on_the_way.png"):
        assert plot in text
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert len(rows) == 8
    assert {row["learning_rate"] for row in rows} == {"0.001", "0.01"}
    assert len(list(csv.DictReader((tmp_path / "probes.csv").open()))) == 12 + 12


def test_a_configuration_that_diverges_at_every_rate_is_in_the_report(tmp_path: Path) -> None:
    assert (
        "| initialization=he | 0.001 | diverged |" in write_report(whole_study(all_diverge=True), tmp_path).read_text()
    )


def test_the_interval_is_students_t() -> None:
    three = mean([1.0, 2.0, 3.0])
    assert (three.value, three.count) == (2.0, 3)
    assert three.half_width == pytest.approx(4.303 / 3**0.5)
    assert (three.text(1), mean([1.0]).text(2)) == ("2.0 ± 2.5", "1.00")
    assert mean([5.0, 5.1, 4.9]).differs_from_zero
    assert not mean([1.0, -1.0, 0.5]).differs_from_zero
    assert not mean([1.0]).differs_from_zero


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="--output"):
        study(tmp_path, SCALE, only=["tutorial"])
    with pytest.raises(UserError, match=r"--only.*height"):
        study(tmp_path / "new", SCALE, only=["height"])
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]

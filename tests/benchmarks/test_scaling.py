"""What would be needed for ImageNet: the table, and the arithmetic behind it."""

from __future__ import annotations

import pytest

from benchmarks.scaling import IMAGES, Case, Measured, cases, main, read_measured, render
from tests.pages import ROOT

MEASURED = Measured(
    {16: 800.0, 128: 4000.0}, "a GPU", {"a": 400.0, "b": 200.0}, {"a": 4000.0, "b": 1000.0}, 10.0, 10**6
)


def test_the_page_has_the_calculated_tables() -> None:
    assert render(read_measured(), 100) in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_arithmetic() -> None:
    one, eight = Case(MEASURED, 1, 128, 90), Case(MEASURED, 8, 1024, 90)
    assert (one.rate, eight.rate) == (4000, 32_000)
    assert one.hours == pytest.approx(90 * IMAGES / 4000 / 3600) and one.hours == pytest.approx(8 * eight.hours)
    assert one.gradients == 0
    # 31.25 steps per second, 4 bytes each, to and from seven of eight
    assert eight.gradients == pytest.approx(31.25 * 4e6 * 2 * 7 / 8)
    assert (one.hosts, eight.hosts, Case(MEASURED, 1000, 128_000, 1).hosts) == (1, 1, 125)
    assert one.memory == pytest.approx(1.25)
    # A step of fewer images takes as long as one of 16
    assert Case(MEASURED, 128, 1024, 1).rate == pytest.approx(64 * 800)
    assert Case(MEASURED, 8, 1000, 1).rate == 8 * 800


def test_every_number_of_gpus_has_the_recipes_batch() -> None:
    assert {(case.gpus, case.batch) for case in cases(MEASURED, 1)} >= {(1, 1024), (8, 1024), (64, 1024), (1000, 1024)}


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--epochs", "300"])
    assert "300 epochs" in capsys.readouterr().out

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from experiments.convergence import study as study_module
from experiments.convergence.grid import Scale
from experiments.convergence.study import study
from experiments.convergence.tasks import CellTask, ProbeTask, Task


class InThisProcess:
    """Instead of a pool of processes."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(task())
        return future

    def shutdown(self, **_: Any) -> None: ...


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, int, int, bool]]:
    """What would be trained: (configuration, rate, seed, steps, probed during training)."""
    ran: list[tuple[str, float, int, int, bool]] = []

    def work(task: CellTask) -> dict[str, Any]:
        cell = task.cell
        name, rate = cell.configuration.name, cell.learning_rate
        ran.append((name, rate, cell.seed, cell.steps, task.probed))
        loss = abs(rate - (3e-4 if name == "tutorial" else 1e-3))
        values = {"configuration": name, "learning_rate": rate, "seed": cell.seed, "steps": cell.steps}
        task.file.parent.mkdir(parents=True)
        return {**values, "final_loss": loss, "on_the_way": []}

    def probe(task: ProbeTask) -> list[Any]:
        task.file.parent.mkdir(parents=True, exist_ok=True)
        return []

    monkeypatch.setattr(study_module, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(CellTask, "work", work)
    monkeypatch.setattr(ProbeTask, "work", probe)
    return ran


def test_short_runs_choose_the_rate_of_the_long_ones(
    tmp_path: Path, trained: list[tuple[str, float, int, int, bool]]
) -> None:
    calls: list[tuple[int, int]] = []
    scale = Scale(steps=50, sweep_steps=20, seeds=2, rates=(1e-4, 3e-4, 1e-3))
    arguments: dict[str, Any] = {"only": ["initialization=he"], "workers": 1}
    result = study(tmp_path, scale, progress=lambda done, total, *_: calls.append((done, total)), **arguments)
    long = [run for run in trained if run[3] == 50]
    assert sorted(run[:3] for run in long) == [
        ("initialization=he", 1e-3, 0),
        ("initialization=he", 1e-3, 1),
        ("tutorial", 3e-4, 0),
        ("tutorial", 3e-4, 1),
    ]
    short = [run for run in trained if run[3] == 20]
    assert sorted(run[:3] for run in short) == [
        (name, rate, 0) for name in ("initialization=he", "tutorial") for rate in (1e-4, 3e-4, 1e-3)
    ]
    assert all(run[4] for run in long) and not any(run[4] for run in short)
    assert calls == [(done, 14) for done in range(1, 15)]
    assert [run["seed"] for run in result.chosen(result.configurations[0])] == [0, 1]

    before = len(trained)
    again = study(tmp_path, Scale(steps=50, sweep_steps=20, seeds=3, rates=(1e-4, 3e-4, 1e-3)), **arguments)
    assert [run[2] for run in trained[before:]] == [2, 2]
    assert [run["seed"] for run in again.chosen(again.configurations[1])] == [0, 1, 2]


def test_short_runs_that_choose_the_rate_count_as_seed_0(
    tmp_path: Path, trained: list[tuple[str, float, int, int, bool]]
) -> None:
    result = study(tmp_path, Scale(steps=10, seeds=2, rates=(3e-4, 1e-3)), only=["tutorial"])
    assert [run[:3] for run in trained] == [("tutorial", 3e-4, 0), ("tutorial", 1e-3, 0), ("tutorial", 3e-4, 1)]
    assert [run["seed"] for run in result.chosen(result.configurations[0])] == [0, 1]


def test_a_single_rate_needs_no_choosing(tmp_path: Path, trained: list[tuple[str, float, int, int, bool]]) -> None:
    study(tmp_path, Scale(steps=500, seeds=2, rates=(1e-3,)), only=["tutorial"])
    assert trained == [("tutorial", 1e-3, 0, 500, True), ("tutorial", 1e-3, 1, 500, True)]

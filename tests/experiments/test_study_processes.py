"""The study of convergence as a command: continued, interrupted, and with a worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from experiments.convergence import study
from experiments.convergence.__main__ import main
from tests.end_to_end.conftest import Command

QUICK = ("--quick", "--only", "tutorial", "--image-size", 16, "--output", "study")


def start(command: Command, *arguments: object) -> subprocess.Popen[str]:
    return command.start(*QUICK, *arguments, module=("experiments.convergence",))


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


class InThisProcess(Executor):
    """An executor for quick tasks: to start a process takes longer than those."""

    def __init__(self, *_: object) -> None: ...

    def submit(self, task: Any, /, *_: object, **__: object) -> Future[Any]:
        future = Future[Any]()
        future.set_result(task())
        return future


def test_a_study_continues_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cells of three steps; only the one whose result is missing runs again."""
    monkeypatch.setattr(study, "ProcessPoolExecutor", InThisProcess)
    folder = tmp_path / "study"
    options = (*QUICK[:-1], folder, "--seeds", 2, "--learning-rates", 0.001, "--workers", 1, "--json", "--steps")

    def run(steps: int) -> dict[str, Any]:
        capsys.readouterr()
        main([*map(str, options), str(steps)])
        return json.loads(capsys.readouterr().out)

    first = run(3)
    assert Path(first["report"]) == folder / "report.md" and "tutorial" in (folder / "report.md").read_text()
    results = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    assert len(results) == 2
    missing = sorted(results)[0]
    missing.unlink()
    assert [cell["seed"] for cell in run(3)["runs"]] == [0, 1]
    assert {path for path, time in results.items() if path.stat().st_mtime_ns != time} == {missing}
    with pytest.raises(SystemExit) as exit:
        run(4)
    assert exit.value.code == 2


def wait_for_a_run(command: Command, process: subprocess.Popen[str], file: str = "*/run/metrics.jsonl") -> None:
    while not list((command.folder / "study").rglob(file)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_a_killed_worker(command: Command) -> None:
    process = start(command, "--steps", 5000, "--seeds", 1, "--workers", 1)
    workers = list[int]()
    while not workers:  # it need not have begun to train
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(workers[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "killed" in err and "Traceback" not in err


@pytest.mark.parametrize(("everyone", "since", "workers"), [(False, "*/run/metrics.jsonl", 1), (True, "study.json", 2)])
def test_ctrl_c_ends_a_study_and_its_workers(everyone: bool, since: str, workers: int, command: Command) -> None:
    """In a terminal the signal reaches the workers too, while they train or still start."""
    process = start(command, "--steps", 5000, "--seeds", 1, "--workers", workers)
    wait_for_a_run(command, process, since)
    time.sleep(0.5)
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):  # no process of the group is left, or not for long
        for _ in range(300):
            os.killpg(process.pid, 0)
            time.sleep(0.1)

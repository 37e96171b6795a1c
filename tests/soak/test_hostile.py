"""A few of the damaged files of `make soak`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from random import Random

import pytest

from googlenet import TrainingResult, UserError
from tests.soak.hostile import case_names, environment, soak, try_cases
from tests.soak.targets import Materials, Target, targets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")


def test_a_sample_of_every_kind_of_file(
    trained: TrainingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with environment(tmp_path / "soak"):
        found, log = targets(Materials(trained.folder, tmp_path / "soak")), tmp_path / "log.jsonl"
        capsys.readouterr()
        survived = soak(found, 100, 11, tmp_path / "soak", log)
        out = capsys.readouterr().out
        assert survived, out
        assert all(name in out for name in found)
        # A finished block is not tried again
        broken = {name: target._replace(read=lambda _: os.abort()) for name, target in found.items()}
        assert soak(broken, 100, 11, tmp_path / "soak", log)
        assert out == capsys.readouterr().out


def test_whatever_must_not_happen_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(draw: Random, folder: Path) -> Path:
        path = folder / "file"
        path.write_bytes(draw.randbytes(8))
        return path

    def refuse(path: Path) -> None:
        raise UserError(f"{path} is damaged")

    def write_elsewhere(path: Path) -> None:
        (tmp_path / "elsewhere").write_text("")

    def run_code(path: Path) -> None:
        (tmp_path / "soak" / "canary").write_text("")

    def raise_another(path: Path) -> None:
        raise KeyError("x")

    def hang(path: Path) -> None:
        time.sleep(60)

    reads = {
        "works": Path.read_bytes, "refuses": refuse, "another error": raise_another, "memory": lambda _: b"x" * 2**26,
        "writes elsewhere": write_elsewhere, "runs a command": lambda _: os.system("true"), "canary": run_code,
        "ends the process": lambda _: os.abort(), "hangs": hang,
    }  # fmt: skip
    monkeypatch.setattr("tests.soak.hostile.SECONDS", 3)
    monkeypatch.setattr("tests.soak.hostile.MEGABYTES", 32)
    with environment(tmp_path / "soak"):
        found = {name: Target(damage, read, 1) for name, read in reads.items()}
        chosen = case_names(list(found), [1] * len(found), len(found))
        outcomes = {result.target: result.outcome for result in try_cases(found, 0, chosen, tmp_path / "soak")}
    assert outcomes.pop("works") == "worked"
    assert outcomes.pop("refuses") == "refused"
    expected = {
        "another error": "KeyError", "memory": "MB of memory", "writes elsewhere": "elsewhere", "canary": "code ran",
        "runs a command": "os.system", "ends the process": "the process ended", "hangs": "in hang",
    }  # fmt: skip
    assert outcomes.keys() == expected.keys()
    for name, part in expected.items():
        assert part in outcomes[name], (name, outcomes[name])

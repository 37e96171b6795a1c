"""A few of the kills of `make soak`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.soak.kills import CASES, SMALL, differences, soak


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
def test_three_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scratch = tmp_path / "googlenet-soak"
    scratch.mkdir()
    settings = {**SMALL, "epochs": 2, "checkpoint_every": 2, "ema_decay": 0.9, "gradient_accumulation": 2}
    monkeypatch.setitem(CASES, "short", settings)
    survived = soak(3, 0, scratch, ["short"])
    out = capsys.readouterr().out
    assert survived, out
    assert "| short | 3 |" in out
    # The comparison can fail
    metrics = scratch / "killed" / "run" / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[1:]))
    assert differences(scratch / "whole-0" / "run", scratch / "killed" / "run")

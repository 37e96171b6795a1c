from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from googlenet import RunError, UserError, cli
from googlenet.training.loop import TrainingResult
from tests.conftest import Call


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such\nthing"), 2, "no such thing"),
        (RunError("the disk is full"), 1, "the disk is full"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "the memory ran out; try a smaller"),
        (KeyboardInterrupt(), 130, "stopped"),
        (FileNotFoundError(2, "No such file", "x"), 1, "x: No such file"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(
    error: BaseException, code: int, said: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    _, err = call(code=code)
    assert err.startswith(f"googlenet: {said}") and err.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        cli.main([])


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (("evaluate", "MODEL", "--output", "file/report"), "googlenet.evaluation.report.evaluate"),
        (("export", "MODEL", "--to", "onnx", "--output", "file/m.onnx"), "googlenet.inference.export._load_images"),
        (("bench", "startup", "--output", "file/bench.json"), "benchmarks.measures.measure"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    arguments: tuple[str, ...],
    work: str,
    call: Call,
    trained: TrainingResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("file").write_text("")
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("the work was begun"))
    _, err = call(*(trained.model if argument == "MODEL" else argument for argument in arguments), code=1)
    assert "cannot write file/" in err

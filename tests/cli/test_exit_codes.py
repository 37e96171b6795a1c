from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from googlenet import RunError, TrainingResult, UserError, cli
from tests.conftest import Call


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (UserError("no such\nthing"), 2, r"no such\x0athing"),
        (FileNotFoundError(2, "No such file", "\x1b[31m"), 1, r"\x1b[31m: No such file"),
        (RunError("the disk is full"), 1, "the disk is full"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), 1, "--batch-size"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file", "x"), 1, "x: No such file"),
        (OSError(28, "No space left on device"), 1, "No space left"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, name: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    _, err = call(code=code)
    assert err.startswith("googlenet: ") and name in err and err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("a bug"), TypeError("a bug")])
def test_an_error_of_ours_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(type(error)):
        cli.main([])


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (("evaluate", "MODEL", "--output", "file/report"), "googlenet.evaluation.report.evaluate"),
        (("export", "MODEL", "--to", "onnx", "--output", "file/m.onnx"), "googlenet.inference.export._load_images"),
        (
            ("train", "--find-learning-rate", "--output", "file/a.png"),
            "googlenet.training.lr_finder.find_learning_rate",
        ),
    ],
)
def test_outputs_are_checked_before_the_work(
    arguments: tuple[str, ...], work: str, call: Call, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("the work was begun"))
    _, err = call(*(trained.model if argument == "MODEL" else argument for argument in arguments), code=1)
    assert "file/" in err and err.count("\n") == 1

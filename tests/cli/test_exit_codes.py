from __future__ import annotations

from typing import Any

import pytest

from googlenet import RunError, UserError, cli


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
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    err = capsys.readouterr().err
    assert ended.value.code == code
    assert err.startswith(f"googlenet: {said}") and err.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        cli.main([])

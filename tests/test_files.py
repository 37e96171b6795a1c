from __future__ import annotations

import os
from pathlib import Path

import pytest

from googlenet import RunError, UserError
from googlenet.files import check_output, check_writable, printable


def test_a_place_that_cannot_be_written_to_is_known_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_output(tmp_path / "new" / "deep" / "a.PNG", ".png")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"end its name in \.png"):
        check_output(tmp_path / "a.svg", ".png")
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match=r"there is no folder .*taken"):
        check_output(tmp_path / "taken" / "deep" / "a.png", ".png")
    with pytest.raises(RunError, match="it is a folder"):
        check_writable(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunError, match="cannot be written to"):
        check_output(tmp_path / "a.png", ".png")


def test_a_name_is_one_line_of_text() -> None:
    assert printable("a\rb\n\x7f.png") == r"a\x0db\x0a\x7f.png"
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert printable("Grüße, 图片 1.png") == "Grüße, 图片 1.png"

from __future__ import annotations

import errno
import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from googlenet import RunError, UserError
from googlenet.errors import plural
from googlenet.files import (
    atomic_write,
    cache_dir,
    check_output,
    check_writable,
    disk_errors,
    expand,
    parse_json,
    parse_toml,
    printable,
    reserve_space,
    write_json,
    write_text,
)


def test_outputs_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output(tmp_path / "new" / "deep" / "a.PNG", ".png")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"a\.svg.*\.png"):
        check_output(tmp_path / "a.svg", ".png")
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match=r"taken/deep/a\.png"):
        check_output(tmp_path / "taken" / "deep" / "a.png", ".png")
    with pytest.raises(RunError, match=str(tmp_path)):
        check_writable(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunError, match=r"a\.png"):
        check_output(tmp_path / "a.png", ".png")


def test_a_file_name_is_one_line_of_text() -> None:
    assert printable("a\rb\n\x7f.png") == r"a\x0db\x0a\x7f.png"
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert printable("Grüße, 图片 1.png") == "Grüße, 图片 1.png"
    assert printable("a\x9b31m\u202eb\ud800") == r"a\x9b31m\u202eb\ud800"


def test_messages_are_one_printable_line() -> None:
    for kind in (UserError, RunError):
        assert str(kind("a\x1b[31mb\nc")) == r"a\x1b[31mb\x0ac"
        message = str(kind("start " + "x" * 5000 + " the way out"))
        assert len(message) <= 1000 and message.startswith("start") and message.endswith("the way out")
        assert str(kind("x" * 1000)) == "x" * 1000


def test_values_that_are_nested_too_deeply() -> None:
    assert parse_json('{"a": [1]}') == parse_toml("a = [1]") == {"a": [1]}
    for parse, text in ((parse_json, "[" * 100_000), (parse_toml, "a = " + "[" * 100_000), (parse_json, "{")):
        with pytest.raises(ValueError):
            parse(text)


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/x") == expand(Path("~/x")) == tmp_path / "x"
    assert expand("a/~/x") == Path("a/~/x")

    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert expand("~/x") == Path("~/x")


@pytest.mark.parametrize("home", [None, "", "relative", "/nonexistent"])
def test_the_cache_folder_is_absolute(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    assert cache_dir().is_absolute()
    assert "googlenet" in cache_dir().name


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "Grüße\n")
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text(encoding="utf-8") == "Grüße\n"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    write_json(path, {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]} and path.read_text().endswith("}\n")


def test_disk_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.txt"), disk_errors(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        write_text(tmp_path / "file" / "a.txt", "")


def test_a_named_cache_folder_on_any_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: "/elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "googlenet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/elsewhere")


def test_space_is_reserved_where_the_system_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("wb") as file:
        reserve_space(file.fileno(), 5000)
        assert os.fstat(file.fileno()).st_size in (0, 5000)
        for number, is_raised in ((errno.EOPNOTSUPP, False), (errno.ENOSPC, True)):

            def fail(*_: int, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)
            with pytest.raises(OSError, match="space") if is_raised else nullcontext():
                reserve_space(file.fileno(), 5000)
        monkeypatch.delattr(os, "posix_fallocate")
        reserve_space(file.fileno(), 5000)


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "class", "1 class"), (2, "class", "2 classes"), (0, "image", "0 images"), (2000, "image", "2,000 images")],
)
def test_plurals(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text

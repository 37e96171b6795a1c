from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.table import Table

from googlenet import console
from googlenet.console import clock, log, on_stderr, print_table, progress, progress_style


def test_log_lines_go_to_standard_output_unless_it_is_for_results(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("a [bold] line of %d words", 6)
    with on_stderr():
        log.info("b")
        with on_stderr():
            log.warning("c")
        log.info("d")
    log.info("e" * 300)
    out, err = capsys.readouterr()
    assert out.splitlines() == ["a [bold] line of 6 words", "e" * 300]
    assert err.splitlines()[::2] == ["b", "d"]
    assert err.splitlines()[1].startswith("googlenet: ")


def test_log_lines_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    level = log.level
    try:
        logging.getLogger("googlenet").setLevel("WARNING")
        log.info("nothing")
        with progress("decoding", 2) as bar:
            bar.line("nothing")
    finally:
        log.setLevel(level)
    assert capsys.readouterr() == ("", "")


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with progress("decoding", 4) as bar:
        bar.advance()
    assert capsys.readouterr().out == ""  # shorter than the time between two lines
    monkeypatch.setattr(console, "LINE_EVERY", 0)
    with progress("decoding", 4) as outer, progress("resizing") as inner:
        capsys.readouterr()
        outer.advance(2)
        inner.advance(1500)
    first, second = capsys.readouterr().out.splitlines()
    assert "decoding" in first and "2/4" in first and "left 0:00" in first
    assert "resizing" in second and "1,500" in second and "left" not in second


def test_only_the_first_of_several_processes_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY", 0)
    monkeypatch.setenv("RANK", "1")
    with progress("decoding", 4) as bar:
        bar.advance(2)
    log.info("a line")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    log.info("a line")
    assert capsys.readouterr().out == "a line\n"


def test_tables_are_readable_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", "value")
    table.add_row("x" * 100, "y" * 30)
    print_table(table)
    assert "x" * 100 in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({}, True, "bar"),
        ({"SSH_CONNECTION": "a b"}, True, "bar"),
        ({}, False, "lines"),
        ({"FORCE_COLOR": "1"}, False, "lines"),
        ({"CI": "true"}, True, "lines"),
        ({"CI": "false"}, True, "bar"),
        ({"TERM": "dumb"}, True, "lines"),
        ({"JPY_PARENT_PID": "1"}, True, "rewritten line"),
        ({"JPY_PARENT_PID": "1"}, False, "lines"),
        ({"RANK": "1"}, True, "lines"),
    ],
)
def test_the_kind_of_progress_depends_on_who_reads_it(
    environment: dict[str, str], is_terminal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "SSH_CONNECTION", "JPY_PARENT_PID", "FORCE_COLOR", "RANK", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert progress_style() == expected
    with progress("decoding", 4) as bar:
        bar.advance(2)
        log.info("a line")
    shown = stream.getvalue()
    assert ("\x1b[" in shown) == (expected == "bar")
    assert ("a line" in shown) == ("RANK" not in environment)


def test_a_notebooks_line_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream := Terminal())
    monkeypatch.setattr(console, "_REWRITE_EVERY", 0)
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    with progress("decoding", 4) as bar:
        bar.advance(2)
        log.info("a line")
        bar.advance(1)
        bar.line("a line for logs")
    line = ""  # of a screen on which a carriage return goes back to the first column
    for text in stream.getvalue().split("\n")[-1].split("\r"):
        line = text + line[len(text) :]
    assert not line.strip()
    assert [text.split("\r")[-1] for text in stream.getvalue().split("\n")][:-1] == ["a line"]
    assert "decoding  3/4" in stream.getvalue() and "for logs" not in stream.getvalue()


def test_lines_on_a_console_that_cannot_encode_them(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="cp1252"))
    log.info("3×3, 95% ± 1, 靴子")
    sys.stdout.flush()
    assert content.getvalue().decode("cp1252").splitlines() == [r"3×3, 95% ± 1, \u9774\u5b50"]

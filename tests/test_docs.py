"""What the documentation says is true: links resolve, commands and options exist, pages are in the site."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App, CycloptsError, MissingArgumentError

import googlenet
from googlenet.cli import app
from tests.pages import DOCS, PAGES, ROOT, blocks_of, name_of, prose_of, text_of

EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=name_of)
TRANSLATIONS = [page for page in PAGES if page.name.endswith(".zh-CN.md")]
OTHER_PROGRAMS = {
    "--array",
    "--extra-index-url",
    "--gpus",
    "--help",
    "--local-addr",
    "--max-restarts",
    "--nnodes",
    "--rdzv-conf",
    "--rdzv-id",
    "--recovery-interval",
    "--shm-size",
    "--user",
    "--version",
}  # of all commands, and of Slurm, Docker, pip, torchrun and timm
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _code(page: Path, language: str) -> list[str]:
    """The blocks of a page in that language; "" are shell commands."""
    return [block.text for block in blocks_of(page) if block.language == language]


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@EVERY_PAGE
def test_python_blocks_compile(page: Path) -> None:
    for number, block in enumerate(_code(page, "python")):
        compile(block, f"{page.name}, block {number}", "exec")


def _commands(page: Path, program: str) -> list[str]:
    """The lines of shell blocks, and the code within text, that call this program."""
    lines = [line for block in _code(page, "") for line in block.splitlines()]
    if page.name != "CHANGELOG.md":  # which names commands that are gone
        lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose_of(page))]
    return [line for line in lines if line.startswith(f"{program} ")]


@EVERY_PAGE
def test_commands_parse(page: Path) -> None:
    started = [line for program in ("torchrun", "docker run") for line in _commands(page, program)]
    inside = [line[line.rindex(" googlenet ") + 1 :] for line in started if " googlenet " in line]
    for line in (*_commands(page, "googlenet"), *inside):
        words = shlex.split(line, comments=True)[1:]
        if "<" in words:  # a redirection is the shell's
            words = words[: words.index("<")]
        _parse(tuple(words))


@cache
def _parse(words: tuple[str, ...]) -> None:
    try:
        app.parse_args(list(words), exit_on_error=False, print_error=False)
    except MissingArgumentError:
        assert len(words) == 1, words  # a command mentioned by its name alone
    except CycloptsError as error:
        pytest.fail(f"googlenet {shlex.join(words)}: {error}")


def _options(command: App) -> set[str]:
    """The options of a command and of its subcommands."""
    own = {} if command.default_command is None else command.assemble_argument_collection()
    found = {name for argument in own for name in argument.names}
    for name in command:
        if not name.startswith("-"):
            found |= _options(command[name])
    return found


OPTIONS = _options(app)


@pytest.mark.parametrize("page", [*ROOT.glob("README*.md"), *DOCS], ids=name_of)
def test_options_exist(page: Path) -> None:
    mentioned = set(re.findall(r"`(--[a-z0-9-]+)", prose_of(page))) - OTHER_PROGRAMS
    assert mentioned <= OPTIONS, mentioned - OPTIONS


@EVERY_PAGE
def test_make_targets_exist(page: Path) -> None:
    from benchmarks.__main__ import parse_arguments as bench
    from experiments.comparison.__main__ import parse_arguments as compare
    from experiments.convergence.__main__ import parse_arguments as study

    parsers = {"bench": bench, "compare": compare, "study": study}
    for line in _commands(page, "make"):
        _, target, *rest = shlex.split(line, comments=True)
        assert target in TARGETS, line
        if target in parsers:
            parsers[target](shlex.split(rest[0].removeprefix("ARGS=")) if rest else [])


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", TRANSLATIONS, ids=name_of)
def test_translations_show_the_same_code(page: Path) -> None:
    def without_comments(page: Path) -> list[str]:
        text = "".join(block.text for block in blocks_of(page))
        return [line for line in (line.partition("#")[0].rstrip() for line in text.splitlines()) if line]

    original = page.with_name(page.name.replace(".zh-CN", ""))
    shown = without_comments(page)
    if page.name == "convergence.zh-CN.md":  # shorter than the original
        assert set(shown) <= set(without_comments(original))
    else:
        assert shown == without_comments(original)


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_every_block_is_checked_or_says_why_not(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for block in blocks_of(page):
        if block.reason or block.language in ("python", "console"):  # these run
            continue
        assert block.language == "", f"a block of {block.language!r} needs <!-- not executed: REASON -->"
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            assert not words or words[0] in ("googlenet", "make", "pip"), f"{line}: <!-- not executed: REASON -->"
            for names in re.findall(r"\.\[(.*)\]", line):
                assert set(names.split(",")) <= set(extras), line


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2].partition("\nmarkdown_")[0]
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", navigation, re.MULTILINE)
    assert len(listed) == len(set(listed))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in DOCS}
    assert {name for name in listed if not name.startswith("project/")} == pages


def test_ten_questions_are_answered_by_a_page_each() -> None:
    questions = re.split(r"^\d+\. ", text_of(ROOT / "docs" / "questions.md"), flags=re.MULTILINE)[1:]
    assert len(questions) == 10
    for question in questions:
        assert re.search(r"\]\([a-z-]+\.md", question), question  # `test_links_resolve` follows it


@pytest.mark.usefixtures("small_data")
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (block,) = _code(ROOT / "README.md", "python")
    monkeypatch.setattr(googlenet, "train", partial(googlenet.train, max_steps=2, plots=False))
    ablate = googlenet.ablate
    monkeypatch.setattr(googlenet, "ablate", lambda net, *, max_images: ablate(net, max_images=max_images // 50))
    scope: dict[str, Any] = {}
    exec(block, scope)
    assert {name for name in scope if not name.startswith("_")} >= {"net", "result", "why", "exported"}
    for file in ("boot.png", "runs/first/model.safetensors", "model.onnx"):
        assert (tmp_path / file).exists(), file
    program = [sys.executable, ROOT / "examples" / "predict.py", "model.onnx", "boot.png"]
    lines = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    assert tuple(line.rpartition(" ")[0] for line in lines) == scope["prediction"].classes


def test_the_readme_shows_the_public_functions() -> None:
    (block,) = _code(ROOT / "README.md", "python")
    shown = set(re.findall(r"googlenet\.(\w+)\(", block))
    assert shown >= {
        "Inception",
        "Predictor",
        "create_model",
        "load_data",
        "load_dataset",
        "summarize",
        "train",
        "load",
    }
    assert shown >= {"evaluate", "ablate", "explain", "export"}

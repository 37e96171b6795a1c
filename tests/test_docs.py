"""What the documentation shows is true: links resolve, commands parse, Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App, CycloptsError, MissingArgumentError

import googlenet
from googlenet.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
READMES = pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
GUIDES = ["own-images", "runs", "tutorial", "variants", "decisions"]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _code(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in that language; "" are shell commands."""
    return re.findall(rf"^```{language}\n(.*?)^```", _text(page), re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _text(page)):
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
        prose = re.sub(r"^```.*?^```", "", _text(page), flags=re.DOTALL | re.MULTILINE)
        lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [line for line in lines if line.startswith(f"{program} ")]


@EVERY_PAGE
def test_commands_parse(page: Path) -> None:
    for line in _commands(page, "googlenet"):
        words = shlex.split(line, comments=True)[1:]
        if "<" in words:  # a redirection is the shell's
            words = words[: words.index("<")]
        try:
            app.parse_args(words, exit_on_error=False, print_error=False)
        except MissingArgumentError:
            assert len(words) == 1, line  # a command mentioned by its name alone
        except CycloptsError as error:
            pytest.fail(f"{line}: {error}")


def _options(command: App) -> set[str]:
    """The options of a command and of its subcommands."""
    own = {} if command.default_command is None else command.assemble_argument_collection()
    found = {name for argument in own for name in argument.names}
    for name in command:
        if not name.startswith("-"):
            found |= _options(command[name])
    return found


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", *(f"docs/{page}.md" for page in GUIDES)])
def test_options_exist(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", _text(ROOT / name), flags=re.DOTALL | re.MULTILINE)
    mentioned = set(re.findall(r"`(--[a-z0-9-]+)", text)) - {"--help"}
    assert mentioned <= _options(app), mentioned - _options(app)


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
    assert len(_text(ROOT / "README.md").splitlines()) <= 150


def test_both_readmes_show_the_same_code() -> None:
    def without_comments(name: str) -> list[str]:
        lines = [
            line.partition("#")[0].rstrip()
            for block in _code(ROOT / name, "(?:python)?")
            for line in block.splitlines()
        ]
        return [line for line in lines if line]

    assert without_comments("README.md") == without_comments("README.zh-CN.md")


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


@pytest.mark.usefixtures("small_data")
def test_the_tutorial_runs() -> None:
    scope: dict[str, object] = {}
    for block in _code(ROOT / "docs" / "tutorial.md", "python"):
        exec(block.replace("num_workers=4", "num_workers=0"), scope)


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

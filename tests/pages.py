"""The pages of the documentation and their blocks of code, for tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = sorted((*ROOT.glob("*.md"), *DOCS, *ROOT.glob("benchmarks/**/*.md")))


class Block(NamedTuple):
    """A fenced block. `language` is empty for shell commands; `reason` says why it is not executed, or is empty."""

    language: str
    text: str
    reason: str


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path) -> list[Block]:
    found = re.findall(
        r"^(?:<!-- not executed: ([^\n]*) -->\n)?```([^\n]*)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE
    )
    return [Block(language, text, reason) for reason, language, text in found]


def prose_of(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()

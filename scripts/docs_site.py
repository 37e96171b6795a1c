"""Hooks of mkdocs: pages from outside of docs/, links to source files, the Python reference, the language of a page."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import googlenet

ROOT = Path(__file__).parents[1]
INCLUDED = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "examples/README.md": "project/examples.md",
    "benchmarks/results/TABLES.md": "project/benchmarks.md",
    "benchmarks/results/REORGANIZATION.md": "project/reorganization.md",
}
"""Pages of the site that are elsewhere in the repository, where people look for them."""
_ORIGINS = {page: origin for origin, page in INCLUDED.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for origin, page in INCLUDED.items():
        files.append(File.generated(config, page, content=(ROOT / origin).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    name = page.file.src_uri
    if name == "reference/python.md":
        return markdown + python_reference()
    if ".zh-CN." in name:  # a line break would become a space, which Chinese has not
        markdown = re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])", "", markdown)
    return with_links_of_site(markdown, name, config.repo_url)


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, **_: Any) -> dict[str, Any]:
    """The theme's own words (search, contents, next page) in the language of the page."""
    config.theme["language"] = "zh" if ".zh-CN." in page.file.src_uri else "en"
    return context


def on_post_build(config: MkDocsConfig) -> None:
    """Chinese text has no spaces: every character becomes a word of the search index, as the theme's search expects."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    for document in content["docs"]:
        for name in ("title", "text"):
            document[name] = re.sub(r"(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])", "\u200b", document[name])
    index.write_text(json.dumps(content), encoding="utf-8")


def python_reference() -> str:
    """A directive of mkdocstrings for every public name, by package."""
    lines, package = [], ""
    for module, names in vars(googlenet)["_MODULES"].items():
        if (first := module.partition(".")[0]) != package:
            package = first
            lines.append(f"\n## {package}\n")
        lines += [f"::: googlenet.{module}.{name}\n" for name in names]
    return "\n".join(lines)


def with_links_of_site(markdown: str, page: str, repository: str | None) -> str:
    """Links between files of the repository as links between pages of the site.

    A file that is not a page is linked in the repository, or without its address, named by its path.
    """
    folder = posixpath.dirname(_ORIGINS.get(page, f"docs/{page}"))

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        uri = INCLUDED.get(path, "index.md" if path == "README.md" else path.removeprefix("docs/"))
        if uri != path or path.startswith("docs/"):
            return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(page) or '.')}{anchor})"
        if repository:
            return f"[{text}]({repository.rstrip('/')}/blob/main/{path}{anchor})"
        return f"`{path}`" if text.strip("`") == posixpath.basename(path) else f"{text} (`{path}`)"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(
        part
        if part.startswith("```")
        else re.sub(r"\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)", lambda m: replaced(m), part)
        for part in parts
    )

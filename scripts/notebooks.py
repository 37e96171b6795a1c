"""Runs the notebooks in examples/ and saves them with their outputs.   usage: notebooks.py [--links] [FILE ...]

They run in an empty folder. With --links nothing runs, and only the badge and the address to install from are written:
`Repository` under [project.urls] in pyproject.toml. Without it, the badge is missing and pip installs by name.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IN_COLAB = "/content"  # the folder where Colab runs a notebook, in place of ours in the outputs


def main(words: list[str] | None = None) -> None:
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted((ROOT / "examples").glob("*.ipynb")))
    parser.add_argument("--links", action="store_true", help="write the links only")
    arguments = parser.parse_args(words)
    for file in arguments.files:
        notebook = nbformat.read(file, as_version=4)
        write_links(notebook["cells"], file.resolve().relative_to(ROOT).as_posix(), repository())
        if not arguments.links:
            print(f"running {file}")
            execute(notebook)
        nbformat.write(notebook, file)


def repository() -> str | None:
    """The address of the repository in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def write_links(cells: list[Any], path: str, address: str | None) -> None:
    """The source of the cells tagged `badge` and `install`, for a notebook at this path of a repository on GitHub."""
    badge = "<!-- Colab's badge, as soon as pyproject.toml has the address of the repository -->"
    extra = "[export]" if any("googlenet.export(" in cell["source"] for cell in cells) else ""
    package = f"googlenet{extra}"
    if address is not None:
        where = address.removesuffix("/").removesuffix(".git")
        colab = f"{where.replace('//github.com', '//colab.research.google.com/github')}/blob/main/{path}"
        badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
        package += f" @ git+{where}"
    install = f"""\
# Installs the package if it is missing, as in Colab
from importlib.util import find_spec

if find_spec("googlenet") is None:
    %pip install -q "{package}\""""
    for cell in cells:
        tags = cell["metadata"].get("tags", ())
        cell["source"] = badge if "badge" in tags else install if "install" in tags else cell["source"]


def execute(notebook: Any) -> None:
    """Run all cells. Outputs name no folder of this machine, and have only the last state of a progress line."""
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, kernel_name="python3", timeout=3600, coalesce_streams=True, record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()  # fmt: skip
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", ())):
        if output["output_type"] == "stream":
            output["text"] = output["text"].replace(str(Path(folder).resolve()), IN_COLAB)
    notebook["metadata"].pop("language_info", None)  # the version of Python that ran it


if __name__ == "__main__":
    main()

"""The notebooks in examples/: their cells run, and what is committed was run."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

from tests.pages import ROOT, name_of

matplotlib.use("agg")
notebooks: Any = import_module("scripts.notebooks")
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
EVERY_NOTEBOOK = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
TINY = {
    "tutorial.ipynb": "IMAGE_SIZE, BATCH_SIZE, STEPS, TEST_IMAGES = 32, 8, 2, 8",
    "own_images.ipynb": "SETTINGS = dict(image_size=16, batch_size=8, max_steps=2, max_test_images=20, plots=False)",
}
SKIPPED = {
    "install": "installs packages",
    "plots": "drawing takes longest; tests/evaluation",
    "export": "takes half a minute; the README has the same lines, which tests/test_docs.py runs",
}


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def tags_of(cell: dict[str, Any]) -> set[str]:
    return set(cell["metadata"].get("tags", ()))


@EVERY_NOTEBOOK
def test_the_cells_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for number, cell in enumerate(cells_of(notebook)):
        if cell["cell_type"] == "code" and not tags_of(cell) & set(SKIPPED):
            exec(compile(cell["source"], f"{notebook.name}, cell {number}", "exec"), scope)
            if "parameters" in tags_of(cell):
                exec(TINY[notebook.name], scope)
    pyplot.close("all")
    assert list(tmp_path.glob("runs/*/model.safetensors"))


@EVERY_NOTEBOOK
def test_the_outputs_are_committed(notebook: Path) -> None:
    assert notebook.stat().st_size < 400_000
    code = [cell for cell in cells_of(notebook) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # from top to bottom, in one go
    outputs = [output for cell in code for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 3
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    texts = [json.dumps({**output.get("data", {}), "image/png": "", "": output.get("text")}) for output in outputs]
    assert not [text for text in texts if re.search(r"/(home|root|tmp|Users|work)/|\\r", text)]


@EVERY_NOTEBOOK
def test_the_links_are_those_of_the_project(notebook: Path) -> None:
    cells = cells_of(notebook)
    before = [cell["source"] for cell in cells]
    notebooks.write_links(cells, name_of(notebook), notebooks.repository())
    assert [cell["source"] for cell in cells] == before


def test_the_links_lead_to_the_repository() -> None:
    cells = [{"source": "", "metadata": {"tags": [tag]}} for tag in ("badge", "install")]
    notebooks.write_links(cells, "examples/tutorial.ipynb", "https://github.com/someone/googlenet.git")
    badge, install = (cell["source"] for cell in cells)
    assert "(https://colab.research.google.com/github/someone/googlenet/blob/main/examples/tutorial.ipynb)" in badge
    assert '"googlenet @ git+https://github.com/someone/googlenet"' in install
    cells.append({"source": 'googlenet.export("runs/x", "onnx")', "metadata": {}})
    notebooks.write_links(cells, "examples/own_images.ipynb", None)
    assert "http" not in cells[0]["source"] and '"googlenet[export]"' in cells[1]["source"]

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import googlenet

ROOT = Path(__file__).parents[2]
SCRIPTS = [*ROOT.glob("experiments/**/*.py"), *ROOT.glob("benchmarks/*.py")]
# A checkout of before the rebuild has no `googlenet.Recipe`; what is counted are the rows of the tables
ALLOWED = {
    "before_after.py": {"googlenet.recipe"},
    "shards.py": {"googlenet.data.pack"},
    "counts.py": {"googlenet.model.architecture", "googlenet.model.tables"},
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(ROOT)))
def test_scripts_use_public_names_only(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = {name.name for name in node.names if name.name.startswith("googlenet.")}
            assert modules == set(), script
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "googlenet":
            if node.module != "googlenet":
                assert node.module in ALLOWED.get(script.name, set())
            else:
                assert {name.name for name in node.names} <= set(googlenet.__all__)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "googlenet":
            assert node.attr in {*googlenet.__all__, "__file__"}

"""Writes benchmarks/results/TABLES.md from benchmarks/results/*.json, which `python -m benchmarks --output` wrote.

usage: python -m benchmarks.report
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.measuring import Table

RESULTS = Path(__file__).parent / "results"
INTRODUCTION = """# Measured

Written by `python -m benchmarks.report` from the JSON files in this folder. All methods of a table take turns in one
process; figures are medians. Ratios carry over to other machines, absolute figures do not.
"""


def render(results: Path = RESULTS) -> str:
    """All tables in the folder as one Markdown page, a section for each file that `python -m benchmarks` wrote."""
    sections = []
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "measures" in content:
            sections.append(f"## {path.name}\n\n{_section(content)}")
    return "\n".join([INTRODUCTION, *sections])


def _section(content: dict[str, Any]) -> str:
    tables = [Table(**table).to_markdown() for measure in content["measures"].values() for table in measure]
    machine = content["machine"]
    peaks = {name: value / 1e9 for name, value in content["peaks"].items()}
    versions = machine["packages"]
    description = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['device_name']}, PyTorch {versions['torch']}; "
        f"peaks: {peaks['bf16']:,.0f} GFLOP/s in bf16, {peaks['fp32']:,.0f} in fp32, "
        f"{peaks['copy']:.0f} GB/s read and written in a copy.\n"
    )
    return "\n".join([description, *tables])


if __name__ == "__main__":
    (RESULTS / "TABLES.md").write_text(render(), encoding="utf-8")

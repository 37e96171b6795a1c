"""Writes the tables of docs/performance.md out of benchmarks/results/*.json, which `googlenet bench` wrote.

Each file NAME.json goes between the lines `<!-- NAME -->` and `<!-- end -->`; the text around stays.

usage: python benchmarks/report.py
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.tables import Table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"


def section(result: Path) -> str:
    """The tables of one result, and the machine that they were measured on."""
    found = json.loads(result.read_text(encoding="utf-8"))
    tables = [Table(**table).to_markdown() for measure in found["measures"].values() for table in measure]
    machine, peaks = found["machine"], {name: value / 1e9 for name, value in found["peaks"].items()}
    described = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['device_name']}, "
        f"PyTorch {machine['packages']['torch']}: {peaks['bf16']:,.0f} GFLOP/s at the most in bf16, "
        f"{peaks['fp32']:,.0f} in fp32, {peaks['copy']:.0f} GB/s read and written in a copy.\n"
    )
    return "\n".join([described, *tables])


def filled(page: str) -> str:
    """The page with every section that has a result written anew."""
    for result in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        begin, end = f"<!-- {result.stem} -->\n", "<!-- end -->"
        if begin in page:
            before, _, rest = page.partition(begin)
            page = f"{before}{begin}\n{section(result)}\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

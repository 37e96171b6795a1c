"""What the measurements found, as a table in the terminal, as JSON, and as Markdown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich import table as rich_table


@dataclass(frozen=True)
class Table:
    """One comparison. Every row has the same columns, whose names carry the units."""

    title: str
    rows: list[dict[str, Any]]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_rich(self) -> rich_table.Table:
        drawn = rich_table.Table(title=self.title, title_justify="left", caption=self.note, caption_justify="left")
        for column, value in self.rows[0].items():
            drawn.add_column(column, justify="left" if isinstance(value, str) else "right")
        for row in self.rows:
            drawn.add_row(*map(in_words, row.values()))
        return drawn

    def to_markdown(self) -> str:
        columns = list(self.rows[0])
        lines = [f"**{self.title}**", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(map(in_words, row.values()))} |" for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])


def in_words(value: Any) -> str:
    """A figure with as many digits as a reader has use for."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 20 else 2
    return f"{value:,.{digits}f}"

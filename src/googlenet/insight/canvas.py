"""Just enough SVG for a diagram: boxes, words, lines. Lengths are in pixels, y grows downwards."""

from __future__ import annotations

from itertools import pairwise
from xml.sax.saxutils import escape

INK, MUTED, LINE = "#1f2933", "#5f6c7b", "#8a97a6"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


class Canvas:
    """Collects what is drawn, later things over earlier ones."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, *, radius: float = 5, edge: str = "none"
    ) -> None:
        """A rectangle with round corners; (x, y) is the upper left one."""
        self._elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
            f'stroke="{edge}"/>'
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 13,
        colour: str = INK,
        bold: bool = False,
        anchor: str = "middle",
        upwards: bool = False,
    ) -> None:
        """One line whose middle height is at y; `anchor` says whether x is its start, middle or end."""
        turned = f' transform="rotate(-90 {x:g} {y:g})"' if upwards else ""
        weight = ' font-weight="600"' if bold else ""
        # The baseline is set by hand, since not every viewer knows dominant-baseline
        self._elements.append(
            f'<text x="{x:g}" y="{y + 0.35 * size:g}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"'
            f"{weight}{turned}>{escape(text)}</text>"
        )

    def line(self, *points: tuple[float, float], arrow: bool = False, radius: float = 8) -> None:
        """From point to point along straight lines, with round corners."""
        (x, y), *rest = points
        path = [f"M{x:g} {y:g}"]
        for (x1, y1), (x2, y2) in pairwise(rest):
            before, after = _towards((x1, y1), (x, y), radius), _towards((x1, y1), (x2, y2), radius)
            path.append(f"L{before[0]:g} {before[1]:g}Q{x1:g} {y1:g} {after[0]:g} {after[1]:g}")
            x, y = x1, y1
        path.append(f"L{rest[-1][0]:g} {rest[-1][1]:g}")
        self._stroke("".join(path), arrow)

    def curve(self, start: tuple[float, float], end: tuple[float, float], *, arrow: bool = False) -> None:
        """From one point to another lower down, leaving and arriving upright."""
        (x1, y1), (x2, y2) = start, end
        middle = (y1 + y2) / 2
        self._stroke(f"M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}", arrow)

    def to_svg(self, width: float, height: float, title: str) -> str:
        """The whole picture on a white ground."""
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
                f'height="{height:g}" role="img" font-family="{_FONT}">',
                f"<title>{escape(title)}</title>",
                '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path d="M0 0.5L8 4L0 7.5z" fill="{LINE}"/></marker></defs>',
                f'<rect width="{width:g}" height="{height:g}" rx="10" fill="white"/>',
                *self._elements,
                "</svg>\n",
            )
        )

    def _stroke(self, path: str, arrow: bool) -> None:
        head = ' marker-end="url(#arrow)"' if arrow else ""
        self._elements.append(f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.4"{head}/>')


def _towards(corner: tuple[float, float], point: tuple[float, float], distance: float) -> tuple[float, float]:
    """The point so far from a corner on the way to another point, or half of the way where that is short."""
    dx, dy = point[0] - corner[0], point[1] - corner[1]
    share = min(distance / max((dx * dx + dy * dy) ** 0.5, 1e-9), 0.5)
    return corner[0] + share * dx, corner[1] + share * dy

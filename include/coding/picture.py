"""Shares as a picture: panels of horizontal bars in one SVG file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT = 1000, 440, 170
ROW, BAR, HEAD, GAP = 24, 16, 34, 22
_BARS = WIDTH - LEFT - RIGHT


@dataclass(frozen=True)
class Panel:
    """Bars under a title.

    :param rows: label of 60 characters at most, length of the bar (0..1), and what is written after it
    :param color: of the bars
    """

    title: str
    rows: Sequence[tuple[str, float, str]]
    color: str = "#6f9bc8"

    @property
    def height(self) -> int:
        return HEAD + ROW * max(1, len(self.rows)) + GAP


def draw(title: str, panels: Sequence[Panel]) -> str:
    """Return the panels, one below the other, as SVG."""
    drawn, top = [], HEAD + GAP
    for panel in panels:
        drawn.append(_draw_panel(panel, top))
        top += panel.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
        f' font-family="Helvetica, Arial, sans-serif" font-size="13" role="img" aria-label="{escape(title)}">\n'
        f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>\n'
        f'<text x="20" y="{HEAD}" font-size="17" fill="#123">{escape(title)}</text>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _draw_panel(panel: Panel, top: int) -> str:
    lines = [f'<text x="20" y="{top + 14}" font-weight="bold" fill="#345">{escape(panel.title)}</text>']
    for number, (label, length, note) in enumerate(panel.rows):
        y = top + HEAD + ROW * number
        width, base = _BARS * length, y + BAR - 4
        lines += [
            f'<text x="{LEFT - 10}" y="{base}" text-anchor="end" fill="#123">{escape(label)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{_BARS}" height="{BAR}" fill="#eef2f6"/>',
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{panel.color}"/>',
            f'<text x="{LEFT + _BARS + 10}" y="{base}" fill="#567">{escape(note)}</text>',
        ]
    if not panel.rows:
        lines.append(f'<text x="{LEFT}" y="{top + HEAD + BAR - 4}" fill="#567">None.</text>')
    return "\n".join(lines)

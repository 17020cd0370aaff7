"""A picture of shares: panels of horizontal bars in one SVG file without external resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH_PX, LABEL_WIDTH_PX, NOTE_WIDTH_PX = 1000, 440, 170
ROW_HEIGHT_PX, BAR_HEIGHT_PX, TITLE_HEIGHT_PX, GAP_PX = 24, 16, 34, 22
_MAX_BAR_PX, _BASELINE_PX = WIDTH_PX - LABEL_WIDTH_PX - NOTE_WIDTH_PX, BAR_HEIGHT_PX - 4


@dataclass(frozen=True)
class Panel:
    """Bars under a title.

    :param rows: label (at most 60 characters), share (0 to 1, the length of the bar), and note after the bar
    :param color: color of the bars
    """

    title: str
    rows: Sequence[tuple[str, float, str]]
    color: str = "#6f9bc8"

    @property
    def height(self) -> int:
        return TITLE_HEIGHT_PX + ROW_HEIGHT_PX * max(1, len(self.rows)) + GAP_PX


def render_svg(title: str, panels: Sequence[Panel]) -> str:
    """Return an SVG with the panels one below the other."""
    elements, top = [], TITLE_HEIGHT_PX + GAP_PX
    for panel in panels:
        elements.append(_render_panel(panel, top))
        top += panel.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {top}" width="{WIDTH_PX}" height="{top}"'
        f' font-family="Helvetica, Arial, sans-serif" font-size="13" role="img" aria-label="{escape(title)}">\n'
        f'<rect width="{WIDTH_PX}" height="{top}" fill="#fff"/>\n'
        f'<text x="20" y="{TITLE_HEIGHT_PX}" font-size="17" fill="#123">{escape(title)}</text>\n'
        + "\n".join(elements)
        + "\n</svg>\n"
    )


def _render_panel(panel: Panel, top: int) -> str:
    lines = [f'<text x="20" y="{top + 14}" font-weight="bold" fill="#345">{escape(panel.title)}</text>']
    for number, (label, share, note) in enumerate(panel.rows):
        y = top + TITLE_HEIGHT_PX + ROW_HEIGHT_PX * number
        width, base = _MAX_BAR_PX * share, y + _BASELINE_PX
        lines += [
            f'<text x="{LABEL_WIDTH_PX - 10}" y="{base}" text-anchor="end" fill="#123">{escape(label)}</text>',
            f'<rect x="{LABEL_WIDTH_PX}" y="{y}" width="{_MAX_BAR_PX}" height="{BAR_HEIGHT_PX}" fill="#eef2f6"/>',
            f'<rect x="{LABEL_WIDTH_PX}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT_PX}" fill="{panel.color}"/>',
            f'<text x="{LABEL_WIDTH_PX + _MAX_BAR_PX + 10}" y="{base}" fill="#567">{escape(note)}</text>',
        ]
    if not panel.rows:
        lines += [f'<text x="{LABEL_WIDTH_PX}" y="{top + TITLE_HEIGHT_PX + _BASELINE_PX}" fill="#567">None.</text>']
    return "\n".join(lines)

"""A picture of shares: panels of horizontal bars in one SVG without external resources, for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

WIDTH_PX, LABEL_WIDTH_PX, NOTE_WIDTH_PX = 1000, 440, 170
ROW_HEIGHT_PX, BAR_HEIGHT_PX, TITLE_HEIGHT_PX, GAP_PX = 24, 16, 34, 22
MAX_BAR_PX = WIDTH_PX - LABEL_WIDTH_PX - NOTE_WIDTH_PX
#: Maximum number of characters of a label and of a note, which have little room, and of what a screen reader reads.
MAX_LABEL_CHARACTERS, MAX_NOTE_CHARACTERS, MAX_DESCRIPTION_CHARACTERS = 60, 24, 4000


@dataclass(frozen=True)
class Panel:
    """Bars under a title.

    :param rows: label, share (0 to 1, the length of the bar), and note after the bar
    :param color: color of the bars
    """

    title: str
    rows: Sequence[tuple[str, float, str]]
    color: str = "#5f93c6"

    @property
    def height(self) -> int:
        return TITLE_HEIGHT_PX + ROW_HEIGHT_PX * max(1, len(self.rows)) + GAP_PX

    @property
    def description(self) -> str:
        """The bars in words."""
        return f"{self.title}: {'; '.join(f'{label}: {note}' for label, _, note in self.rows) or 'none'}."


def render_svg(title: str, panels: Sequence[Panel]) -> str:
    """Return an SVG with the panels one below the other, as a file of its own or for an HTML page."""
    tops = [TITLE_HEIGHT_PX + GAP_PX]
    for panel in panels:
        tops.append(tops[-1] + panel.height)
    layout = {
        "width": WIDTH_PX, "label_width": LABEL_WIDTH_PX, "max_bar": MAX_BAR_PX, "row_height": ROW_HEIGHT_PX,
        "bar_height": BAR_HEIGHT_PX, "title_height": TITLE_HEIGHT_PX, "height": tops[-1],
    }  # fmt: skip
    template = _TEMPLATES.get_template("picture.svg.j2")
    return template.render(title=title, panels=list(zip(panels, tops, strict=False)), **layout)


def _shorten(text: str, max_characters: int) -> str:
    """Return a text on one line with at most so many characters, none of which XML forbids."""
    words = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return words if len(words) <= max_characters else words[: max_characters - 1] + "…"


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_TEMPLATES.filters["label"] = lambda text: _shorten(text, MAX_LABEL_CHARACTERS)
_TEMPLATES.filters["note"] = lambda text: _shorten(text, MAX_NOTE_CHARACTERS)
_TEMPLATES.filters["description"] = lambda text: _shorten(text, MAX_DESCRIPTION_CHARACTERS)

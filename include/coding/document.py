"""A report as a document: its sentences and tables, for people as HTML and Markdown, and for machines as JSON.

All three show the same values, because they are rendered from one :class:`Document`. Everything in it is shown as
text, whatever it contains: the templates escape it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.coding.markdown import escape_cell
from include.coding.picture import Panel, render_svg
from include.coding.staging import QUOTES_PEOPLE, REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN, Staging

MAX_CELL_CHARACTERS = 100
#: Version of the JSON of a report, which changes if the meaning of one of its members changes.
JSON_VERSION = 1
#: What is set apart in a sentence: a name between backticks, and words between two pairs of asterisks.
_INLINE = re.compile(r"`([^`]*)`|\*\*(.+?)\*\*")

log = logging.getLogger(__name__)

Cell = str | int | float | date | None


@dataclass(frozen=True)
class Table:
    """A table of a report.

    :param columns: names of its columns; the values of those that end in `share` are shares, 0 to 1
    :param text_columns: columns with texts of people, which are never logged
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    text_columns: tuple[str, ...] = ()

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, text_columns: tuple[str, ...] = ()) -> Table:
        """Return the table of a frame, whose missing values are None."""
        values = frame.astype(object).where(frame.notna(), None)
        return cls(
            tuple(map(str, frame.columns)), [tuple(row) for row in values.itertuples(index=False)], text_columns
        )

    @property
    def headings(self) -> list[str]:
        """The names of the columns for people."""
        return [column.replace("_", " ") for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The values of each row for people."""
        return [
            [_format(value, column) for value, column in zip(row, self.columns, strict=True)] for row in self.rows
        ]

    @property
    def are_numbers(self) -> list[bool]:
        """For each column, whether its values are numbers."""
        return [
            bool(self.rows) and all(value is None or isinstance(value, int | float) for value in values)
            for values in (zip(*self.rows, strict=True) if self.rows else ((),) * len(self.columns))
        ]

    def without_texts(self) -> Table:
        """Return the table without the texts of people."""
        numbers = [number for number, column in enumerate(self.columns) if column not in self.text_columns]
        return Table(
            tuple(self.columns[number] for number in numbers),
            [tuple(row[number] for number in numbers) for row in self.rows],
        )


@dataclass(frozen=True)
class Section:
    """A table under a title, perhaps with a sentence.

    :param bar_column: the column whose numbers have bars beside them on the page; empty for none
    """

    title: str
    table: Table
    note: str = ""
    bar_column: str = ""

    @property
    def anchor(self) -> str:
        """Name of the section in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def bars(self) -> list[float]:
        """The length of the bar of each row, 0 to 1: a share as it is, another number as a part of the largest."""
        if not self.bar_column:
            return []
        cells = [row[self.table.columns.index(self.bar_column)] for row in self.table.rows]
        values = [cell if isinstance(cell, int | float) else 0 for cell in cells]
        longest = 1.0 if self.bar_column.endswith("share") else max(values, default=0)
        return [round(value / longest, 4) if longest else 0.0 for value in values]


@dataclass(frozen=True)
class Document:
    """A report.

    :param subject: what it is about, in a sentence or a few
    :param facts: its most important numbers by name
    :param warnings: sentences that a person must not miss, without the full stop
    :param notes: other sentences
    :param panels: the picture of the whole report; none without one
    :param picture_uri: the file with that picture beside the report
    """

    title: str
    subject: str
    facts: Mapping[str, Cell] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    sections: Sequence[Section] = ()
    panels: Sequence[Panel] = ()
    picture_title: str = ""
    picture_uri: str = ""

    @property
    def quotes_people(self) -> bool:
        """Whether texts of people are in it."""
        return any(section.table.rows and section.table.text_columns for section in self.sections)

    @property
    def tiles(self) -> list[tuple[str, str]]:
        """The facts for people."""
        return [(name.replace("_", " "), _format(value, name)) for name, value in self.facts.items()]

    @property
    def svg(self) -> str | None:
        """The picture of the whole report; None without one."""
        return render_svg(self.picture_title, self.panels) if self.panels else None


def store_document(document: Document, staging: Staging) -> str:
    """Write a report to the files of a run, log it without the texts of people, and return the URI of its HTML."""
    log.info("%s", render_markdown(document, with_texts=False))
    staging.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in (
        (REPORT_MARKDOWN, render_markdown(document)),
        (REPORT_JSON, render_json(document)),
        (REPORT_HTML, render_html(document)),
    ):
        uri = store_file(name, text, staging)
    return uri


def store_file(name: str, text: str, staging: Staging) -> str:
    """Write a file of a run so that readers never see a part of it, and return its URI."""
    path = staging.scratch / name
    draft = path.with_name(f"{name}.draft")
    draft.write_text(text, encoding="utf-8")
    return staging.keep(draft.replace(path))


def render_html(document: Document) -> str:
    """Return the report as one HTML page without external resources and without scripts."""
    return _TEMPLATES.get_template("document.html.j2").render(document=document, quotes_people_mark=QUOTES_PEOPLE)


def render_json(document: Document) -> str:
    """Return the report as JSON, with numbers as they are."""
    content = {
        "version": JSON_VERSION,
        **{name: getattr(document, name) for name in ("title", "subject", "facts", "warnings", "notes")},
        "sections": [
            {"title": section.title, "columns": section.table.columns, "rows": section.table.rows}
            for section in document.sections
        ],
    }
    return json.dumps(content, indent=1, default=str) + "\n"


def render_markdown(document: Document, *, with_texts: bool = True) -> str:
    """Return the report as Markdown.

    :param with_texts: whether the columns with texts of people are in it
    """
    lines = [f"- **{warning}.**" for warning in document.warnings] + [f"- {note}" for note in document.notes]
    blocks = [f"# {document.title}", document.subject, "\n".join(lines)]
    if document.picture_uri:
        blocks.append(f"![{document.picture_title}]({document.picture_uri})")
    for section in document.sections:
        table = section.table if with_texts else section.table.without_texts()
        blocks += [f"## {section.title}", section.note, _render_markdown_table(table)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _render_markdown_table(table: Table) -> str:
    if not table.rows:
        return "None."
    cells = [[escape_cell(cell, MAX_CELL_CHARACTERS) for cell in row] for row in table.cells]
    frame = pd.DataFrame(cells, columns=table.headings)
    return str(frame.to_markdown(index=False, disable_numparse=True))


def _format(value: Cell, column: str) -> str:
    """Return a value for people."""
    if value is None:
        return ""
    if column.endswith("share") and isinstance(value, int | float):
        return f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{round(value, 3):,}" if isinstance(value, float) else str(value)


def _split_sentence(sentence: str) -> list[tuple[str, str]]:
    """Return the pieces of a sentence, each with the HTML element that sets it apart; empty for none."""
    pieces, end = [], 0
    for match in _INLINE.finditer(sentence):
        name, words = match.groups()
        pieces += [("", sentence[end : match.start()]), ("code", name) if words is None else ("strong", words)]
        end = match.end()
    return [*pieces, ("", sentence[end:])]


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_TEMPLATES.filters["pieces"] = _split_sentence

"""The runbook (docs/runbook.md) as HTML: all of it, and the row of each class of error."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from include.pipeline.settings import PROJECT

RUNBOOK = PROJECT / "docs" / "runbook.md"
#: First heading of the table of errors.
CLASS_HEADING = "Class"

#: Markdown as GitHub reads it, in which HTML is text.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_RENDERER = RendererHTML()


@dataclass(frozen=True)
class ErrorAdvice:
    """What the runbook says about a class of error: HTML, whose links lead to the page Help.

    :param retries: whether and when the task is retried
    :param remedy: what to do
    """

    name: str
    meaning: Markup
    retries: Markup
    remedy: Markup


@cache
def read_errors(path: Path = RUNBOOK) -> Mapping[str, ErrorAdvice]:
    """Return what the runbook says about each class of error, by its name; nothing if this machine has no runbook."""
    errors = {}
    for names, (meaning, retries, remedy) in _list_error_rows(_parse(path)):
        for cell in (meaning, retries, remedy):
            _adapt_links(cell, "help")
        cells = [Markup(_render_inline(cell)) for cell in (meaning, retries, remedy)]
        for name in names:
            errors[name.content] = ErrorAdvice(name.content, *cells)
    return errors


@cache
def render_runbook(path: Path = RUNBOOK) -> Markup:
    """Return the runbook without its title, with an anchor for each section and each class of error; empty if this
    machine has no runbook."""
    tokens = _parse(path)
    for names, _ in _list_error_rows(tokens):
        for name in names:
            name.attrSet("id", name.content)
    title_end = next((number + 1 for number, token in enumerate(tokens) if token.type == "heading_close"), 0)
    tokens = tokens[title_end:]
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", make_anchor(tokens[number + 1].content))
        if token.type == "inline":
            _adapt_links(token, "")
    html = _RENDERER.render(tokens, _MARKDOWN.options, {})
    region = '<div class="scroll" tabindex="0" role="region" aria-label="Table {}">'
    pieces = html.split("<table>")
    html = pieces[0] + "".join(
        f"{region.format(number)}<table>{piece}" for number, piece in enumerate(pieces[1:], start=1)
    )
    return Markup(html.replace("</table>", "</table></div>"))


def make_anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _parse(path: Path) -> list[Token]:
    return _MARKDOWN.parse(path.read_text("utf-8")) if path.is_file() else []


def _list_error_rows(tokens: Sequence[Token]) -> Iterator[tuple[list[Token], list[Token]]]:
    """Yield the names of the classes in each row of the table of errors, and its other cells."""
    rows: list[list[Token]] = []
    for number, token in enumerate(tokens):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append(tokens[number + 1])
        elif token.type == "table_close" and rows[0][0].content == CLASS_HEADING:
            for first, *others in rows[1:]:
                yield [child for child in first.children or [] if child.type == "code_inline"], others


def _adapt_links(token: Token, page: str) -> None:
    """Let links to sections lead to the page, and replace others, to which the page cannot lead, by their text.

    :param page: the page with the runbook, relative to the page that shows the link; empty for itself
    """
    children: list[Token] = []
    target: str | None = None
    for child in token.children or []:
        if child.type == "link_open":
            href = str(child.attrGet("href") or "")
            target = None if href.startswith("#") else href
            if target is None:
                child.attrSet("href", f"{page}{href}")
                children.append(child)
        elif child.type == "link_close" and target is not None:
            path = target if ":" in target else posixpath.normpath(f"docs/{target}")
            children.append(Token("text", "", 0, content=f" ({path})"))
        else:
            children.append(child)
    token.children = children


def _render_inline(token: Token) -> str:
    return _RENDERER.renderInline(token.children or [], _MARKDOWN.options, {})

"""Texts of others in Markdown: labels of the service and answers of people can be no markup."""

from __future__ import annotations

import re

#: The characters of Markdown and HTML that have a meaning in a cell.
_MARKUP = re.compile(r"[\\`*\[\]<>|~&!]")


def escape_cell(value: str, max_characters: int | None = None) -> str:
    """Return a value as text of a Markdown table: on one line, and without any markup.

    :param max_characters: shorten it to so many characters, before the escape
    """
    text = " ".join("".join(character if character.isprintable() else " " for character in value).split())
    if max_characters is not None and len(text) > max_characters:
        text = text[: max_characters - 1] + "…"
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", text)


def format_code(value: str) -> str:
    """Return a value as a name in a sentence, which its own backticks cannot end."""
    return f"`{' '.join(value.split()).replace('`', chr(39))}`"

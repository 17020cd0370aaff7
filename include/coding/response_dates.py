"""Which values of a source are response dates, and how a value that is none is shown without quoting it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date

#: A date has a year of four digits: '05/10/26' would otherwise be a day of the year 5.
MIN_DATE, MAX_DATE = date(1000, 1, 1), date.max
#: Longest shape of a value in a message.
_MAX_SHAPE_CHARACTERS = 20
_DAY = r"[0-9]{4}[-/\\ ][0-9]{1,2}[-/\\ ][0-9]{1,2}"
_TIME = r"[0-9]{1,2}:[0-9]{1,2}(:[0-9]{1,2}([.][0-9]*)?)?"
_DATE_PATTERN = rf"\s*{_DAY}([ T]{_TIME})?\s*"
#: A time with an offset can be on another day here, so it is not a date.
_TIME_ZONE_PATTERN = re.compile(rf"\s*{_DAY}[ T]{_TIME}\s*([A-Za-z/_]{{3,}}|Z|[+-][0-9]{{1,2}}(:?[0-9]{{2}})?)\s*")


def parse_date(column: str) -> str:
    """Return the SQL expression of the date in a text column: NULL for a text in another form than `2026-10-05`.

    A time after the date does not matter. The result can have a year below 1000: see :func:`is_not_a_date`.
    """
    has_form = f"{column} LIKE '____-__-__' OR regexp_full_match({column}, '{_DATE_PATTERN}')"  # the first is faster
    return f"TRY_CAST(CASE WHEN {has_form} THEN {column} END AS DATE)"


def is_not_a_date(day: str, *, is_parsed: bool) -> str:
    """Return the SQL condition that a date is missing, infinite, or has a year that does not have four digits.

    :param is_parsed: whether `day` is an expression to evaluate only once, not a column that an index can answer for
    """
    if is_parsed:
        return f"coalesce({day} NOT BETWEEN DATE '{MIN_DATE}' AND DATE '{MAX_DATE}', true)"
    return f"({day} IS NULL OR {day} < DATE '{MIN_DATE}' OR {day} > DATE '{MAX_DATE}')"


def describe_value(value: str) -> str:
    """Return the shape of a value that is not a date, with 9 for each digit and a for each letter, and what is wrong
    with it if that is known. The value itself can be a person's text, so nothing else of it is shown."""
    shape = "".join(map(_mask_character, value[:_MAX_SHAPE_CHARACTERS]))
    if len(value) > _MAX_SHAPE_CHARACTERS:
        shape += "..."
    problem = " (a number: format the cells as dates)" if re.fullmatch(r"\s*[0-9]+([.][0-9]+)?\s*", value) else ""
    if _TIME_ZONE_PATTERN.fullmatch(value):
        problem = " (it has a time zone)"
    elif re.fullmatch(_DATE_PATTERN, value):
        problem = " (there is no such day between the years 1000 and 9999)"
    return f"'{shape}'{problem}"


def _mask_character(character: str) -> str:
    if character.isdigit():
        return "9"
    return character if character.isascii() and character.isprintable() and not character.isalpha() else "a"


def describe_skipped_rows(unreadable_dates: int, unreadable_examples: Iterable[str], empty_rows: int) -> list[str]:
    """Return sentences about the rows that no run codes and that somebody may have to correct."""
    sentences = []
    if unreadable_dates:
        sentences.append(
            f"Records in the whole source with a date that cannot be read: {unreadable_dates} (such as"
            f" {'; '.join(unreadable_examples)}). They can belong to any day, and no run codes them until they are"
            " corrected."
        )
    if empty_rows:
        sentences.append(f"Rows in the whole source without any value, which are no records: {empty_rows}.")
    return sentences

"""Which values of a source are response dates, and how a value that is none is shown without quoting it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date

from include.warehouse.warehouse import quote_literal

#: A date has a year of four digits: '05/10/26' would otherwise be a day of the year 5.
MIN_DATE, MAX_DATE = date(1000, 1, 1), date.max
#: Longest shape of a value in a message.
_MAX_SHAPE_CHARACTERS = 20
_DAY = r"[0-9]{4}[-/\\ ][0-9]{1,2}[-/\\ ][0-9]{1,2}"
_TIME = r"[0-9]{1,2}:[0-9]{1,2}(:[0-9]{1,2}([.][0-9]*)?)?"
_DATE_PATTERN = rf"\s*{_DAY}([ T]{_TIME})?\s*"
#: A time with an offset from UTC, which can be on another day in the timezone of the response dates.
_OFFSET_PATTERN = rf"\s*{_DAY}[ T]{_TIME}\s*(Z|UTC|[+-][0-9]{{2}}(:?[0-9]{{2}})?)\s*"
#: A time with the name of a zone, which is not read, because some names stand for several zones.
_NAMED_ZONE_PATTERN = re.compile(rf"\s*{_DAY}[ T]{_TIME}\s*[A-Za-z/_]{{3,}}\s*")


def parse_date(column: str, zone: str, date_format: str | None = None) -> str:
    """Return the SQL expression of the date in a text column: NULL for a text in another form.

    A time after the date does not matter, unless it has an offset from UTC: then the date is that in `zone`. The
    result can have a year below 1000: see :func:`is_not_a_date`.

    :param zone: name of a timezone
    :param date_format: form of the texts, such as `%d/%m/%Y`; None for dates such as `2026-10-05`
    """
    if date_format:
        form = quote_literal(" ".join(date_format.split()))
        moment = f"try_strptime(trim(regexp_replace({column}, '\\s+', ' ', 'g')), {form})"
        return convert_to_date(moment, zone) if "%z" in date_format else f"CAST({moment} AS DATE)"
    # The first condition is faster than the second.
    has_form = f"{column} LIKE '____-__-__' OR regexp_full_match({column}, {quote_literal(_DATE_PATTERN)})"
    has_offset = f"length({column}) > 15 AND regexp_full_match({column}, {quote_literal(_OFFSET_PATTERN)})"
    moment = f"TRY_CAST(trim({column}) AS TIMESTAMPTZ)"
    return (
        f"CASE WHEN {has_form} THEN TRY_CAST({column} AS DATE)"
        f" WHEN {has_offset} THEN {convert_to_date(moment, zone)} END"
    )


def convert_to_date(moment: str, zone: str) -> str:
    """Return the SQL expression of the date in a timezone of a timestamp with a timezone."""
    return f"CAST({moment} AT TIME ZONE {quote_literal(zone)} AS DATE)"


def is_not_a_date(day: str, *, is_parsed: bool) -> str:
    """Return the SQL condition that a date is missing, infinite, or has a year that does not have four digits.

    :param is_parsed: whether `day` is an expression to evaluate only once, not a column that an index can answer for
    """
    if is_parsed:
        return f"coalesce({day} NOT BETWEEN DATE '{MIN_DATE}' AND DATE '{MAX_DATE}', true)"
    return f"({day} IS NULL OR {day} < DATE '{MIN_DATE}' OR {day} > DATE '{MAX_DATE}')"


def describe_value(value: str, date_format: str | None = None) -> str:
    """Return the shape of a value that is not a date, with 9 for each digit and a for each letter, and what is wrong
    with it if that is known. The value itself can be a person's text, so nothing else of it is shown.

    :param date_format: form that it should have; None if it should be a date such as `2026-10-05`
    """
    shape = mask_text(value)
    problem = " (a number)" if re.fullmatch(r"\s*[0-9]+([.][0-9]+)?\s*", value) else ""
    if date_format:
        return f"'{shape}'{problem}"
    if _NAMED_ZONE_PATTERN.fullmatch(value):
        problem = " (it has the name of a time zone; only an offset or Z can be read)"
    elif re.fullmatch(_DATE_PATTERN, value) or re.fullmatch(_OFFSET_PATTERN, value):
        problem = " (there is no such day between the years 1000 and 9999)"
    return f"'{shape}'{problem}"


def mask_text(value: str) -> str:
    """Return the shape of the beginning of a value: 9 for each digit and a for each letter."""
    shape = "".join(map(_mask_character, value[:_MAX_SHAPE_CHARACTERS]))
    return shape + "..." if len(value) > _MAX_SHAPE_CHARACTERS else shape


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
        sentences.append(
            f"Rows in the whole source without any value in the needed columns, which are no records: {empty_rows}."
        )
    return sentences

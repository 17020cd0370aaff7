"""How a source is read: the options of the param `read_options`, checked once, when the plan is made."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from include.coding.errors import PlanError
from include.coding.handoff import Handoff
from include.coding.misspellings import suggest_names

#: Formats of files for which each option has a meaning; the others have one for every source, tables included.
FORMATS = {
    "sheet": ("Excel files",),
    "header_row": ("Excel files", "text files with columns"),
    "delimiter": ("text files with columns",),
    "encoding": ("text files with columns", "JSON files"),
}
#: Text encodings of Python that are no encodings of files.
_OTHER_CODECS = ("idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined", "mbcs", "oem", "utf_7")
#: Directives of `date_format`. All others depend on the language of the machine, or name no part of a date.
_DIRECTIVES = frozenset("YymbBdjHIMSfpzaA%")
_MAX_NAMES, _MAX_NAME_CHARACTERS = 5, 60

Option = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=100, pattern=r"^[^\x00\n\r]+$")]
SheetNumber = Annotated[int, Field(strict=True, ge=1, le=10_000)]
RowNumber = Annotated[int, Field(strict=True, ge=1, le=1_000)]


@dataclass(frozen=True)
class ReadOptions(Handoff):
    """What the reader of a source cannot know. None: what docs/sources.md says.

    :param sheet: name of a sheet of a workbook, or its number, counted from 1
    :param header_row: number of the row with the names of the columns, counted from 1
    :param delimiter: character between the values of a text file
    :param encoding: of a text file
    :param date_format: form of the dates that are texts, such as `%d/%m/%Y`
    :param timezone: whose days are the response dates, for times with an offset from UTC
    :param connection: Airflow connection of an `s3://` source
    """

    sheet: SheetNumber | Option | None = None
    header_row: RowNumber | None = None
    delimiter: Option | None = None
    encoding: Option | None = None
    date_format: Option | None = None
    timezone: Option | None = None
    connection: Option | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            _check_delimiter(self.delimiter)
        if self.encoding is not None:
            _check_encoding(self.encoding)
        if self.date_format is not None:
            _check_date_format(self.date_format)
        if self.timezone is not None:
            _check_timezone(self.timezone)

    @property
    def names(self) -> list[str]:
        """The options that a person has set."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


NAMES = tuple(field.name for field in fields(ReadOptions))

#: JSON schema of the options, for the form.
SCHEMA: dict[str, dict[str, Any]] = {
    "sheet": {"type": ["string", "integer", "null"], "minimum": 1, "description": "Name or number of a sheet"},
    "header_row": {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": 1_000,
        "description": "Number of the row with the names of the columns",
    },
    "delimiter": {
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": 1,
        "description": "Character between the values of a text file",
    },
    "encoding": {"type": ["string", "null"], "description": "Encoding of a text file, such as cp1252"},
    "date_format": {"type": ["string", "null"], "description": "Form of dates that are texts, such as %d/%m/%Y"},
    "timezone": {"type": ["string", "null"], "description": "Timezone of the response dates, such as UTC"},
    "connection": {"type": ["string", "null"], "description": "Airflow connection of an s3:// source"},
}


def _check_names(value: Any) -> Any:
    """Return the options of the form for the other checks; `null` stands for none.

    :raises PlanError: a name is unknown
    """
    if not isinstance(value, Mapping):
        return {} if value is None else value
    if unknown := [str(name)[:_MAX_NAME_CHARACTERS] for name in value if name not in NAMES][:_MAX_NAMES]:
        raise PlanError(f"`read_options` names {suggest_names(unknown, NAMES)}; it can name {list(NAMES)}")
    return value


#: A field of a plan.
ReadOptionsField = Annotated[ReadOptions, BeforeValidator(_check_names)]


def _check_delimiter(delimiter: str) -> None:
    if len(delimiter) != 1 or delimiter in '"\r\n\ufeff':
        raise PlanError(
            f"`delimiter` in `read_options` is {delimiter!r}; expected one character, such as ';', and"
            ' "\\t" for a tab'
        )


def _check_encoding(encoding: str) -> None:
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):
        codec = None
    is_text = codec is not None and getattr(codec, "_is_text_encoding", True)
    if codec is None or not is_text or codec.name.replace("-", "_") in _OTHER_CODECS:
        raise PlanError(
            f"`encoding` in `read_options` is {encoding!r}; expected the name of an encoding, such as 'cp1252',"
            " 'latin-1' or 'utf-16'"
        )


def _check_date_format(date_format: str) -> None:
    """Check that every date that has this form is one day: year, month and day are in it once."""
    directives = re.findall("%-?(.?)", date_format)
    parts = "".join(sorted(set(directives)))
    has_year = len({"Y", "y"} & set(parts)) == 1
    has_day = ({"m", "b", "B"} & set(parts) and "d" in parts) or "j" in parts
    is_known = set(directives) <= _DIRECTIVES and all(directives.count(name) == 1 for name in set(directives) - {"%"})
    if not (is_known and has_year and has_day and ("I" in parts) == ("p" in parts)):
        raise PlanError(
            f"`date_format` in `read_options` is {date_format!r}; expected a form with year, month and day, each"
            " once, such as '%d/%m/%Y' or '%d.%m.%Y %H:%M:%S' ('%I' needs '%p')"
        )


@cache
def _list_timezones() -> frozenset[str]:
    return frozenset(available_timezones()) - {"localtime"}  # which differs between machines


def _check_timezone(timezone: str) -> None:
    if timezone not in _list_timezones():
        raise PlanError(
            f"`timezone` in `read_options` is {suggest_names([timezone], _list_timezones())}; expected a name such as"
            " 'Australia/Sydney' or 'UTC'"
        )


def _check_zone(value: str) -> str:
    if value not in _list_timezones():
        raise ValueError("it is not the name of a timezone")
    return value


#: Name of a timezone in a field of a plan.
Timezone = Annotated[str, StringConstraints(max_length=100), AfterValidator(_check_zone)]

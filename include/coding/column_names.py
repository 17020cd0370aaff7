"""Messages about the columns of a source: which are missing, which names come near, and what to set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from include.coding.file_scan import FileScan
from include.coding.plan import Plan

#: Names of columns in a message: how many, and how long.
_MAX_NAMES, _MAX_NAME_CHARACTERS = 50, 60
#: A number or a date, which is no name of a column: then the row has values, and perhaps texts of a person.
_VALUE = re.compile(
    r"\s*([0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]|[0-9]+([.,][0-9]+)?\s*$"
    r"|[0-9]{1,2}[ -](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))",
    re.IGNORECASE,
)


def describe_missing_columns(plan: Plan, names: Sequence[str], scan: FileScan | None) -> str | None:
    """Return why the columns of a source do not suffice, and what to do; None if all are there.

    :param names: columns of the source
    :param scan: how the file is read; None for a table
    """
    missing = {name: plan.source_column(name) for name in plan.required_columns}
    missing = {name: column for name, column in missing.items() if column not in names}
    if not missing:
        return None
    place = scan.place if scan else "it"
    columns = list(dict.fromkeys(missing.values()))
    if scan and (scan.sheets or scan.header_row):
        return f"lacks the columns {columns} in {place}. {_suggest(plan, missing, names, scan)}"
    return f"lacks the columns {columns}; {_list_names(names, place)}. {_suggest(plan, missing, names, scan)}"


def has_names(names: Sequence[str], scan: FileScan) -> bool:
    """Return whether what a file has in place of names are names: they can also be the answers of a person."""
    return not (scan.sheets or scan.header_row or any(map(_VALUE.match, names)))


def shorten_names(names: Sequence[str]) -> list[str]:
    """Return the names of as many columns as can be shown."""
    return [name[:_MAX_NAME_CHARACTERS] for name in names[:_MAX_NAMES]]


def _suggest(plan: Plan, missing: Mapping[str, str], names: Sequence[str], scan: FileScan | None) -> str:
    """Return the action that most probably helps."""
    if scan and scan.sheets:
        sheet, row = next(iter(scan.sheets.items()))
        options = (
            {"sheet": sheet} if row == (plan.read_options.header_row or 1) else {"sheet": sheet, "header_row": row}
        )
        others = f", and so have {list(scan.sheets)[1:]}" if len(scan.sheets) > 1 else ""
        setting = json.dumps(options, ensure_ascii=False)
        return f"Row {row} of the sheet {sheet!r} has these names{others}: set `read_options` to {setting}"
    if scan and scan.header_row:
        return f"Row {scan.header_row} has these names: set `header_row` in `read_options` to {scan.header_row}"
    if nearest := _find_nearest(missing, names):
        pairs = ", ".join(
            f"{nearest[name]!r} is not {column!r}" for name, column in missing.items() if name in nearest
        )
        case = " (they differ in case only)" if all(nearest[n].lower() == missing[n].lower() for n in nearest) else ""
        return f"Names are compared exactly, and {pairs}{case}: set `columns` to {_write(plan, nearest)}"
    if scan and len(names) == 1 < len(missing) and scan.place.startswith("line"):
        return "If another character separates its values, set `delimiter` in `read_options` to it"
    if any(map(_VALUE.match, names)):
        return "Add a row with the names of the columns"
    example = {name: "job_title" if name == "occp_text" else "..." for name in missing}
    action = f"Name the ones to use in `columns`, such as {_write(plan, example)}"
    if "response_date" in missing:
        action += "; if there are no dates, set one for all records in `response_date`"
    if len(missing) == 1 and (nothing := _describe_nothing(plan, next(iter(missing)), scan)):
        action += f"; {nothing}"
    return action


def _describe_nothing(plan: Plan, name: str, scan: FileScan | None) -> str | None:
    """Return how to say that the source does not have a column; None if it needs it."""
    setting = _write(plan, {name: None})
    if name == "record_id":
        return f"{setting} numbers the rows, if there is no record id" if scan else None
    return f"{setting} says that there is none" if name in ("tasks_text", "occp_text") else None


def _find_nearest(missing: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Return for each missing column the column whose name comes nearest, if all have one and no two the same."""
    spellings = {_simplify(name): name for name in reversed(names)}
    nearest = {}
    for name, column in missing.items():
        matches = get_close_matches(_simplify(column), spellings, n=1, cutoff=0.9)
        if matches:
            nearest[name] = spellings[matches[0]]
    is_clear = len(nearest) == len(missing) == len(set(nearest.values()))
    return nearest if is_clear else {}


def _simplify(name: str) -> str:
    return re.sub(r"[\s_\-.\u00a0\u200b\ufeff]+", "", name).casefold()


def _write(plan: Plan, columns: Mapping[str, str | None]) -> str:
    """Return a value for the param `columns`."""
    return json.dumps({**plan.columns, **columns}, ensure_ascii=False)


def _list_names(names: Sequence[str], place: str) -> str:
    """Return a clause with the names of the columns that a source has. In a file without a header, they would be the
    values of a person."""
    if any(map(_VALUE.match, names)):
        row = "its first row" if place == "it" else place
        return f"{row} contains values, not names, so it is not shown here"
    if not names:
        return f"{place} has no names"
    return f"{place} has {shorten_names(names)}" + (" and others" if len(names) > _MAX_NAMES else "")

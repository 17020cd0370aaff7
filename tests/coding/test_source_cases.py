"""Every case of the table is read with exactly its records, or refused with exactly its sentence."""

import pytest

from include.coding.errors import SourceError
from tests.coding.conftest import make_plan, open_test_source
from tests.coding.source_cases import CASES

MONTH = {"from_date": "2026-10-01", "to_date": "2026-10-31", "timezone": "Australia/Sydney"}
COLUMNS = "record_id, CAST(response_date AS VARCHAR), occp_text, tasks_text"


def read(folder, case):
    """Return the records of a case and the snapshot."""
    path = folder / "files" / case.name
    path.parent.mkdir()
    case.write(path)
    source = str(path) if "*" in case.name else path.as_uri()
    plan = make_plan(**{"source": source, "columns": case.columns, "read_options": case.options, **MONTH, **case.plan})
    try:
        with open_test_source(folder / "run", plan, None) as (engine, snapshot):
            return engine.execute(f"SELECT {COLUMNS} FROM source ORDER BY ALL").fetchall(), snapshot
    except SourceError as error:
        message = str(error)
        assert f"source {source!r}" in message
        return message.replace(f"source {source!r}", "").replace(str(folder), "").strip(" :"), None


if __name__ == "__main__":
    import sys, tempfile, pathlib

    for number, case in enumerate(CASES):
        try:
            got, snapshot = read(pathlib.Path(tempfile.mkdtemp()), case)
        except BaseException as error:
            got, snapshot = f"CRASH {type(error).__name__} {error}", None
        ok = "ok  " if got == case.expected and all(getattr(snapshot, k) == v for k, v in case.snapshot.items()) else ("REF " if case.expected is None and isinstance(got, str) else "DIFF")
        if ok != "ok  ":
            print(ok, number, case, "|", got, "|" if ok == "REF " else f"| expected {case.expected} {case.snapshot} {snapshot}", flush=True)

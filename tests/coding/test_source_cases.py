"""Every case of the table is read with exactly its records, or refused with exactly its sentence."""

import re
from itertools import count

import pytest

from include.coding.engine import find_folder, open_engine
from include.coding.errors import SourceError
from include.coding.source import open_source
from include.coding.source_access import SourceAccess
from include.coding.source_files import find_file
from tests.coding.conftest import make_plan
from tests.coding.source_cases import CASES
from tests.support.source_files import NAMES, read_csv_values, read_excel_values

MONTH = {"from_date": "2026-10-01", "to_date": "2026-10-31", "timezone": "Australia/Sydney", "clean": False}
COLUMNS = "record_id, CAST(response_date AS VARCHAR), occp_text, tasks_text"
NUMBERS = count()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """One engine for all cases, because opening it takes longer than reading a case."""
    with open_engine(tmp_path_factory.mktemp("run"), "test", 256) as engine:
        yield engine


def read(engine, case):
    """Write a case into the folder of an engine and read it.

    :return: its path, and its records with the snapshot, or the sentence of its refusal without the path
    """
    folder = find_folder(engine) / f"case-{next(NUMBERS)}"
    folder.mkdir()
    path = folder / case.name
    case.write(path)
    source = str(path) if "*" in case.name else path.as_uri()
    plan = make_plan(
        **{"source": source, "columns": case.columns, "read_options": case.options, **MONTH, **case.plan}
    )
    access = SourceAccess(folders=(folder,))
    engine.execute("DROP VIEW IF EXISTS source")
    try:
        with open_source(plan, engine, None, access, find_file(source, access)) as snapshot:
            return path, engine.execute(f"SELECT {COLUMNS} FROM source ORDER BY ALL").fetchall(), snapshot
    except SourceError as error:
        message = str(error)
        assert message.startswith(f"source {source!r}")
        return path, message.removeprefix(f"source {source!r}").replace(str(folder), "").lstrip(" :"), None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_source_is_read_with_exactly_its_records_or_refused_with_exactly_its_sentence(engine, case):
    path, result, snapshot = read(engine, case)
    assert result == case.expected
    if isinstance(result, str):
        assert not {"chef", "nurse", "cooks", "cares"} & set(re.findall("[a-z]+", result))
        return
    assert {name: getattr(snapshot, name) for name in case.snapshot} == case.snapshot
    if path.suffix in (".csv", ".tsv", ".txt", ".gz", ".xlsx") and "*" not in case.name:
        assert_same_values(path, case, result)


def assert_same_values(path, case, records):
    """Compare the values of records with those that another reader finds in the file."""
    header_row = case.options.get("header_row", 1)
    if path.suffix == ".xlsx":
        values = read_excel_values(path, case.options.get("sheet"), header_row)
    elif "json" in path.name:
        return
    else:
        delimiter = case.independent.get("delimiter") or getattr(case.write, "delimiter", ",")
        encoding, skipped_lines = case.options.get("encoding", "utf-8"), getattr(case.write, "skipped_lines", 0)
        values = read_csv_values(path, encoding, delimiter, header_row, skipped_lines)
    ours = {
        index: name for index, name in enumerate(NAMES) if case.columns.get(name, name) and name != "response_date"
    }
    others = [tuple(row.get(case.columns.get(name, name)) or None for name in ours.values()) for row in values]
    assert [
        row for row in (tuple(record[index] or None for index in ours) for record in records) if row not in others
    ] == []


def test_the_table_has_enough_cases_of_every_kind():
    assert len(CASES) >= 150
    assert {type(case.expected) for case in CASES} == {list, str}

"""What is said about a source that cannot be read: the line and the kind of problem, and never a text of a person."""

import logging
import traceback
import zipfile
from datetime import date

import duckdb
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.coding.errors import SourceError
from include.coding.source import materialize_source
from tests.coding.conftest import DAY, make_plan, open_test_source
from tests.support.warehouses import open_warehouse

#: A word that stands in each row of a broken source, and must not stand in any message.
MARKER = "MARKER"
HEADER = "record_id,response_date,occp_text,tasks_text\n"
#: Two complete records on five lines, after the header.
GOOD = f'1,{DAY},"{MARKER}\nchef","{MARKER}\ncooks"\n2,{DAY},"{MARKER}\n",{MARKER}\n'
AFTER = f"8,{DAY},{MARKER},{MARKER}\n"

BROKEN_CSV = {
    "a quote is not closed": (f'3,{DAY},{MARKER},"{MARKER}\n{MARKER}\n', "line 7 has a quote that is not closed"),
    "a value more, with line breaks": (
        f'3,{DAY},"{MARKER}\n{MARKER}","{MARKER}\n",{MARKER}\n',
        "line 7 has 5 values, but the header has 4",
    ),
    "values missing": (f'3,"{MARKER}\n{MARKER}"\n', "line 7 has 2 values, but the header has 4"),
    "text after a quote": (f'3,{DAY},"{MARKER}" {MARKER},\n', "line 7 has a quote that is not closed, or text after"),
    "another encoding": (f'3,{DAY},"{MARKER}\n{MARKER}\udcff",\n', "line 8 is not in UTF-8"),
    "a long line": (f'3,{DAY},"{MARKER}\n{"x" * 3_000_000}",{MARKER}\n', "line 8 is above 1048576 bytes"),
    "a very long line": (f"3,{DAY},{MARKER}{'x' * 40_000_000},{MARKER}\n", "line 7 is above 1048576 bytes"),
    "a very long value with line breaks": (f'3,{DAY},"{MARKER}\n{"x" * 40_000_000}",{MARKER}\n', "line 8 "),
    "words of the engine in a text": (
        f'3,{DAY},"CSV Error on Line: 99\nMaximum line size {MARKER}",{MARKER},{MARKER}\n',
        "line 7 has 5 values, but the header has 4",
    ),
    "other line ends": (f"3,{DAY},{MARKER}\r{MARKER},{MARKER}\n", "its lines do not all end in the same way"),
    "a date in another form": (f"3,{MARKER} 05/10/26,{MARKER},\n", "line 7: 'aaaaaa 99/99/99'"),
}
BROKEN_JSONL = {
    "cut": f'{{"record_id": "3", "occp_text": "{MARKER}',
    "a list": f'["{MARKER}"]',
    "a text": f'"{MARKER}"',
    "two objects": f'{{"occp_text": "{MARKER}"}}{{"occp_text": "{MARKER}"}}',
    "no JSON": MARKER,
    "a name twice": f'{{"record_id": "3", "occp_text": "{MARKER}", "occp_text": "{MARKER}"}}',
    "another encoding": f'{{"record_id": "3", "occp_text": "{MARKER}\udcff"}}',
    "half a character": f'{{"record_id": "3", "occp_text": "{MARKER}\\ud800"}}',
    "a control character": f'{{"record_id": "3", "occp_text": "{MARKER}\t"}}',
}


@pytest.fixture
def assert_refused(tmp_path, caplog, capfd):
    """A function that reads a source, and checks that it is refused without any text of a person."""

    def check(source, message, place=None, **changes):
        caplog.set_level(logging.DEBUG)
        if place is None:
            place = tmp_path / "warehouse.duckdb"
            duckdb.connect(str(place)).close()
        plan = make_plan(source=str(source), max_rejected_share=0, **changes)
        with pytest.raises(SourceError) as excinfo:
            read_all(tmp_path, plan, open_warehouse(place))
        chain = traceback.format_exception(excinfo.type, excinfo.value, excinfo.tb)
        output = capfd.readouterr()
        everything = [str(excinfo.value), *chain, caplog.text, output.out, output.err]
        assert message in str(excinfo.value)
        assert not [text for text in everything if MARKER in text]

    return check


def read_all(tmp_path, plan, warehouse):
    with open_test_source(tmp_path / "run", plan, warehouse) as (engine, _):
        materialize_source(plan, engine)
        engine.execute("SELECT count(*), sum(hash(COLUMNS(*))) FROM source").fetchall()


@pytest.mark.parametrize("problem", BROKEN_CSV)
@pytest.mark.parametrize("after", [AFTER, ""], ids=["more rows", "last row"])
def test_a_broken_row_of_a_csv_file_is_named_by_its_line(assert_refused, tmp_path, problem, after):
    row, message = BROKEN_CSV[problem]
    path = tmp_path / "a.csv"
    path.write_bytes((HEADER + GOOD + row + after).encode("utf-8", "surrogateescape"))
    assert_refused(path, message)


@pytest.mark.parametrize("row", [f"1,chef,{MARKER}", f"7,5 Oct 2026,{MARKER},cooks", f"x,05-Oct-26,{MARKER}"])
def test_the_first_record_of_a_file_without_names_is_not_shown(assert_refused, tmp_path, row):
    (tmp_path / "a.csv").write_text(row + "\n" + GOOD)
    assert_refused(tmp_path / "a.csv", "line 1 contains values, not names, so it is not shown here")


def test_lines_far_down_are_counted_and_not_rows(assert_refused, tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + GOOD * 30_000 + "\n" + f"3,{MARKER}\n")
    assert_refused(tmp_path / "a.csv", f"line {2 + 5 * 30_000 + 1} has 2 values, but the header has 4")


@pytest.mark.parametrize("problem", BROKEN_JSONL)
@pytest.mark.parametrize("before", [0, 3000], ids=["near", "far"])
def test_a_broken_line_of_a_jsonl_file_is_named(assert_refused, tmp_path, problem, before):
    good = f'{{"record_id": "1", "response_date": "{DAY}", "occp_text": "{MARKER}", "tasks_text": ""}}\n'
    text = good + "\n" + good * before + BROKEN_JSONL[problem] + "\n" + good
    (tmp_path / "a.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    message = "is not in UTF-8" if problem == "another encoding" else "is not one complete JSON object"
    assert_refused(tmp_path / "a.jsonl", f"line {3 + before} {message}")


@pytest.mark.parametrize("value", ['{"a": "MARKER"}', '["MARKER"]'])
def test_a_column_of_objects_or_lists_in_jsonl_is_refused(assert_refused, tmp_path, value):
    (tmp_path / "a.jsonl").write_text(
        f'{{"record_id": "1", "response_date": "{DAY}", "occp_text": "", "tasks_text": {value}}}\n'
    )
    assert_refused(tmp_path / "a.jsonl", "tasks_text must be text: write it as text in the file")


def write_excel(path, day=DAY):
    row = {"record_id": "1", "response_date": day, "occp_text": MARKER, "tasks_text": MARKER}
    pd.DataFrame([row]).to_excel(path, index=False)


def test_a_workbook_with_broken_xml_is_refused(assert_refused, tmp_path):
    write_excel(tmp_path / "good.xlsx")
    with zipfile.ZipFile(tmp_path / "good.xlsx") as good, zipfile.ZipFile(tmp_path / "a.xlsx", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            bad.writestr(name, content.replace(b"</row>", b"</MARKER>") if "sheet1" in name else content)
    assert_refused(tmp_path / "a.xlsx", "is not a complete workbook (.xlsx)")


def test_a_workbook_that_is_cut_is_refused(assert_refused, tmp_path):
    write_excel(tmp_path / "good.xlsx")
    (tmp_path / "a.xlsx").write_bytes((tmp_path / "good.xlsx").read_bytes()[:-200])
    assert_refused(tmp_path / "a.xlsx", "is not a complete workbook (.xlsx)")


def test_a_text_as_a_date_in_a_workbook_is_named_by_its_row(assert_refused, tmp_path):
    write_excel(tmp_path / "a.xlsx", day=MARKER)
    assert_refused(tmp_path / "a.xlsx", "row 2: 'aaaaaa'")


def write_parquet(path, **columns):
    texts = {name: [MARKER] * 1000 for name in ("record_id", "occp_text", "tasks_text")}
    days = [date.fromisoformat(DAY)] * 1000
    pq.write_table(pa.table({**texts, "response_date": days, **columns}), path, compression="none")


def test_a_damaged_parquet_file_is_refused(assert_refused, tmp_path):
    write_parquet(tmp_path / "good.parquet")
    content = (tmp_path / "good.parquet").read_bytes()
    for name, data in {"cut": content[:-20], "pages": content[:40] + b"\xff" * 100 + content[140:]}.items():
        (tmp_path / f"{name}.parquet").write_bytes(data)
        assert_refused(tmp_path / f"{name}.parquet", "it is not a complete Parquet file")


def test_a_text_in_a_parquet_file_that_is_not_utf8_is_refused(assert_refused, tmp_path):
    write_parquet(tmp_path / "a.parquet", occp_text=pa.array([f"{MARKER}".encode() + b"\xff"] * 1000, pa.binary()))
    assert_refused(tmp_path / "a.parquet", "it has a text that is not in UTF-8")


def test_a_time_in_a_parquet_file_that_is_out_of_range_is_refused(assert_refused, tmp_path):
    write_parquet(tmp_path / "a.parquet", response_date=pa.array([10**17] * 1000, pa.timestamp("ms")))
    assert_refused(tmp_path / "a.parquet", "it has a time that is outside the engine's range")


FAILING_VIEWS = {
    "a cast of a text": "CAST(CAST(occp_text AS INTEGER) AS VARCHAR) AS occp_text, response_date, tasks_text",
    "a cast of a date": "occp_text, CAST(occp_text AS DATE) AS response_date, tasks_text",
    "an error that quotes a text": "fail(occp_text) AS occp_text, response_date, tasks_text",
}
ANSWERS = f"SELECT '1' AS record_id, DATE '{DAY}' AS response_date, '{MARKER}' AS occp_text, '' AS tasks_text"


@pytest.mark.parametrize("problem", FAILING_VIEWS)
def test_a_failing_view_of_duckdb_is_named(assert_refused, tmp_path, problem):
    place = tmp_path / "source.duckdb"
    with duckdb.connect(str(place)) as warehouse:
        warehouse.execute("CREATE MACRO fail(t) AS error(t)")
        warehouse.execute(f"CREATE TABLE answers AS {ANSWERS}")
        warehouse.execute(f"CREATE VIEW v AS SELECT record_id, {FAILING_VIEWS[problem]} FROM answers")
    assert_refused("v", "source 'v' cannot be read: a query of its rows fails", place)


@pytest.mark.parametrize("problem", FAILING_VIEWS)
def test_a_failing_view_of_postgres_is_named(assert_refused, postgres, problem):
    place = postgres.conninfo(postgres.create_database())
    with psycopg.connect(place) as warehouse:
        warehouse.execute(
            "CREATE FUNCTION fail(t TEXT) RETURNS TEXT LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''bad: %'', t; END'"
        )
        warehouse.execute(f"CREATE TABLE answers AS {ANSWERS}")
        warehouse.execute(f"CREATE VIEW v AS SELECT record_id, {FAILING_VIEWS[problem]} FROM answers")
    assert_refused("v", "source 'v' cannot be read: a query of its rows fails", place)

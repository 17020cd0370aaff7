"""Reading records from tables, views and files, and the messages about sources that cannot be used."""

import json
from datetime import date, datetime, timedelta

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.coding.engine import open_engine
from include.coding.errors import SourceError
from include.coding.source import open_source
from tests.coding.conftest import (
    DAY,
    LATER_DAY,
    NEXT_DAY,
    make_plan,
    on_all_warehouses,
    on_duckdb_and_postgres,
)
from tests.support.warehouses import open_warehouse

HEADER = "record_id,response_date,occp_text,tasks_text\n"
ANSWERS = [
    {"record_id": "007", "response_date": DAY, "occp_text": 'the "chef", head', "tasks_text": "cooks\nfood"},
    {"record_id": "8", "response_date": NEXT_DAY, "occp_text": "N/A", "tasks_text": "None"},
    {"record_id": "NULL", "response_date": NEXT_DAY, "occp_text": "#1 baker", "tasks_text": None},
    {"record_id": "10", "response_date": LATER_DAY, "occp_text": "too late", "tasks_text": "x"},
    {"record_id": "11", "response_date": None, "occp_text": "undated", "tasks_text": "x"},
]
EXPECTED = [
    ("007", date.fromisoformat(DAY), 'the "chef", head', "cooks\nfood"),
    ("8", date.fromisoformat(NEXT_DAY), "N/A", "None"),
    ("NULL", date.fromisoformat(NEXT_DAY), "#1 baker", None),
]


def make_reader(tmp_path, place):
    """Return a function that reads a source, and returns its records and the number of records without a date."""

    def read_source(source, **changes):
        plan = make_plan(source=str(source), **changes)
        warehouse, columns = open_warehouse(place), "record_id, response_date, occp_text, tasks_text"
        with open_engine(tmp_path / "run", "test", 256) as engine, open_source(plan, engine, warehouse) as snapshot:
            return engine.execute(f"SELECT {columns} FROM source ORDER BY ALL").fetchall(), snapshot.undated

    return read_source


@pytest.fixture
def read(tmp_path):
    """A function that reads a file."""
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")):
        return make_reader(tmp_path, tmp_path / "warehouse.duckdb")


@pytest.fixture
def read_table(tmp_path, place):
    """A function that reads a table of the warehouse."""
    return make_reader(tmp_path, place)


@pytest.fixture
def define(place):
    """A function that runs statements in the warehouse, whose table `answers` has one record."""

    def run(*statements):
        with open_warehouse(place).session() as session:
            for statement in statements:
                session.execute(statement)

    run(f"CREATE TABLE answers AS {select_answer()}")
    return run


def select_answer(**changes):
    """Return the query of one record, with other expressions for some of its columns."""
    columns = {"record_id": "'007'", "response_date": f"DATE '{DAY}'", "occp_text": "'chef'", "tasks_text": "'cooks'"}
    return "SELECT " + ", ".join(f"{value} AS {name}" for name, value in {**columns, **changes}.items())


CHEF = ([("007", date.fromisoformat(DAY), "chef", "cooks")], 0)


def write_csv(path, frame, **options):
    frame.to_csv(path, index=False, **options)


def write_parquet(path, frame):
    rows = [
        {**row, "response_date": row["response_date"] and date.fromisoformat(row["response_date"])} for row in ANSWERS
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_jsonl(path, frame):
    path.write_text("".join(json.dumps(row) + "\n" for row in ANSWERS), encoding="utf-8")


def write_excel(path, frame):
    frame.to_excel(path, index=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("answers.parquet", write_parquet),
        ("answers.csv", write_csv),
        ("ANSWERS.CSV", write_csv),
        ("answers.jsonl", write_jsonl),
        ("answers.ndjson", write_jsonl),
        ("answers.xlsx", write_excel),
        ("my answers, 100% [1].csv", write_csv),
        ("it's?.parquet", write_parquet),
    ],
)
def test_every_kind_of_file_gives_the_same_records(read, tmp_path, name, write):
    path = tmp_path / name
    write(path, pd.DataFrame(ANSWERS))
    assert read(path.as_uri()) == read(path) == (EXPECTED, 1)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_csv_file_is_read_with_the_delimiter_of_its_header(read, tmp_path, delimiter):
    write_csv(tmp_path / "a.csv", pd.DataFrame(ANSWERS), sep=delimiter)
    assert read(tmp_path / "a.csv") == (EXPECTED, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_csv_file_from_a_spreadsheet_is_read(read, tmp_path, encoding, line_end):
    text = HEADER + '1,2026-10-05,café,"cooks\nfood"\n\n#2,2026-10-05,5" pipe fitter,\'a\'\n'
    data = text.replace("\n", line_end).replace(f"cooks{line_end}", "cooks\n").encode(encoding)
    (tmp_path / "a.csv").write_bytes(data)
    records, _ = read(tmp_path / "a.csv")
    assert [record[2:] for record in records] == [('5" pipe fitter', "'a'"), ("café", "cooks\nfood")]


def test_brackets_in_a_file_name_are_not_a_pattern(read, tmp_path):
    (tmp_path / "a[1].csv").write_text(HEADER + "right,2026-10-05,a,b\n")
    (tmp_path / "a1.csv").write_text(HEADER + "wrong,2026-10-05,a,b\n")
    records, _ = read(tmp_path / "a[1].csv")
    assert [record[0] for record in records] == ["right"]


@pytest.mark.parametrize("ids", [["2026-10-01", "2026-10-02"], ["10:20:30"], [7, "x"], ["007", "7"]])
def test_record_ids_in_jsonl_are_not_changed(read, tmp_path, ids):
    lines = [json.dumps({**ANSWERS[0], "record_id": record_id}) + "\n" for record_id in ids]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    records, _ = read(tmp_path / "a.jsonl")
    assert sorted(record[0] for record in records) == sorted(map(str, ids))


def test_a_missing_member_of_a_jsonl_line_is_null(read, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        json.dumps(ANSWERS[0]) + "\n" + json.dumps({"record_id": "8", "response_date": DAY}) + "\n"
    )
    assert read(tmp_path / "a.jsonl")[0][1] == ("8", date.fromisoformat(DAY), None, None)


def test_an_excel_file_can_have_numbers_dates_and_times(read, tmp_path):
    rows = [
        (7, date(2026, 10, 5), "chef", None),
        (8, datetime(2026, 10, 6, 23, 59), "baker", "bakes"),
        (9, "2026-10-06", "x", ""),
    ]
    pd.DataFrame(rows, columns=list(ANSWERS[0])).to_excel(tmp_path / "a.xlsx", index=False)
    records, _ = read(tmp_path / "a.xlsx")
    assert [record[:2] for record in records] == [
        ("7", date.fromisoformat(DAY)),
        ("8", date.fromisoformat(NEXT_DAY)),
        ("9", date.fromisoformat(NEXT_DAY)),
    ]


@on_duckdb_and_postgres
@pytest.mark.parametrize(
    "source", ["answers", "a_view", "elsewhere.answers", "Upper Case", 'odd "; DROP TABLE answers; --', "sql"]
)
def test_a_table_or_view_is_found_by_its_name(read_table, define, source):
    define(
        "CREATE VIEW a_view AS SELECT * FROM answers",
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE elsewhere.answers AS SELECT * FROM answers",
        'CREATE TABLE "odd ""; DROP TABLE answers; --" AS SELECT * FROM answers',
        "CREATE TABLE sql AS SELECT * FROM answers",
        'CREATE TABLE "Upper Case" AS SELECT * FROM answers',
    )
    assert read_table(source) == CHEF
    assert read_table("answers") == CHEF


def test_duckdb_ignores_the_case_of_names_and_its_own_types_are_read(read_table, define):
    define(
        f"CREATE TABLE t AS {select_answer(record_id='42::UBIGINT', response_date='response_date::TIMESTAMP_S')} FROM answers"
    )
    assert read_table("ANSWERS") == read_table("main.answers") == CHEF
    assert read_table("T") == ([("42", *CHEF[0][0][1:])], 0)


@on_all_warehouses
@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "TIMESTAMP(0)", "VARCHAR"])
def test_the_date_can_be_a_date_a_timestamp_or_a_text(read_table, define, kind):
    define(f"CREATE TABLE t AS {select_answer(response_date=f'CAST(response_date AS {kind})')} FROM answers")
    assert read_table("t") == CHEF


@on_all_warehouses
def test_both_dates_are_inclusive_and_the_time_of_day_does_not_matter(read_table, define):
    days = [(date.fromisoformat(DAY) + timedelta(days=n)).isoformat() for n in range(-1, 4)]
    times = " UNION ALL ".join(
        f"SELECT TIMESTAMP '{day} {time}' AS x" for day in days for time in ("00:00:00", "23:59:59.999999")
    )
    define(f"CREATE TABLE t AS {select_answer(response_date='v.x')} FROM ({times}) AS v")
    records, _ = read_table("t")
    assert [record[1].isoformat() for record in records] == [DAY, DAY, NEXT_DAY, NEXT_DAY]


@on_all_warehouses
@pytest.mark.parametrize("kind", ["INTEGER", "BIGINT"])
def test_a_record_id_can_be_a_number(read_table, define, kind):
    define(f"CREATE TABLE t AS {select_answer(record_id=f'CAST(42 AS {kind})')}")
    assert read_table("t")[0][0][0] == "42"


@on_duckdb_and_postgres  # Redshift has no such type
def test_a_record_id_can_be_a_uuid(read_table, define):
    value = "6c0ffb6e-6a0c-4c5e-9d0c-1f6f1b7a3f10"
    record_id = f"CAST('{value}' AS UUID)"
    define(f"CREATE TABLE t AS {select_answer(record_id=record_id)}")
    assert read_table("t")[0][0][0] == value


@on_duckdb_and_postgres
@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "VARCHAR"])
def test_records_without_a_date_are_counted_for_any_dates(read_table, define, kind):
    dated, undated = (f"CAST({value} AS {kind})" for value in (f"'{DAY}'", "NULL"))
    define(
        f"CREATE TABLE t AS {select_answer(response_date=dated)}"
        f" UNION ALL {select_answer(response_date=undated)} FROM generate_series(1, 3) AS numbers(n)"
    )
    assert read_table("t") == (CHEF[0], 3)
    assert read_table("t", from_date=LATER_DAY, to_date=LATER_DAY) == ([], 3)


@on_all_warehouses
@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP"])
@pytest.mark.parametrize("infinity", ["infinity", "-infinity"])
def test_an_infinite_date_counts_as_no_date(read_table, define, kind, infinity):
    infinite = select_answer(response_date=f"CAST('{infinity}' AS {kind})")
    define(
        f"CREATE TABLE t AS {select_answer(response_date=f'CAST(response_date AS {kind})')} FROM answers UNION ALL {infinite}"
    )
    assert read_table("t") == (CHEF[0], 1)


@on_duckdb_and_postgres
@pytest.mark.parametrize("title", ["job_title", "job.title", 'job "title"', "job title; --", "JOB", "select"])
def test_columns_of_a_table_can_have_other_names(read_table, define, title):
    name = title.replace('"', '""')
    define(
        f'CREATE TABLE t AS SELECT record_id, response_date, tasks_text, occp_text AS "{name}" FROM answers',
    )
    assert read_table("t", columns={"occp_text": title}) == CHEF


@pytest.mark.parametrize("title", ["job_title", "job.title", 'job "title"', "job title; --", "JOB", "select"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])
def test_columns_of_a_file_can_have_other_names(read, tmp_path, kind, title):
    frame = pd.DataFrame([{"record_id": "007", "response_date": DAY, title: "chef", "tasks_text": "cooks"}])
    source = tmp_path / f"a.{kind}"
    if kind == "csv":
        write_csv(source, frame)
    elif kind == "jsonl":
        source.write_text(frame.to_json(orient="records", lines=True))
    else:
        write_excel(source, frame)
    assert read(source, columns={"occp_text": title}) == CHEF


def assert_missing_columns_are_named(read_source, source):
    with pytest.raises(SourceError) as excinfo:
        read_source(source)
    assert f"source {source!r} lacks the columns ['record_id', 'tasks_text']" in str(excinfo.value)
    assert "it has ['id', 'response_date', 'occp_text']. Name the ones to use in `columns`" in str(excinfo.value)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.xlsx"])
def test_the_error_names_the_missing_and_the_existing_columns_of_a_file(read, tmp_path, name):
    frame = pd.DataFrame([{"id": "1", "response_date": DAY, "occp_text": "chef"}])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    assert_missing_columns_are_named(read, str(tmp_path / name))


@on_duckdb_and_postgres
def test_the_error_names_the_missing_and_the_existing_columns_of_a_table(read_table, define):
    define("CREATE TABLE t AS SELECT '1' AS id, response_date, occp_text FROM answers")
    assert_missing_columns_are_named(read_table, "t")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_empty_file_lacks_all_columns(read, tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    with pytest.raises(SourceError, match="lacks the columns"):
        read(tmp_path / f"a{suffix}")


def test_a_file_with_only_a_header_has_no_records(read, tmp_path):
    (tmp_path / "a.csv").write_text(HEADER)
    assert read(tmp_path / "a.csv") == ([], 0)


@on_all_warehouses
@pytest.mark.parametrize(
    ("column", "value", "kind", "types"),
    [
        ("record_id", "CAST(1.5 AS DOUBLE PRECISION)", "double", "text, integer or UUID"),
        ("record_id", "true", "bool", "text, integer or UUID"),
        ("occp_text", "1", "int32", "text"),
        ("response_date", "20261005", "int32", "a date, or a timestamp without a time zone"),
        ("response_date", "TIMESTAMPTZ '2026-10-05 00:00:00+00'", "timestamp[us, tz=", "a date, or a timestamp"),
    ],
)
def test_a_column_of_a_wrong_type_is_refused(read_table, define, column, value, kind, types):
    define(f"CREATE TABLE t AS {select_answer(**{column: value})}")
    with pytest.raises(SourceError) as excinfo:
        read_table("t")
    assert f"source 't': column {column!r} is {kind}" in str(excinfo.value)
    assert f"{column} must be {types}" in str(excinfo.value)
    assert str(excinfo.value).endswith("cast it in a view")


@on_duckdb_and_postgres  # Redshift has no such type
def test_a_list_is_refused_as_a_text(read_table, define):
    tasks = "ARRAY['a']"
    define(f"CREATE TABLE t AS {select_answer(tasks_text=tasks)}")
    with pytest.raises(
        SourceError, match="column 'tasks_text' is list<.*; tasks_text must be text: cast it in a view"
    ):
        read_table("t")


def test_an_object_in_jsonl_is_refused_as_a_text(read, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({**ANSWERS[0], "occp_text": {"a": 1}}))
    with pytest.raises(SourceError, match="column 'occp_text' is struct"):
        read(tmp_path / "a.jsonl")


INVALID_DATES = ["31/10/2026", "2026-02-30", "tomorrow", "2026-10-05T22:00:00Z", "2026-10-05 22:00:00+02"]


def assert_invalid_date_is_refused(read_source, source, value):
    with pytest.raises(SourceError) as excinfo:
        read_source(source)
    assert f"source {source!r} has a 'response_date' that is not a date" in str(excinfo.value)
    assert value in str(excinfo.value)


@pytest.mark.parametrize("value", INVALID_DATES)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_an_invalid_date_in_a_file_is_refused_with_its_value(read, tmp_path, name, value):
    (tmp_path / "a.csv").write_text(HEADER + f"1,{DAY},a,b\n2,{value},a,b\n")
    rows = [{**ANSWERS[0], "response_date": day} for day in (DAY, value)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert_invalid_date_is_refused(read, str(tmp_path / name), value)


@on_duckdb_and_postgres
@pytest.mark.parametrize("value", INVALID_DATES)
def test_an_invalid_date_in_a_table_is_refused_with_its_value(read_table, define, value):
    days = f"SELECT '{DAY}' AS day UNION ALL SELECT '{value}'"
    define(f"CREATE TABLE t AS {select_answer(response_date='day')} FROM ({days}) AS days")
    assert_invalid_date_is_refused(read_table, "t", value)


@on_duckdb_and_postgres
@pytest.mark.parametrize(
    "source", ["nope", "nope.answers", "a.b.c", "a..b", "", "self", "engine", "values", "answers; DROP TABLE answers"]
)
def test_a_missing_table_is_named(read_table, define, source):
    with pytest.raises(SourceError) as excinfo:
        read_table(source)
    assert f"source {source!r} is neither a table or view of warehouse" in str(excinfo.value)
    assert "nor a file URI (file:///....parquet" in str(excinfo.value)
    assert read_table("answers") == CHEF


@on_duckdb_and_postgres
def test_a_view_that_changes_its_types_between_two_runs_is_refused(read_table, define):
    define(f"CREATE VIEW v AS {select_answer()}")
    assert read_table("v") == CHEF
    define("DROP VIEW v", f"CREATE VIEW v AS {select_answer(response_date='20261005')}")
    with pytest.raises(
        SourceError, match="source 'v': column 'response_date' is int32; response_date must be a date"
    ):
        read_table("v")


@on_all_warehouses
def test_a_view_that_fails_while_it_is_read_is_named(read_table, define):
    define(
        "CREATE VIEW v AS SELECT CAST(n AS VARCHAR) AS record_id,"
        f" DATE '{DAY}' AS response_date, substring('abc', CAST('1' || n AS INTEGER)) AS occp_text, '' AS tasks_text"
        " FROM (SELECT CASE WHEN n = 250000 THEN 'x' ELSE '' END AS n FROM generate_series(1, 300000) AS s(n)) AS t"
    )
    with pytest.raises(SourceError, match="source 'v' cannot be read: .*; check the view"):
        read_table("v")


@pytest.mark.parametrize("source", ["s3://bucket/a.parquet", "https://example.org/a.csv", "gs://b/a.csv"])
def test_an_unsupported_uri_is_refused(read, source):
    with pytest.raises(SourceError) as excinfo:
        read(source)
    assert str(excinfo.value) == f"source {source!r} is not supported: use a file:// URI or a table of the warehouse"


def test_a_missing_file_and_a_folder_are_refused(read, tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(SourceError, match="there is no file") as excinfo:
            read(path)
        assert repr(str(path)) in str(excinfo.value)
        assert "check its path" in str(excinfo.value)


def test_a_relative_path_is_refused(read):
    with pytest.raises(
        SourceError, match="'answers.csv' is a relative path: use a full one, such as 'file:///data/answers.csv'"
    ):
        read("answers.csv")


@pytest.mark.parametrize("name", ["a.xls", "a.txt", "a.csv.gz", "a"])
def test_a_file_of_an_unsupported_type_is_refused(read, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"ends in '.*'; supported: \['.parquet', '.csv', '.jsonl'"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (f"1,{DAY},a,b\n2,{DAY},a,b,c\n", 3),
        (f"1,{DAY},a,b\n2,{DAY}\n3,{DAY},a,b\n", 3),
        (f'1,{DAY},a,b\n2,{DAY},"a,b\n3,{DAY},a,b\n', 3),
        (f"1,{DAY},a,b\n" * 40_000 + "x\n", 40_002),
    ],
    ids=["one value more", "values missing", "quote not closed", "far down"],
)
def test_the_error_names_the_line_of_a_broken_row_in_a_csv_file(read, tmp_path, rows, line):
    (tmp_path / "a.csv").write_text(HEADER + rows)
    with pytest.raises(SourceError, match=f"a.csv' cannot be read: .* on Line: {line} ") as excinfo:
        read(tmp_path / "a.csv")
    assert "write the file again" in str(excinfo.value)


@pytest.mark.parametrize("padding", [0, 100_000])
def test_a_file_with_another_encoding_is_refused(read, tmp_path, padding):
    rows = f"1,{DAY},chef,cooks\n" * padding + f"2,{DAY},café,b\n"
    (tmp_path / "a.csv").write_bytes((HEADER + rows).encode("latin-1"))
    with pytest.raises(SourceError, match="cannot be read: .*(?i:utf-8)"):
        read(tmp_path / "a.csv")


def make_parquet():
    sink = pa.BufferOutputStream()
    rows = [{**ANSWERS[0], "record_id": str(n), "response_date": date.fromisoformat(DAY)} for n in range(20_000)]
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "pages"])
def test_a_corrupt_parquet_file_is_refused(read, tmp_path, damage):
    content = make_parquet()
    pages = content[:50] + bytes(20_000) + content[20_050:]
    data = {"empty": b"", "garbage": b"PAR1" * 10, "cut": content[: len(content) // 2], "pages": pages}[damage]
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(SourceError, match="a.parquet' cannot be read: "):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("line", ['{"record_id": "8", "resp', "oops", '{"record_id": "\udcff"}', "\udcff"])
def test_a_corrupt_jsonl_file_is_refused(read, tmp_path, line):
    text = json.dumps(ANSWERS[0]) + "\n" + line + "\n" + json.dumps(ANSWERS[1]) + "\n"
    (tmp_path / "a.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SourceError, match=r"a.jsonl' cannot be read: .* line [23]"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04 garbage"])
def test_a_corrupt_excel_file_is_refused(read, tmp_path, data):
    (tmp_path / "a.xlsx").write_bytes(data)
    with pytest.raises(SourceError, match="a.xlsx' cannot be read as Excel: File is not a zip file"):
        read(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("size", "rest", "message"),
    [
        (3_000_000, "3,2026-10-05,baker,\n", "Line: 3 .*Maximum line size of 2000000 bytes exceeded"),
        (3_000_000, "", "its last line is above 2000000 bytes"),
        (40_000_000, "3,2026-10-05,baker,\n", "it has a line above 2000000 bytes; check that every quote is closed"),
        (40_000_000, "", "its last line is above 2000000 bytes"),
    ],
)
def test_a_csv_line_above_the_limit_is_refused(read, tmp_path, size, rest, message):
    (tmp_path / "a.csv").write_text(HEADER + f"1,{DAY},chef,cooks\n2,{DAY},{'x' * size},\n{rest}")
    with pytest.raises(SourceError, match=f"a.csv' cannot be read: .*{message}"):
        read(tmp_path / "a.csv")


def test_a_csv_line_just_below_the_limit_is_read(read, tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + f"1,{DAY},chef,cooks\n2,{DAY},{'x' * 1_900_000},\n")
    records, _ = read(tmp_path / "a.csv")
    assert [(record[0], len(record[2])) for record in records] == [("1", 4), ("2", 301)]


def test_the_error_about_a_broken_row_does_not_quote_its_texts(read, tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + f'1,{DAY},chef,"secret duties" more,too many\n')
    with pytest.raises(SourceError, match="cannot be read") as excinfo:
        read(tmp_path / "a.csv")
    assert "secret duties" not in str(excinfo.value)


@pytest.mark.parametrize("name", ["answers.csv", "answers.parquet", "answers.jsonl"])
def test_all_records_of_a_file_without_dates_get_the_single_date(read, tmp_path, name):
    path = tmp_path / name
    kind = {"csv": "csv", "parquet": "parquet", "jsonl": "json"}[name.partition(".")[2]]
    duckdb.execute(
        f"COPY (SELECT 'a' AS record_id, 'chef' AS occp_text, 'cooks' AS tasks_text) TO '{path}' (FORMAT {kind})"
    )
    dates = {"from_date": DAY, "to_date": DAY}
    assert read(path.as_uri(), response_date=DAY, **dates) == ([("a", date.fromisoformat(DAY), "chef", "cooks")], 0)
    with pytest.raises(
        SourceError, match=r"lacks the columns \['response_date'\]; .* set one for all records in `response_date`"
    ):
        read(path.as_uri(), **dates)


@on_duckdb_and_postgres
def test_all_records_of_a_table_without_dates_get_the_single_date(read_table, define):
    define("CREATE TABLE undated AS SELECT record_id, occp_text, tasks_text FROM answers")
    rows, undated = read_table("undated", response_date=DAY, from_date=DAY, to_date=DAY)
    assert [row[1] for row in rows] == [date.fromisoformat(DAY)]
    assert undated == 0


def test_a_single_date_is_refused_for_a_source_that_has_dates(read, read_table, define, tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text(HEADER + f"1,{DAY},chef,\n", encoding="utf-8")
    dates = {"response_date": LATER_DAY, "from_date": LATER_DAY, "to_date": LATER_DAY}
    with pytest.raises(SourceError, match="has a column 'response_date', but `response_date` would give all of its"):
        read(path.as_uri(), **dates)
    with pytest.raises(
        SourceError, match=f"the date '{LATER_DAY}': leave it empty, and select dates with `from_date` and `to_date`"
    ):
        read_table("answers", **dates)


@on_duckdb_and_postgres
def test_a_trial_always_samples_the_same_records_from_the_whole_source(read, read_table, define, tmp_path):
    path = tmp_path / "answers.csv"
    lines = [f"{number:03},{DAY},job {number},\n" for number in range(200)]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    sample, _ = read(path.as_uri(), max_records=20)
    path.write_text(HEADER + "".join(reversed(lines)), encoding="utf-8")
    assert len(sample) == 20
    assert read(path.as_uri(), max_records=20)[0] == sample
    assert max(row[0] for row in sample) > "100" > min(row[0] for row in sample)
    assert len(read(path.as_uri(), max_records=500)[0]) == 200
    define("INSERT INTO answers VALUES ('x', DATE '2026-10-05', 'baker', ''), ('y', DATE '2026-10-05', 'clerk', '')")
    assert len(read_table("answers", max_records=2)[0]) == 2

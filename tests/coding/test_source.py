"""Reading records from tables, views and files, and the messages about sources that cannot be used."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.coding.errors import SourceError
from include.coding.source_access import SourceAccess
from tests.coding.conftest import (
    DAY,
    LATER_DAY,
    NEXT_DAY,
    make_plan,
    on_all_warehouses,
    on_duckdb_and_postgres,
    on_postgres,
    open_test_source,
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
    """Return a function that reads a source, and returns its records and the number of records without a date, or the
    whole snapshot."""

    def read_source(source, *, as_snapshot=False, access=None, look=None, **changes):
        plan = make_plan(source=str(source), **changes)
        warehouse, columns = open_warehouse(place), "record_id, response_date, occp_text, tasks_text"
        with open_test_source(tmp_path / "run", plan, warehouse, access=access) as (engine, snapshot):
            records = engine.execute(f"SELECT {columns} FROM source ORDER BY ALL").fetchall()
            if look:
                look(snapshot, plan)
            return records, snapshot if as_snapshot else snapshot.undated

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
def test_a_table_or_view_is_found_by_its_name(read_table, define, place, source):
    define(
        "CREATE VIEW a_view AS SELECT * FROM answers",
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE elsewhere.answers AS SELECT * FROM answers",
        'CREATE TABLE "odd ""; DROP TABLE answers; --" AS SELECT * FROM answers',
        "CREATE TABLE sql AS SELECT * FROM answers",
        'CREATE TABLE "Upper Case" AS SELECT * FROM answers',
    )
    assert read_table(source, access=SourceAccess(tables=("elsewhere.answers", f"{get_schema(place)}.*"))) == CHEF
    assert read_table("answers") == CHEF


@on_duckdb_and_postgres
def test_only_tables_that_the_deployment_allows_are_read_and_others_are_refused_as_if_they_did_not_exist(
    read_table, define, place
):
    define(
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE elsewhere.answers AS SELECT * FROM answers",
        "CREATE TABLE elsewhere.more AS SELECT * FROM answers",
    )
    schema = get_schema(place)
    for tables, allowed in {
        (): ["answers", f"{schema}.answers"],
        ("elsewhere.*",): ["elsewhere.answers", "elsewhere.more"],
        ("elsewhere.more", f"{schema}.more"): ["elsewhere.more"],
    }.items():
        access = SourceAccess(tables=tables)
        for source in ("answers", f"{schema}.answers", "elsewhere.answers", "elsewhere.more"):
            if source in allowed:
                assert read_table(source, access=access) == CHEF
            else:
                assert refusal(read_table, source, access) == refusal(read_table, "elsewhere.nope", access)


@on_duckdb_and_postgres
@pytest.mark.parametrize("project_schema", ["coding", "its own"])
def test_the_projects_own_tables_are_no_sources_whatever_is_allowed(read_table, define, place, project_schema):
    schema = get_schema(place) if project_schema == "its own" else "coding"
    if schema == "coding":
        define("CREATE SCHEMA coding", "CREATE TABLE coding.answers AS SELECT * FROM answers")
    define(f"CREATE TABLE {schema}.coded_texts AS SELECT * FROM answers")
    access = SourceAccess(tables=(f"{schema}.*", f"{schema}.coded_texts"), project_schema=schema)
    assert read_table(f"{schema}.answers", access=access) == CHEF
    assert refusal(read_table, f"{schema}.coded_texts", access) == refusal(read_table, f"{schema}.nope", access)


@on_postgres
def test_a_temporary_table_and_the_catalogue_of_the_server_are_no_sources(read_table, define, place):
    with open_warehouse(place).session() as session:
        session.execute("CREATE TEMP TABLE answers AS SELECT 'x' AS a")
        ((schema,),) = session.execute("SELECT nspname::text FROM pg_namespace WHERE oid = pg_my_temp_schema()")
        for source in (f"{schema}.answers", "pg_temp.answers", "pg_catalog.pg_authid"):
            access = SourceAccess(tables=(source, "public.*"))
            assert "is neither a table or view" in refusal(read_table, source, access)
    assert read_table("answers", access=SourceAccess(tables=("public.*",))) == CHEF


def refusal(read_table, source, access):
    """Return what a refusal says, without the name."""
    with pytest.raises(SourceError) as excinfo:
        read_table(source, access=access)
    assert excinfo.value.__suppress_context__ or excinfo.value.__context__ is None
    return str(excinfo.value).replace(repr(source), "")


def get_schema(place):
    return "public" if str(place).startswith("host=") else "main"


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
def test_a_time_with_a_time_zone_is_the_day_in_the_zone_of_the_dates(read_table, define):
    times = {"a": "2026-10-04 13:00:00+00", "b": "2026-10-04 12:59:59+00", "c": "2026-10-05 12:59:59+00"}
    rows = [
        select_answer(record_id=f"'{name}'", response_date=f"TIMESTAMPTZ '{time}'") for name, time in times.items()
    ]
    define(f"CREATE TABLE t AS {' UNION ALL '.join(rows)}")
    dates = {"from_date": DAY, "to_date": DAY, "timezone": "Australia/Sydney"}
    assert [record[0] for record in read_table("t", **dates)[0]] == ["a", "c"]
    records, _ = read_table("t", **dates, read_options={"timezone": "UTC"})
    assert [record[:2] for record in records] == [("c", date.fromisoformat(DAY))]


@on_duckdb_and_postgres
def test_dates_of_a_table_that_are_texts_can_have_another_form_and_offsets(read_table, define):
    define(f"""CREATE TABLE t AS {select_answer(response_date="'05/10/2026'")}""")
    assert read_table("t", read_options={"date_format": "%d/%m/%Y"}) == CHEF
    define(f"""CREATE TABLE u AS {select_answer(response_date="'2026-10-04T20:00:00Z'")}""")
    assert read_table("u", timezone="Australia/Sydney") == CHEF


@on_duckdb_and_postgres
def test_a_table_can_lack_a_text_but_not_its_record_ids(read_table, define):
    define("CREATE TABLE t AS SELECT record_id, response_date, occp_text FROM answers")
    assert read_table("t", columns={"tasks_text": None}) == ([(*CHEF[0][0][:3], None)], 0)
    with pytest.raises(SourceError, match="lacks the columns .'tasks_text'.; .*null} says that there is none$"):
        read_table("t")
    with pytest.raises(SourceError, match="is a table, whose rows have no order by which they could be numbered"):
        read_table("t", columns={"record_id": None})


@on_duckdb_and_postgres
@pytest.mark.parametrize("option", [{"sheet": "a"}, {"header_row": 2}, {"delimiter": ";"}, {"encoding": "cp1252"},
                                    {"connection": "a"}])  # fmt: skip
def test_an_option_that_has_no_meaning_for_a_table_is_refused(read_table, define, option):
    (name,) = option
    with pytest.raises(SourceError, match=f"is a table, for which `{name}` in `read_options` has no meaning"):
        read_table("answers", read_options=option)


@on_all_warehouses
@pytest.mark.parametrize("kind", ["DATE", "VARCHAR"])
def test_a_table_says_which_dates_it_has(read_table, define, kind):
    days = " UNION ALL ".join(f"SELECT CAST('{day}' AS {kind}) AS day" for day in ("2025-01-02", DAY, DAY, LATER_DAY))
    define(f"CREATE TABLE t AS {select_answer(response_date='day')} FROM ({days}) AS days")
    place = {"from_date": "2026-11-01", "to_date": "2026-11-01"}
    sentences = []
    read_table("t", **place, look=lambda snapshot, plan: sentences.extend(snapshot.describe(plan, 0)))
    assert sentences == [
        "The source has no record from 2026-11-01 to 2026-11-01: it has 3 dates, from 2025-01-02 to 2026-10-09. Set"
        " `from_date` and `to_date` to dates that it has."
    ]


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
@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("infinity", "'aaaaaaaa'"),
        ("-infinity", "'-aaaaaaaa'"),
        ("10000-01-01", "'99999-99-99"),
        ("0026-10-05", "'9999-99-99"),
        ("0001-01-01", "'9999-99-99"),
    ],
)
def test_a_date_whose_year_does_not_have_four_digits_cannot_be_read(read_table, define, kind, value, shape):
    other = select_answer(response_date=f"CAST('{value}' AS {kind})")
    dated = select_answer(response_date=f"CAST(response_date AS {kind})")
    define(f"CREATE TABLE t AS {dated} FROM answers UNION ALL {other}")
    records, snapshot = read_table("t", as_snapshot=True, from_date="0001-01-01", to_date="9999-12-31")
    assert records == CHEF[0]
    assert (snapshot.undated, snapshot.unreadable_dates) == (0, 1)
    assert snapshot.unreadable_examples[0].startswith(shape)


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


def assert_missing_columns_are_named(read_source, source, place="it"):
    with pytest.raises(SourceError) as excinfo:
        read_source(source)
    assert f"source {source!r} lacks the columns ['record_id', 'tasks_text']" in str(excinfo.value)
    assert f"{place} has ['id', 'response_date', 'occp_text']. Name the ones to use in `columns`" in str(
        excinfo.value
    )


@pytest.mark.parametrize(
    ("name", "place"),
    [("a.csv", "line 1"), ("a.jsonl", "it"), ("a.parquet", "it"), ("a.xlsx", "row 1 of the sheet 'Sheet1'")],
)
def test_the_error_names_the_missing_and_the_existing_columns_of_a_file(read, tmp_path, name, place):
    frame = pd.DataFrame([{"id": "1", "response_date": DAY, "occp_text": "chef"}])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    assert_missing_columns_are_named(read, str(tmp_path / name), place)


@on_duckdb_and_postgres
def test_the_error_names_the_missing_and_the_existing_columns_of_a_table(read_table, define):
    define("CREATE TABLE t AS SELECT '1' AS id, response_date, occp_text FROM answers")
    assert_missing_columns_are_named(read_table, "t")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".jsonl", ".json", ".xlsx", ".parquet"])
def test_an_empty_file_is_called_empty(read, tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    with pytest.raises(SourceError, match="cannot be read: it is empty; check the program that writes it$"):
        read(tmp_path / f"a{suffix}")


def test_a_file_with_only_a_header_has_no_records(read, tmp_path):
    (tmp_path / "a.csv").write_text(HEADER)
    assert read(tmp_path / "a.csv") == ([], 0)


@on_all_warehouses
@pytest.mark.parametrize(
    ("column", "value", "kind", "types"),
    [
        ("record_id", "CAST(1.5 AS DOUBLE PRECISION)", "double", "text, UUID, or a number without"),
        ("record_id", "true", "bool", "text, UUID, or a number without"),
        ("occp_text", "1", "int32", "text"),
        ("response_date", "20261005", "int32", "a date or a timestamp"),
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


#: Values that are not dates, with their shapes.
UNREADABLE_DATES = {
    "05/10/26": "'99/99/99'",
    "26-10-05": "'99-99-99'",
    "31/10/2026": "'99/99/9999'",
    "05-Oct-2026": "'99-aaa-9999'",
    "2026-02-30": "'9999-99-99' (there is no such day between the years 1000 and 9999)",
    "2026-13-05": "'9999-99-99' (there is no such day between the years 1000 and 9999)",
    "0026-10-05": "'9999-99-99' (there is no such day between the years 1000 and 9999)",
    "2026-10-05 (BC)": "'9999-99-99 (aa)'",
    "-2026-10-05": "'-9999-99-99'",
    "10000-01-01": "'99999-99-99'",
    "002026-1-5": "'999999-9-9'",
    "20261005": "'99999999' (a number)",
    "2026-10": "'9999-99'",
    "infinity": "'aaaaaaaa'",
    "-infinity": "'-aaaaaaaa'",
    "epoch": "'aaaaa'",
    "NA": "'aa'",
    "护士 José 7": "'aa aaaa 9'",
    "my sister was a nurse in 2026": "'aa aaaaaa aaa a aaaa...'",
    "2026-02-30T22:00:00Z": "'9999-99-99a99:99:99a' (there is no such day between the years 1000 and 9999)",
    "2026-10-05 22:00 Australia/Sydney": "'9999-99-99 99:99 aaa...' (it has the name of a time zone; only an offset or"
    " Z can be read)",
}
READABLE_DATES = [
    "2026-10-05",
    "2026-10-5",
    " 2026-10-05 ",
    "2026/10/05",
    "2026 10 05",
    "2026-10-05 10:11",
    "2026-10-05T10:11:12.123456",
    "2026-10-05T22:00:00Z",
    "2026-10-06 01:30:00+02",
    "2026-10-06T09:59:59.999+1000",
    "2026-10-05 22:00 UTC",
]


def test_rows_are_numbered_even_if_a_file_has_a_column_with_the_name_of_the_number(tmp_path):
    path = tmp_path / "data" / "answers.parquet"
    path.parent.mkdir()
    select = f"SELECT 'x' AS record_number, '{DAY}' AS response_date, 'chef' AS occp_text, 'cooks' AS tasks_text"
    duckdb.execute(f"COPY ({select}) TO '{path}'")
    plan = make_plan(source=path.as_uri(), columns={"record_id": None})
    with open_test_source(tmp_path / "run", plan, None) as (engine, _):
        assert engine.execute("SELECT record_id FROM source").fetchall() == [("1",)]


def write_answers(path, days):
    """Write a file with one record for each day; in a CSV file, the texts contain line breaks."""
    rows = [{**ANSWERS[0], "record_id": str(number), "response_date": day} for number, day in enumerate(days)]
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".csv":
            write_csv(path, pd.DataFrame(rows))
        case ".xlsx":
            write_excel(path, pd.DataFrame(rows))


#: The place of the fourth record in a file of each type.
FOURTH_RECORD = {"a.csv": "line 8", "a.jsonl": "line 7", "a.parquet": "row 4", "a.xlsx": "row 5"}


@pytest.mark.parametrize("value", UNREADABLE_DATES)
@pytest.mark.parametrize("name", FOURTH_RECORD)
def test_a_date_that_cannot_be_read_is_counted_with_its_place_and_shape(read, tmp_path, name, value):
    write_answers(tmp_path / name, [DAY, None, NEXT_DAY, value, LATER_DAY])
    dates = {"from_date": "0001-01-01", "to_date": "9999-12-31"}
    records, snapshot = read(tmp_path / name, as_snapshot=True, **dates)
    assert [record[0] for record in records] == ["0", "2", "4"]
    assert (snapshot.undated, snapshot.unreadable_dates) == (1, 1)
    assert snapshot.unreadable_examples == (f"{FOURTH_RECORD[name]}: {UNREADABLE_DATES[value]}",)


@on_duckdb_and_postgres
@pytest.mark.parametrize("value", UNREADABLE_DATES)
def test_a_date_in_a_table_that_cannot_be_read_is_counted_with_its_shape(read_table, define, value):
    days = f"SELECT '{DAY}' AS day UNION ALL SELECT '{value}' UNION ALL SELECT ' ' UNION ALL SELECT NULL"
    define(f"CREATE TABLE t AS {select_answer(response_date='day')} FROM ({days}) AS days")
    records, snapshot = read_table("t", as_snapshot=True)
    assert records == CHEF[0]
    assert (snapshot.undated, snapshot.unreadable_dates) == (2, 1)
    assert snapshot.unreadable_examples == (UNREADABLE_DATES[value],)


@pytest.mark.parametrize("name", FOURTH_RECORD)
def test_every_form_of_a_date_with_its_year_first_is_read(read, tmp_path, name):
    write_answers(tmp_path / name, READABLE_DATES)
    records, snapshot = read(tmp_path / name, as_snapshot=True)
    assert {record[1].isoformat() for record in records} == {DAY}
    assert (len(records), snapshot.unreadable_dates) == (len(READABLE_DATES), 0)


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u00a0"])
@pytest.mark.parametrize("name", FOURTH_RECORD)
def test_a_blank_date_is_no_date(read, tmp_path, name, blank):
    write_answers(tmp_path / name, [DAY, blank])
    records, snapshot = read(tmp_path / name, as_snapshot=True)
    assert len(records) == 1
    assert (snapshot.undated, snapshot.unreadable_dates) == (1, 0)


@pytest.mark.parametrize("name", FOURTH_RECORD)
def test_too_many_dates_that_cannot_be_read_are_refused_with_some_of_their_places(read, tmp_path, name):
    write_answers(tmp_path / name, [DAY] * 10 + [None] * 10 + ["05/10/26"] * 10)
    assert read(tmp_path / name, as_snapshot=True, max_rejected_share=0.5)[1].unreadable_dates == 10
    with pytest.raises(SourceError) as excinfo:
        read(tmp_path / name, max_rejected_share=0.49)
    message = str(excinfo.value)
    assert "10 of 20 values in 'response_date' (50.0%) are not dates, but `max_rejected_share` is 49.0%" in message
    assert message.count("'99/99/99'") == 5
    assert "Set `date_format` in `read_options`, such as '%d/%m/%Y'" in message.replace("set", "Set")
    assert "05/10/26" not in message


@on_all_warehouses
@pytest.mark.parametrize("kind", ["VARCHAR", "DATE"])
def test_too_many_dates_in_a_table_that_cannot_be_read_are_refused(read_table, define, kind):
    days = " UNION ALL ".join(f"SELECT CAST('{day}' AS {kind}) AS day" for day in (DAY, "0026-10-05", "0027-10-05"))
    define(f"CREATE TABLE t AS {select_answer(response_date='day')} FROM ({days}) AS days")
    with pytest.raises(SourceError, match="2 of 3 values in 'response_date' .66.7%. are not dates"):
        read_table("t")


def test_dates_in_an_excel_file_that_are_numbers_or_texts_cannot_be_read(read, tmp_path):
    days = [date(2026, 10, 5), 46300, 20261005, "05/10/2026", datetime(2026, 10, 5, 10, 11), 46300.5]
    rows = [{**ANSWERS[0], "response_date": day} for day in days]
    pd.DataFrame(rows, columns=list(ANSWERS[0])).to_excel(tmp_path / "a.xlsx", index=False)
    records, snapshot = read(tmp_path / "a.xlsx", as_snapshot=True, max_rejected_share=1)
    assert len(records) == 2
    assert [example.partition(" (")[0] for example in snapshot.unreadable_examples] == [
        "row 3: '99999'",
        "row 4: '99999999'",
        "row 5: '99/99/9999'",
        "row 7: '99999.9'",
    ]


@pytest.mark.parametrize("unit", ["us", "ns", "s"])
def test_a_time_in_a_parquet_file_whose_year_does_not_have_four_digits_cannot_be_read(read, tmp_path, unit):
    values = [datetime(2026, 10, 5, 10, 11), datetime(26, 10, 5) if unit != "ns" else datetime(1700, 1, 1)]
    rows = {name: [ANSWERS[0][name]] * 2 for name in ANSWERS[0]} | {
        "response_date": pa.array(values, pa.timestamp(unit))
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    records, snapshot = read(tmp_path / "a.parquet", as_snapshot=True)
    assert len(records) == 1
    assert snapshot.unreadable_dates == (unit != "ns")


EMPTY = ("", " ", "\t", None)


@pytest.mark.parametrize("name", FOURTH_RECORD)
def test_rows_without_any_value_are_no_records(read, tmp_path, name):
    columns = list(ANSWERS[0])
    rows = [dict.fromkeys(columns, blank) for blank in EMPTY]
    # a row with any value is a record
    values = {"record_id": "8", "response_date": DAY, "occp_text": "chef", "tasks_text": "cooks"}
    rows += [{**dict.fromkeys(columns), column: value} for column, value in values.items()]
    frame = pd.DataFrame(rows, columns=columns)
    match (tmp_path / name).suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        case ".jsonl":
            lines = [json.dumps(row) + "\n" for row in rows] + ["{}\n", '{"other": 1}\n', "\n"]
            (tmp_path / name).write_text("".join(lines))
        case ".csv":
            write_csv(tmp_path / name, frame)
        case ".xlsx":
            write_excel(tmp_path / name, frame)
    empty_rows = 6 if name == "a.jsonl" else 4
    records, snapshot = read(tmp_path / name, as_snapshot=True)
    assert records == [(None, date.fromisoformat(DAY), None, None)]
    assert (snapshot.undated, snapshot.empty_rows) == (3, empty_rows)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.xlsx"])
def test_rows_without_any_value_are_no_records_of_a_single_date_either(read, tmp_path, name):
    rows = [{"record_id": blank, "occp_text": blank, "tasks_text": None} for blank in (*EMPTY, "8")]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    records, snapshot = read(tmp_path / name, as_snapshot=True, response_date=DAY, from_date=DAY, to_date=DAY)
    assert [record[0] for record in records] == ["8"]
    assert (snapshot.undated, snapshot.empty_rows) == (0, 4)


@on_all_warehouses
@pytest.mark.parametrize("kind", ["DATE", "VARCHAR", None])
def test_rows_of_a_table_without_any_value_are_no_records(read_table, define, kind):
    null = {"record_id": "CAST(NULL AS VARCHAR)", "occp_text": "' '", "tasks_text": "''"}
    dates = [f"CAST('{DAY}' AS {kind})", f"CAST(NULL AS {kind})"] if kind else ["1", "2"]
    rows = [
        select_answer(response_date=dates[0]),
        select_answer(**null, response_date=dates[1]),
        select_answer(**{**null, "tasks_text": "'cooks'"}, response_date=dates[1]),
    ]
    define(f"CREATE TABLE t AS {' UNION ALL '.join(rows)}")
    if kind:
        records, snapshot = read_table("t", as_snapshot=True)
        assert (records, snapshot.undated, snapshot.empty_rows) == (CHEF[0], 1, 1)
    else:
        define("ALTER TABLE t DROP COLUMN response_date")
        records, snapshot = read_table("t", as_snapshot=True, response_date=DAY, from_date=DAY, to_date=DAY)
        assert [record[2:] for record in records] == [("chef", "cooks"), (" ", "cooks")]
        assert (snapshot.undated, snapshot.empty_rows) == (0, 1)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.xlsx"])
@pytest.mark.parametrize("column", ["id", "ID", "Id"])
def test_columns_of_a_file_can_differ_in_case_only(read, tmp_path, name, column):
    row = {"ID": "ID", "id": "id", "Id": "Id", "response_date": DAY, "occp_text": "chef", "tasks_text": "cooks"}
    frame = pd.DataFrame([row])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    ((record_id, *_),) = read(tmp_path / name, columns={"record_id": column})[0]
    assert record_id == column


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.xlsx"])
def test_both_texts_can_have_names_that_differ_in_case_only(read, tmp_path, name):
    row = {"record_id": "007", "response_date": DAY, "Job": "chef", "JOB": "cooks"}
    frame = pd.DataFrame([row])
    frame.to_csv(tmp_path / "a.csv", index=False)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    assert read(tmp_path / name, columns={"occp_text": "Job", "tasks_text": "JOB"}) == CHEF


def test_both_texts_in_jsonl_with_names_that_differ_in_case_only_are_refused(read, tmp_path):
    row = {"record_id": "007", "response_date": DAY, "Job": "chef", "JOB": "cooks"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(SourceError, match="'Job' and 'JOB' differ in case only.*rename one of them in the file"):
        read(tmp_path / "a.jsonl", columns={"occp_text": "Job", "tasks_text": "JOB"})


@on_postgres
def test_columns_of_a_table_can_differ_in_case_only(read_table, define):
    define(f"""CREATE TABLE t AS SELECT '007' AS id, 'other' AS "ID", t.* FROM ({select_answer()}) AS t""")
    assert read_table("t", columns={"record_id": "id"}) == CHEF
    assert read_table("t", columns={"record_id": "ID"})[0][0][0] == "other"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.xlsx"])
def test_a_needed_column_that_stands_twice_is_refused(read, tmp_path, name):
    (tmp_path / "a.csv").write_text("record_id,response_date,occp_text,tasks_text,occp_text\n")
    columns = ["record_id", "response_date", "occp_text", "tasks_text", "occp_text"]
    pq.write_table(pa.table([pa.array(["x"])] * 5, names=columns), tmp_path / "a.parquet")
    pd.DataFrame([["x"] * 5], columns=columns).to_excel(tmp_path / "a.xlsx", index=False)
    with pytest.raises(SourceError, match="more than one column 'occp_text': rename all but one of them in the file"):
        read(tmp_path / name)


@on_duckdb_and_postgres
def test_an_enum_is_read_as_a_text(read_table, define):
    define("CREATE TYPE word AS ENUM ('chef', 'cooks', '007')")
    casts = {name: f"CAST({value} AS word)" for name, value in
             {"record_id": "'007'", "occp_text": "'chef'", "tasks_text": "'cooks'"}.items()}  # fmt: skip
    define(f"CREATE TABLE t AS {select_answer(**casts)}")
    assert read_table("t") == CHEF


@on_postgres
@pytest.mark.parametrize("kind", ["name", "CHAR(9)", "a_domain", "json", "jsonb"])
def test_texts_of_special_types_of_a_server_are_read(read_table, define, kind):
    define("CREATE DOMAIN a_domain AS TEXT CHECK (length(value) < 9)")
    text = "'\"chef\"'" if kind.startswith("json") else "'chef'"
    define(f"CREATE TABLE t AS {select_answer(occp_text=f'CAST({text} AS {kind})')}")
    assert read_table("t")[0][0][2].strip('"') == "chef"


@on_all_warehouses
@pytest.mark.parametrize("kind", ["NUMERIC(20)", "DECIMAL(38, 0)"])
def test_a_record_id_can_be_a_decimal_number_without_decimal_places(read_table, define, kind):
    value = "12345678901234567890"
    define(f"CREATE TABLE t AS {select_answer(record_id=f'CAST({value} AS {kind})')}")
    assert read_table("t")[0][0][0] == value


@pytest.mark.parametrize("kind", ["HUGEINT", "UHUGEINT", "UBIGINT", "BIGNUM", "UUID"])
def test_a_record_id_can_have_a_type_of_duckdb(read_table, define, kind):
    value = "6c0ffb6e-6a0c-4c5e-9d0c-1f6f1b7a3f10" if kind == "UUID" else "12345678901234567890"
    record_id = f"CAST('{value}' AS {kind})"
    define(f"CREATE TABLE t AS {select_answer(record_id=record_id)}")
    assert read_table("t")[0][0][0] == value


@pytest.mark.parametrize(
    ("array", "record_id"),
    [
        (pa.array([Decimal("12345678901234567890")], pa.decimal128(38, 0)), "12345678901234567890"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (pa.array([b"caf\xc3\xa9"], pa.binary()), "café"),
        (pa.array([bytes(range(16))], pa.uuid()), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
    ],
)
def test_a_record_id_in_a_parquet_file_can_have_any_exact_type(read, tmp_path, array, record_id):
    row = {**ANSWERS[0], "record_id": array}
    pq.write_table(
        pa.table({name: array if name == "record_id" else [row[name]] for name in row}), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet")[0][0][0] == record_id


@pytest.mark.parametrize(
    "array", [pa.array([7.0]), pa.array([Decimal("7.00")], pa.decimal128(9, 2)), pa.array([True])]
)
def test_a_record_id_in_a_parquet_file_that_is_not_exact_is_refused_with_a_remedy(read, tmp_path, array):
    columns = {name: array if name == "record_id" else [ANSWERS[0][name]] for name in ANSWERS[0]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(
        SourceError, match="record_id must be text, UUID, or a number .*: write it as text in the file$"
    ):
        read(tmp_path / "a.parquet")


def test_values_of_a_file_without_a_header_are_not_shown(read, tmp_path):
    (tmp_path / "a.csv").write_text(f"1,{DAY},chef,cares for a sick child\n")
    with pytest.raises(SourceError, match="line 1 contains values, not names, so it is not shown here") as excinfo:
        read(tmp_path / "a.csv")
    assert "child" not in str(excinfo.value)


@on_duckdb_and_postgres
@pytest.mark.parametrize(
    "source",
    [
        "nope",
        "nope.answers",
        "a.b.c",
        ".answers",
        "answers.",
        "a..b",
        "self",
        "engine",
        "values",
        "answers; DROP TABLE answers",
        "pg_class",
        "pg_catalog.pg_class",
        "information_schema.tables",
        "duckdb_settings",
    ],
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
    with pytest.raises(SourceError, match="source 'v' cannot be read: .*check the view"):
        read_table("v")


@pytest.mark.parametrize("source", ["https://example.org/a.csv", "gs://b/a.csv"])
def test_an_unsupported_uri_is_refused(read, source):
    with pytest.raises(SourceError) as excinfo:
        read(source)
    assert str(excinfo.value) == (
        f"source {source!r} is not supported: use a file:// or an s3:// URI, or a table of the warehouse"
    )


def test_a_missing_file_and_an_empty_folder_are_refused(read, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, problem in (
        (tmp_path / "none.csv", "there is no file"),
        (tmp_path / "empty", "there is no Parquet file"),
    ):
        with pytest.raises(SourceError, match=problem) as excinfo:
            read(path)
        assert repr(str(path)) in str(excinfo.value)
        assert "check its path" in str(excinfo.value)


def test_a_relative_path_is_refused(read):
    with pytest.raises(
        SourceError, match="'answers.csv' is a relative path: use a full one, such as 'file:///data/answers.csv'"
    ):
        read("answers.csv")


@pytest.mark.parametrize("name", ["a.docx", "a.parquet.gz", "a"])
def test_a_file_of_an_unsupported_type_is_refused(read, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"ends in '.*'; supported: \['.parquet', '.xlsx', '.csv'"):
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
    with pytest.raises(SourceError, match=f"a.csv' cannot be read: line {line} ") as excinfo:
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
    problem = "is not in UTF-8" if line == "\udcff" or "\udcff" in line else "is not one complete JSON object"
    with pytest.raises(SourceError, match=f"a.jsonl' cannot be read: line 2 {problem}"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("data", [b"garbage", b"PK\x03\x04 garbage"])
def test_a_corrupt_excel_file_is_refused(read, tmp_path, data):
    (tmp_path / "a.xlsx").write_bytes(data)
    with pytest.raises(SourceError, match="a.xlsx' cannot be read as Excel: it is not a complete workbook"):
        read(tmp_path / "a.xlsx")


@pytest.mark.parametrize("size", [1_100_000, 40_000_000])
@pytest.mark.parametrize("rest", ["3,2026-10-05,baker,\n", ""])
def test_a_csv_line_above_the_limit_is_refused(read, tmp_path, size, rest):
    (tmp_path / "a.csv").write_text(HEADER + f"1,{DAY},chef,cooks\n2,{DAY},{'x' * size},\n{rest}")
    with pytest.raises(SourceError, match="a.csv' cannot be read: line 3 is above 1048576 bytes; check that every"):
        read(tmp_path / "a.csv")


def test_a_csv_line_just_below_the_limit_is_read(read, tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + f"1,{DAY},chef,cooks\n2,{DAY},{'x' * 1_040_000},\n")
    records, _ = read(tmp_path / "a.csv")
    assert [(record[0], len(record[2])) for record in records] == [("1", 4), ("2", 301)]


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

"""The export of a run: its records with all columns of the source and with their codes, read back by other readers."""

import csv
import json
import os
import stat
from datetime import date, datetime

import duckdb
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from python_calamine import CalamineWorkbook

from include.coding.errors import PlanError, SourceError, StagingError
from include.coding.export import ADDED_COLUMNS, export_records, name_added_columns, open_target
from include.coding.export_access import ExportAccess, find_target
from include.coding.export_files import MAX_SHEET_COLUMNS, MAX_SHEET_ROWS, check_size
from include.coding.staging import Staging
from tests.coding.conftest import (
    CHEF,
    DAY,
    LATER_DAY,
    MODEL,
    NEXT_DAY,
    code_line,
    make_plan,
    on_duckdb_and_postgres,
    on_redshift,
)

ENDINGS = ("csv", "parquet", "xlsx")
ADDED = list(ADDED_COLUMNS)
CODED = ["351311", "Chef", 0.92, 6, "coded", None, MODEL]
BLANK = [None, None, None, None, "rejected", "blank", MODEL]
UNCODED = [None, None, None, None, "uncoded", None, MODEL]


def code_chefs(line):
    return code_line(line, CHEF if line["occp_text"].lower() == "chef" else None)


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def read_parquet(path):
    table = pq.read_table(path)
    return [table.column_names, *(list(row.values()) for row in table.to_pylist())]


def read_excel(path):
    return [list(row) for row in openpyxl.load_workbook(path).active.iter_rows(values_only=True)]


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


READERS = {"csv": read_csv, "parquet": read_parquet, "xlsx": read_excel}


def as_csv(rows):
    return [["" if value is None else str(value) for value in row] for row in rows]


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def export(pipeline, out):
    """A function that runs a plan, exports it, and returns the path of the file."""

    def export(name="coded.csv", code=code_chefs, **changes):
        pipeline.run(code=code, export=(out / name).as_uri(), max_uncoded_share=1, **changes)
        return write(pipeline, out)

    return export


def write(pipeline, out):
    """Export the run that was landed last, and return the path of the file."""
    access = ExportAccess((out,), sources=pipeline.access)
    summary = export_records(
        pipeline.plan, pipeline.plan.export, pipeline.prepared.read, pipeline.warehouse, pipeline.staging, access
    )
    assert summary.uri == pipeline.plan.export
    assert summary.records == pipeline.prepared.read
    return out / summary.uri.rpartition("/")[2]


def make_csv(folder, text):
    path = folder / "answers.csv"
    path.write_text(text, encoding="utf-8")
    return path


# ---- what is in the file -------------------------------------------------------------------------------------------

ANSWERS = f"""Age,record_id,response_date,occp_text,tasks_text,"Notes, all"
034,b,{NEXT_DAY},chef,cooks,"says ""hi""
twice"
,a,{DAY},CHEF,cooks,é
5,c,{DAY},baker,,
6,d,{DAY},,,x
7,z,{LATER_DAY},chef,cooks,not of these dates
"""


@pytest.mark.parametrize("ending", ENDINGS)
@on_duckdb_and_postgres
def test_a_file_comes_back_with_all_of_its_columns_in_its_order_and_with_the_codes(export, tmp_path, ending):
    source = make_csv(tmp_path, ANSWERS)
    path = export(f"coded.{ending}", source=source.as_uri())
    rows = [
        ["Age", "record_id", "response_date", "occp_text", "tasks_text", "Notes, all", *ADDED],
        ["034", "b", NEXT_DAY, "chef", "cooks", 'says "hi"\ntwice', *CODED],
        [None, "a", DAY, "CHEF", "cooks", "é", *UNCODED],
        ["5", "c", DAY, "baker", None, None, *UNCODED],
        ["6", "d", DAY, None, None, "x", *BLANK],
    ]
    rows[2][-7:] = CODED
    assert READERS[ending](path) == (as_csv(rows) if ending == "csv" else rows)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list_names(path.parent) == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
@on_duckdb_and_postgres
def test_a_table_comes_back_with_all_of_its_columns_and_their_types(export, pipeline, ending):
    with pipeline.warehouse.session() as session, session.transaction():
        session.execute(
            "CREATE TABLE survey (response_date DATE, record_id VARCHAR, occp_text VARCHAR, tasks_text VARCHAR,"
            ' weight DOUBLE PRECISION, income NUMERIC(12, 2), "Is Ours" BOOLEAN, seen TIMESTAMP, visits INTEGER,'
            ' "code" VARCHAR)'
        )
        session.execute(
            f"INSERT INTO survey VALUES (DATE '{DAY}', '2', 'chef', 'cooks', -0.5, -1234567.89, true,"
            f" TIMESTAMP '2026-10-05 12:30:00', -3, 'x'), (DATE '{DAY}', '1', 'chef', 'cooks', NULL, NULL, false,"
            f" NULL, NULL, NULL), (DATE '{LATER_DAY}', '3', 'chef', 'cooks', 1, 1, true, NULL, 1, 'y')"
        )
    names, first, second = READERS[ending](export(f"coded.{ending}", source="survey"))
    own = ["response_date", "record_id", "occp_text", "tasks_text", "weight", "income", "Is Ours", "seen", "visits"]
    assert names == [*own, "code", *(f"coding_{name}" for name in ADDED)]
    seen = datetime(2026, 10, 5, 12, 30)
    if ending == "csv":
        assert first == as_csv([[DAY, 1, "chef", "cooks", *[None] * 2, "false", *[None] * 3, *CODED]])[0]
        assert second == as_csv([[DAY, 2, "chef", "cooks", -0.5, "-1234567.89", "true", seen, -3, "x", *CODED]])[0]
        return
    day = date(2026, 10, 5) if ending == "parquet" else datetime(2026, 10, 5)
    assert first == [day, "1", "chef", "cooks", None, None, False, None, None, None, *CODED]
    income = second.pop(5)
    assert float(income) == -1234567.89
    if ending == "xlsx":
        assert not isinstance(income, str)
    assert second == [day, "2", "chef", "cooks", -0.5, True, seen, -3, "x", *CODED]


@on_redshift
def test_redshift_exports_too(export, pipeline):
    pipeline.fill(("2", DAY, "chef", "cooks"), ("1", DAY, "", ""))
    rows = read_csv(export())
    assert [row[0] for row in rows[1:]] == ["1", "2"]
    assert rows[2][4:] == as_csv([CODED])[0]


@on_duckdb_and_postgres
def test_records_with_the_same_id_get_each_their_own_code_in_the_order_of_the_file(export, tmp_path):
    texts = ["zz top", "chef", "", "chef", "aa", "Chef"]
    lines = [f"1,{DAY},{text},,row{number}" for number, text in enumerate(texts)]
    source = make_csv(tmp_path, "record_id,response_date,occp_text,tasks_text,n\n" + "\n".join(lines) + "\n")
    rows = read_csv(export(source=source.as_uri()))[1:]
    assert [(row[4], row[5], row[9]) for row in rows] == [
        ("row0", "", "uncoded"), ("row1", "351311", "coded"), ("row2", "", "rejected"), ("row3", "351311", "coded"),
        ("row4", "", "uncoded"), ("row5", "351311", "coded"),
    ]  # fmt: skip


def test_the_codes_are_those_that_are_published(export, pipeline, out):
    pipeline.fill(("1", DAY, "chef", "cooks"))
    export()
    pipeline.query("UPDATE coding.coded_records SET label = 'published'")
    assert read_csv(write(pipeline, out))[1][5] == "published"


def test_a_run_whose_records_were_published_before_exports_them_too(export, pipeline, out):
    pipeline.fill(("1", DAY, "chef", "cooks"))
    export()
    path = export("again.csv", run_id="run-2")
    assert pipeline.prepared.unchanged
    assert path.read_bytes() == (out / "coded.csv").read_bytes()


def test_a_trial_exports_the_records_of_the_trial(export, tmp_path):
    lines = [f"{number},{DAY},job {number},,{number * 10}" for number in range(50)]
    source = make_csv(tmp_path, "record_id,response_date,occp_text,tasks_text,n\n" + "\n".join(lines) + "\n")
    rows = read_csv(export(source=source.as_uri(), max_records=7, schema="coding_trial"))[1:]
    assert len(rows) == 7
    assert all(row[4] == str(int(row[0]) * 10) for row in rows)
    assert [int(row[0]) for row in rows] == sorted(int(row[0]) for row in rows)


def test_rows_that_are_numbered_get_their_own_codes(export, tmp_path):
    source = make_csv(tmp_path, "record_number,day,job\n9,2026-10-05,baker\n8,2026-10-05,chef\n")
    columns = {"record_id": None, "response_date": "day", "occp_text": "job", "tasks_text": None}
    rows = read_csv(export(source=source.as_uri(), columns=columns))
    assert [row[:4] for row in rows] == [
        ["record_number", "day", "job", "code"], ["9", DAY, "baker", ""], ["8", DAY, "chef", "351311"],
    ]  # fmt: skip


def test_a_parquet_file_with_a_column_record_number_numbers_its_rows(export, pipeline, tmp_path):
    path = tmp_path / "a.parquet"
    duckdb.execute(
        f"COPY (SELECT 'R9' AS Record_Number, DATE '{DAY}' AS response_date, 'chef' AS occp_text) TO '{path}'"
    )
    rows = read_parquet(export("c.parquet", source=path.as_uri(), columns={"record_id": None, "tasks_text": None}))
    assert rows[1][:4] == ["R9", date(2026, 10, 5), "chef", "351311"]
    assert pipeline.query("SELECT record_id FROM coding.coded_records") == [("1",)]


def test_parquet_keeps_the_types_and_the_names_of_parquet(export, tmp_path):
    path = tmp_path / "a.parquet"
    duckdb.execute(
        f"COPY (SELECT '1' AS record_id, DATE '{DAY}' AS response_date, 'chef' AS occp_text, '' AS tasks_text,"
        " [1, 2] AS list, {'a': 'x'} AS struct, 1.50::DECIMAL(9, 2) AS dec,"
        " INTERVAL 1 DAY AS gap, TIMESTAMPTZ '2026-10-05 00:00:00+11' AS moment, 18446744073709551615::UBIGINT AS big,"
        " NULL::INTEGER AS nothing, 'lower' AS name, 'upper' AS \"Name_1\") TO '" + str(path) + "'"
    )
    table = pq.read_table(path)
    renamed = table.rename_columns([*table.column_names[:-1], "NAME"])
    pq.write_table(renamed, path)
    result = pq.read_table(export("c.parquet", source=path.as_uri()))
    assert result.column_names == [*renamed.column_names, *ADDED]
    for name in ("list", "struct", "dec", "big", "nothing", "name", "NAME"):
        assert result[name].to_pylist() == renamed[name].to_pylist(), name
    assert result["dec"].type == pa.decimal128(9, 2)
    assert result["moment"].to_pylist()[0] == renamed["moment"].to_pylist()[0]
    row = dict(zip(*read_csv(export("c.csv", source=path.as_uri(), run_id="run-2")), strict=True))
    assert [row[name] for name in ("list", "struct", "dec", "moment", "big")] == [
        "[1,2]", '{"a":"x"}', "1.50", "2026-10-04 13:00:00+00", "18446744073709551615",
    ]  # fmt: skip


def test_numbers_and_truths_of_json_stay_what_they_are(export, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        {"age": 7, "record_id": "1", "response_date": DAY, "occp_text": "chef", "tasks_text": "", "w": 0.5, "x": [1]},
        {"record_id": "2", "response_date": DAY, "occp_text": "chef", "tasks_text": "", "ok": True, "w": 2},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names, first, second = read_parquet(export("c.parquet", source=path.as_uri()))
    assert names[:8] == ["age", "record_id", "response_date", "occp_text", "tasks_text", "w", "x", "ok"]
    assert first[:8] == [7, "1", DAY, "chef", "", 0.5, "[1]", None]
    assert second[:8] == [None, "2", DAY, "chef", "", 2.0, None, True]


def test_cells_of_excel_keep_their_kinds(export, tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Survey of workers"])
    sheet.append(["record_id", "response_date", "occp_text", "age", "seen", "is_ours", "mixed", "n", "n"])
    sheet.append(["007", datetime(2026, 10, 5), "chef", 34, datetime(2026, 10, 5, 8, 15), True, 1, 0.25, "a"])
    sheet.append(["008", datetime(2026, 10, 6), "chef", -2, None, False, "one", 1e20, "b"])
    book.save(tmp_path / "answers.xlsx")
    options = {"header_row": 2, "date_format": "%d/%m/%Y"}
    path = export(
        "c.xlsx", source=(tmp_path / "answers.xlsx").as_uri(), columns={"tasks_text": None}, read_options=options
    )
    assert read_excel(path) == [
        ["record_id", "response_date", "occp_text", "age", "seen", "is_ours", "mixed", "n", "n", *ADDED],
        ["007", datetime(2026, 10, 5), "chef", 34, datetime(2026, 10, 5, 8, 15), True, "1", 0.25, "a", *CODED],
        ["008", datetime(2026, 10, 6), "chef", -2, None, False, "one", 1e20, "b", *CODED],
    ]
    names = pq.read_schema(export("c.parquet", source=(tmp_path / "answers.xlsx").as_uri(), run_id="run-2",
                                  columns={"tasks_text": None}, read_options=options)).names  # fmt: skip
    assert names[7:9] == ["n", "n_2"]


def write_workbook(path, *rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)


def test_whole_numbers_of_excel_stay_whole_in_every_format(export, tmp_path):
    source = tmp_path / "answers.xlsx"
    write_workbook(
        source, ["record_id", "response_date", "occp_text", "postcode", "weight"],
        [1, date(2026, 10, 5), "chef", 2000, 1], [2, date(2026, 10, 5), "chef", None, 0.5],
    )  # fmt: skip
    values = {"csv": ("1", "2000", "1.0"), "parquet": (1, 2000, 1.0), "xlsx": (1, 2000, 1)}
    for ending, expected in values.items():
        path = export(f"c.{ending}", source=source.as_uri(), columns={"tasks_text": None}, run_id=f"run-{ending}")
        row = READERS[ending](path)[1]
        assert (row[0], row[3], row[4]) == expected


def test_a_date_of_excel_with_a_time_keeps_it_whatever_the_form_of_the_texts(export, pipeline, tmp_path):
    source = tmp_path / "answers.xlsx"
    write_workbook(
        source, ["record_id", "response_date", "occp_text"], ["1", datetime(2026, 10, 5, 13, 45), "chef"],
        ["2", "05/10/26", "chef"],
    )  # fmt: skip
    options = {"date_format": "%d/%m/%y"}
    path = export(source=source.as_uri(), columns={"tasks_text": None}, read_options=options)
    assert [row[:2] for row in read_csv(path)[1:]] == [["1", "2026-10-05 13:45:00"], ["2", "05/10/26"]]


def test_a_value_beside_the_named_columns_of_a_sheet_is_refused_before_anything_is_sent(pipeline, tmp_path, out):
    source = tmp_path / "answers.xlsx"
    write_workbook(
        source, ["record_id", "response_date", "occp_text"], ["1", date(2026, 10, 5), "chef", None, "a note"]
    )
    plan = {"source": source.as_uri(), "columns": {"tasks_text": None}}
    with pytest.raises(SourceError, match="row 2 has a value in a column without a name, after 'occp_text'; name"):
        pipeline.prepare(**plan, export=(out / "c.csv").as_uri())
    assert pipeline.prepare(**plan, run_id="run-2").read == 1


@pytest.mark.parametrize("number", ["9007199254740993", "12345678901234567890123"])
def test_numbers_of_json_that_would_be_rounded_stay_as_they_are_written(export, tmp_path, number):
    source = tmp_path / "a.jsonl"
    lines = [f'{{"record_id": "{n}", "response_date": "{DAY}", "occp_text": "chef", "tasks_text": "", "x": {x}, "y": {y}}}'
             for n, x, y in (("1", number, "1.10"), ("2", "0.5", "2"))]  # fmt: skip
    source.write_text("\n".join(lines))
    rows = read_csv(export(source=source.as_uri()))[1:]
    assert [row[4] for row in rows] == [number, "0.5"]
    assert [float(row[5]) for row in rows] == [1.1, 2]


def test_a_table_without_records_of_the_dates_gives_a_file_with_names_only(export, pipeline):
    pipeline.fill(("1", LATER_DAY, "chef", ""))
    for ending in ENDINGS:
        path = export(f"c.{ending}", run_id=f"run-{ending}")
        assert READERS[ending](path) == [["record_id", "response_date", "occp_text", "tasks_text", *ADDED]]


# ---- names -----------------------------------------------------------------------------------------------------------


def test_added_columns_get_a_prefix_if_the_source_has_one_of_their_names():
    assert name_added_columns(["age"]) == ADDED
    assert name_added_columns(["CODE"]) == [f"coding_{name}" for name in ADDED]
    assert name_added_columns(["code", "coding_label"])[1] == "coding_coding_label"


def test_an_export_can_be_coded_and_exported_again(export, tmp_path):
    source = make_csv(tmp_path, ANSWERS)
    first = export(source=source.as_uri())
    again = first.rename(tmp_path / "answers-coded.csv")
    names, *rows = read_csv(export(source=again.as_uri(), run_id="run-2"))
    assert names[-14:] == [*ADDED, *(f"coding_{name}" for name in ADDED)]
    assert all(row[-14:-7] == row[-7:] for row in rows)


# ---- formulas --------------------------------------------------------------------------------------------------------

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", '=HYPERLINK("http://x")', "＝1"]
HARMLESS = ["-5", "+3.5e2", "1=1", "'=1", "#N/A", "TRUE", "2026-10-05", "_x0041_", " a ", "a\rb", "\x07bell", ""]


@pytest.fixture
def formulas(tmp_path):
    """A Parquet file with texts that a spreadsheet could take for something else, and with a name that is a formula."""
    values = FORMULAS + HARMLESS
    table = pa.table({
        "record_id": values, "response_date": [date(2026, 10, 5)] * len(values), "occp_text": ["chef"] * len(values),
        "tasks_text": [""] * len(values), "=cmd()": values, "number": [-float(n) for n in range(len(values))],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def test_no_text_is_a_formula_in_csv_and_numbers_stay_numbers(export, formulas):
    names, *rows = read_csv(export(source=formulas.as_uri()))
    assert names[4] == "'=cmd()"
    assert [row[4] for row in rows] == [f"'{text}" for text in FORMULAS] + HARMLESS
    assert [row[5] for row in rows[:3]] == ["-0.0", "-1.0", "-2.0"]


def test_no_text_is_a_formula_in_excel_and_every_text_is_what_it_was(export, formulas):
    path = export("c.xlsx", source=formulas.as_uri())
    rows = list(openpyxl.load_workbook(path).active.iter_rows())
    texts = [row[4] for row in rows]
    assert {cell.data_type for cell in texts if cell.value is not None} <= {"s", "inlineStr"}
    assert rows[0][4].value == "=cmd()"
    assert [row[5].value for row in rows[1:4]] == [0, -1, -2]
    values = [
        row[4] for row in CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python(skip_empty_area=False)
    ]
    assert values[1:] == FORMULAS + HARMLESS


def test_numbers_that_excel_would_round_are_texts(export, tmp_path):
    path = tmp_path / "a.parquet"
    duckdb.execute(
        f"COPY (SELECT '1' AS record_id, DATE '{DAY}' AS response_date, 'chef' AS occp_text, '' AS tasks_text,"
        " 1234567890123456789 AS big, 123456789012345 AS small, 1234567890.123456789::DECIMAL(19, 9) AS dec,"
        " 'nan'::DOUBLE AS nan, DATE '1899-12-30' AS old, DATE '1950-02-03' AS day,"
        " TIMESTAMP 'infinity' AS never) TO '" + str(path) + "'"
    )
    row = read_excel(export("c.xlsx", source=path.as_uri()))[1]
    assert row[4:11] == [
        "1234567890123456789", 123456789012345, "1234567890.123456789", "nan", "1899-12-30", datetime(1950, 2, 3),
        "infinity",
    ]  # fmt: skip


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_a_sheet_of_excel_has_a_largest_number_of_rows_and_columns_and_other_files_have_none():
    check_size("/a.xlsx", MAX_SHEET_ROWS - 1, MAX_SHEET_COLUMNS)
    check_size("/a.csv", MAX_SHEET_ROWS, MAX_SHEET_COLUMNS + 1)
    with pytest.raises(
        PlanError, match="1048576 records, and a sheet of Excel has 1048575 .*ends in .csv or .parquet"
    ):
        check_size("/a.XLSX", MAX_SHEET_ROWS, 5)
    with pytest.raises(PlanError, match="16385 columns, and a sheet of Excel has 16384"):
        check_size("/a.xlsx", 1, MAX_SHEET_COLUMNS + 1)


def test_more_records_than_a_sheet_has_rows_are_refused_before_anything_is_sent(pipeline, tmp_path, out):
    path = tmp_path / "a.parquet"
    duckdb.execute(
        f"COPY (SELECT i::VARCHAR AS record_id, DATE '{DAY}' AS response_date, 'chef' AS occp_text, '' AS tasks_text"
        f" FROM range({MAX_SHEET_ROWS}) AS numbers(i)) TO '{path}'"
    )
    with pytest.raises(PlanError, match="a sheet of Excel has 1048575"):
        pipeline.prepare(source=path.as_uri(), export=(out / "a.xlsx").as_uri())


def test_a_text_that_no_cell_can_hold_is_refused_with_another_type_of_file(export, tmp_path, out):
    source = make_csv(tmp_path, f"record_id,response_date,occp_text,tasks_text,n\n1,{DAY},chef,,{'x' * 32768}\n")
    with pytest.raises(PlanError, match=r"row 2 has a text of 32768 characters in 'n', .*\.csv or \.parquet"):
        export("c.xlsx", source=source.as_uri())
    assert list_names(out) == []
    assert len(read_csv(export("c.csv", source=source.as_uri(), run_id="run-2"))[1][4]) == 32768


# ---- a source that has changed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO survey_responses VALUES ('9', DATE '2026-10-05', 'chef', '')",
        "DELETE FROM survey_responses WHERE record_id = '1'",
        "UPDATE survey_responses SET occp_text = 'baker' WHERE record_id = '1'",
        "UPDATE survey_responses SET record_id = '7' WHERE record_id = '1'",
    ],
)
def test_a_source_that_has_changed_since_is_not_exported(export, pipeline, out, change):
    pipeline.fill(("1", DAY, "chef", "cooks"), ("2", DAY, "baker", ""))
    path = export()
    before = path.read_bytes()
    pipeline.query(change)
    with pytest.raises(SourceError, match="has changed since the run read it: .* start another run"):
        write(pipeline, out)
    assert path.read_bytes() == before
    assert list_names(out) == [path.name]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_another_attempt_writes_the_same_file(export, pipeline, out, ending):
    pipeline.fill(*[(str(n % 5), DAY, f"job {n % 7}", "") for n in range(40)])
    path = export(f"c.{ending}")
    before = path.read_bytes()
    (out / ".export-0.partial").write_bytes(b"of another run")
    assert write(pipeline, out).read_bytes() == before


def test_an_attempt_that_is_given_up_does_not_publish_what_the_next_one_writes(pipeline, out):
    access, target = ExportAccess((out,)), find_target((out / "c.csv").as_uri(), ExportAccess((out,)))
    plan, staging = make_plan(), Staging.in_folder(out)

    def write_twice():
        with (
            open_target(target, plan, staging, access) as first,
            open_target(target, plan, staging, access) as second,
        ):
            first.write(b"first")
            second.write(b"second")

    with pytest.raises(StagingError, match="cannot be written"):
        write_twice()
    assert (out / "c.csv").read_bytes() == b"second"
    assert [name for name in list_names(out) if "partial" in name] == []


def test_a_full_disk_leaves_the_earlier_file_and_no_part_of_the_new_one(export, pipeline, out, monkeypatch):
    pipeline.fill(("1", DAY, "chef", "cooks"))
    path = export()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StagingError, match="cannot be written"):
        write(pipeline, out)
    assert (path.read_bytes(), list_names(out)) == (before, [path.name])


def test_an_object_is_written_through_the_file_system_of_the_deployment(pipeline, s3, tmp_path):
    bucket, fs = s3.create_bucket(), s3.file_system()
    pipeline.fill(("1", DAY, "chef", "cooks"))
    pipeline.run(export=f"s3://{bucket}/out/coded.csv")
    access = ExportAccess((), (f"s3://{bucket}/out",), pipeline.access, lambda uri, connection: fs)
    export_records(
        pipeline.plan, pipeline.plan.export, pipeline.prepared.read, pipeline.warehouse, pipeline.staging, access
    )
    lines = s3.read(bucket, "out/coded.csv").decode().splitlines()
    assert len(lines) == 2
    assert s3.keys(bucket) == ["out/coded.csv"]
    missing = ExportAccess((), (f"s3://{bucket}/out",), pipeline.access)
    with pytest.raises(PlanError, match="has no object storage"):
        export_records(
            pipeline.plan, pipeline.plan.export, pipeline.prepared.read, pipeline.warehouse, pipeline.staging, missing
        )

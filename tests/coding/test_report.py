"""The report of a run: counts that a person can check, and no texts of respondents."""

import pytest

from include.coding.errors import IncompleteError
from include.coding.files import path_from_uri
from include.coding.landing import LandingSummary
from include.coding.report import write_report
from tests.coding.conftest import CHEF, DAY, NEXT_DAY, code_line, on_all_warehouses, on_duckdb_and_postgres

RECORDS = [
    ("1", DAY, "secret chef", "cooks"),
    ("2", DAY, "secret chef", "cooks"),
    ("3", NEXT_DAY, "secret baker", ""),
    ("4", NEXT_DAY, "", None),
    (None, NEXT_DAY, "nurse", ""),
    ("6", None, "nurse", ""),
]
TRADES = {**CHEF, "codeCategory": "3", "codeLabel": "Trades", "codeConfidence": 0.5}


def code_some(line):
    return code_line(line, result=CHEF if line["occp_text"] == "secret chef" else None)


@pytest.fixture
def report(pipeline):
    """A function that lands the records and returns the text of the report."""

    def write(code=code_some, rows=RECORDS, **changes):
        pipeline.fill(*rows)
        summary = pipeline.run(code=code, **changes)
        uri = write_report(pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging)
        return path_from_uri(uri).read_text(encoding="utf-8")

    return write


def read_table(text, title):
    """Return the cells of the table in one section, or its text if it has no table."""
    section = text.split(f"## {title}\n\n")[1].split("\n\n")[0].strip()
    rows = section.splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] if rows else section


def test_the_summary_names_the_run_and_counts_the_outcomes(report, pipeline):
    text = report()
    assert text.startswith(
        f"# Occupation coding, {DAY} to {NEXT_DAY}\n\nTopic `osca`, model `{pipeline.plan.model_id}`"
    )
    assert "source `survey_responses`, run `run-1`." in text
    assert "- Records read: 5: 2 coded, 1 uncoded, 2 rejected (1 blank, 1 no_record_id).\n" in text
    assert "- Distinct texts: 2; coded earlier by this model: 0; sent: 2 in 1 operations.\n" in text
    assert "- Records of the source without a date, which no run codes: 1." in text


def test_the_report_names_the_rows_that_no_run_codes_whatever_the_dates_of_the_run(report, tmp_path):
    rows = [f"1,{DAY},secret chef,", f"2,{DAY},secret chef,", "3,05/10/26,secret chef,", ",,,"]
    (tmp_path / "a.csv").write_text("\n".join(["record_id,response_date,occp_text,tasks_text", *rows]))
    source = (tmp_path / "a.csv").as_uri()
    for run_id, day in (("run-1", DAY), ("run-2", NEXT_DAY)):
        text = report(source=source, run_id=run_id, from_date=day, to_date=day)
        assert (
            "- Records in the whole source with a date that cannot be read: 1 (such as line 4: '99/99/99')." in text
        )
        assert "They can belong to any day, and no run codes them until they are corrected." in text
        assert "- Rows in the whole source without any value in the needed columns, which are no records: 1." in text
        assert "secret" not in text


def test_a_run_that_is_not_recorded_as_published_has_no_report(report, pipeline):
    report()
    pipeline.query("DELETE FROM coding.coding_runs")
    summary = LandingSummary(5, 2, 1, 2, 2, 2, 1, DAY, NEXT_DAY, None)
    with pytest.raises(IncompleteError, match=r"run 'run-1' is not recorded as published, .*clear 'land'"):
        write_report(pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging)


@on_all_warehouses
def test_the_tables_count_outcomes_reasons_levels_and_codes(report):
    text = report(code=lambda line: code_line(line, result=CHEF if "chef" in line["occp_text"] else TRADES))
    assert read_table(text, "Outcomes") == [["coded", "3"], ["rejected", "2"]]
    assert read_table(text, "Why records were rejected or not answered") == [["blank", "1"], ["no_record_id", "1"]]
    assert read_table(text, "Levels of the codes (digits)") == [["6", "2", "0.92"], ["1", "1", "0.5"]]
    assert read_table(text, "Most frequent codes") == [["351311", "Chef", "2", "0.92"], ["3", "Trades", "1", "0.5"]]


def test_the_report_contains_no_texts_of_respondents(report):
    assert "secret" not in report()


def test_the_report_of_a_run_without_records_says_so(report):
    text = report(from_date="2026-01-01", to_date="2026-01-01")
    assert "Nothing was sent: the source has no records of these dates." in text
    assert read_table(text, "Outcomes") == "None."


def test_the_report_explains_why_nothing_was_sent(report, pipeline):
    pipeline.fill(*RECORDS)
    pipeline.run()
    text = report(rows=[("9", DAY, "secret chef", "cooks")], run_id="run-2")
    assert "coded earlier by this model: 2; sent: 0 in 0 operations. Nothing was sent: every text is coded" in text
    text = report(rows=[], run_id="run-3")
    assert "Nothing was sent or written: run `run-2` has already published exactly these records." in text


@on_duckdb_and_postgres
def test_only_rows_of_the_run_are_counted(report, pipeline):
    pipeline.fill(("9", "2026-10-01", "nurse", ""))
    pipeline.run(run_id="run-0", from_date="2026-10-01", to_date="2026-10-01")
    pipeline.run(run_id="run-0-other", topic="anzsco", from_date="2026-10-01", to_date=NEXT_DAY)
    assert read_table(report(), "Outcomes") == [["coded", "2"], ["rejected", "2"], ["uncoded", "1"]]


@on_duckdb_and_postgres
def test_a_label_can_be_no_markup_and_a_confidence_can_have_any_size(report):
    label = "<img src=x onerror=alert(1)> | [a](javascript:b) `c` " + "x" * 500
    result = {**CHEF, "codeLabel": label, "codeConfidence": 1.7e308}
    rows = [(str(number), DAY, f"secret chef {number}", "") for number in range(3)]
    text = report(code=lambda line: code_line(line, result=result), rows=rows)
    ((code, shown_label, records, mean),) = read_table(text, "Most frequent codes")
    assert (code, records, mean) == ("351311", "3", "")
    assert shown_label.startswith(
        "&#60;img src=x onerror=alert(1)&#62; &#124; &#91;a&#93;(javascript:b) &#96;c&#96; x"
    )
    assert shown_label.endswith("x…")
    assert "**3 codes have a confidence outside 0 to 1; it is stored as the service gave it.**" in text

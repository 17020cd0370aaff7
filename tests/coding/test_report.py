"""The report of a run: counts that a person can check, and no text of anybody."""

import pytest

from include.coding.files import path_from_uri
from include.coding.report import write_report
from tests.coding.conftest import CHEF, DAY, NEXT_DAY, code_line

RECORDS = [
    ("1", DAY, "secret chef", "cooks"),
    ("2", DAY, "secret chef", "cooks"),
    ("3", NEXT_DAY, "secret baker", ""),
    ("4", NEXT_DAY, "", None),
    (None, NEXT_DAY, "nurse", ""),
    ("6", None, "nurse", ""),
]
WIDE = {**CHEF, "codeCategory": "3", "codeLabel": "Trades", "codeConfidence": 0.5}


def code_some(line):
    return code_line(line, result=CHEF if line["occp_text"] == "secret chef" else None)


@pytest.fixture
def report(pipeline):
    """Land the records and return the text of the report."""

    def write(code=code_some, rows=RECORDS, **changes):
        pipeline.fill(*rows)
        landed = vars(pipeline.run(code=code, **changes))
        told = pipeline.prepared.to_dict()
        uri = write_report(pipeline.plan, told, landed, pipeline.warehouse, pipeline.staging)
        return path_from_uri(uri).read_text(encoding="utf-8")

    return write


def table(text, title):
    """Cells of the rows of one section's table."""
    section = text.split(f"## {title}\n\n")[1].split("\n\n")[0].strip()
    rows = section.splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] if rows else section


def test_the_head_says_what_was_run_and_how_the_records_ended(report, pipeline):
    text = report()
    assert text.startswith(
        f"# Occupation coding, {DAY} to {NEXT_DAY}\n\nTopic `osca`, model `{pipeline.plan.model_id}`"
    )
    assert "source `survey_responses`, run `run-1`." in text
    assert "- Records read: 5: 2 coded, 1 uncoded, 2 rejected.\n" in text
    assert "- Distinct texts: 2; coded before by this model: 0; sent: 2 in 1 operations.\n" in text
    assert "- Records of the source without a date, which belong to no run: 1." in text


def test_the_tables_count_outcomes_reasons_levels_and_codes(report):
    text = report(code=lambda line: code_line(line, result=CHEF if "chef" in line["occp_text"] else WIDE))
    assert table(text, "Outcomes") == [["coded", "3"], ["rejected", "2"]]
    assert table(text, "Why records were rejected") == [["blank", "1"], ["no_record_id", "1"]]
    assert table(text, "Levels of the codes (digits)") == [["6", "2", "0.92"], ["1", "1", "0.5"]]
    assert table(text, "Most frequent codes") == [["351311", "Chef", "2", "0.92"], ["3", "Trades", "1", "0.5"]]


def test_no_text_of_a_person_stands_in_the_report(report):
    assert "secret" not in report()


def test_a_run_without_records_says_so(report):
    text = report(from_date="2026-01-01", to_date="2026-01-01")
    assert "The source has no records of these dates: nothing to send." in text
    assert table(text, "Outcomes") == "None."


def test_a_run_that_sends_nothing_says_why(report, pipeline):
    pipeline.fill(*RECORDS)
    pipeline.run()
    text = report(rows=[("9", DAY, "secret chef", "cooks")], run_id="run-2")
    assert "coded before by this model: 2; sent: 0 in 0 operations. Nothing was sent: every text is coded" in text
    text = report(rows=[], run_id="run-3")
    assert "Nothing was sent or written: run `run-2` published just these records." in text


def test_only_published_by_run_the_run_are_counted(report, pipeline):
    pipeline.fill(("9", "2026-10-01", "nurse", ""))
    pipeline.run(run_id="run-0", from_date="2026-10-01", to_date="2026-10-01")
    pipeline.run(run_id="run-0-other", topic="anzsco", from_date="2026-10-01", to_date=NEXT_DAY)
    assert table(report(), "Outcomes") == [["coded", "2"], ["rejected", "2"], ["uncoded", "1"]]

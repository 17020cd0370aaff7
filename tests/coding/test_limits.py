"""Limits for publishing: what is refused before anything is sent, what is only reported, and which dates wait."""

import json
from dataclasses import replace
from datetime import date

import pytest

from include.coding.errors import AuditError
from include.coding.estimate import estimate_run
from include.coding.files import path_from_uri
from include.coding.limits import LimitError, describe_exceeded_limits
from include.coding.prepare import Prepared
from include.coding.report import write_estimate, write_report
from include.coding.run_log import find_dates_over_limit
from tests.coding.conftest import CHEF, DAY, LATER_DAY, NEXT_DAY, code_line, make_plan, on_all_warehouses

NIGHT = {"run_id": "night", "from_date": DAY, "to_date": NEXT_DAY, "changed_only": True}
BAD_ANSWERS = [("2", DAY, "", ""), ("3", DAY, " ", None), (None, DAY, "nurse", "")]


def code_chefs(line):
    return code_line(line, result=CHEF if line["occp_text"] == "chef" else None)


def read_texts(pipeline):
    """Return the texts that would be sent."""
    lines = [path_from_uri(part.input_uri).read_text().splitlines() for part in pipeline.prepared.parts]
    return sorted(json.loads(line)["occp_text"] for part in lines for line in part)


def read_waiting_dates(pipeline):
    """Return the dates over a limit, the run that left each last, and the limits."""
    return pipeline.query("SELECT response_date, run_id, limits FROM coding.dates_over_limit ORDER BY 1")


def test_a_run_with_too_many_rejected_records_is_refused_before_anything_is_sent(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), *BAD_ANSWERS)
    with pytest.raises(LimitError) as caught:
        pipeline.prepare()
    assert str(caught.value) == (
        "nothing was sent: 3 of 4 records are rejected (75.0%), which exceeds max_rejected_share = 0.5 (2 blank,"
        " 1 no_record_id): check the source, or raise the limit if this is expected"
    )
    assert list(pipeline.folder.glob("**/part-*")) == []
    assert pipeline.prepare(max_rejected_share=0.75).rejected_by_reason == {"blank": 2, "no_record_id": 1}


def test_a_dry_run_shows_that_a_real_run_would_be_refused_and_why(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), *BAD_ANSWERS)
    prepared = pipeline.prepare(dry_run=True)
    estimate = estimate_run(prepared, 2, 5, 1.0, max_operations=None)
    report = path_from_uri(write_estimate(pipeline.plan, estimate, pipeline.staging)).with_suffix(".md").read_text()
    assert "- **A real run would be refused: 3 of 4 records are rejected (75.0%), which exceeds" in report
    assert "- Records: 4, of which 3 are rejected (2 blank, 1 no_record_id); 0 more have no date." in report
    assert estimate.texts_to_send == 1


def test_all_limits_that_a_run_exceeds_are_named(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), ("2", DAY, "baker", ""), ("3", DAY, "", ""))
    pipeline.run(code=code_chefs)
    both = (
        r"nothing was sent: 1 of 2 records are uncoded \(50.0%\), which exceeds max_uncoded_share = 0.1;"
        r" 1 of 3 records are rejected \(33.3%\), which exceeds max_rejected_share = 0.1"
    )
    with pytest.raises(AuditError, match=both):
        pipeline.prepare(run_id="run-2", max_uncoded_share=0.1, max_rejected_share=0.1)
    assert describe_exceeded_limits(make_plan(max_uncoded_share=0.1), 4, 3, 1).count("exceeds") == 2


@pytest.mark.parametrize(("records", "is_published"), [(3, True), (2, False)])
def test_a_share_of_few_records_is_reported_and_publishes(pipeline, records, is_published):
    pipeline.fill(("1", DAY, "baker", ""), ("2", DAY, "baker", ""))
    limits = {"min_records_for_limits": records, "max_uncoded_share": 0.5}
    if not is_published:
        with pytest.raises(LimitError, match="2 of 2 records are uncoded"):
            pipeline.run(code=code_chefs, **limits)
        return
    summary = pipeline.run(code=code_chefs, **limits)
    report = (
        path_from_uri(write_report(pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging))
        .with_suffix(".md")
        .read_text()
    )
    assert summary.uncoded == 2
    assert "- **2 of 2 records are uncoded; limits apply from 3 records.**" in report


def test_the_rejected_share_of_few_records_is_reported_before_anything_is_sent(pipeline):
    pipeline.fill(BAD_ANSWERS[0])
    (warning,) = pipeline.prepare(min_records_for_limits=50).warnings
    assert warning == "1 of 1 records are rejected; limits apply from 50 records"


@on_all_warehouses
def test_a_look_back_does_not_send_the_texts_of_a_date_over_the_limit_and_the_date_waits_for_a_decision(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), ("2", DAY, "clerk", ""), *BAD_ANSWERS, ("9", NEXT_DAY, "chef", ""))
    pipeline.prepare(**NIGHT)
    assert (read_texts(pipeline), pipeline.prepared.texts) == (["chef"], 1)
    summary = pipeline.land()
    limits = "3 of 5 records are rejected (60.0%), which exceeds max_rejected_share = 0.5 (2 blank, 1 no_record_id)"
    assert (summary.days, summary.read) == ((NEXT_DAY,), 1)
    assert read_waiting_dates(pipeline) == [(date.fromisoformat(DAY), "night", limits)]
    assert [(entry.day, entry.limits) for entry in summary.dates_over_limit] == [(DAY, limits)]
    report = (
        path_from_uri(write_report(pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging))
        .with_suffix(".md")
        .read_text()
    )
    assert f"- **Not published: {DAY} (since {summary.dates_over_limit[0].since}): 3 of 5 records" in report

    since = pipeline.query("SELECT since FROM coding.dates_over_limit")
    pipeline.run(**{**NIGHT, "run_id": "next", "to_date": LATER_DAY})
    assert read_waiting_dates(pipeline) == [(date.fromisoformat(DAY), "next", limits)]
    assert pipeline.query("SELECT since FROM coding.dates_over_limit") == since

    pipeline.run(run_id="manual", to_date=DAY, max_rejected_share=0.6)
    assert read_waiting_dates(pipeline) == []
    pipeline.run(**{**NIGHT, "run_id": "last"})
    assert read_waiting_dates(pipeline) == [], "what is published as it is needs no decision"


def test_a_night_whose_own_date_has_too_many_rejected_records_is_refused_and_the_date_waits(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), *((f"bad-{number}", NEXT_DAY, "", "") for number in range(3)))
    with pytest.raises(LimitError, match=f"nothing was sent: {NEXT_DAY}: 3 of 3 .* every night reads it again"):
        pipeline.prepare(**NIGHT)
    ((day, run_id, _),) = read_waiting_dates(pipeline)
    assert (day, run_id) == (date.fromisoformat(NEXT_DAY), "night")
    pipeline.run(**{**NIGHT, "run_id": "next", "to_date": LATER_DAY})
    assert read_waiting_dates(pipeline)[0][1] == "next"
    pipeline.query("DELETE FROM survey_responses WHERE record_id LIKE 'bad-%'")
    pipeline.run(**{**NIGHT, "run_id": "corrected", "to_date": LATER_DAY})
    assert read_waiting_dates(pipeline) == []


def test_a_night_whose_own_date_has_too_many_uncoded_records_fails_and_the_date_waits(pipeline):
    pipeline.fill(("1", NEXT_DAY, "baker", ""))
    with pytest.raises(LimitError, match=f"nothing was published: {NEXT_DAY}: 1 of 1 records are uncoded"):
        pipeline.run(code=code_chefs, **NIGHT)
    assert [row[:2] for row in read_waiting_dates(pipeline)] == [(date.fromisoformat(NEXT_DAY), "night")]
    with pipeline.warehouse.session() as session:
        assert [entry.day for entry in find_dates_over_limit(session, "coding", "osca")] == [NEXT_DAY]
        assert find_dates_over_limit(session, "coding", "anzsco") == []


def test_an_older_reading_does_not_end_the_wait_of_a_date(pipeline):
    pipeline.fill(("1", DAY, "chef", ""))
    older = pipeline.prepare(run_id="older", from_date=DAY, to_date=DAY)
    plan, results = pipeline.plan, [pipeline.code_part(part) for part in older.parts]
    pipeline.fill(*BAD_ANSWERS)
    pipeline.run(**NIGHT)
    pipeline.plan, pipeline.prepared = plan, older
    pipeline.land(results)
    assert [row[:2] for row in read_waiting_dates(pipeline)] == [(date.fromisoformat(DAY), "night")]


def test_what_was_prepared_survives_json(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), BAD_ANSWERS[0])
    prepared = replace(pipeline.prepare(), dates_over_limit={DAY: "too many"}, warnings=("a warning",))
    assert Prepared.from_dict(json.loads(json.dumps(prepared.to_dict()))) == prepared

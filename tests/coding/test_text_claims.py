"""Texts that several runs in progress need, on every kind of warehouse; `collect` is in tests/pipeline/test_collecting.py."""

from __future__ import annotations

from datetime import timedelta

import pytest

from include.coding import text_claims
from tests.coding.conftest import DAY, NEXT_DAY, on_all_warehouses

SENT = "SELECT run_id, CAST(sum(records) AS INTEGER) FROM coding.coding_operations GROUP BY run_id ORDER BY run_id"
CLAIMS = "SELECT run_id, count(*) FROM coding.text_claims GROUP BY run_id ORDER BY run_id"


@pytest.fixture
def first_run(pipeline):
    """A run of two texts that is in progress; the next day has one of them, and another one."""
    pipeline.fill(("1", DAY, "chef", ""), ("2", DAY, "baker", ""))
    pipeline.fill(("3", NEXT_DAY, "chef", ""), ("4", NEXT_DAY, "cook", ""))
    prepared = pipeline.prepare(run_id="run-1", from_date=DAY, to_date=DAY)
    pipeline.runs_in_progress.add("run-1")
    return pipeline.plan, prepared


def prepare_next_day(pipeline):
    prepared = pipeline.prepare(run_id="run-2", from_date=NEXT_DAY, to_date=NEXT_DAY)
    return pipeline.plan, prepared


def land(pipeline, run):
    pipeline.plan, pipeline.prepared = run
    return pipeline.land()


@on_all_warehouses
def test_the_result_of_a_text_that_another_run_has_claimed_is_used(pipeline, first_run):
    next_run = prepare_next_day(pipeline)
    assert pipeline.query(CLAIMS) == [("run-1", 2), ("run-2", 1)]
    land(pipeline, first_run)
    land(pipeline, next_run)
    assert pipeline.sent_again == []
    assert pipeline.query(SENT) == [("run-1", 2), ("run-2", 1)]
    assert [row[0] for row in pipeline.read_outcomes()] == ["1", "2", "3", "4"]
    assert pipeline.query(CLAIMS) == []


@on_all_warehouses
def test_a_text_that_the_other_run_has_not_delivered_is_sent(pipeline, first_run):
    next_run = prepare_next_day(pipeline)
    summary = land(pipeline, next_run)
    assert (pipeline.sent_again, summary.texts_sent, summary.read) == ([["chef"]], 2, 2)
    assert land(pipeline, first_run).read == 2


@on_all_warehouses
def test_a_repeated_attempt_claims_the_same_texts(pipeline, first_run):
    first, second = prepare_next_day(pipeline)[1], prepare_next_day(pipeline)[1]
    assert (first.claimed, first.claimed_uri, first.parts) == (second.claimed, second.claimed_uri, second.parts)
    assert pipeline.query(CLAIMS) == [("run-1", 2), ("run-2", 1)]


def test_old_claims_are_removed(pipeline, first_run, monkeypatch):
    monkeypatch.setattr(text_claims, "MAX_CLAIM_AGE", -timedelta(days=1))
    assert prepare_next_day(pipeline)[1].claimed == 0
    assert pipeline.query(CLAIMS) == [("run-2", 2)]


def test_a_run_with_too_many_texts_claims_none(pipeline, first_run, monkeypatch):
    monkeypatch.setattr(text_claims, "MAX_CLAIMED_TEXTS", 1)
    _, prepared = prepare_next_day(pipeline)
    assert (prepared.claimed, sum(part.records for part in prepared.parts)) == (0, 2)
    assert pipeline.query(CLAIMS) == [("run-1", 2)]

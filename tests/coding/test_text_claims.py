"""Texts that several runs in progress need, on every kind of warehouse; `collect` is in tests/pipeline/test_collecting.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from include.coding import landing, text_claims
from include.coding.engine import open_engine
from include.coding.text_claims import take_over_texts
from include.warehouse.errors import WarehouseError
from tests.coding.conftest import DAY, NEXT_DAY, make_key, on_all_warehouses

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
    assert (first.awaited, first.awaited_uri, first.parts) == (second.awaited, second.awaited_uri, second.parts)
    assert pipeline.query(CLAIMS) == [("run-1", 2), ("run-2", 1)]


@on_all_warehouses
def test_of_several_runs_that_wait_for_a_run_that_has_ended_one_takes_its_texts_over(pipeline, first_run, tmp_path):
    plans = [prepare_next_day(pipeline)[0], replace(pipeline.plan, run_id="run-3")]
    pipeline.runs_in_progress.remove("run-1")
    pipeline.runs_in_progress.add("run-2")
    remaining = []
    for plan in plans:
        with open_engine(tmp_path / plan.run_id, "collect", 192) as engine:
            engine.execute("CREATE TABLE undelivered_texts AS SELECT ? AS recordId", [make_key("chef", "")])
            is_in_progress = pipeline.runs_in_progress.__contains__
            remaining.append(take_over_texts(engine, plan, pipeline.warehouse, is_in_progress))
    assert remaining == [1, 0]
    assert pipeline.query(CLAIMS) == [("run-2", 2)]


@on_all_warehouses
def test_claims_that_cannot_be_removed_do_not_cost_what_is_published(pipeline, first_run, monkeypatch, caplog):
    def fail(*_):
        raise WarehouseError("a conflict with another transaction")

    with monkeypatch.context() as patch:
        patch.setattr(landing, "release_texts", fail)
        assert land(pipeline, first_run).read == 2
    assert "The claims of the run are not removed" in caplog.text
    assert [row[0] for row in pipeline.read_outcomes()] == ["1", "2"]
    assert pipeline.query(CLAIMS) == [("run-1", 2)]


def test_old_claims_are_removed(pipeline, first_run, monkeypatch):
    monkeypatch.setattr(text_claims, "MAX_CLAIM_AGE", -timedelta(days=1))
    assert prepare_next_day(pipeline)[1].awaited == 0
    assert pipeline.query(CLAIMS) == [("run-2", 2)]


def test_a_run_with_too_many_texts_claims_none(pipeline, first_run, monkeypatch):
    monkeypatch.setattr(text_claims, "MAX_CLAIMED_TEXTS", 1)
    _, prepared = prepare_next_day(pipeline)
    assert (prepared.awaited, sum(part.records for part in prepared.parts)) == (0, 2)
    assert pipeline.query(CLAIMS) == [("run-1", 2)]

"""Runs that compete for the same dates: who gets them, and what a run that has ended or was deleted holds."""

import pytest

from include.coding.claims import claim_dates, holds_dates
from include.coding.errors import PlanError
from tests.coding.conftest import (
    DAY,
    LATER_DAY,
    NEXT_DAY,
    OTHER_MODEL,
    PROCESSES,
    make_plan,
    on_all_warehouses,
    on_duckdb_and_postgres,
)
from tests.support.warehouses import open_warehouse

FIRST = {"run_id": "first"}


class Runs:
    """Runs that plan one after the other.

    :param ended: ids of those that are not in progress any more
    """

    def __init__(self, place):
        self.warehouse, self.ended, self.questions = open_warehouse(place), set(), []

    def is_in_progress(self, run_id):
        self.questions.append(run_id)
        return run_id not in self.ended

    def plan(self, **changes):
        return claim_dates(self.warehouse, make_plan(**changes), self.is_in_progress)

    def query(self, sql):
        with self.warehouse.session() as session:
            return session.execute(sql)


@pytest.fixture
def runs(place):
    return Runs(place)


@on_all_warehouses
def test_a_second_run_leaves_the_dates_of_the_first_and_names_it(runs):
    assert runs.plan(**FIRST) == make_plan(**FIRST)
    plan = runs.plan(from_date=NEXT_DAY, to_date=LATER_DAY)
    assert plan.excluded_dates == (NEXT_DAY,)
    (sentence,) = plan.competing_runs
    assert sentence.startswith(f"The dates {NEXT_DAY} are left to run 'first', which is in progress with the same")
    third = runs.plan(run_id="third", to_date=LATER_DAY)
    assert (third.days, len(third.competing_runs)) == ([], 2)


def test_a_run_that_is_alone_asks_airflow_nothing(runs):
    runs.plan(**FIRST)
    runs.plan(**FIRST)
    runs.plan(from_date=LATER_DAY, to_date=LATER_DAY)
    assert runs.questions == []


@on_duckdb_and_postgres
def test_a_run_that_has_ended_or_was_deleted_holds_nothing(runs):
    runs.plan(**FIRST)
    runs.ended.add("first")
    assert runs.plan() == make_plan()
    assert runs.query("SELECT run_id FROM coding.date_claims") == [("run-1",)]
    runs.ended.clear()  # it was cleared, and continues
    assert runs.plan(**FIRST).days == []


@pytest.mark.parametrize(
    "changes",
    [
        {"topic": "anzsco"}, {"model_id": OTHER_MODEL}, {"source": "other_responses"}, {"clean": False},
        {"columns": {"occp_text": "job_title"}}, {"read_options": {"sheet": "Data"}}, {"max_records": 10, "schema": "coding_trial"},
    ],
    ids=str,
)  # fmt: skip
def test_runs_of_other_texts_and_trials_do_not_compete(runs, changes):
    runs.plan(**FIRST)
    assert runs.plan(**changes) == make_plan(**changes)
    assert runs.plan(run_id="third", **changes).days == []


def test_a_run_that_codes_every_text_again_competes_like_any_other(runs):
    runs.plan(**FIRST, selection="all")
    assert runs.plan().days == runs.plan(selection="all").days == []


def test_a_dry_run_holds_no_dates_and_leaves_none(runs):
    runs.plan(**FIRST, dry_run=True)
    assert runs.plan() == make_plan()
    assert runs.plan(**FIRST, dry_run=True) == make_plan(**FIRST, dry_run=True)


def test_a_person_can_insist_with_force_new(runs):
    runs.plan(**FIRST)
    plan = runs.plan(force_new=True)
    assert plan.excluded_dates == ()
    assert plan.competing_runs[0].startswith(
        f"Texts of {DAY} to {NEXT_DAY} can be sent twice, because force_new is set"
    )
    assert runs.plan(run_id="third").days == []


def test_a_night_holds_its_own_date_and_those_that_are_not_published_yet(runs):
    night = {"changed_only": True, "to_date": LATER_DAY}
    runs.plan(**FIRST, **night)
    runs.query(
        "INSERT INTO coding.coded_records (record_id, occurrence, response_date, topic, model_id, outcome, run_id,"
        f" coded_at) SELECT '1', 1, day, topic, model_id, 'coded', 'old', claimed_at FROM coding.date_claims,"
        f" (VALUES (DATE '{DAY}'), (DATE '{LATER_DAY}')) AS days(day)"
    )
    runs.plan(**FIRST, **night)
    plan = runs.plan(to_date=LATER_DAY)
    assert [day.isoformat() for day in plan.days] == [DAY]
    assert runs.plan(run_id="night", **night, excluded_dates=[DAY]).days == []


def plan_when_ready(barrier, plans, place, run_id):
    """Plan in a process of its own, at the same time as another one."""
    warehouse = open_warehouse(place, lock_timeout_s=60)
    barrier.wait(60)
    plans.put(claim_dates(warehouse, make_plan(run_id=run_id), lambda run_id: True))


@on_duckdb_and_postgres
def test_of_two_runs_that_plan_at_the_same_time_exactly_one_gets_a_date(place):
    Runs(place).plan(run_id="another", topic="anzsco")  # the tables exist
    barrier, plans = PROCESSES.Barrier(3), PROCESSES.Queue()
    run_ids = ["a", "b", "c"]
    processes = [
        PROCESSES.Process(target=plan_when_ready, args=(barrier, plans, place, run_id), daemon=True)
        for run_id in run_ids
    ]
    for process in processes:
        process.start()
    days = [len(plans.get(timeout=120).days) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(days) == [0, 0, 2]


# ---- topics --------------------------------------------------------------------------------------------------------

SAME_ID = "scheduled__2026-10-05T14:00:00+00:00"
OTHER_DAG = f"recode_labour_force/{SAME_ID}"


@on_all_warehouses
def test_a_run_of_another_dag_cannot_replace_the_rows_of_a_topic(runs):
    runs.plan(run_id=SAME_ID)
    message = (
        "topic 'osca' of schema 'coding' is coded by the DAG 'recode_occupations', and a run of 'recode_labour_force'"
        " would replace its rows. Nothing was sent. Give 'recode_labour_force' tables of its own"
    )
    with pytest.raises(PlanError, match=message):
        runs.plan(run_id=OTHER_DAG, source="labour_force")
    assert runs.query("SELECT run_id FROM coding.date_claims") == [(SAME_ID,)]


def test_a_run_of_another_dag_can_have_another_topic_or_a_schema_of_its_own(runs):
    runs.plan(run_id=SAME_ID)
    for changes in ({"topic": "anzsco"}, {"schema": "coding_labour_force"}):
        plan = runs.plan(run_id=OTHER_DAG, **changes)
        assert (plan.excluded_dates, plan.competing_runs) == ((), ())
    with pytest.raises(
        PlanError, match="topic 'anzsco' of schema 'coding' is coded by the DAG 'recode_labour_force'"
    ):
        runs.plan(run_id=SAME_ID, topic="anzsco")


def test_the_scheduled_runs_of_two_dags_with_the_same_id_do_not_take_each_others_dates(runs):
    runs.plan(run_id=SAME_ID)
    runs.plan(run_id=OTHER_DAG, topic="anzsco")
    assert runs.query("SELECT run_id, topic FROM coding.date_claims ORDER BY 1") == [
        (OTHER_DAG, "anzsco"),
        (SAME_ID, "osca"),
    ]


def test_a_topic_is_handed_over_by_deleting_its_row(runs):
    runs.plan(run_id=SAME_ID)
    runs.query("DELETE FROM coding.topic_owners WHERE topic = 'osca'")
    runs.plan(run_id=OTHER_DAG)
    assert runs.query("SELECT topic, dag_id FROM coding.topic_owners") == [("osca", "recode_labour_force")]


def test_a_run_no_longer_holds_its_dates_once_its_topic_has_been_handed_over(runs):
    plan = runs.plan(run_id=SAME_ID)
    assert holds_dates(runs.warehouse, plan)
    runs.query("DELETE FROM coding.topic_owners WHERE topic = 'osca'")
    assert not holds_dates(runs.warehouse, plan)
    runs.plan(run_id=OTHER_DAG, source="labour_force")
    assert not holds_dates(runs.warehouse, plan)


def test_a_dry_run_takes_no_topic(runs):
    runs.plan(run_id=OTHER_DAG, dry_run=True)
    runs.plan(run_id=SAME_ID)
    assert runs.query("SELECT topic, dag_id FROM coding.topic_owners") == [("osca", "recode_occupations")]

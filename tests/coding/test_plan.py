"""The plan of a run: how its dates are resolved, and what is refused."""

import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from include.coding.errors import DataError, PlanError
from include.coding.plan import MAX_RECORDS_PER_PART, MIN_MEMORY_MB, Plan, extend_look_back, resolve_dates
from tests.coding.conftest import make_plan

DUE = datetime(2026, 11, 1, 0, 0, tzinfo=ZoneInfo("Australia/Sydney"))


@pytest.mark.parametrize(
    ("partition", "first", "last", "dates"),
    [
        (None, None, None, ("2026-10-31", "2026-10-31")),
        (None, "", "", ("2026-10-31", "2026-10-31")),
        ("", None, None, ("2026-10-31", "2026-10-31")),
        (None, "2026-10-05", None, ("2026-10-05", "2026-10-05")),
        (None, None, "2026-10-05", ("2026-10-05", "2026-10-05")),
        (None, "2026-10-05", "2026-10-05", ("2026-10-05", "2026-10-05")),
        (None, "2025-12-31", "2026-01-01", ("2025-12-31", "2026-01-01")),
        (None, "2024-02-29", None, ("2024-02-29", "2024-02-29")),
        ("2026-10-05", None, None, ("2026-10-05", "2026-10-05")),
        ("2026-10-05", "2026-10-05", None, ("2026-10-05", "2026-10-05")),
        ("2026-10-05", None, "2026-10-05", ("2026-10-05", "2026-10-05")),
        ("2026-10-05", "2026-10-05", "2026-10-05", ("2026-10-05", "2026-10-05")),
    ],
)
def test_dates_come_from_the_partition_then_the_form_then_the_day_before(partition, first, last, dates):
    assert resolve_dates({"from_date": first, "to_date": last}, partition, DUE) == dates


@pytest.mark.parametrize(
    ("due", "day"),
    [
        (datetime(2026, 10, 31, 13, 0, tzinfo=UTC), "2026-10-31"),  # midnight of 1 November in Sydney
        (datetime(2026, 10, 31, 12, 59, tzinfo=UTC), "2026-10-30"),
        (datetime(2026, 12, 31, 13, 30, tzinfo=UTC), "2026-12-31"),
        (datetime(2026, 10, 3, 14, 30, tzinfo=UTC), "2026-10-03"),  # the night that loses an hour
    ],
)
def test_the_day_before_is_a_day_in_sydney(due, day):
    assert resolve_dates({}, None, due.astimezone(ZoneInfo("Australia/Sydney"))) == (day, day)


@pytest.mark.parametrize(
    ("first", "last"), [("2026-10-04", None), (None, "2026-10-06"), ("2026-10-05", "2026-10-06")]
)
def test_dates_that_contradict_the_partition_are_refused(first, last):
    with pytest.raises(PlanError, match="partition '2026-10-05' but its form selects the dates") as excinfo:
        resolve_dates({"from_date": first, "to_date": last}, "2026-10-05", DUE)
    assert f"{first!r} to {last!r}" in str(excinfo.value)
    assert "leave the dates empty" in str(excinfo.value)


def test_dates_in_the_wrong_order_are_refused():
    with pytest.raises(PlanError, match="from_date '2026-10-06' is after to_date '2026-10-05': swap them"):
        resolve_dates({"from_date": "2026-10-06", "to_date": "2026-10-05"}, None, DUE)


@pytest.mark.parametrize("value", ["yesterday", "31/10/2026", "2026-02-30", "2026-10-5", "2026-10-05T10:00:00", "'"])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("the partition key", {}),
        ("from_date", {"to_date": "2026-10-05"}),
        ("to_date", {"from_date": "2026-10-05"}),
        ("response_date", {}),
    ],
    ids=["key", "from", "to", "all"],
)
def test_a_value_that_is_not_a_date_is_refused_with_its_name(name, params, value):
    partition = value if name == "the partition key" else None
    with pytest.raises(PlanError) as excinfo:
        resolve_dates(params if partition else {**params, name: value}, partition, DUE)
    assert str(excinfo.value) == f"{name} is {value!r}; expected a date such as '2026-10-31'"


@pytest.mark.parametrize(
    ("days", "first"), [(0, "2026-10-05"), (1, "2026-10-04"), (7, "2026-09-28"), (366, "2025-10-04")]
)
def test_a_look_back_includes_days_before_the_partition(days, first):
    assert resolve_dates({}, "2026-10-05", DUE, look_back_days=days) == (first, "2026-10-05")


@pytest.mark.parametrize(
    ("unfinished", "unpublished", "first", "excluded", "unreachable"),
    [
        ([], [], "2026-10-05", (), ()),
        (["2026-10-07"], [], "2026-10-05", ("2026-10-07",), ()),
        (["2026-10-04", "2026-10-07"], [], "2026-10-05", ("2026-10-07",), ()),
        ([], ["2026-09-30"], "2026-09-30", (), ()),
        (["2026-10-01"], ["2026-09-30"], "2026-09-30", ("2026-10-01",), ()),
        (["2026-09-30"], ["2026-09-30"], "2026-10-05", (), ()),
        ([], ["2026-09-12", "2026-09-11"], "2026-09-12", (), ("2026-09-11",)),
        ([], ["2026-10-12", "2026-10-13"], "2026-10-05", (), ()),
    ],
    ids=["none", "unfinished", "too old", "unpublished", "both", "unfinished again", "bound", "its own date"],
)
def test_a_night_reads_back_to_the_oldest_unpublished_date_except_dates_of_unfinished_nights(
    unfinished, unpublished, first, excluded, unreachable
):
    plan = extend_look_back(make_plan(from_date="2026-10-05", to_date="2026-10-12"), unfinished, unpublished, 30)
    assert (plan.from_date, plan.to_date) == (first, "2026-10-12")
    assert (plan.excluded_dates, plan.unreachable_dates) == (excluded, unreachable)


def test_a_minimum_of_no_records_for_the_limits_is_refused():
    with pytest.raises(PlanError, match="`min_records_for_limits` is 0; expected 1 or more"):
        make_plan(min_records_for_limits=0)


def test_a_source_without_dates_gets_the_single_date():
    params = {"from_date": None, "to_date": "", "response_date": "2026-06-30"}
    assert resolve_dates(params, None, DUE) == ("2026-06-30", "2026-06-30")


@pytest.mark.parametrize(
    ("params", "partition", "message"),
    [
        (
            {"response_date": "2026-06-30", "from_date": "2026-06-30"}, None,
            "`response_date` gives all records the date '2026-06-30', but the form also selects the dates"
            " '2026-06-30' to None: leave one of the two empty",
        ),
        (
            {"response_date": "2026-06-30"}, "2026-10-05",
            "the run is for the partition '2026-10-05', so it reads the records of that day, but `response_date` says"
            " that the source has no dates: start a manual run without a partition",
        ),
        (
            {"max_records": 100, "dry_run": True}, "2026-10-05",
            "max_records and dry_run would leave records of the partition '2026-10-05' uncoded, but Airflow would mark"
            " it as done: start a manual run without a partition, and set its dates",
        ),
        (
            {"dry_run": True}, "2026-10-05",
            "dry_run would leave records of the partition '2026-10-05' uncoded, but Airflow would mark it as done:"
            " start a manual run without a partition, and set its dates",
        ),
    ],
)  # fmt: skip
def test_params_that_contradict_each_other_are_refused(params, partition, message):
    with pytest.raises(PlanError) as excinfo:
        resolve_dates(params, partition, DUE)
    assert str(excinfo.value) == message


def test_a_date_column_and_a_single_date_are_refused_together():
    with pytest.raises(
        PlanError, match="`columns` names 'day' as the date of each record, but `response_date` gives"
    ):
        make_plan(columns={"response_date": "day"}, response_date="2026-06-30")


@pytest.mark.parametrize("count", [0, -1])
def test_a_trial_of_no_records_is_refused(count):
    with pytest.raises(PlanError, match=f"`max_records` is {count}; expected 1 or more, or nothing"):
        make_plan(max_records=count)


def test_an_unknown_column_is_refused():
    with pytest.raises(PlanError, match=r"`columns` names 'job'; it can name \['record_id', 'response_date'"):
        make_plan(columns={"job": "occp_text", "occp_text": "title"})


def test_an_unknown_selection_is_refused():
    with pytest.raises(PlanError, match=r"`selection` is 'some'; expected one of \['uncoded', 'all'\]"):
        make_plan(selection="some")


@pytest.mark.parametrize("count", [0, -1, MAX_RECORDS_PER_PART + 1])
def test_parts_that_are_too_small_or_too_large_are_refused(count):
    with pytest.raises(PlanError, match=f"`records_per_part` is {count}; expected 1 to {MAX_RECORDS_PER_PART}"):
        make_plan(records_per_part=count)


def test_a_memory_limit_that_is_too_small_for_the_engine_is_refused():
    with pytest.raises(PlanError, match=f"`memory_mb` is {MIN_MEMORY_MB - 1}; expected {MIN_MEMORY_MB} or more"):
        make_plan(memory_mb=MIN_MEMORY_MB - 1)
    assert make_plan(memory_mb=512).engine_memory_mb == 192


@pytest.mark.parametrize("count", [1, 500_000, MAX_RECORDS_PER_PART])
def test_parts_within_the_limits_are_accepted(count):
    assert make_plan(records_per_part=count).records_per_part == count


def test_a_plan_error_is_a_data_error():
    assert issubclass(PlanError, DataError)


def test_a_plan_survives_json():
    plan = make_plan(columns={"occp_text": "job.title"}, selection="all", clean=False, model_version=None)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_field_that_an_earlier_version_wrote_is_ignored_and_any_other_unknown_one_is_refused():
    plan = make_plan()
    assert Plan.from_dict({**plan.to_dict(), "staging": "file:///etc"}) == plan
    with pytest.raises(PlanError, match="Plan is invalid: new_member: Unexpected keyword argument"):
        Plan.from_dict({**plan.to_dict(), "new_member": 1})


def test_a_column_has_its_own_name_unless_the_plan_gives_another():
    plan = make_plan(columns={"occp_text": "job_title"})
    assert [plan.source_column("occp_text"), plan.source_column("tasks_text")] == ["job_title", "tasks_text"]

"""The wait as a task: deferred to the triggerer, or rescheduled between status calls."""

import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSensorTimeout, TaskDeferred

from coding_service import BatchCodeSensor, BatchCodeTrigger, CodingServiceHook, CodingServiceRetryPolicy
from coding_service.errors import OperationFailedError, ProtocolError
from coding_service.shared_state import SharedFile

MISSING = "c0ffee00-0000-4000-8000-000000000000"


def sensor_for(operation_id, deferrable=True, **options):
    return BatchCodeSensor(task_id="poll", topic="osca", operation_id=operation_id, deferrable=deferrable, **options)


def event(**changes):
    good = {
        "status": "success",
        "reason": "complete",
        "operation_id": "00000000-0000-4000-8000-000000000001",
        "message": "complete",
        "seconds": 12.5,
    }
    return {**good, **changes}


@pytest.fixture
def grant(connected):
    hook = CodingServiceHook()
    return hook.create_operation("osca", hook.latest_model("osca").model_id)


# ---- deferred ----------------------------------------------------------------------------------------------------


def test_the_wait_is_deferred_with_ids_only(run, context):
    before = time.time()
    with pytest.raises(TaskDeferred) as caught:
        run(sensor_for("00000000-0000-4000-8000-000000000001", timeout=timedelta(hours=2), poll_interval=5), context)
    deferral = caught.value
    assert isinstance(deferral.trigger, BatchCodeTrigger)
    arguments = deferral.trigger.serialize()[1]
    deadline = arguments.pop("deadline")
    assert before + 7200 <= deadline <= time.time() + 7200
    assert arguments.pop("started") == deadline - 7200
    assert arguments == {
        "topic": "osca",
        "operation_id": "00000000-0000-4000-8000-000000000001",
        "coding_service_conn_id": "coding_service_default",
        "poll_interval": 5,
        "expected_seconds": None,
    }
    assert deferral.method_name == "resume"
    assert not deferral.kwargs
    assert deferral.timeout > timedelta(hours=2, days=7)  # "Limit Exceeded" may move the deadline


def test_the_default_timeout_is_a_day(run, context):
    with pytest.raises(TaskDeferred) as caught:
        run(sensor_for("00000000-0000-4000-8000-000000000001"), context)
    assert caught.value.trigger.deadline == pytest.approx(time.time() + 86400, abs=60)


def test_before_the_wait_is_deferred_the_log_says_how_long_it_takes_and_when_it_looks_first(run, context, caplog):
    caplog.set_level("INFO", logger="coding_service.sensors")
    with pytest.raises(TaskDeferred):
        run(sensor_for("00000000-0000-4000-8000-000000000001", poll_interval=5, expected_seconds=100), context)
    [message] = [record.getMessage() for record in caplog.records if record.name == "coding_service.sensors"]
    assert re.fullmatch(
        r"Operation 00000000-0000-4000-8000-000000000001 is waited for in the triggerer, until \S+ \S+ UTC at the latest:"
        r" less than a second so far, about 1 minute 40 seconds expected, next look in about 1 minute 20 seconds",
        message,
    )


def test_the_log_uses_the_interval_of_the_connection_and_does_without_it(run, context, caplog, connect):
    caplog.set_level("INFO", logger="coding_service.sensors")
    connect("https://service.example.org", poll_interval=45)
    with pytest.raises(TaskDeferred):
        run(sensor_for("00000000-0000-4000-8000-000000000001"), context)
    assert "unknown duration, next look in about 45 seconds" in caplog.text
    with pytest.raises(TaskDeferred):
        run(sensor_for("00000000-0000-4000-8000-000000000001", coding_service_conn_id="nowhere"), context)
    assert "unknown duration, next look in about 10 seconds" in caplog.text


def test_the_end_of_a_wait_is_in_the_log_with_its_duration(run, context, caplog):
    caplog.set_level("INFO", logger="coding_service.sensors")
    sensor_for("00000000-0000-4000-8000-000000000001").resume(context, event(seconds=11.2))
    assert "00000000-0000-4000-8000-000000000001 is complete, after a wait of about 11 seconds" in caplog.text


def take_outcome(context):
    """Return the outcome that was pushed, without the time of its end, which is now."""
    outcome = context["ti"].xcoms["operation"]
    assert outcome.pop("ended_at") == pytest.approx(time.time(), abs=60)
    return outcome


@pytest.mark.parametrize(
    ("rendered", "seconds"),
    [(None, None), ("None", None), ("", None), ("90.5", 90.5), (90, 90.0), ("0", 0.0)],
)
def test_the_expectation_can_come_from_a_template(run, context, rendered, seconds):
    with pytest.raises(TaskDeferred) as caught:
        run(sensor_for("00000000-0000-4000-8000-000000000001", expected_seconds=rendered), context)
    assert caught.value.trigger.expected_seconds == seconds


def test_topic_and_expectation_can_come_from_the_part(run, context):
    sensor = BatchCodeSensor(
        task_id="poll",
        operation_id="00000000-0000-4000-8000-000000000001",
        part={"topic": "anzsco", "expected_seconds": 90.0, "uri": "file:///x"},
        deferrable=True,
    )
    with pytest.raises(TaskDeferred) as caught:
        run(sensor, context)
    assert (caught.value.trigger.topic, caught.value.trigger.expected_seconds) == ("anzsco", 90.0)


def test_a_later_attempt_polls_at_once_and_reports_no_duration(run, context):
    context["ti"].try_number = 2
    sensor = sensor_for("00000000-0000-4000-8000-000000000001", expected_seconds=72000)
    with pytest.raises(TaskDeferred) as caught:
        run(sensor, context)
    assert caught.value.trigger.expected_seconds is None
    sensor.resume(context, event())
    assert context["ti"].xcoms["operation"]["seconds"] is None


@pytest.mark.parametrize("rendered", ["soon", "-1", "nan", "inf"])
def test_an_invalid_expectation_is_refused_with_its_value(run, context, rendered):
    with pytest.raises(ValueError, match=rendered):
        run(sensor_for("00000000-0000-4000-8000-000000000001", expected_seconds=rendered), context)


def test_the_outcome_of_a_complete_operation_is_pushed(context):
    sensor_for("00000000-0000-4000-8000-000000000001").resume(context, event())
    outcome = {
        "operation_id": "00000000-0000-4000-8000-000000000001",
        "state": "complete",
        "message": "complete",
        "seconds": 12.5,
    }
    assert take_outcome(context) == outcome


def test_an_event_without_seconds_from_an_older_triggerer_is_accepted(context):
    sensor_for("00000000-0000-4000-8000-000000000001").resume(
        context, {name: value for name, value in event().items() if name != "seconds"}
    )
    assert context["ti"].xcoms["operation"]["seconds"] is None


@pytest.mark.parametrize("reason", ["failed", "timed_out", "deadline", "refused"])
def test_any_other_outcome_is_pushed_and_fails_the_task(context, reason):
    with pytest.raises(OperationFailedError, match="operation '00000000-0000-4000-8000-000000000001': out of memory"):
        sensor_for("00000000-0000-4000-8000-000000000001").resume(
            context, event(status="error", reason=reason, message="out of memory")
        )
    outcome = {
        "operation_id": "00000000-0000-4000-8000-000000000001",
        "state": reason,
        "message": "out of memory",
        "seconds": 12.5,
    }
    assert take_outcome(context) == outcome


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "complete",
        [],
        {},
        event(operation_id="00000000-0000-4000-8000-000000000002"),
        event(operation_id=None),
        event(reason="weird"),
        event(reason=None),
        {name: value for name, value in event().items() if name != "reason"},
        {name: value for name, value in event().items() if name != "message"},
    ],
)
def test_an_event_that_is_invalid_or_for_another_operation_is_refused(context, bad):
    with pytest.raises(
        ProtocolError, match="unexpected event for operation '00000000-0000-4000-8000-000000000001': "
    ):
        sensor_for("00000000-0000-4000-8000-000000000001").resume(context, bad)
    assert context["ti"].xcoms == {}


async def test_the_sensor_accepts_the_event_of_the_trigger(connected, grant, input_file, run, context):
    CodingServiceHook().upload(grant, input_file)
    sensor = sensor_for(grant.operation_id, poll_interval=0.01)
    with pytest.raises(TaskDeferred) as caught:
        run(sensor, context)
    [fired] = [one async for one in caught.value.trigger.run()]
    sensor_for(grant.operation_id).resume(context, json.loads(json.dumps(fired.payload)))
    assert context["ti"].xcoms["operation"]["state"] == "complete"


# ---- rescheduled -------------------------------------------------------------------------------------------------


def test_without_a_triggerer_the_task_is_rescheduled_between_calls(connected, grant, input_file, run, context):
    connected.progression("by_polls", polls=1)
    sensor = sensor_for(grant.operation_id, deferrable=False, poll_interval=30)
    assert sensor.mode == "reschedule"
    assert sensor.poke_interval == 30
    CodingServiceHook().upload(grant, input_file)
    with pytest.raises(AirflowRescheduleException):
        run(sensor, context)
    assert context["ti"].xcoms == {}
    while not sensor.poke(context):
        pass
    assert context["ti"].xcoms["operation"]["state"] == "complete"


def test_a_complete_operation_ends_a_rescheduled_wait(connected, grant, input_file, run, context):
    hook = CodingServiceHook()
    hook.upload(grant, input_file)
    while hook.operation("osca", grant.operation_id).status != "complete":
        pass
    run(sensor_for(grant.operation_id, deferrable=False), context)
    assert context["ti"].xcoms["operation"]["state"] == "complete"


def test_a_failed_operation_fails_a_rescheduled_wait_and_its_outcome_is_pushed(connected, grant, input_file, context):
    connected.fault("operation_fails", error="out of memory")
    CodingServiceHook().upload(grant, input_file)
    sensor = sensor_for(grant.operation_id, deferrable=False)

    def wait():
        while not sensor.poke(context):
            pass

    with pytest.raises(OperationFailedError, match="the service failed it$"):
        wait()
    assert context["ti"].xcoms["operation"]["state"] == "failed"


@pytest.mark.parametrize("fault", ["server_error", "too_many_requests", "limit_exceeded"])
def test_a_failed_status_call_does_not_end_a_rescheduled_wait(connected, grant, context, fault):
    connected.fault(fault)
    assert sensor_for(grant.operation_id, deferrable=False).poke(context) is False


def test_a_rescheduled_wait_makes_its_second_call_a_little_before_the_expected_end(grant, run, context):
    with pytest.raises(AirflowRescheduleException) as caught:
        run(sensor_for(grant.operation_id, deferrable=False, expected_seconds="3000"), context)
    seconds = caught.value.reschedule_date.timestamp() - time.time()
    assert 2390 < seconds < 2400 + 60 * 0.1


def test_a_rescheduled_wait_asks_every_quarter_of_an_hour_whether_calls_are_accepted(connected, grant, run, context):
    connected.fault("limit_exceeded")
    for _ in range(2):
        with pytest.raises(AirflowRescheduleException) as caught:
            run(sensor_for(grant.operation_id, deferrable=False, timeout=timedelta(days=3)), context)
        assert caught.value.reschedule_date.timestamp() - time.time() == pytest.approx(900, abs=60)
    assert len(connected.journal("GET", grant.operation_id)) == 1


def test_the_time_in_which_no_calls_are_allowed_extends_a_rescheduled_wait(connected, connect, grant, run, context):
    context["ti"].start_date = datetime.now(UTC) - timedelta(hours=5)
    context["ti"].get_first_reschedule_date = lambda _: context["ti"].start_date
    [path] = connect(connected.url).glob("*.calls")
    ago = context["ti"].start_date.timestamp()
    with SharedFile(path).lock() as (state, _):
        state["pauses"] = [[ago + 600, ago + 600 + 3 * 3600]]
    with pytest.raises(AirflowRescheduleException):
        run(sensor_for(grant.operation_id, deferrable=False, timeout=timedelta(hours=3)), context)
    with pytest.raises(AirflowSensorTimeout):
        run(sensor_for(grant.operation_id, deferrable=False, timeout=timedelta(hours=1)), context)


def test_a_404_ends_a_rescheduled_wait_only_after_several_in_a_row_over_minutes(connected, context):
    def poke():
        return sensor_for(MISSING, deferrable=False).poke(context)  # each in a process of its own

    assert [poke() for _ in range(6)] == [False] * 6
    stored = context["task_state_store"].get("status_errors")
    assert (stored["error"], stored["count"]) == ("NotFoundError", 6)
    context["task_state_store"].set("status_errors", {**stored, "start": stored["start"] - 300})
    with pytest.raises(OperationFailedError, match=r"HTTP 404 .*; 7 status calls in a row failed like this, over 30"):
        poke()
    assert context["ti"].xcoms["operation"]["state"] == "refused"
    assert len(connected.journal("GET", MISSING)) == 7


def test_a_status_call_that_succeeds_ends_the_series_of_404(connected, grant, context):
    store = context["task_state_store"]
    store.set("status_errors", {"operation_id": grant.operation_id, "error": "NotFoundError", "count": 9, "start": 0})
    assert sensor_for(grant.operation_id, deferrable=False).poke(context) is False
    assert not store.get("status_errors")


def test_404s_of_another_operation_do_not_count(connected, context):
    other = {"operation_id": "00000000-0000-4000-8000-000000000000", "error": "NotFoundError", "count": 9, "start": 0}
    context["task_state_store"].set("status_errors", other)
    assert sensor_for(MISSING, deferrable=False).poke(context) is False


def test_an_unknown_status_does_not_end_a_rescheduled_wait(serve, connect, context):
    connect(serve(lambda request, reply: reply(200, {"access_token": "t", "operationStatus": "paused"})).url)
    assert [sensor_for("00000000-0000-4000-8000-000000000001", deferrable=False).poke(context) for _ in range(9)] == [
        False
    ] * 9


def test_a_missing_connection_ends_a_rescheduled_wait_and_its_outcome_is_pushed(monkeypatch, context):
    monkeypatch.delenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", raising=False)
    with pytest.raises(OperationFailedError, match="no Airflow connection 'coding_service_default'"):
        sensor_for("00000000-0000-4000-8000-000000000001", deferrable=False).poke(context)
    assert context["ti"].xcoms["operation"]["state"] == "refused"


def test_a_rescheduled_wait_resumes_before_its_timeout(connected, grant, run, context):
    connected.fault("limit_exceeded")
    with pytest.raises(AirflowRescheduleException) as caught:
        run(sensor_for(grant.operation_id, deferrable=False, timeout=600), context)
    assert caught.value.reschedule_date.timestamp() - time.time() == pytest.approx(600, abs=60)


def test_a_rescheduled_wait_ends_at_its_timeout(connected, grant, run, context):
    with pytest.raises(AirflowSensorTimeout):
        run(sensor_for(grant.operation_id, deferrable=False, timeout=0), context)


# ---- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "is_deferrable"), [("True", True), ("False", False), (None, False)])
def test_whether_it_is_deferrable_follows_the_configuration_of_airflow(monkeypatch, setting, is_deferrable):
    monkeypatch.delenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", raising=False)
    if setting is not None:
        monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", setting)
    assert sensor_for(MISSING, deferrable=None).deferrable is is_deferrable
    assert sensor_for(MISSING, deferrable=not is_deferrable).deferrable is not is_deferrable


def test_a_wait_without_a_topic_is_refused_when_it_is_defined():
    with pytest.raises(TypeError, match="needs its topic: set `topic`"):
        BatchCodeSensor(task_id="poll", operation_id=MISSING)


def test_the_retry_policy_is_ours_by_default():
    assert isinstance(sensor_for("00000000-0000-4000-8000-000000000001").retry_policy, CodingServiceRetryPolicy)
    other = CodingServiceRetryPolicy(final=(ValueError,))
    assert sensor_for("00000000-0000-4000-8000-000000000001", retry_policy=other).retry_policy is other


def test_ids_and_the_expectation_can_be_templates():
    fields = {"topic", "part", "operation_id", "coding_service_conn_id", "expected_seconds"}
    assert set(BatchCodeSensor.template_fields) == fields

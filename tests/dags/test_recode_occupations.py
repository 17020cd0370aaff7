"""The DAG `recode_occupations`: its form, its graph, and what passes between its tasks."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import AirflowTaskTimeout

from coding_service import CodingServiceHook
from coding_service import errors as service_errors
from coding_service.operators import UPLOAD_GRANT_KEY
from coding_service.transfer import MAX_INPUT_BYTES
from include.coding import errors
from include.pipeline import handoffs, names
from include.warehouse.errors import WarehouseError, WarehouseSettingsError


@pytest.fixture(scope="module")
def dag() -> Any:
    import recode_occupations

    return recode_occupations.dag


# ---- graph -------------------------------------------------------------------------------------------------------


def test_the_graph_is_that_of_the_design(dag: Any) -> None:
    assert {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} == {
        "plan": [],
        "prepare": ["plan"],
        "approve": ["prepare"],
        "code.create": ["approve", "prepare"],
        "code.upload": ["code.create", "prepare"],
        "code.poll": ["code.upload", "prepare"],
        "code.download": ["code.poll", "code.upload", "prepare"],
        "wait_for_parts": ["code.download"],
        "collect": ["approve", "wait_for_parts"],
        "land": ["collect"],
        "export": ["land"],
        "report": ["export"],
        "announce": ["land"],
        "clean_up": ["report"],
    }


def test_the_service_steps_share_one_pool_and_nothing_else_is_in_it(dag: Any) -> None:
    pool_users = {task.task_id for task in dag.tasks if task.pool == "coding_service"}
    assert names.POOL == "coding_service"
    assert pool_users == {"code.create", "code.upload", "code.poll", "code.download", "collect"}


def test_collect_runs_however_the_parts_ended_unless_there_are_none(dag: Any) -> None:
    assert dag.get_task("wait_for_parts").trigger_rule == "none_skipped"
    assert dag.get_task("collect").trigger_rule == "all_success"


def test_land_runs_without_collect_if_there_was_nothing_to_send_but_not_after_a_failure(dag: Any) -> None:
    assert dag.get_task("land").trigger_rule == "none_failed"


@pytest.mark.parametrize("name", ["code.upload", "code.download"])
def test_a_task_that_moves_a_file_has_time_for_the_largest_input(dag: Any, name: str) -> None:
    assert dag.get_task(name).execution_timeout.total_seconds() * 120_000 > MAX_INPUT_BYTES


def test_a_task_that_its_timeout_ends_is_retried(dag: Any) -> None:
    for task in dag.tasks:
        decision = task.retry_policy.evaluate(AirflowTaskTimeout("Timeout"), 1, task.retries)
        assert (decision.action, task.retries > 0) == (RetryAction.DEFAULT, True)


def test_the_ids_that_the_pipeline_reads_are_those_of_the_tasks(dag: Any) -> None:
    ids = (
        handoffs.PLAN, handoffs.PREPARE, handoffs.CREATE, handoffs.UPLOAD, handoffs.POLL, handoffs.DOWNLOAD,
        handoffs.COLLECT, handoffs.LAND,
    )  # fmt: skip
    assert [dag.get_task(task_id).task_type for task_id in ids] == [
        "_PythonDecoratedOperator", "_PythonDecoratedOperator", "CodingServiceCreateOperator",
        "CodingServiceUploadOperator", "BatchCodeSensor", "CodingServiceDownloadOperator", "CollectResultsOperator",
        "_PythonDecoratedOperator",
    ]  # fmt: skip


def test_the_operation_and_its_grant_pass_from_task_to_task(dag: Any) -> None:
    def source(task_id: str, field: str) -> tuple[str, str]:
        value = getattr(dag.get_task(task_id), field)
        return value.operator.task_id, value.key

    assert source(handoffs.UPLOAD, "operation_id") == (handoffs.CREATE, handoffs.RETURN_KEY)
    assert source(handoffs.UPLOAD, "grant") == (handoffs.CREATE, UPLOAD_GRANT_KEY)
    assert source(handoffs.POLL, "operation_id") == (handoffs.UPLOAD, handoffs.RETURN_KEY)
    assert source(handoffs.DOWNLOAD, "operation_id") == (handoffs.UPLOAD, handoffs.RETURN_KEY)


def test_the_steps_that_open_files_use_the_connection_of_the_staging_area(dag: Any) -> None:
    steps = [
        dag.get_task(task_id) for task_id in (handoffs.CREATE, handoffs.UPLOAD, handoffs.DOWNLOAD, handoffs.COLLECT)
    ]
    assert [step.storage_conn_id for step in steps] == [names.STAGING_CONN_ID] * 4


def test_the_connection_of_the_service_has_the_default_name_of_its_hook() -> None:
    assert CodingServiceHook.default_conn_name == names.CODING_SERVICE_CONN_ID


@pytest.mark.parametrize(
    ("error", "is_permanent"),
    [
        (errors.PlanError("x"), True),
        (errors.AuditError("x"), True),
        (WarehouseSettingsError("x"), True),
        (HITLTimeoutError({}), True),
        (errors.StagingError("x"), False),
        (WarehouseError("x"), False),
    ],
    ids=repr,
)
def test_a_task_is_not_retried_after_a_permanent_error(dag: Any, error: Exception, is_permanent: bool) -> None:
    raise_service_errors = {"code.create", "code.upload", "code.poll", "code.download"}
    data_tasks = [task for task in dag.tasks if task.task_id not in raise_service_errors]
    decisions = {task.task_id: task.retry_policy.evaluate(error, 1, 3).action.value for task in data_tasks}
    assert decisions == dict.fromkeys(decisions, "fail" if is_permanent else "default")


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Airflow's reader of .airflowignore
@pytest.mark.parametrize(
    ("first", "last", "days"),
    [
        ("2026-10-01T00:00:00Z", "2026-10-03T00:00:00Z", ["2026-10-01", "2026-10-02", "2026-10-03"]),
        ("2026-10-01T00:00:00+10:00", "2026-10-03T00:00:00+10:00", ["2026-10-01", "2026-10-02"]),
        ("2026-10-01T00:00:00+10:00", "2026-10-03T23:59:00+10:00", ["2026-10-01", "2026-10-02", "2026-10-03"]),
        ("2026-11-01T00:00:00+11:00", "2026-11-02T23:59:00+11:00", ["2026-11-01", "2026-11-02"]),
        ("2026-10-01T00:00:00+08:00", "2026-10-02T23:59:00+08:00", ["2026-10-01", "2026-10-02"]),
    ],
    ids=["API", "UI in Sydney, midnight", "UI in Sydney, 23:59", "in summer", "UI in Perth, 23:59"],
)
def test_a_backfill_from_the_ui_has_its_last_day_only_if_to_is_the_end_of_that_day(
    dag: Any, first: str, last: str, days: list[str]
) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    scheduler_dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    times = (datetime.fromisoformat(first).astimezone(UTC), datetime.fromisoformat(last).astimezone(UTC))
    assert [info.partition_key for info in scheduler_dag.iter_dagrun_infos_between(*times)] == days


def retry_delays(task: Any, error: Exception) -> list[float]:
    """Return the least number of seconds before each retry of a task that always fails with this error."""
    delays = []
    for try_number in range(1, task.retries + 1):
        decision = task.retry_policy.evaluate(error, try_number, task.retries)
        assert decision.action is not RetryAction.FAIL
        growing = task.retry_delay * float(task.retry_exponential_backoff) ** (try_number - 1)
        delay = decision.retry_delay or min(growing, task.max_retry_delay)
        delays.append(delay.total_seconds())
    return delays


def follows_bytes(dag: Any) -> list[Any]:
    """Return the tasks without which the output of an operation that has its input is lost: those that do something."""
    upload, land = dag.get_task(handoffs.UPLOAD), dag.get_task(handoffs.LAND)
    names = upload.get_flat_relative_ids(upstream=False) & land.get_flat_relative_ids(upstream=True)
    tasks = [dag.get_task(name) for name in {handoffs.UPLOAD, *names, handoffs.LAND}]
    return [task for task in tasks if task.task_type != "EmptyOperator"]


@pytest.mark.parametrize(
    "error",
    [
        service_errors.ServiceUnavailableError("down"),
        service_errors.ServiceUnavailableError("down", retry_after=1),
        service_errors.TooManyRequestsError("slower", retry_after=5),
        service_errors.TransferError("broken"),
        service_errors.StagingError("disk full"),
        service_errors.LocalFaultError("disk full"),
        service_errors.AccessDeniedError("explicit deny", retry_after=600),
        errors.StagingError("disk full"),
        WarehouseError("down"),
    ],
    ids=repr,
)
def test_what_follows_accepted_bytes_is_retried_for_hours_with_growing_pauses(dag: Any, error: Exception) -> None:
    tasks = follows_bytes(dag)
    assert {task.task_id for task in tasks} >= {"code.upload", "code.poll", "code.download", "land"}
    for task in tasks:
        delays = retry_delays(task, error)
        assert 8 * 3600 <= sum(delays) <= 24 * 3600, task.task_id
        assert delays == sorted(delays)
        assert max(delays) <= 30 * 60


def test_what_precedes_an_upload_gives_up_within_minutes(dag: Any) -> None:
    error = service_errors.ServiceUnavailableError("down")
    for name in (handoffs.PLAN, handoffs.PREPARE, handoffs.CREATE):
        assert sum(retry_delays(dag.get_task(name), error)) <= 10 * 60


@pytest.mark.parametrize("name", [handoffs.PLAN, handoffs.CREATE, handoffs.DOWNLOAD])
def test_every_call_survives_a_quota_that_is_used_up_until_midnight(dag: Any, name: str) -> None:
    stop = service_errors.QuotaExceededError("no", retry_after=3600, ends_after=23 * 3600)
    assert sum(retry_delays(dag.get_task(name), stop)) >= 23 * 3600


# ---- form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("records_per_part", 0),
        ("records_per_part", 7_000_001),
        ("selection", "some"),
        ("from_date", "yesterday"),
        ("max_uncoded_share", 1.5),
        ("min_records_for_limits", 0),
        ("clean", "yes"),
        ("columns", ["occp_text"]),
        ("columns", {"occp_text": 5}),
        ("columns", {"tasks_text": ""}),
        ("read_options", ["sheet"]),
        ("read_options", {"shet": "Data"}),
        ("read_options", {"header_row": "5"}),
        ("read_options", {"header_row": 0}),
        ("read_options", {"delimiter": ";;"}),
        ("source", ""),
        ("look_back_days", 367),
        ("max_records", 0),
        ("max_records", 1_000_001),
        ("approve_above", -1),
        ("response_date", "yesterday"),
        ("dry_run", 1),
    ],
)
def test_the_form_refuses_a_value_that_cannot_work(dag: Any, name: str, value: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("columns", {"tasks_text": None, "occp_text": "job_title"}),
        ("read_options", None),
        ("read_options", {"sheet": "Data", "header_row": 5, "date_format": "%d/%m/%Y", "timezone": "UTC"}),
        ("read_options", {"sheet": 2, "encoding": None, "delimiter": ";", "connection": "survey_bucket"}),
    ],
)
def test_the_form_accepts_every_option_of_a_source(dag: Any, name: str, value: Any) -> None:
    assert deepcopy(dag.params.get_param(name)).resolve(value) == value  # the param keeps what it resolved last


def test_the_form_lists_the_known_options_when_it_refuses_one(dag: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError, match="'shet' is not one of .'sheet', 'header_row', 'delimiter'"):
        dag.params.get_param("read_options").resolve({"shet": "Data"})


def test_the_defaults_of_the_form_are_valid_and_those_of_the_design(dag: Any) -> None:
    assert dag.params.validate() == {
        "topic": "osca", "model": "latest", "from_date": None, "to_date": None, "source": "survey_responses",
        "columns": {}, "selection": "uncoded", "records_per_part": 500_000, "clean": True, "max_uncoded_share": 0.5,
        "max_rejected_share": 0.2, "force_new": False, "look_back_days": 7, "response_date": None, "dry_run": False,
        "max_records": None, "approve_above": None, "min_records_for_limits": 50, "read_options": {},
        "export": None,
    }  # fmt: skip


def test_every_param_of_the_form_has_a_title_and_help_or_choices(dag: Any) -> None:
    for name in dag.params:
        param = dag.params.get_param(name)
        assert "title" in param.schema, name
        assert param.description or {"values_display", "description_md"} & param.schema.keys(), name

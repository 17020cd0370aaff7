"""The DAG `recode_occupations`: its form, its graph, and what passes between its tasks."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.standard.exceptions import HITLTimeoutError

from coding_service import CodingServiceHook
from coding_service.operators import UPLOAD_GRANT_KEY
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
        "collect": ["code.download"],
        "land": ["approve", "collect"],
        "report": ["land"],
        "announce": ["land"],
        "clean_up": ["report"],
    }


def test_the_service_steps_share_one_pool_and_nothing_else_is_in_it(dag: Any) -> None:
    pool_users = {task.task_id for task in dag.tasks if task.pool == "coding_service"}
    assert names.POOL == "coding_service"
    assert pool_users == {"code.create", "code.upload", "code.poll", "code.download", "collect"}


def test_collect_runs_however_the_parts_ended_unless_there_are_none(dag: Any) -> None:
    assert dag.get_task("collect").trigger_rule == "none_skipped"


def test_land_runs_without_collect_if_there_was_nothing_to_send_but_not_after_a_failure(dag: Any) -> None:
    assert dag.get_task("land").trigger_rule == "none_failed"


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


# ---- form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("records_per_part", 0),
        ("records_per_part", 7_000_001),
        ("selection", "some"),
        ("from_date", "yesterday"),
        ("max_uncoded_share", 1.5),
        ("clean", "yes"),
        ("columns", ["occp_text"]),
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


def test_the_defaults_of_the_form_are_valid_and_those_of_the_design(dag: Any) -> None:
    assert dag.params.validate() == {
        "topic": "osca", "model": "latest", "from_date": None, "to_date": None, "source": "survey_responses",
        "columns": {}, "selection": "uncoded", "records_per_part": 500_000, "clean": True, "max_uncoded_share": 0.5,
        "max_rejected_share": 0.2, "force_new": False, "look_back_days": 7, "response_date": None, "dry_run": False,
        "max_records": None, "approve_above": None,
    }  # fmt: skip


def test_every_param_of_the_form_has_a_title_a_section_and_help_or_choices(dag: Any) -> None:
    for name, param in dag.params.items():
        schema = dag.params.get_param(name).schema
        assert {"title", "section"} <= schema.keys(), name
        assert "values_display" in schema or dag.params.get_param(name).description, (name, param)

"""How the tasks of a run of `recode_occupations` end when some fail: Airflow's scheduler decides, nothing is executed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import pytest
from airflow.models import import_all_models

# Airflow loads the plugin of the deadline, and its reader of .airflowignore warns about itself.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

FAILED, SKIPPED, SUCCESS, UPSTREAM_FAILED = "failed", "skipped", "success", "upstream_failed"
#: Tasks after the parts.
LAST_TASKS = ("collect", "land", "export", "report", "announce", "clean_up")


@pytest.fixture(scope="module")
def dag() -> Iterator[Any]:
    """The scheduler's copy of the DAG, in a metadata database."""
    import recode_occupations
    from airflow import settings
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.models.base import Base
    from airflow.models.dagbag import DBDagBag
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.db import synchronize_log_template

    import_all_models()
    Base.metadata.create_all(settings.engine)
    synchronize_log_template()
    DagBundlesManager().sync_bundles_to_db()
    dag = recode_occupations.dag
    dag.relative_fileloc = "recode_occupations.py"
    with settings.Session() as session:
        update_dag_parsing_results_in_db(
            "dags-folder", None, [LazyDeserializedDAG.from_dag(dag)], {}, None, set(), session=session
        )
        session.commit()
        yield DBDagBag().get_latest_version_of_dag(dag.dag_id, session=session)


NO_OUTCOMES: Mapping[str, str] = MappingProxyType({})
RunTasks = Callable[..., dict[str, Any]]


@pytest.fixture
def run_tasks(dag: Any) -> RunTasks:
    """A function that runs the DAG, and returns the final states of the run and its tasks (sorted, if mapped)."""

    def run(parts: int, outcomes: Mapping[str, str] = NO_OUTCOMES, rejected: bool = False) -> dict[str, Any]:
        from airflow import settings
        from airflow.models.taskmap import TaskMap
        from airflow.models.xcom import XComModel
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        with settings.Session() as session:
            run = dag.create_dagrun(
                run_id=f"manual__{uuid4()}", run_after=datetime.now(UTC), run_type=DagRunType.MANUAL,
                state="running", triggered_by=DagRunTriggeredByType.TEST, session=session,
            )  # fmt: skip
            run.dag = dag
            for _ in range(30):
                ready, _ = run.update_state(session=session, execute_callbacks=False)
                for ti in ready:
                    name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
                    ti.state = outcomes.get(name, SUCCESS)
                    if name == "prepare":
                        value = [{"part": part} for part in range(parts)]
                        key = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id}
                        XComModel.set("return_value", value, session=session, **key)
                        session.add(TaskMap.from_task_instance_xcom(ti, value))
                    if name == "approve" and rejected:  # as ApprovalOperator with ignore_downstream_trigger_rules
                        later = {task.task_id for task in ti.task.get_flat_relatives(upstream=False)}
                        for other in run.get_task_instances(session=session):
                            if other.task_id in later:
                                other.state = SKIPPED
                session.commit()
                if run.state != "running":
                    break
            states: dict[str, Any] = {"run": str(run.state)}
            for ti in run.get_task_instances(session=session):
                states.setdefault(ti.task_id, []).append(ti.state and str(ti.state))
        return {name: value if name == "run" else sorted(value) for name, value in states.items()}

    return run


def last_states(states: Mapping[str, Any]) -> list[str]:
    return [state for name in LAST_TASKS for state in states[name]]


@pytest.mark.parametrize("task_id", ["plan", "prepare", "approve"])
def test_if_nothing_could_be_sent_one_task_has_failed_and_no_other(run_tasks: RunTasks, task_id: str) -> None:
    states = run_tasks(2, {task_id: FAILED})
    assert states["run"] == FAILED
    assert [name for name, values in states.items() if values == [FAILED]] == [task_id]
    assert last_states(states) == [UPSTREAM_FAILED] * 6


def test_after_a_rejection_the_run_succeeds_and_nothing_lands(run_tasks: RunTasks) -> None:
    states = run_tasks(2, rejected=True)
    assert states["run"] == SUCCESS
    assert last_states(states) == [SKIPPED] * 6


@pytest.mark.parametrize("step", ["create", "upload", "poll", "download"])
def test_the_results_of_the_other_parts_land_if_one_fails(run_tasks: RunTasks, step: str) -> None:
    states = run_tasks(2, {f"code.{step}[1]": FAILED, "land": FAILED})
    assert states["run"] == FAILED
    assert SUCCESS in states["code.download"]
    assert last_states(states) == [SUCCESS, FAILED] + [UPSTREAM_FAILED] * 4


def test_land_says_why_there_is_nothing_to_land_if_all_parts_fail(run_tasks: RunTasks) -> None:
    states = run_tasks(2, {"code.poll[0]": FAILED, "code.poll[1]": FAILED, "land": FAILED})
    assert states["run"] == FAILED
    assert last_states(states) == [SUCCESS, FAILED] + [UPSTREAM_FAILED] * 4


def test_all_parts_land(run_tasks: RunTasks) -> None:
    states = run_tasks(2)
    assert states["run"] == SUCCESS
    assert Counter(states["code.download"]) == {SUCCESS: 2}
    assert last_states(states) == [SUCCESS] * 6


def test_a_run_with_nothing_to_send_lands_too(run_tasks: RunTasks) -> None:
    states = run_tasks(0)
    assert states["run"] == SUCCESS
    assert states["code.download"] == [SKIPPED]
    assert last_states(states) == [SKIPPED] + [SUCCESS] * 5


def test_a_dry_run_is_reported_and_not_announced(run_tasks: RunTasks) -> None:
    states = run_tasks(0, {"land": SKIPPED})
    assert states["run"] == SUCCESS
    assert last_states(states) == [SKIPPED, SKIPPED, SKIPPED, SUCCESS, SKIPPED, SUCCESS]


def test_a_run_that_leaves_all_dates_to_another_run_is_reported_and_not_announced(run_tasks: RunTasks) -> None:
    states = run_tasks(0, {"prepare": SKIPPED, "land": SKIPPED})
    assert states["run"] == SUCCESS
    assert [states["approve"], states["code.create"]] == [[SKIPPED], [SKIPPED]]
    assert last_states(states) == [SKIPPED, SKIPPED, SKIPPED, SUCCESS, SKIPPED, SUCCESS]


def test_a_run_without_an_export_is_reported_and_cleaned_up(run_tasks: RunTasks) -> None:
    states = run_tasks(2, {"export": SKIPPED})
    assert states["run"] == SUCCESS
    assert last_states(states) == [SUCCESS, SUCCESS, SKIPPED, SUCCESS, SUCCESS, SUCCESS]


def test_an_export_that_fails_keeps_the_files_of_the_run_whose_dates_are_announced(run_tasks: RunTasks) -> None:
    states = run_tasks(2, {"export": FAILED})
    assert states["run"] == FAILED
    assert last_states(states) == [SUCCESS, SUCCESS, FAILED, UPSTREAM_FAILED, SUCCESS, UPSTREAM_FAILED]

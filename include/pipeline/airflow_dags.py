"""The DAG that codes a source: its form, its tasks, and how they are wired, for any number of sources.

`recode_dag` makes a DAG. `dags/recode_occupations.py` has the main one, whose form has the defaults that environment
variables set (:func:`include.pipeline.form.read_default_params`). Others state theirs as arguments, in a short file
in `dags/`; `dags/example_two_surveys.py` is one to copy.

The name of this module has the word without which Airflow does not look at a file: it reads files that contain
"airflow" and "dag" only, and skips others silently.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    Asset,
    CronPartitionTimetable,
    PartitionedAssetTimetable,
    TriggerRule,
    XComArg,
    task,
    task_group,
)

from coding_service import (
    BatchCodeSensor,
    CodingServiceCreateOperator,
    CodingServiceDownloadOperator,
    CodingServiceRetryPolicy,
    CodingServiceUploadOperator,
)
from coding_service.errors import SettingsError
from coding_service.operators import UPLOAD_GRANT_KEY
from coding_service.sensors import OPERATION_KEY
from include.coding.errors import PlanError
from include.pipeline import names, settings
from include.pipeline.alerts import DeadlineDAG, alert_on_failure, landing_deadline
from include.pipeline.approval import ApproveSendingOperator
from include.pipeline.collecting import CollectResultsOperator
from include.pipeline.dag_arguments import PERMANENT_ERRORS
from include.pipeline.documentation import (
    PART_LABEL,
    TASK_DOCS,
    describe_recode_dag,
    document_recode_dag,
    name_dag,
)
from include.pipeline.form import PARAMS, make_params
from include.pipeline.inputs import check_inputs
from include.pipeline.links import add_report_link
from include.pipeline.run_notes import explain_failure

#: A time of each day, as cron writes it. On the day when the clocks change in October, the hour from 2 to 3 is
#: missing: Airflow 3.3.2 then gives two runs the same response date, and none the one before it.
DAILY = re.compile(r"[0-5]?\d (0?[013-9]|1\d|2[0-3]) \* \* \*")
#: How long an attempt of a task can take, far above what it needs; then it is retried, and resumes. What makes it
#: hang is a machine that does not answer, or an answer that does not end. First, a few calls to service or warehouse:
SHORT_TIMEOUT = timedelta(hours=1)
#: A file of 5 GB (the largest input) at 120 KB/s, or all records of a run through the data engine. The service
#: deletes an output after a day.
LONG_TIMEOUT = timedelta(hours=12)
#: Without a triggerer, `collect` waits in the worker for the operations of several rounds, a day for each.
COLLECT_IN_WORKER_TIMEOUT = timedelta(days=7)

DEFAULT_ARGS = {
    "execution_timeout": SHORT_TIMEOUT,
    "on_failure_callback": explain_failure,
    "retries": 3,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=30),
    "retry_policy": CodingServiceRetryPolicy(final=(*PERMANENT_ERRORS, HITLTimeoutError)),
}
#: For tasks that follow an upload: what is sent is paid for, and its output is kept for 24 hours at most. These are
#: retried for at least 9 hours.
PATIENT_ARGS: dict[str, Any] = {"retries": 24}


#: For `@task`: its result is one XCom, however it is annotated, and is not in the log, where nobody could read it.
QUIET_ARGS: dict[str, Any] = {"multiple_outputs": False, "show_return_value_in_logs": False}


@task(doc_md=TASK_DOCS["plan"], **QUIET_ARGS)
def plan(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
    """Determine topic, model, dates and source of the run, and check what can be checked before any work is done."""
    from include.pipeline import steps

    return steps.make_plan(params, dag_run, PARAMS)


@task(doc_md=TASK_DOCS["prepare"], execution_timeout=LONG_TIMEOUT, **QUIET_ARGS)
def prepare(*, ti: Any = None, dag_run: Any = None) -> list[dict[str, Any]]:
    """Read and validate the records, keep each distinct text once, and write what has to be sent as parts."""
    from include.pipeline import steps

    return steps.prepare_parts(ti, dag_run)


@task(
    doc_md=TASK_DOCS["land"], trigger_rule=TriggerRule.NONE_FAILED, execution_timeout=LONG_TIMEOUT, **QUIET_ARGS,
    **PATIENT_ARGS,
)  # fmt: skip
def land(*, ti: Any = None, dag_run: Any = None) -> dict[str, Any]:
    """Audit and publish the run's dates, unless results are still missing."""
    from include.pipeline import steps

    return steps.land_results(ti, dag_run)


@task(doc_md=TASK_DOCS["export"], execution_timeout=LONG_TIMEOUT, **QUIET_ARGS)
def export(*, ti: Any = None) -> dict[str, Any]:
    """Write the records of the landed run with all columns of the source and their codes to the file of `export`."""
    from include.pipeline import steps

    return steps.export_records(ti)


@task(doc_md=TASK_DOCS["report"], trigger_rule=TriggerRule.NONE_FAILED, execution_timeout=LONG_TIMEOUT, **QUIET_ARGS)
def report(*, ti: Any = None) -> str:
    """Write the report of the run, or of a dry run, and return its URI."""
    from include.pipeline import steps

    return steps.report_run(ti)


@task(doc_md=TASK_DOCS["clean_up"], trigger_rule=TriggerRule.NONE_FAILED, **QUIET_ARGS)
def clean_up(*, ti: Any = None) -> None:
    """Remove the files of the landed run except its report, because they contain people's texts."""
    from include.pipeline import steps

    steps.clean_up(ti)


def recode_dag(
    dag_id: str,
    *,
    schedule: str | PartitionedAssetTimetable | None = None,
    schema: str | None = None,
    deferrable: bool = True,
    display_name: str | None = None,
    description: str | None = None,
    doc_md: str | None = None,
    **defaults: Any,
) -> DAG:
    """Return a DAG that codes a source: every night if it has a schedule, on demand, and as a backfill.

    Its dates are events of an asset of its own (:func:`include.pipeline.names.name_coded_records`). It shares the
    call budget, the pool, the settings of the deployment and the receivers of its alerts with all other DAGs.

    :param schedule: a time of each day in Sydney as cron writes it, `"30 1 * * *"`, when the day before is coded; or
        an asset timetable whose partition keys are response dates; None: only on demand
    :param schema: for tables of its own: what their schema is called after `CODING_SCHEMA` and an underscore. Without
        it, the DAG uses the tables of `recode_occupations`, and its topic must not be that of another DAG
    :param deferrable: whether to wait for the service in the triggerer; False for a deployment without one
    :param display_name, description, doc_md: its name, its description, and its documentation (Markdown) in Airflow's
        UI; None: made from the other arguments. People search for the name, so keep the id in it
    :param defaults: defaults of the form by the names of its params: `source`, `topic`, `columns`, ...
    :raises SettingsError: an argument has an impossible value, or is unknown
    """
    try:
        suffix = None if schema is None else settings.check_schema_suffix(schema)
    except PlanError as error:
        raise SettingsError(f"recode_dag({dag_id!r}): {error}") from None
    timetable = _make_timetable(dag_id, schedule)
    params = make_params(defaults, f"recode_dag({dag_id!r})")
    if description is None:
        description = describe_recode_dag(schedule, params["source"].value, params["topic"].value)
    asset = Asset(names.name_coded_records(dag_id))

    @task_group
    def code(part: Any) -> None:
        """Code one part in one operation."""
        # The lifetime of an upload grant is not documented, so each one is used before the next is created: only one
        # `create` runs at a time, and later steps have a higher priority.
        common: dict[str, Any] = {
            "pool": names.POOL, "weight_rule": "upstream", "pre_execute": check_inputs,
            "map_index_template": PART_LABEL, "operation_link": names.OPERATION_LINK,
        }  # fmt: skip
        files: dict[str, Any] = {**common, "storage_conn_id": names.STAGING_CONN_ID, "record_operations": True}
        create = CodingServiceCreateOperator(
            task_id="create", doc_md=TASK_DOCS["create"], part=part, max_active_tis_per_dagrun=1, **files
        )
        upload = CodingServiceUploadOperator(
            task_id="upload", doc_md=TASK_DOCS["upload"], part=part, operation_id=create.output,
            grant=XComArg(create, key=UPLOAD_GRANT_KEY), execution_timeout=LONG_TIMEOUT, **files, **PATIENT_ARGS,
        )  # fmt: skip
        poll = BatchCodeSensor(
            task_id="poll", doc_md=TASK_DOCS["poll"], part=part, operation_id=upload.output, deferrable=deferrable,
            **common, **PATIENT_ARGS,
        )  # fmt: skip
        download = CodingServiceDownloadOperator(
            task_id="download", doc_md=TASK_DOCS["download"], part=part, operation_id=upload.output,
            outcome=XComArg(poll, key=OPERATION_KEY), execution_timeout=LONG_TIMEOUT, **files, **PATIENT_ARGS,
        )  # fmt: skip
        create >> upload >> poll >> download

    @task(outlets=[asset], doc_md=TASK_DOCS["announce"], **QUIET_ARGS)
    def announce(*, ti: Any = None, dag_run: Any = None, outlet_events: Any = None) -> None:
        """Emit an event of the asset for each date that was published, with the date as its partition."""
        from include.pipeline import steps

        steps.announce_dates(ti, dag_run, outlet_events, asset)

    with DeadlineDAG(
        dag_id,
        dag_display_name=display_name or name_dag("Code occupations", dag_id),
        description=description,
        doc_md=doc_md or document_recode_dag(dag_id, description),
        schedule=timetable,
        start_date=pendulum.datetime(2026, 1, 1, tz=names.TIMEZONE),
        catchup=False,
        max_active_runs=4,
        params=params,
        default_args=DEFAULT_ARGS,
        on_failure_callback=alert_on_failure,
        deadline=landing_deadline(),
        tags=["occupation", "coding", names.RECODE_TAG],
    ) as dag:
        parts = prepare()
        approve = ApproveSendingOperator(
            task_id="approve",
            doc_md=TASK_DOCS["approve"],
            subject="Send texts of {{ dag_run.run_id }} to the coding service?",
            ignore_downstream_trigger_rules=True,
            response_timeout=timedelta(days=7),
        )
        # However the parts ended, `collect` keeps the results that came back. It is skipped if there was nothing to
        # send, and not started if something failed before the parts.
        wait_for_parts = EmptyOperator(
            task_id="wait_for_parts", doc_md=TASK_DOCS["wait_for_parts"], trigger_rule=TriggerRule.NONE_SKIPPED
        )
        collect = CollectResultsOperator(
            task_id="collect",
            doc_md=TASK_DOCS["collect"],
            storage_conn_id=names.STAGING_CONN_ID,
            deferrable=deferrable,
            execution_timeout=LONG_TIMEOUT if deferrable else COLLECT_IN_WORKER_TIMEOUT,
            pool=names.POOL,
            weight_rule="upstream",
            **PATIENT_ARGS,
        )
        landing = land()
        plan() >> parts >> approve >> code.expand(part=parts) >> wait_for_parts
        [approve, wait_for_parts] >> collect >> landing >> export() >> add_report_link(report()) >> clean_up()
        landing >> announce()
    settings.SCHEMA_SUFFIXES.pop(dag_id, None)
    if suffix is not None:
        settings.SCHEMA_SUFFIXES[dag_id] = suffix
    return dag


def _make_timetable(dag_id: str, schedule: str | PartitionedAssetTimetable | None) -> Any:
    """Return the timetable of a schedule. A run of the scheduler needs a response date, which is its partition."""
    if schedule is None or isinstance(schedule, PartitionedAssetTimetable):
        return schedule
    if not isinstance(schedule, str) or not DAILY.fullmatch(schedule):
        raise SettingsError(
            f"recode_dag({dag_id!r}): `schedule` is {schedule!r}; expected a time of each day, such as '30 1 * * *'"
            " for half past one, but not from 2 to 3 o'clock, which one night of the year does not have. A scheduled"
            " run codes the responses of the day before"
        )
    return CronPartitionTimetable(schedule, timezone=names.TIMEZONE, run_offset=-1, key_format="%Y-%m-%d")

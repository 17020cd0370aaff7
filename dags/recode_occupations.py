"""
Code occupation free text with the WoAG Occupation Coding Service and land the codes in the warehouse.

Runs every night for the responses of the day before, by hand for any dates, and as a backfill. Each distinct text is
sent to a model once; a run replaces its dates for its topic and model in `coded_records`, or publishes nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, CronPartitionTimetable, Param, TriggerRule, XComArg, task, task_group

from coding_service import (
    BatchCodeSensor,
    CodingServiceCreateOperator,
    CodingServiceDownloadOperator,
    CodingServiceRetryPolicy,
    CodingServiceUploadOperator,
)
from coding_service.alerts import landing_deadline, tell_of_failure
from coding_service.operators import GRANT
from include.coding.errors import DataError
from include.warehouse.errors import WarehouseSettingsError

TIMEZONE = "Australia/Sydney"
POOL = "coding_service"
#: False for a deployment without a triggerer: the wait is then rescheduled between status calls.
DEFERRABLE = True
CODED_RECORDS = Asset("coded_records")

PARAMS = {
    "topic": Param(
        "osca", type="string", title="Topic", section="What to code", description="uriName of the classification"
    ),
    "model": Param(
        "latest", type="string", title="Model", section="What to code", description="`latest`, or the GUID of a model"
    ),
    "from_date": Param(
        None, type=["null", "string"], format="date", title="From", section="What to code",
        description="First response date. Leave both empty for the day before the run.",
    ),
    "to_date": Param(
        None, type=["null", "string"], format="date", title="To", section="What to code",
        description="Last response date, inclusive.",
    ),
    "selection": Param(
        "uncoded", type="string", enum=["uncoded", "all"], title="Texts", section="What to code",
        values_display={"uncoded": "only those that this model has not coded", "all": "code every text again"},
    ),
    "source": Param(
        "survey_responses", type="string", title="Source", section="Where it comes from", minLength=1,
        description="Table or view of the warehouse, or a file: file:///path/answers.parquet (.csv, .jsonl, .xlsx)."
        " It holds all records of the dates: what another source gave for them is replaced.",
    ),
    "columns": Param(
        {}, type="object", title="Columns", section="Where it comes from",
        description='Columns of the source that are named otherwise: {"occp_text": "job_title"}. They stand for'
        " record_id, response_date, occp_text, tasks_text.",
    ),
    "clean": Param(
        True, type="boolean", title="Clean texts", section="Where it comes from",
        description="Bring accents, curly quotes and the like to plain ASCII first. Off: judge texts as they stand.",
    ),
    "max_uncoded_share": Param(
        0.5, type="number", minimum=0, maximum=1, title="Uncoded at most", section="When not to publish",
        description="Share of the records sent that may remain without a code.",
    ),
    "max_rejected_share": Param(
        0.2, type="number", minimum=0, maximum=1, title="Rejected at most", section="When not to publish",
        description="Share of the records read that may be refused before sending.",
    ),
    "records_per_part": Param(
        500_000, type="integer", minimum=1, maximum=7_000_000, title="Records per part", section="How to send it",
        description="Each part is one operation of the service.",
    ),
    "force_new": Param(
        False, type="boolean", title="New operations", section="How to send it",
        description="Open a new operation at every try instead of taking up the one that an earlier try left.",
    ),
}  # fmt: skip

#: The plan's topic, for the sensor, which is given no part.
TOPIC = "{{ ti.xcom_pull(task_ids='plan')['topic'] }}"

DEFAULT_ARGS = {
    "retries": 3,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=15),
    "retry_policy": CodingServiceRetryPolicy(final=(DataError, WarehouseSettingsError)),
}


@task
def plan(*, params: Any = None, dag_run: Any = None, run_id: Any = None) -> dict[str, Any]:
    """Settle topic, model, dates and source of the run, and check what can be checked before any work is done."""
    from coding_service import CodingServiceHook
    from coding_settings import setting, staging_of
    from include.coding.plan import Plan, settle_dates

    run_after = pendulum.instance(dag_run.run_after).in_timezone(TIMEZONE)
    first, last = settle_dates(dag_run.partition_key, params["from_date"], params["to_date"], run_after)
    settled = {name: value for name, value in params.items() if name not in ("from_date", "to_date", "model")}
    model = CodingServiceHook().pin_model(params["topic"], params["model"])
    return Plan.from_dict(
        {
            **settled,
            "run_id": run_id,
            "model_id": model.model_id,
            "model_version": model.version,
            "from_date": first,
            "to_date": last,
            "staging": staging_of(run_id),
            "schema": setting("CODING_SCHEMA", "coding"),
            "memory_mb": int(setting("CODING_MEMORY_MB", "512")),
        }
    ).as_dict()


@task
def prepare(planned: Any, *, ti: Any = None) -> list[dict[str, Any]]:
    """Read and judge the records, keep each distinct text once, and write what has to be sent as parts."""
    from dataclasses import asdict

    from coding_settings import open_staging, open_warehouse
    from include.coding.plan import Plan
    from include.coding.prepare import prepare

    settled = Plan.from_dict(planned)
    with open_staging(settled.staging) as staging:
        prepared = prepare(settled, open_warehouse(settled), staging)
    ti.xcom_push(key="prepared", value=prepared.as_dict())
    return [asdict(part) for part in prepared.parts]


@task_group
def code(part: Any) -> None:
    """One part, one operation.

    How long an upload grant lives is not documented, so what is created is uploaded before the next is created:
    one create at a time, and steps further down have a higher weight.
    """
    common: dict[str, Any] = {"pool": POOL, "weight_rule": "upstream"}
    create = CodingServiceCreateOperator(task_id="create", part=part, max_active_tis_per_dagrun=1, **common)
    upload = CodingServiceUploadOperator(
        task_id="upload", part=part, operation_id=create.output, grant=XComArg(create, key=GRANT), **common
    )
    poll = BatchCodeSensor(task_id="poll", topic=TOPIC, operation_id=upload.output, deferrable=DEFERRABLE, **common)
    download = CodingServiceDownloadOperator(task_id="download", part=part, operation_id=upload.output, **common)
    create >> upload >> poll >> download


@task(outlets=[CODED_RECORDS], trigger_rule=TriggerRule.ALL_DONE)
def land(*, ti: Any = None, outlet_events: Any = None) -> dict[str, Any]:
    """Keep the results of every part that came back; if all did, audit and publish the run's dates."""
    from dataclasses import asdict

    from coding_settings import open_staging, open_warehouse
    from include.coding.landing import land
    from include.coding.plan import Plan

    planned, parts = ti.xcom_pull(task_ids="plan"), ti.xcom_pull(task_ids="prepare")
    prepared = ti.xcom_pull(task_ids="prepare", key="prepared")
    if planned is None or prepared is None:
        failed = "plan" if planned is None else "prepare"
        raise DataError(f"there is nothing to land: task {failed!r} did not succeed; its log says why")
    settled = Plan.from_dict(planned)
    returned = [part_result(ti, part["part"]) for part in parts]
    warehouse = open_warehouse(settled)
    with open_staging(settled.staging) as staging:
        landed = asdict(land(settled, prepared, parts, returned, warehouse, staging))
    outlet_events[CODED_RECORDS].extra = {**landed, "topic": settled.topic, "model_id": settled.model_id}
    return landed


def part_result(ti: Any, part: int) -> Any:
    """What the tasks of one part left in XCom, a failed part's as well."""
    from include.coding.results import Returned

    def pull(step: str, key: str = "return_value") -> Any:
        return ti.xcom_pull(task_ids=f"code.{step}", key=key, map_indexes=part)

    ended, files = pull("poll", "operation") or {}, pull("download")
    operation_id, state = pull("upload") or pull("create"), ended.get("state", "unknown")
    if files is None:
        not_down = f"its output did not come down; the log of code.download[{part}] says why"
        return Returned(part, operation_id, state, not_down if state == "complete" else ended.get("message"))
    return Returned(
        part,
        files["operation_id"],
        state,
        None,
        files["output"],
        files["metadata"],
        files["input"],
        files["fingerprint"],
    )


@task
def report(landed: Any, *, ti: Any = None) -> str:
    """Write the report of the run and return its URI."""
    from coding_settings import open_staging, open_warehouse
    from include.coding.plan import Plan
    from include.coding.report import write_report

    settled = Plan.from_dict(ti.xcom_pull(task_ids="plan"))
    prepared = ti.xcom_pull(task_ids="prepare", key="prepared")
    warehouse = open_warehouse(settled)
    with open_staging(settled.staging) as staging:
        return write_report(settled, prepared, landed, warehouse, staging)


@task
def clean_up(planned: Any) -> None:
    """Remove the files of the landed run, all but its report; they hold people's texts."""
    from coding_settings import open_staging, setting

    if setting("CODING_KEEP_STAGING", "false").lower() not in ("1", "true", "yes"):
        with open_staging(planned["staging"]) as staging:
            staging.clear()


with DAG(
    "recode_occupations",
    doc_md=__doc__,
    schedule=CronPartitionTimetable("0 0 * * *", timezone=TIMEZONE, run_offset=-1, key_format="%Y-%m-%d"),
    start_date=pendulum.datetime(2026, 1, 1, tz=TIMEZONE),
    catchup=False,
    max_active_runs=4,
    params=PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=tell_of_failure,
    deadline=landing_deadline(),
    tags=["occupation", "coding"],
) as dag:
    planned = plan()
    landed = land()
    code.expand(part=prepare(planned)) >> landed
    report(landed) >> clean_up(planned)

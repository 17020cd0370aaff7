"""
Code occupation free text with the WoAG Occupation Coding Service and land the codes in the warehouse.

Runs every night for the responses of the day before, by hand for any dates, and as a backfill. Each distinct text is
sent to a model once; a run replaces its dates for its topic and model in `coded_records`, or publishes nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, CronPartitionTimetable, Param, TriggerRule, XComArg, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

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

_WHAT, _WHERE, _TRY, _AUDIT, _SEND = (
    "What to code", "Where it comes from", "Try it first", "When not to publish", "How to send it",
)  # fmt: skip
PARAMS = {
    "topic": Param(
        "osca", type="string", title="Topic", section=_WHAT, minLength=1,
        description="`uriName` of the classification, such as `osca` or `anzsco`.",
    ),
    "model": Param(
        "latest", type="string", title="Model", section=_WHAT, minLength=1,
        description="`latest`, or the GUID of a model. All runs of a backfill use the one that its first run finds.",
    ),
    "from_date": Param(
        None, type=["null", "string"], format="date", title="From", section=_WHAT,
        description="First response date. With both dates empty: the day before the run.",
    ),
    "to_date": Param(
        None, type=["null", "string"], format="date", title="To", section=_WHAT,
        description="Last response date, inclusive. One date alone is that day.",
    ),
    "look_back_days": Param(
        7, type="integer", minimum=0, maximum=366, title="Look back", section=_WHAT,
        description="Days before its own that a **scheduled** run looks at again, for answers that arrived late. Runs"
        " by hand and backfills take just their dates.",
    ),
    "selection": Param(
        "uncoded", type="string", enum=["uncoded", "all"], title="Texts", section=_WHAT,
        values_display={"uncoded": "only those that this model has not coded", "all": "code every text again"},
    ),
    "source": Param(
        "survey_responses", type="string", title="Source", section=_WHERE, minLength=1,
        description="Table or view of the warehouse, or a file: `file:///path/answers.parquet` (.csv, .jsonl, .xlsx)."
        " It holds all records of the dates: what another source gave for them is replaced.",
    ),
    "columns": Param(
        {}, type="object", title="Columns", section=_WHERE,
        description='Columns of the source that are named otherwise: `{"occp_text": "job_title"}`. They stand for'
        " `record_id`, `response_date`, `occp_text`, `tasks_text`.",
    ),
    "response_date": Param(
        None, type=["null", "string"], format="date", title="One date for all", section=_WHERE,
        description="For a file or table **without dates**: the date under which all of its records are kept. It must"
        " be one that no other source has. Leave From and To empty.",
    ),
    "clean": Param(
        True, type="boolean", title="Clean texts", section=_WHERE,
        description="Bring accents, curly quotes and the like to plain ASCII first. Off: judge texts as they stand.",
    ),
    "dry_run": Param(
        False, type="boolean", title="Dry run", section=_TRY,
        description="Send nothing: the report says how many records and texts there are, and what sending takes.",
    ),
    "max_records": Param(
        None, type=["null", "integer"], minimum=1, maximum=1_000_000, title="Trial of so many records", section=_TRY,
        description="Code so many records, drawn from all. Their rows go to tables of their own (schema `..._trial`);"
        " nothing is published.",
    ),
    "approve_above": Param(
        None, type=["null", "integer"], minimum=0, title="Ask above so many texts", section=_TRY,
        description="Wait for somebody's approval (Required Actions) before more distinct texts are sent. Empty: what"
        " `CODING_APPROVE_ABOVE` says, if it is set.",
    ),
    "max_uncoded_share": Param(
        0.5, type="number", minimum=0, maximum=1, title="Uncoded at most", section=_AUDIT,
        description="Share of the records sent that may remain without a code.",
    ),
    "max_rejected_share": Param(
        0.2, type="number", minimum=0, maximum=1, title="Rejected at most", section=_AUDIT,
        description="Share of the records read that may be refused before sending.",
    ),
    "records_per_part": Param(
        500_000, type="integer", minimum=1, maximum=7_000_000, title="Records per part", section=_SEND,
        description="Each part is one operation of the service.",
    ),
    "force_new": Param(
        False, type="boolean", title="New operations", section=_SEND,
        description="Open a new operation at every try instead of taking up the one that an earlier try left. **A"
        " repeated try sends its texts again.**",
    ),
}  # fmt: skip

DEFAULT_ARGS = {
    "retries": 3,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=15),
    "retry_policy": CodingServiceRetryPolicy(final=(DataError, WarehouseSettingsError, HITLTimeoutError)),
}


@task
def plan(*, params: Any = None, dag_run: Any = None, run_id: Any = None) -> dict[str, Any]:
    """Settle topic, model, dates and source of the run, and check what can be checked before any work is done."""
    from coding_runs import check_airflow, look_back_of, pin_model
    from coding_settings import setting, staging_of
    from include.coding.plan import Plan, settle_dates

    check_airflow(dag_run, POOL)
    look_back = look_back_of(params, dag_run)
    run_after = pendulum.instance(dag_run.run_after).in_timezone(TIMEZONE)
    first, last = settle_dates(params, dag_run.partition_key, run_after, look_back)
    settled = Plan.from_dict(
        {
            **params,
            "run_id": run_id,
            "model_id": params["model"],
            "model_version": None,
            "from_date": first,
            "to_date": last,
            "changed_only": look_back > 0,
            "staging": staging_of(run_id),
            # a trial has tables of its own: nothing of it is taken for more than it is
            "schema": setting("CODING_SCHEMA", "coding") + ("_trial" if params["max_records"] else ""),
            "memory_mb": int(setting("CODING_MEMORY_MB", "512")),
        }
    )
    return pin_model(settled, dag_run).as_dict()


@task
def prepare(planned: Any, *, dag_run: Any = None, ti: Any = None) -> list[dict[str, Any]]:
    """Read and judge the records, keep each distinct text once, and write what has to be sent as parts."""
    from dataclasses import asdict

    from coding_runs import estimate_sending
    from coding_settings import open_staging, open_warehouse
    from include.coding.plan import Plan
    from include.coding.prepare import prepare

    settled = Plan.from_dict(planned)
    with open_staging(settled.staging) as staging:
        prepared = prepare(settled, open_warehouse(settled.engine_memory_mb), staging)
    ti.xcom_push(key="prepared", value=prepared.as_dict())
    ti.xcom_push(key="estimate", value=asdict(estimate_sending(prepared, dag_run)))
    return [] if settled.dry_run else [asdict(part) for part in prepared.parts]


class AskToSend(ApprovalOperator):
    """Has a person approve what is going to be sent, if it is more texts than `approve_above`.

    A person who rejects ends the run: its files are removed, and all that follows is skipped.
    """

    def execute(self, context: Any) -> Any:
        from coding_runs import approval_limit
        from include.coding.estimate import Estimate

        estimated = Estimate(**context["ti"].xcom_pull(task_ids="prepare", key="estimate"))
        limit = approval_limit(context["params"])
        if context["params"]["dry_run"] or limit is None or estimated.sent <= limit:
            self.log.info("%d texts to send: nobody has to approve", estimated.sent)
            return None
        self.body = estimated.as_markdown
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        from coding_settings import open_staging

        answered = super().execute_complete(context, event)
        if self.REJECT in answered["chosen_options"]:
            with open_staging(context["ti"].xcom_pull(task_ids="plan")["staging"]) as staging:
                staging.clear()
        return answered


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
    poll = BatchCodeSensor(task_id="poll", part=part, operation_id=upload.output, deferrable=DEFERRABLE, **common)
    download = CodingServiceDownloadOperator(task_id="download", part=part, operation_id=upload.output, **common)
    create >> upload >> poll >> download


@task(trigger_rule=TriggerRule.ALL_DONE)
def land(*, ti: Any = None) -> dict[str, Any]:
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
    if settled.dry_run:
        raise AirflowSkipException("a dry run sends nothing and lands nothing")
    returned = [part_result(ti, part["part"]) for part in parts]
    if parts and not any(back.operation_id for back in returned):
        raise DataError(
            "nothing was sent, so there is nothing to land; the log of the first task that failed says why"
        )
    warehouse = open_warehouse(settled.engine_memory_mb)
    with open_staging(settled.staging) as staging:
        return asdict(land(settled, prepared, parts, returned, warehouse, staging))


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
        ended.get("seconds"),
    )


@task(trigger_rule=TriggerRule.NONE_FAILED)
def report(*, ti: Any = None) -> str:
    """Write the report of the run, a dry run's as well, and return its URI."""
    from coding_settings import open_staging, open_warehouse
    from include.coding.estimate import Estimate
    from include.coding.plan import Plan
    from include.coding.report import write_estimate, write_report

    settled = Plan.from_dict(ti.xcom_pull(task_ids="plan"))
    with open_staging(settled.staging) as staging:
        if settled.dry_run:
            return write_estimate(settled, Estimate(**ti.xcom_pull(task_ids="prepare", key="estimate")), staging)
        prepared = ti.xcom_pull(task_ids="prepare", key="prepared")
        landed = ti.xcom_pull(task_ids="land")
        return write_report(settled, prepared, landed, open_warehouse(settled.engine_memory_mb), staging)


@task(outlets=[CODED_RECORDS])
def announce(landed: Any, planned: Any, *, dag_run: Any = None, outlet_events: Any = None) -> None:
    """Tell other DAGs which dates have been published: an event of the asset for each, the date as its partition.

    The run's own partition is told even if nothing of it was new: somebody may wait for it.
    """
    days = sorted({*landed["days"], *filter(None, [dag_run.partition_key])})
    if planned["max_records"] or not days:
        raise AirflowSkipException("nothing was published")
    told = ("read", "coded", "uncoded", "rejected", "texts", "texts_sent", "operations", "from_date", "to_date")
    outlet_events[CODED_RECORDS].add_partitions(days)
    outlet_events[CODED_RECORDS].extra = {
        **{name: landed[name] for name in told},
        **{name: planned[name] for name in ("topic", "model_id", "model_version")},
        "run_id": dag_run.run_id,
    }


@task(trigger_rule=TriggerRule.NONE_FAILED)
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
    parts = prepare(planned)
    approved = AskToSend(
        task_id="approve",
        subject="Send texts of {{ dag_run.run_id }} to the coding service?",
        ignore_downstream_trigger_rules=True,
        response_timeout=timedelta(days=7),
    )
    landed, reported = land(), report()
    parts >> approved >> code.expand(part=parts) >> landed >> reported >> clean_up(planned)
    announce(landed, planned)

"""
Code occupation free text with the WoAG Occupation Coding Service, and publish the codes in the warehouse.

It runs every night for the responses of the day before, on demand for any dates, and as a backfill. A model codes
each distinct text once. A run replaces the rows of its topic, model and dates in `coded_records`, or changes nothing.

Before you start a **backfill** in the UI: unpause the DAG, because runs of a backfill wait silently while it is
paused; set *To* to 23:59 of the last day, because midnight in an Australian time zone leaves that day out; and keep
the dates of the form below empty. Do not **pause** the DAG while the service is coding: no task continues until you
unpause it, and the service deletes its output after a day. docs/runbook.md has more.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, CronPartitionTimetable, Param, TriggerRule, XComArg, task, task_group

from coding_service import (
    BatchCodeSensor,
    CodingServiceCreateOperator,
    CodingServiceDownloadOperator,
    CodingServiceRetryPolicy,
    CodingServiceUploadOperator,
)
from coding_service.operators import UPLOAD_GRANT_KEY
from coding_service.sensors import OPERATION_KEY
from include.pipeline import names
from include.pipeline.alerts import DeadlineDAG, alert_on_failure, landing_deadline
from include.pipeline.approval import ApproveSendingOperator
from include.pipeline.collecting import CollectResultsOperator
from include.pipeline.dag_arguments import (
    MAX_RECORDS_PER_PART,
    PERMANENT_ERRORS,
    READ_OPTION_NAMES,
    READ_OPTION_SCHEMA,
    SELECTIONS,
)
from include.pipeline.inputs import check_inputs

#: Set it to False for a deployment without a triggerer: the wait is then rescheduled between status calls.
DEFERRABLE = True
CODED_RECORDS = Asset(names.CODED_RECORDS)

_SCOPE, _SOURCE, _TRIAL, _LIMITS, _SENDING = (
    "What to code", "Source", "Try it first", "Limits for publishing", "Sending",
)  # fmt: skip
PARAMS = {
    "topic": Param(
        "osca", type="string", title="Topic", section=_SCOPE, minLength=1,
        description="`uriName` of the classification, such as `osca` or `anzsco`.",
    ),
    "model": Param(
        "latest", type="string", title="Model", section=_SCOPE, minLength=1,
        description="`latest`, or the GUID of a model. All runs of a backfill use the model of its first run.",
    ),
    "from_date": Param(
        None, type=["null", "string"], format="date", title="From", section=_SCOPE,
        description="First response date. If both dates are empty: the day before the run. Empty in a backfill.",
    ),
    "to_date": Param(
        None, type=["null", "string"], format="date", title="To", section=_SCOPE,
        description="Last response date, inclusive. If only one of the dates is set, the run codes that day. Empty in"
        " a backfill: there, set the To of the backfill itself to 23:59 of its last day.",
    ),
    "look_back_days": Param(
        7, type="integer", minimum=0, maximum=names.MAX_LOOK_BACK_DAYS, title="Look back", section=_SCOPE,
        description="Earlier days that a **scheduled** run checks for late answers; others code only their dates. It"
        " looks back further to dates that are not published yet.",
    ),
    "selection": Param(
        "uncoded", type="string", enum=list(SELECTIONS), title="Texts", section=_SCOPE,
        values_display={"uncoded": "only texts that this model has not coded", "all": "code every text again"},
    ),
    "source": Param(
        "survey_responses", type="string", title="Source", section=_SOURCE, minLength=1,
        description="Table or view of the warehouse, or a file: `file:///path/answers.parquet` (.csv, .jsonl, .xlsx,"
        " others: docs/sources.md), a folder of Parquet files, or `s3://bucket/answers.csv`, if the settings of the"
        " deployment allow it. It must contain all records of the dates, because records from"
        " other sources are replaced.",
    ),
    "columns": Param(
        {}, type="object", title="Columns", section=_SOURCE,
        description='Columns that have other names in the source: `{"occp_text": "job_title"}`. The names to map are'
        " `record_id`, `response_date`, `occp_text`, `tasks_text`. `null` says that the source does not have one:"
        ' `{"tasks_text": null}`; without a record id, the rows of a file are numbered.',
        additionalProperties={"type": ["string", "null"], "minLength": 1},
    ),
    "read_options": Param(
        {}, type=["object", "null"], title="Read options", section=_SOURCE,
        description='How the source is read: `{"sheet": "Data", "header_row": 5, "date_format": "%d/%m/%Y"}`.'
        " `sheet`: name or number of a sheet of Excel; `header_row`: number of the row with the names of the columns;"
        " `delimiter` and `encoding` (`cp1252`, `latin-1`, `utf-16`) of a text file; `date_format`: form of dates"
        " that are texts; `timezone`: whose days are the response dates, for times with an offset or Z;"
        " `connection`: Airflow connection of an `s3://` source.",
        propertyNames={"enum": list(READ_OPTION_NAMES)},
        properties=READ_OPTION_SCHEMA,
    ),
    "response_date": Param(
        None, type=["null", "string"], format="date", title="Single response date", section=_SOURCE,
        description="For a file or table **without dates**: the date of all its records. No other source can have"
        " this date. Leave From and To empty.",
    ),
    "clean": Param(
        True, type="boolean", title="Clean texts", section=_SOURCE,
        description="Convert accents, fractions, HTML entities etc. to plain ASCII. If off, texts are validated as"
        " they are.",
    ),
    "dry_run": Param(
        False, type="boolean", title="Dry run", section=_TRIAL,
        description="Send nothing: the report counts the records and texts, and estimates calls and time.",
    ),
    "max_records": Param(
        None, type=["null", "integer"], minimum=1, maximum=names.MAX_TRIAL_RECORDS, title="Trial: maximum records",
        section=_TRIAL,
        description="Code only this many records, sampled from all. Their rows go to separate tables (schema"
        " `..._trial`); nothing is published.",
    ),
    "approve_above": Param(
        None, type=["null", "integer"], minimum=0, title="Require approval above", section=_TRIAL,
        description="Number of distinct texts above which a person must approve sending them (Required Actions)."
        " The setting `CODING_APPROVE_ABOVE` counts too: of the two numbers, the lower one.",
    ),
    "max_uncoded_share": Param(
        0.5, type="number", minimum=0, maximum=1, title="Maximum uncoded share", section=_LIMITS,
        description="Share of the records that are not rejected which can remain without a code. Above it, nothing is"
        " published.",
    ),
    "max_rejected_share": Param(
        0.2, type="number", minimum=0, maximum=1, title="Maximum rejected share", section=_LIMITS,
        description="Share of the records read that can be rejected. Above it, nothing is sent or published.",
    ),
    "min_records_for_limits": Param(
        50, type="integer", minimum=1, title="Minimum records for limits", section=_LIMITS,
        description="Number of records from which on both shares are checked. With fewer records, a share above its"
        " limit is only reported. Nightly runs count each date by itself.",
    ),
    "records_per_part": Param(
        500_000, type="integer", minimum=1, maximum=MAX_RECORDS_PER_PART, title="Records per part", section=_SENDING,
        description="Each part is one operation of the service.",
    ),
    "force_new": Param(
        False, type="boolean", title="New operations", section=_SENDING,
        description="Never resume the operation of an earlier attempt, and code dates even if another run in progress"
        " codes them. **Every retry sends its texts again.**",
    ),
}  # fmt: skip

#: How long an attempt of a task can take, far above what it needs; then it is retried, and resumes. What makes it
#: hang is a machine that does not answer, or an answer that does not end. First, a few calls to service or warehouse:
SHORT_TIMEOUT = timedelta(hours=1)
#: A file of 5 GB (the largest input) at 120 KB/s, or all records of a run through the data engine. The service
#: deletes an output after a day.
LONG_TIMEOUT = timedelta(hours=12)
#: Without a triggerer, `collect` waits in the worker for the operations of several rounds, a day for each.
COLLECT_TIMEOUT = LONG_TIMEOUT if DEFERRABLE else timedelta(days=7)

DEFAULT_ARGS = {
    "execution_timeout": SHORT_TIMEOUT,
    "retries": 3,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=30),
    "retry_policy": CodingServiceRetryPolicy(final=(*PERMANENT_ERRORS, HITLTimeoutError)),
}
#: For tasks that follow an upload: what is sent is paid for, and its output is kept for 24 hours at most. These are
#: retried for at least 9 hours.
PATIENT_ARGS: dict[str, Any] = {"retries": 24}


@task(multiple_outputs=False)
def plan(*, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
    """Determine topic, model, dates and source of the run, and check what can be checked before any work is done."""
    from include.pipeline import steps

    return steps.make_plan(params, dag_run, PARAMS)


@task(execution_timeout=LONG_TIMEOUT)
def prepare(*, ti: Any = None, dag_run: Any = None) -> list[dict[str, Any]]:
    """Read and validate the records, keep each distinct text once, and write what has to be sent as parts."""
    from include.pipeline import steps

    return steps.prepare_parts(ti, dag_run)


@task_group
def code(part: Any) -> None:
    """Code one part in one operation.

    The lifetime of an upload grant is not documented, so each one is used before the next is created: only one
    `create` runs at a time, and later steps have a higher priority.
    """
    common: dict[str, Any] = {"pool": names.POOL, "weight_rule": "upstream", "pre_execute": check_inputs}
    files: dict[str, Any] = {**common, "storage_conn_id": names.STAGING_CONN_ID, "record_operations": True}
    create = CodingServiceCreateOperator(task_id="create", part=part, max_active_tis_per_dagrun=1, **files)
    upload = CodingServiceUploadOperator(
        task_id="upload", part=part, operation_id=create.output, grant=XComArg(create, key=UPLOAD_GRANT_KEY),
        execution_timeout=LONG_TIMEOUT, **files, **PATIENT_ARGS,
    )  # fmt: skip
    poll = BatchCodeSensor(
        task_id="poll", part=part, operation_id=upload.output, deferrable=DEFERRABLE, **common, **PATIENT_ARGS
    )
    download = CodingServiceDownloadOperator(
        task_id="download", part=part, operation_id=upload.output, outcome=XComArg(poll, key=OPERATION_KEY),
        execution_timeout=LONG_TIMEOUT, **files, **PATIENT_ARGS,
    )  # fmt: skip
    create >> upload >> poll >> download


@task(trigger_rule=TriggerRule.NONE_FAILED, multiple_outputs=False, execution_timeout=LONG_TIMEOUT, **PATIENT_ARGS)
def land(*, ti: Any = None) -> dict[str, Any]:
    """Audit and publish the run's dates, unless results are still missing."""
    from include.pipeline import steps

    return steps.land_results(ti)


@task(trigger_rule=TriggerRule.NONE_FAILED, execution_timeout=LONG_TIMEOUT)
def report(*, ti: Any = None) -> str:
    """Write the report of the run, or of a dry run, and return its URI."""
    from include.pipeline import steps

    return steps.report_run(ti)


@task(outlets=[CODED_RECORDS])
def announce(*, ti: Any = None, dag_run: Any = None, outlet_events: Any = None) -> None:
    """Emit an event of the asset `coded_records` for each date that was published, with the date as its partition."""
    from include.pipeline import steps

    steps.announce_dates(ti, dag_run, outlet_events, CODED_RECORDS)


@task(trigger_rule=TriggerRule.NONE_FAILED)
def clean_up(*, ti: Any = None) -> None:
    """Remove the files of the landed run except its report, because they contain people's texts."""
    from include.pipeline import steps

    steps.clean_up(ti)


with DeadlineDAG(
    names.RECODE_DAG_ID,
    doc_md=__doc__,
    schedule=CronPartitionTimetable("0 0 * * *", timezone=names.TIMEZONE, run_offset=-1, key_format="%Y-%m-%d"),
    start_date=pendulum.datetime(2026, 1, 1, tz=names.TIMEZONE),
    catchup=False,
    max_active_runs=4,
    params=PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=alert_on_failure,
    deadline=landing_deadline(),
    tags=["occupation", "coding"],
) as dag:
    parts = prepare()
    approve = ApproveSendingOperator(
        task_id="approve",
        subject="Send texts of {{ dag_run.run_id }} to the coding service?",
        ignore_downstream_trigger_rules=True,
        response_timeout=timedelta(days=7),
    )
    # However the parts ended, `collect` keeps the results that came back. It is skipped if there was nothing to send,
    # and not started if something failed before the parts.
    wait_for_parts = EmptyOperator(task_id="wait_for_parts", trigger_rule=TriggerRule.NONE_SKIPPED)
    collect = CollectResultsOperator(
        task_id="collect",
        storage_conn_id=names.STAGING_CONN_ID,
        deferrable=DEFERRABLE,
        execution_timeout=COLLECT_TIMEOUT,
        pool=names.POOL,
        weight_rule="upstream",
        **PATIENT_ARGS,
    )
    landing = land()
    plan() >> parts >> approve >> code.expand(part=parts) >> wait_for_parts
    [approve, wait_for_parts] >> collect >> landing >> report() >> clean_up()
    landing >> announce()

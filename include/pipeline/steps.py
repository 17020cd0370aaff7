"""The bodies of the tasks of the DAGs of `recode_dag`, and of `compare_models` and `sweep_staging`.

Each one imports the data work that it needs, so that a small task loads no engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.sdk.exceptions import AirflowSkipException

from coding_service import CodingServiceHook
from include.coding.errors import DataError, PlanError
from include.coding.estimate import CALLS_PER_PART, PLANNING_CALLS, Estimate, estimate_run
from include.coding.plan import Plan, extend_look_back, resolve_dates
from include.pipeline import handoffs, lineage, settings
from include.pipeline.names import MAX_LOOK_BACK_DAYS, POOL, TIMEZONE
from include.pipeline.params import check_params
from include.pipeline.run_metadata import RunMetadata, is_in_progress, read_metadata
from include.pipeline.settings import open_staging, open_warehouse, read_run_key

if TYPE_CHECKING:
    from include.coding.landing import LandingSummary
    from include.coding.prepare import Prepared

#: Params of the form that a plan has under the same name.
PLAN_PARAMS = (
    "topic", "source", "columns", "read_options", "selection", "response_date", "max_records", "dry_run",
    "records_per_part", "clean", "max_uncoded_share", "max_rejected_share", "min_records_for_limits", "force_new",
    "export",
)  # fmt: skip
#: Stands in a plan for its model until the service has named it.
UNKNOWN_MODEL = "00000000-0000-0000-0000-000000000000"
#: Maximum number of dates whose counts are in an event of the asset: Airflow stores all of them with each event.
MAX_COUNTED_DATES = 100
#: Counts and dates of the whole run in an event of the asset.
ANNOUNCED_FIELDS = (
    "read", "coded", "uncoded", "rejected", "texts", "texts_sent", "operations", "from_date", "to_date",
)  # fmt: skip
#: Counts of each date in an event of the asset.
COUNTS = ("read", "coded", "uncoded", "rejected")

log = logging.getLogger(__name__)


def make_plan(
    params: Mapping[str, Any],
    dag_run: Any,
    param_names: Collection[str],
    is_in_progress: Callable[[str], bool] = is_in_progress,
) -> dict[str, Any]:
    """Return the plan of a run, claim its dates, and check what can be checked before any work is done.

    :param param_names: params of the DAG; the configuration of the run can name no others
    :param is_in_progress: returns whether another run is in progress
    :raises PlanError: the params of the run are impossible, Airflow is not set up for it, or the topic is that of
        another DAG
    :raises SourceError: the source is a file that runs may not read
    :raises CodingServiceError: the service does not know the topic or the model, or cannot be reached
    """
    from include.coding.claims import claim_dates
    from include.coding.source_access import find_path

    check_params(params, dag_run.conf, param_names)
    settings.staging_base()  # must be valid before anything is sent
    find_path(params["source"], settings.read_source_access())  # `prepare` checks tables, and files again
    if params["export"]:
        _check_export(params["export"])
    metadata = read_metadata(dag_run)
    check_airflow(metadata, dag_run.run_type)
    look_back_days = int(params["look_back_days"]) if dag_run.run_type == "scheduled" else 0
    run_after = pendulum.instance(dag_run.run_after).in_timezone(TIMEZONE)
    first, last = resolve_dates(params, dag_run.partition_key, run_after, look_back_days)
    plan = Plan.from_dict(
        {
            **{name: params[name] for name in PLAN_PARAMS},
            "export": params["export"] or None,
            "run_id": read_run_key(dag_run),
            "model_id": UNKNOWN_MODEL,
            "model_version": None,
            "from_date": first,
            "to_date": last,
            "changed_only": look_back_days > 0,
            "schema": settings.read_dag_schema(dag_run.dag_id, is_trial=params["max_records"] is not None),
            "memory_mb": settings.read_memory_mb(),
            "timezone": TIMEZONE,
        }
    )
    plan = _pin_model(plan, params["model"], metadata)
    if plan.changed_only:
        plan = _extend_look_back(plan, metadata)
    plan = claim_dates(open_warehouse(plan.engine_memory_mb), plan, is_in_progress)
    for sentence in plan.competing_runs:
        log.warning("%s", sentence)
    log.info("%s", _describe_plan(plan))
    return plan.to_dict()


def _describe_plan(plan: Plan) -> str:
    if not plan.days:
        return "The run leaves all of its dates to other runs, and sends nothing"
    version = "" if plan.model_version is None else f" (version {plan.model_version})"
    kind = "A dry run" if plan.dry_run else "A trial" if plan.max_records is not None else "The run"
    return (
        f"{kind} codes {plan.from_date} to {plan.to_date} from source {plan.source!r} with topic {plan.topic!r},"
        f" model {plan.model_id}{version}"
    )


def _check_export(export: str) -> None:
    """Check where a run would write. `export` checks it again, because users can edit the plan in Airflow."""
    from include.coding.export_access import find_target

    find_target(export, settings.read_export_access())


def check_airflow(metadata: RunMetadata | None, run_type: str) -> None:
    """Raise :class:`PlanError` for two problems that Airflow does not report: a missing pool, for which its scheduler
    waits indefinitely, and a missing plugin (`metadata` is None), without which a backfill has no common model."""
    if metadata is None and run_type == "backfill":
        raise PlanError(
            "the scheduler has not loaded plugins/occupation_coding_plugin.py: check its log, give it the plugins"
            " folder, and restart it. Without it, the runs of this backfill would not all use the same model"
        )
    if metadata is not None and metadata.pool is None:
        raise PlanError(
            f"there is no pool {POOL!r}, so no task of `code` could ever start: create it with `airflow pools set"
            f" {POOL} 4 'Concurrent operations' --include-deferred`, or in the UI under Admin > Pools, then clear"
            " this task"
        )


def _pin_model(plan: Plan, model: str, metadata: RunMetadata | None) -> Plan:
    """Return the plan with the GUID of its model, the same for all runs of a backfill.

    :param model: `latest` or a GUID
    """

    def ask_service() -> tuple[str, float | None]:
        pinned = CodingServiceHook().pin_model(plan.topic, model)
        return pinned.model_id, pinned.version

    if metadata is None or metadata.backfill is None:
        model_id, version = ask_service()
    else:
        from include.coding.model_pins import pin_model

        warehouse = open_warehouse(plan.engine_memory_mb)
        model_id, version = pin_model(warehouse, plan.schema, metadata.backfill, plan.topic, model, ask_service)
    return Plan.from_dict({**plan.to_dict(), "model_id": model_id, "model_version": version})


def _extend_look_back(plan: Plan, metadata: RunMetadata | None) -> Plan:
    """Return the plan of a night with the dates that it has to read again, and without those of unfinished nights."""
    from include.coding.run_log import find_dates_over_limit, find_unpublished_dates
    from include.coding.tables import update_tables

    unfinished, failed = (metadata.unfinished, metadata.failed) if metadata else ((), ())
    warehouse = open_warehouse(plan.engine_memory_mb)
    update_tables(warehouse, plan.schema)
    with warehouse.session(read_only=True) as session:
        over_limit = find_dates_over_limit(session, plan.schema, plan.topic)
        unpublished = find_unpublished_dates(session, plan, failed)
    days = [*unpublished, *(entry.day for entry in over_limit)]
    plan = extend_look_back(plan, unfinished, days, MAX_LOOK_BACK_DAYS)
    for entry in over_limit:
        log.warning("Not published, because it exceeds a limit: %s", entry)
    for message, dates in (
        ("Reading again, because their runs failed: %s", unpublished),
        ("Not read, because their own runs are unfinished: %s", plan.excluded_dates),
        ("Not published, and too old for the look-back; start a manual run of: %s", plan.unreachable_dates),
    ):
        if dates:
            log.warning(message, ", ".join(dates))
    return plan


def prepare_parts(
    ti: Any, dag_run: Any, is_in_progress: Callable[[str], bool] = is_in_progress
) -> list[dict[str, Any]]:
    """Read and validate the records, write what has to be sent, and return the parts to code. If there are none, as
    in a dry run, the tasks that would send them are skipped.

    :param is_in_progress: returns whether another run is in progress
    :raises DataError: another run has claimed dates of the plan since, because this run had ended
    """
    from include.coding.abandoned import write_owner
    from include.coding.claims import claim_dates, holds_dates
    from include.coding.prepare import prepare

    plan = handoffs.pull_plan(ti)
    _check_has_dates(plan)
    warehouse = open_warehouse(plan.engine_memory_mb)
    current_plan = plan if holds_dates(warehouse, plan) else claim_dates(warehouse, plan, is_in_progress)
    if current_plan.excluded_dates != plan.excluded_dates:
        raise DataError(
            "other runs have taken over dates: clear 'plan' with downstream tasks to code the dates that remain."
            f" {'; '.join(current_plan.competing_runs)}"
        )
    access = settings.read_source_access()  # the plan is not trusted: users can edit it in Airflow
    with open_staging(read_run_key(ti)) as staging:
        write_owner(plan, staging)
        prepared = prepare(plan, warehouse, staging, access, is_in_progress)
    estimate = _estimate_run(prepared, dag_run)
    handoffs.push_prepared(ti, prepared, estimate)
    lineage.send_preparation(ti, plan, prepared)
    log.info("%s", _describe_prepared(estimate, is_dry_run=plan.dry_run))
    parts = () if plan.dry_run else prepared.parts
    if not parts:
        handoffs.skip_tasks(handoffs.SENDING)
    return [part.to_dict() for part in parts]


def _describe_prepared(estimate: Estimate, *, is_dry_run: bool) -> str:
    counts = f"{estimate.read:,} records, {estimate.rejected:,} rejected, {estimate.texts:,} distinct texts"
    if not estimate.texts_to_send:
        return f"Prepared {counts}: there is nothing to send"
    action = "a run would send" if is_dry_run else "the run sends"
    awaited = f"; {estimate.awaited:,} are left to other runs" if estimate.awaited else ""
    return (
        f"Prepared {counts}: {action} {estimate.texts_to_send - estimate.awaited:,} texts in"
        f" {estimate.parts:,} {'part' if estimate.parts == 1 else 'parts'}, which takes {estimate.duration}{awaited}"
    )


def _check_has_dates(plan: Plan) -> None:
    """Skip the task if the run leaves all of its dates to others."""
    if not plan.days:
        raise AirflowSkipException(f"nothing is left to do. {'; '.join(plan.competing_runs)}")


def _estimate_run(prepared: Prepared, dag_run: Any) -> Estimate:
    metadata = read_metadata(dag_run)
    max_operations = metadata.pool.max_operations if metadata and metadata.pool else None
    calls_per_second = CodingServiceHook().settings.requests_per_second
    return estimate_run(prepared, PLANNING_CALLS, CALLS_PER_PART, calls_per_second, max_operations)


def land_results(ti: Any, dag_run: Any) -> dict[str, Any]:
    """Publish the run's dates, unless results are still missing, and return the summary. The tasks that have nothing
    to export or to announce are skipped.

    :raises DataError: an earlier task failed, so that there is nothing to land
    """
    from include.coding.landing import land

    plan = handoffs.pull_plan(ti)
    _check_has_dates(plan)
    prepared = handoffs.pull_prepared(ti)
    if plan.dry_run:
        raise AirflowSkipException("a dry run sends nothing, so there is nothing to land")
    if prepared.parts and not handoffs.has_operations(ti):
        raise DataError(
            "nothing was sent, so there is nothing to land: see the log of the first task that failed; if none"
            " failed, clear 'approve' with downstream tasks"
        )
    collected = handoffs.pull_collect_summary(ti)
    with open_staging(read_run_key(ti)) as staging:
        summary = land(plan, prepared, collected, open_warehouse(plan.landing_memory_mb), staging)
    lineage.send_landing(ti, plan, summary)
    work = {handoffs.EXPORT: plan.export, handoffs.ANNOUNCE: _find_announced_days(plan, summary, dag_run)}
    if idle_tasks := [task_id for task_id, inputs in work.items() if not inputs]:
        handoffs.skip_tasks(idle_tasks)
    return summary.to_dict()


def export_records(ti: Any) -> dict[str, Any]:
    """Write the records of the landed run with their codes to the file of `export`, and return the summary.

    :raises PlanError: runs may not write there
    """
    from include.coding.export import export_records

    plan = handoffs.pull_plan(ti)
    if plan.export is None:
        raise AirflowSkipException("the run has no `export`")
    handoffs.pull_landing_summary(ti)  # of a run that was marked as landed by hand, nothing is published
    read, warehouse = handoffs.pull_prepared(ti).read, open_warehouse(plan.engine_memory_mb)
    with open_staging(read_run_key(ti)) as staging:
        return export_records(plan, plan.export, read, warehouse, staging, settings.read_export_access()).to_dict()


def report_run(ti: Any) -> str:
    """Write the report of the run, the estimate of a dry run, or why nothing was done, and return its URI."""
    from include.coding.report import write_estimate, write_report, write_skip_report

    plan = handoffs.pull_plan(ti)
    with open_staging(read_run_key(ti)) as staging:
        if plan.dry_run:
            return _log_report(write_estimate(plan, handoffs.pull_estimate(ti), staging))
        if not plan.days:
            return _log_report(write_skip_report(plan, staging))
        warehouse = open_warehouse(plan.engine_memory_mb)
        prepared, summary = handoffs.pull_prepared(ti), handoffs.pull_landing_summary(ti)
        exported = handoffs.pull_export_summary(ti) if plan.export else None
        return _log_report(write_report(
            plan, prepared, summary, warehouse, staging, exported, estimate=handoffs.pull_estimate(ti),
            with_texts=settings.read_flag("CODING_REPORT_TEXTS"),
        ))  # fmt: skip


def _log_report(uri: str) -> str:
    log.info("Wrote the report %s", uri)
    return uri


def _find_announced_days(plan: Plan, summary: LandingSummary, dag_run: Any) -> list[str]:
    """Return the dates of a landed run that other DAGs are told about, ISO 8601; those of a trial are not."""
    own_day = {dag_run.partition_key} - {None, *plan.excluded_dates}
    return [] if plan.max_records else sorted({*summary.days, *own_day})


def announce_dates(ti: Any, dag_run: Any, outlet_events: Any, asset: Any) -> None:
    """Emit an event of the asset for each date that was published, with the date as its partition.

    The run's own partition is announced even if nothing in it changed, because another DAG can be waiting for it,
    unless it is left to another run.
    """
    plan, summary = handoffs.pull_plan(ti), handoffs.pull_landing_summary(ti)
    days = _find_announced_days(plan, summary, dag_run)
    if not days:
        raise AirflowSkipException("nothing was published")
    outlet_events[asset].add_partitions(days)
    count = f"{len(days):,} {'date' if len(days) == 1 else 'dates'}"
    log.info("Announced %s, %s to %s, as events of the asset", count, days[0], days[-1])
    # Airflow 3.3.2 takes one `extra` for all partitions of a task, so each event has the counts of all dates.
    counts = summary.dates if len(summary.dates) <= MAX_COUNTED_DATES else ()
    outlet_events[asset].extra = {
        **{name: getattr(summary, name) for name in ANNOUNCED_FIELDS},
        **{name: getattr(plan, name) for name in ("topic", "model_id", "model_version", "run_id", "schema")},
        "dates": {entry.day: {name: getattr(entry, name) for name in COUNTS} for entry in counts},
        "dates_over_limit": {entry.day: f"since {entry.since}: {entry.limits}" for entry in summary.dates_over_limit},
        "unread_dates": [*plan.excluded_dates, *plan.unreachable_dates],
    }


def clean_up(ti: Any) -> None:
    """Remove the files of a run that is published, or was to send nothing, unless `CODING_KEEP_STAGING` keeps them.

    :raises DataError: the run is not recorded as published, so that its files may be all that is left of paid work
    """
    from include.coding.abandoned import FILE_PREFIX

    plan = handoffs.pull_plan(ti)
    with open_staging(read_run_key(ti)) as staging:
        has_operations = bool(staging.find(FILE_PREFIX))  # whatever the plan says, which users can edit in Airflow
    if has_operations or (plan.days and not plan.dry_run):
        _check_published(plan, handoffs.pull_prepared(ti))
    if settings.read_flag("CODING_KEEP_STAGING"):
        log.info("Kept the files of the run, because CODING_KEEP_STAGING is set")
    else:
        remove_files(ti)


def _check_published(plan: Plan, prepared: Prepared) -> None:
    from include.coding.run_log import is_published

    with open_warehouse(plan.engine_memory_mb).session(read_only=True) as session:
        if not is_published(session, plan, prepared.read_at):
            raise DataError(
                f"nothing is recorded as published: clear {handoffs.LAND!r} with downstream tasks. The files of run"
                f" {plan.run_id!r} are kept until then, although its earlier tasks ended or were marked as success by"
                " hand"
            )


def remove_files(ti: Any) -> None:
    """Remove the files of a run except its report, because they contain people's texts.

    What they say about operations that the run opened and never used is recorded first.
    """
    from include.coding.abandoned import record_abandoned_operations

    plan = handoffs.pull_plan(ti)
    with open_staging(read_run_key(ti)) as staging:
        record_abandoned_operations(lambda: open_warehouse(plan.engine_memory_mb), plan.schema, staging, plan.run_id)
        staging.clear()
    log.info("Removed the files of the run, except its report")


# ---- compare_models, sweep_staging -------------------------------------------------------------------------------


def compare_models(params: Mapping[str, Any], dag_run: Any, param_names: Collection[str]) -> str:
    """Count what changed between two models, write the report, and return its URI.

    :param param_names: params of the DAG; the configuration of the run can name no others
    :raises PlanError: the params of the run are impossible
    """
    from include.comparison.comparison import Comparison
    from include.comparison.report import write_comparison

    check_params(params, dag_run.conf, param_names)
    fields = {name: params[name] for name in param_names}
    comparison = Comparison(**{**fields, "schema": settings.read_schema(params["schema"] or None)})
    # A quarter is left for what an engine uses beyond its limit.
    warehouse = open_warehouse(settings.read_memory_mb() * 3 // 4)
    with open_staging(dag_run.run_id, settings.COMPARISONS) as staging:
        return _log_report(write_comparison(comparison, warehouse, staging, settings.read_source_access()))


def sweep_staging() -> list[str]:
    """Clear the folders of abandoned runs and exchanges, record the operations that such runs opened and never used,
    and return the URIs of the folders."""
    from include.coding.abandoned import read_owner, record_abandoned_operations
    from include.coding.staging import Staging, sweep

    def record_operations(staging: Staging) -> None:
        owner = read_owner(staging)
        schema, run_key = (owner.schema, owner.run_id) if owner else (settings.read_schema(), None)
        record_abandoned_operations(open_warehouse, schema, staging, run_key)

    base, min_age = settings.staging_base(), timedelta(days=float(settings.read_setting("CODING_STAGING_DAYS", "14")))
    fs, now = settings.open_file_system(base), pendulum.now("UTC")
    uris = [
        uri
        for folder in (settings.RUNS, settings.EXCHANGE)
        for uri in sweep(f"{base}/{folder}", min_age, now, fs, record_operations)
    ]
    log.info("Removed %s folders whose files have not changed for %s days", f"{len(uris):,}", f"{min_age.days:,}")
    return uris

"""The report of a run for people: what was coded, what was not and why, and what was sent."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import pandas as pd

from include.coding.abandoned import list_abandoned_operations
from include.coding.errors import IncompleteError
from include.coding.estimate import Estimate
from include.coding.limits import describe_unchecked_limits, format_reasons
from include.coding.markdown import escape_cell
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.response_dates import describe_skipped_rows
from include.coding.run_log import DateCounts, format_dates, is_published, run_filter
from include.coding.staging import REPORT, Staging
from include.coding.tables import table
from include.warehouse.warehouse import Session, Warehouse

if TYPE_CHECKING:
    from include.coding.export import ExportSummary
    from include.coding.landing import LandingSummary

#: Maximum number of abandoned operations that a report lists.
MAX_LISTED_OPERATIONS = 10

log = logging.getLogger(__name__)

#: Mean of the confidences that can be one; a sum of others can be out of the range of the warehouse.
_MEAN_CONFIDENCE = "avg(CASE WHEN confidence BETWEEN 0 AND 1 THEN confidence END)"
MAX_CELL_CHARACTERS = 100
#: Columns and queries over the run's rows of `coded_records`; none of them contains a person's text.
_SECTIONS = {
    "Outcomes": (("outcome", "records"), "SELECT outcome, count(*) FROM rows GROUP BY outcome ORDER BY 2 DESC, 1"),
    "Why records were rejected or not answered": (
        ("reason", "records"),
        "SELECT reason, count(*) FROM rows WHERE reason IS NOT NULL GROUP BY reason ORDER BY 2 DESC, 1",
    ),
    "Levels of the codes (digits)": (
        ("level", "records", "mean_confidence"),
        f"SELECT level, count(*), {_MEAN_CONFIDENCE}"  # noqa: S608
        " FROM rows WHERE outcome = 'coded' GROUP BY level ORDER BY 1 DESC",
    ),
    "Most frequent codes": (
        ("code", "label", "records", "mean_confidence"),
        f"SELECT code, label, count(*), {_MEAN_CONFIDENCE}"  # noqa: S608
        " FROM rows WHERE outcome = 'coded' GROUP BY code, label ORDER BY 3 DESC, 1 LIMIT 20",
    ),
}


def write_report(
    plan: Plan,
    prepared: Prepared,
    summary: LandingSummary,
    warehouse: Warehouse,
    staging: Staging,
    exported: ExportSummary | None = None,
) -> str:
    """Write the report of a landed run as Markdown to its folder, log it, and return its URI.

    :param exported: the export of the run; None if it has none
    :raises IncompleteError: the warehouse has no record that the run is published
    """
    run_id = summary.published_by_run or plan.run_id
    with warehouse.session(read_only=True) as session:
        if not is_published(session, plan, prepared.read_at):
            raise IncompleteError(
                f"run {plan.run_id!r} is not recorded as published, so there is nothing to report: clear 'land' with"
                " downstream tasks"
            )
        ((invalid,),) = _query_rows(
            session, plan, run_id, "SELECT count(*) FROM rows WHERE confidence NOT BETWEEN 0 AND 1"
        )
        tables = {
            title: pd.DataFrame(_query_rows(session, plan, run_id, query), columns=columns)
            for title, (columns, query) in _SECTIONS.items()
        }
        abandoned = list_abandoned_operations(session, plan.schema, plan.run_id)
    sections = [_format_summary(plan, prepared, summary)]
    if exported:
        sections.append(
            f"**Exported: {exported.records} records with all columns of the source and their codes, to"
            f" `{exported.uri}`.**"
        )
    if abandoned:
        more = f" and {len(abandoned) - MAX_LISTED_OPERATIONS} more" if len(abandoned) > MAX_LISTED_OPERATIONS else ""
        names = ", ".join(f"`{operation_id}`" for operation_id in abandoned[:MAX_LISTED_OPERATIONS])
        sections.append(f"**Operations that were opened and never used: {len(abandoned)} ({names}{more}).**")
    if invalid:
        sections.append(f"**{invalid} codes have a confidence outside 0 to 1; it is stored as the service gave it.**")
    sections += [f"## {title}\n\n{_format_table(frame)}" for title, frame in tables.items()]
    return _store("\n\n".join(sections) + "\n", staging)


def write_estimate(plan: Plan, estimate: Estimate, staging: Staging) -> str:
    """Write the result of a dry run as Markdown to its folder, log it, and return its URI."""
    heading = f"# Occupation coding, {plan.from_date} to {plan.to_date}: dry run, nothing was sent"
    return _store(f"{heading}\n\n{_format_plan(plan)}\n\n{estimate.as_markdown}\n", staging)


def write_skip_report(plan: Plan, staging: Staging) -> str:
    """Write why a run did nothing as Markdown to its folder, log it, and return its URI."""
    heading = f"# Occupation coding, {plan.from_date} to {plan.to_date}: skipped, nothing was sent"
    reasons = "\n".join(f"- **{sentence}.**" for sentence in plan.competing_runs)
    return _store(f"{heading}\n\n{_format_plan(plan)}\n\n{reasons}\n", staging)


def _store(text: str, staging: Staging) -> str:
    log.info("%s", text)
    path = staging.scratch / REPORT
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return staging.keep(path)


def _query_rows(session: Session, plan: Plan, run_id: str, query: str) -> list[tuple[Any, ...]]:
    """Run a query over `rows`, the rows of the plan's dates that the run with this id wrote."""
    records = table(plan.schema, "coded_records")
    condition, values = run_filter(plan)
    rows = f"WITH rows AS (SELECT * FROM {records} WHERE {condition} AND run_id = ?) "  # noqa: S608
    return session.execute(rows + query, [*values, run_id])


def _format_table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "None."
    cells = frame.round(3).map(lambda value: "" if pd.isna(value) else escape_cell(str(value), MAX_CELL_CHARACTERS))
    return str(cells.to_markdown(index=False, disable_numparse=True))


def _explain_no_sending(prepared: Prepared, summary: LandingSummary) -> str:
    """Return why nothing was sent; empty if something was."""
    if summary.operations:
        return ""
    if summary.published_by_run:
        return (
            f" Nothing was sent or written: run `{summary.published_by_run}` has already published exactly these"
            " records."
        )
    if not prepared.read:
        return " Nothing was sent: the source has no records of these dates."
    return " Nothing was sent: every text is coded already or rejected."


def _format_rejected(prepared: Prepared, summary: LandingSummary) -> str:
    """Return the reasons why records were rejected; empty if not all that were read are published."""
    has_reasons = prepared.rejected_by_reason and summary.rejected == prepared.rejected
    return f" ({format_reasons(prepared.rejected_by_reason)})" if has_reasons else ""


def _describe_limits(plan: Plan, summary: LandingSummary) -> list[str]:
    """Return what a person should know about limits, and about dates that were not read or are not published."""
    groups: Sequence[DateCounts | LandingSummary] = summary.dates if plan.changed_only else [summary]
    sentences = [
        f"{f'{group.day}: ' if isinstance(group, DateCounts) else ''}{text}"
        for group in groups
        if (text := describe_unchecked_limits(plan, group.read, group.rejected, group.uncoded))
    ]
    sentences += [
        f"Not published: {entry}. Correct the source, or start a manual run of this date with another limit"
        for entry in summary.dates_over_limit
    ]
    if plan.excluded_dates:
        days = format_dates(map(date.fromisoformat, plan.excluded_dates))
        sentences.append(f"Not read, because unfinished runs code them: {days}")
    sentences += plan.competing_runs
    if plan.unreachable_dates:
        days = format_dates(map(date.fromisoformat, plan.unreachable_dates))
        sentences.append(f"Not published, and too old for the look-back: {days}. Start a manual run of these dates")
    return sentences


def _describe_extra_operations(summary: LandingSummary) -> list[str]:
    if not summary.extra_operations:
        return []
    return [
        f"- Of these operations, {summary.extra_operations} coded texts again, because others failed or left texts"
        " without a result."
    ]


def _format_plan(plan: Plan) -> str:
    return (
        f"Topic `{plan.topic}`, model `{plan.model_id}` (version {plan.model_version}), source `{plan.source}`,"
        f" run `{plan.run_id}`."
    )


def _format_summary(plan: Plan, prepared: Prepared, summary: LandingSummary) -> str:
    trial = f": a trial of {plan.max_records} records" if plan.max_records else ""
    lines = [f"# Occupation coding, {plan.from_date} to {plan.to_date}{trial}", "", _format_plan(plan), ""]
    if trial:
        lines += [f"- Its rows are in the tables of the schema `{plan.schema}`, separate from all others."]
    lines += [f"- **{warning}.**" for warning in _describe_limits(plan, summary)]
    if plan.changed_only:
        days = format_dates(date.fromisoformat(day) for day in summary.days) or "none"
        lines += [f"- Records checked for changes: {prepared.read}; dates that changed: {days}."]
    lines += [
        f"- Records read: {summary.read}: {summary.coded} coded, {summary.uncoded} uncoded,"
        f" {summary.rejected} rejected{_format_rejected(prepared, summary)}.",
        f"- Distinct texts: {summary.texts}; coded earlier by this model: {prepared.known_texts}; sent:"
        f" {summary.texts_sent} in {summary.operations} operations.{_explain_no_sending(prepared, summary)}",
        *_describe_extra_operations(summary),
    ]
    if prepared.undated:
        lines.append(f"- Records of the source without a date, which no run codes: {prepared.undated}.")
    lines += [
        f"- {sentence}"
        for sentence in describe_skipped_rows(
            prepared.unreadable_dates, prepared.unreadable_examples, prepared.empty_rows
        )
    ]
    lines += [f"- {note}" for note in prepared.notes]
    return "\n".join(lines)

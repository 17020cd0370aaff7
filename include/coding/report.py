"""The report of a run for people: what was coded, what was not and why, and what was sent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pandas as pd

from include.coding.estimate import Estimate
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.run_log import RUN_FILTER, run_filter_values
from include.coding.staging import REPORT, Staging
from include.coding.tables import table
from include.warehouse.warehouse import Session, Warehouse

if TYPE_CHECKING:
    from include.coding.landing import LandingSummary

log = logging.getLogger(__name__)

#: Columns and queries over the run's rows of `coded_records`; none of them contains a person's text.
_SECTIONS = {
    "Outcomes": (("outcome", "records"), "SELECT outcome, count(*) FROM rows GROUP BY outcome ORDER BY 2 DESC, 1"),
    "Why records were rejected or not answered": (
        ("reason", "records"),
        "SELECT reason, count(*) FROM rows WHERE reason IS NOT NULL GROUP BY reason ORDER BY 2 DESC, 1",
    ),
    "Levels of the codes (digits)": (
        ("level", "records", "mean_confidence"),
        "SELECT level, count(*), avg(confidence) FROM rows WHERE outcome = 'coded' GROUP BY level ORDER BY 1 DESC",
    ),
    "Most frequent codes": (
        ("code", "label", "records", "mean_confidence"),
        "SELECT code, label, count(*), avg(confidence)"
        " FROM rows WHERE outcome = 'coded' GROUP BY code, label ORDER BY 3 DESC, 1 LIMIT 20",
    ),
}


def write_report(
    plan: Plan, prepared: Prepared, summary: LandingSummary, warehouse: Warehouse, staging: Staging
) -> str:
    """Write the report of a landed run as Markdown to its folder, log it, and return its URI."""
    run_id = summary.published_by_run or plan.run_id
    with warehouse.session(read_only=True) as session:
        ((invalid,),) = _query_rows(
            session, plan, run_id, "SELECT count(*) FROM rows WHERE confidence NOT BETWEEN 0 AND 1"
        )
        tables = {
            title: pd.DataFrame(_query_rows(session, plan, run_id, query), columns=columns)
            for title, (columns, query) in _SECTIONS.items()
        }
    sections = [_format_summary(plan, prepared, summary)]
    if invalid:
        sections.append(f"**{invalid} codes have a confidence outside 0 to 1; it is stored as the service gave it.**")
    sections += [f"## {title}\n\n{_format_table(frame)}" for title, frame in tables.items()]
    return _store("\n\n".join(sections) + "\n", staging)


def write_estimate(plan: Plan, estimate: Estimate, staging: Staging) -> str:
    """Write the result of a dry run as Markdown to its folder, log it, and return its URI."""
    heading = f"# Occupation coding, {plan.from_date} to {plan.to_date}: dry run, nothing was sent"
    return _store(f"{heading}\n\n{_format_plan(plan)}\n\n{estimate.as_markdown}\n", staging)


def _store(text: str, staging: Staging) -> str:
    log.info("%s", text)
    path = staging.scratch / REPORT
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return staging.keep(path)


def _query_rows(session: Session, plan: Plan, run_id: str, query: str) -> list[tuple[Any, ...]]:
    """Run a query over `rows`, the rows of the plan's dates that the run with this id wrote."""
    records = table(plan.schema, "coded_records")
    rows = f"WITH rows AS (SELECT * FROM {records} WHERE {RUN_FILTER} AND run_id = ?) "
    return session.execute(rows + query, [*run_filter_values(plan), run_id])


def _format_table(frame: pd.DataFrame) -> str:
    return "None." if frame.empty else frame.round(3).astype(str).to_markdown(index=False, disable_numparse=True)


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
    if plan.changed_only:
        days = ", ".join(summary.days) or "none"
        lines += [f"- Records checked for changes: {prepared.read}; dates that changed: {days}."]
    lines += [
        f"- Records read: {summary.read}: {summary.coded} coded, {summary.uncoded} uncoded,"
        f" {summary.rejected} rejected.",
        f"- Distinct texts: {summary.texts}; coded earlier by this model: {prepared.known_texts}; sent:"
        f" {summary.texts_sent} in {summary.operations} operations.{_explain_no_sending(prepared, summary)}",
        *_describe_extra_operations(summary),
    ]
    if prepared.undated:
        lines.append(f"- Records of the source without a date, which no run codes: {prepared.undated}.")
    return "\n".join(lines)

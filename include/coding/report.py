"""The report of a run, for people: what was coded, what was not and why, what it cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd

from include.coding.estimate import Estimate
from include.coding.ledger import OF_RUN, of_run
from include.coding.plan import Plan
from include.coding.staging import REPORT, Staging
from include.coding.tables import table
from include.warehouse.warehouse import Session, Warehouse

log = logging.getLogger(__name__)

#: Columns and queries over the run's rows of `coded_records`; no text of a person is in any of them.
_SECTIONS = {
    "Outcomes": (
        ("outcome", "records"),
        "SELECT outcome, count(*) FROM rows GROUP BY outcome ORDER BY 2 DESC, 1",
    ),
    "Why records were rejected": (
        ("reason", "records"),
        "SELECT reason, count(*) FROM rows WHERE outcome = 'rejected' GROUP BY reason ORDER BY 2 DESC, 1",
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
    plan: Plan, prepared: Mapping[str, Any], landed: Mapping[str, Any], warehouse: Warehouse, staging: Staging
) -> str:
    """Write the report of a landed run as Markdown beside its files, log it, and return its URI."""
    with warehouse.session(read_only=True) as session:
        written = landed["rows_of"] or plan.run_id
        ((odd,),) = _ask(session, plan, written, "SELECT count(*) FROM rows WHERE confidence NOT BETWEEN 0 AND 1")
        tables = {
            title: pd.DataFrame(_ask(session, plan, written, query), columns=columns)
            for title, (columns, query) in _SECTIONS.items()
        }
    sections = [_head(plan, prepared, landed)]
    if odd:
        sections.append(f"**The confidence of {odd} codes is not from 0 to 1; it stands as the service gave it.**")
    sections += [f"## {title}\n\n{_markdown(frame)}" for title, frame in tables.items()]
    return _keep("\n\n".join(sections) + "\n", staging)


def write_estimate(plan: Plan, estimated: Estimate, staging: Staging) -> str:
    """Write what a dry run has found as Markdown, log it, and return its URI."""
    head = f"# Occupation coding, {plan.from_date} to {plan.to_date}: a dry run, nothing was sent"
    return _keep(f"{head}\n\n{_what(plan)}\n\n{estimated.as_markdown}\n", staging)


def _keep(text: str, staging: Staging) -> str:
    log.info("%s", text)
    path = staging.scratch / REPORT
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return staging.keep(path)


def _ask(session: Session, plan: Plan, run_id: str, query: str) -> list[tuple[Any, ...]]:
    """Ask about the rows that the run with this id wrote, as `rows`."""
    records = table(plan.schema, "coded_records")
    rows = f"WITH rows AS (SELECT * FROM {records} WHERE {OF_RUN} AND run_id = ?) "
    return session.execute(rows + query, [*of_run(plan), run_id])


def _markdown(frame: pd.DataFrame) -> str:
    return "None." if frame.empty else frame.round(3).astype(str).to_markdown(index=False, disable_numparse=True)


def _why_none(prepared: Mapping[str, Any], landed: Mapping[str, Any]) -> str:
    """Why nothing was sent, if nothing was."""
    if landed["operations"]:
        return ""
    if landed["rows_of"]:
        return f" Nothing was sent or written: run `{landed['rows_of']}` published just these records."
    if not prepared["read"]:
        return " The source has no records of these dates: nothing to send."
    return " Nothing was sent: every text is coded already, or none may be sent."


def _what(plan: Plan) -> str:
    return (
        f"Topic `{plan.topic}`, model `{plan.model_id}` (version {plan.model_version}), source `{plan.source}`,"
        f" run `{plan.run_id}`."
    )


def _head(plan: Plan, prepared: Mapping[str, Any], landed: Mapping[str, Any]) -> str:
    trial = f": a trial of {plan.max_records} records" if plan.max_records else ""
    lines = [f"# Occupation coding, {plan.from_date} to {plan.to_date}{trial}", "", _what(plan), ""]
    if trial:
        lines += [f"- Its rows stand in the tables of the schema `{plan.schema}`, apart from all others."]
    if plan.changed_only:
        days = ", ".join(landed["days"]) or "none"
        lines += [f"- Records looked at: {prepared['read']}; dates of which something was new: {days}."]
    lines += [
        f"- Records read: {landed['read']}: {landed['coded']} coded, {landed['uncoded']} uncoded,"
        f" {landed['rejected']} rejected.",
        f"- Distinct texts: {landed['texts']}; coded before by this model: {prepared['known']}; sent:"
        f" {landed['texts_sent']} in {landed['operations']} operations.{_why_none(prepared, landed)}",
    ]
    if prepared["undated"]:
        lines.append(f"- Records of the source without a date, which belong to no run: {prepared['undated']}.")
    return "\n".join(lines)

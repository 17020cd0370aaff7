"""Which run in progress codes which dates, so that two runs of the same dates do not pay for the same texts.
And which DAG codes which topic, so that two surveys do not replace each other's rows.

A run claims its dates in the table `date_claims` when it plans. A claim counts as long as its run is in progress,
also while the run waits for an approval; a run that has ended, or that was deleted, holds nothing. A run that is
queued has not planned, so it holds nothing either.

Runs compete if they would send the same texts: those of the same source, topic and model. A dry run sends nothing, so
it neither holds dates nor leaves them; trials compete with trials only, because they have tables of their own.

The first run of a topic takes it for its DAG. Runs of other DAGs with the same topic need a schema of their own, with
tables of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date

from include.coding.errors import PlanError
from include.coding.plan import Plan
from include.coding.run_keys import split_run_key
from include.coding.run_log import Span, format_dates, merge_into_spans, run_filter, select_dates
from include.coding.tables import create_tables, table, update_tables
from include.warehouse.warehouse import Session, Warehouse

#: Fields of a plan that, with its topic, model and dates, determine the texts that its run sends.
TEXT_FIELDS = ("source", "columns", "read_options", "timezone", "response_date", "clean")


def claim_dates(warehouse: Warehouse, plan: Plan, is_in_progress: Callable[[str], bool]) -> Plan:
    """Claim the dates of a plan for its run, and return the plan without those that other runs in progress hold.

    Of two runs that plan at the same time, exactly one gets a date. With `force_new`, the run gets its dates even if
    another run holds them too.

    :param is_in_progress: returns whether the run with this key is queued or running
    :raises PlanError: the topic is that of another DAG
    """
    if plan.dry_run:
        return plan
    states: dict[str, bool] = {}
    while True:
        with warehouse.session() as session:
            create_tables(session, plan.schema)
            with session.transaction(lock=table(plan.schema, "date_claims")):
                claim_topic(session, plan)
                claims = _find_claims(session, plan)
                unknown = claims.keys() - states.keys()
                if not unknown:
                    ended = [run_id for run_id in claims if not states[run_id]]
                    holders = {run_id: spans for run_id, spans in claims.items() if states[run_id]}
                    return _claim_dates(session, plan, ended, holders)
        # Asked outside the transaction, because nobody else can plan while it is open.
        states |= {run_id: is_in_progress(run_id) for run_id in sorted(unknown)}


def holds_dates(warehouse: Warehouse, plan: Plan) -> bool:
    """Return whether the run still holds the dates that it has claimed, no other run has claimed any of them, and its
    DAG has its topic, so that there is nothing to write."""
    if plan.dry_run:
        return True
    update_tables(warehouse, plan.schema)
    with warehouse.session(read_only=True) as session:
        query = f"SELECT from_date, to_date FROM {table(plan.schema, 'date_claims')} WHERE run_id = ? ORDER BY 1"  # noqa: S608
        own_spans = session.execute(query, [plan.run_id])
        if split_run_key(plan.run_id)[0] not in _find_owners(session, plan):
            return False
        days = set(plan.days) - _find_dates_with_late_records(session, plan)
        return own_spans == merge_into_spans(days) and not _find_claims(session, plan)


def claim_topic(session: Session, plan: Plan) -> None:
    """Record that the DAG of a run codes its topic, within a transaction of `session`.

    :raises PlanError: the topic is that of another DAG
    """
    dag_id, owners = split_run_key(plan.run_id)[0], _find_owners(session, plan)
    if not owners:
        insert = f"INSERT INTO {table(plan.schema, 'topic_owners')} VALUES (?, ?, ?)"  # noqa: S608
        session.execute(insert, [plan.topic, dag_id, session.now()])
    elif dag_id not in owners:
        owner = owners[0]
        raise PlanError(
            f"topic {plan.topic!r} of schema {plan.schema!r} is coded by the DAG {owner!r}, and a run of {dag_id!r}"
            f" would replace its rows. Nothing was sent. Give {dag_id!r} tables of its own, with the argument"
            f" `schema` of recode_dag, or use another topic. If {dag_id!r} takes the place of {owner!r}, delete the"
            " row of the topic from the table topic_owners"
        )


def _find_owners(session: Session, plan: Plan) -> list[str]:
    """Return the DAG that codes the topic of a plan, in a list that is empty if there is none yet."""
    query = f"SELECT dag_id FROM {table(plan.schema, 'topic_owners')} WHERE topic = ?"  # noqa: S608
    return [dag_id for (dag_id,) in session.execute(query, [plan.topic])]


def release_dates(session: Session, plan: Plan) -> None:
    """Remove the claims of a run, within a transaction of `session`."""
    session.execute(f"DELETE FROM {table(plan.schema, 'date_claims')} WHERE run_id = ?", [plan.run_id])  # noqa: S608


def _find_claims(session: Session, plan: Plan) -> dict[str, list[Span]]:
    """Return the spans of dates, overlapping those of the plan, that other runs claimed for the same texts."""
    rows = session.execute(
        f"SELECT run_id, from_date, to_date FROM {table(plan.schema, 'date_claims')}"  # noqa: S608
        " WHERE topic = ? AND model_id = ? AND texts = ? AND to_date >= ? AND from_date <= ? AND run_id <> ?"
        " ORDER BY 1, 2",
        [plan.topic, plan.model_id, _identify_texts(plan), *plan.dates, plan.run_id],
    )
    claims: dict[str, list[Span]] = {}
    for run_id, first, last in rows:
        claims.setdefault(run_id, []).append((first, last))
    return claims


def _claim_dates(session: Session, plan: Plan, ended: Iterable[str], holders: dict[str, list[Span]]) -> Plan:
    days = set(plan.days)
    claimed = {run_id: {day for day in days if _is_within(day, spans)} for run_id, spans in holders.items()}
    claimed = {run_id: dates for run_id, dates in claimed.items() if dates}
    if not plan.force_new:
        days = days.difference(*claimed.values())
    claims = table(plan.schema, "date_claims")
    for run_id in (*ended, plan.run_id):
        session.execute(f"DELETE FROM {claims} WHERE run_id = ?", [run_id])  # noqa: S608
    for span in merge_into_spans(days - _find_dates_with_late_records(session, plan)):
        values = [plan.run_id, plan.topic, plan.model_id, _identify_texts(plan), *span, session.now()]
        session.execute(f"INSERT INTO {claims} VALUES (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608
    excluded = {*plan.excluded_dates, *(day.isoformat() for day in set(plan.days) - days)}
    return replace(
        plan,
        excluded_dates=tuple(sorted(excluded)),
        competing_runs=tuple(_describe(plan, run_id, dates) for run_id, dates in claimed.items()),
    )


def _find_dates_with_late_records(session: Session, plan: Plan) -> set[date]:
    """Return the published dates that a night reads for late records only, which other runs can code as well."""
    if not plan.changed_only:
        return set()
    condition, values = run_filter(plan)
    published = f"SELECT DISTINCT response_date FROM {table(plan.schema, 'coded_records')} WHERE {condition}"  # noqa: S608
    return select_dates(session, published, values) - {plan.dates[1]}


def _identify_texts(plan: Plan) -> str:
    """Return a text that is the same for two plans if the records of a date have the same texts in both."""
    fields = plan.to_dict()
    content = json.dumps([fields[name] for name in TEXT_FIELDS], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _is_within(day: date, spans: Iterable[Span]) -> bool:
    return any(first <= day <= last for first, last in spans)


def _describe(plan: Plan, run_id: str, days: Iterable[date]) -> str:
    run = f"run {run_id!r}, which is in progress with the same source, topic and model"
    if plan.force_new:
        return f"Texts of {format_dates(days)} can be sent twice, because force_new is set: {run}, codes them too"
    return (
        f"The dates {format_dates(days)} are left to {run}: to code them here, wait until it has ended, or mark it as"
        " failed, and start another run; or start one with force_new, which can send the same texts twice"
    )

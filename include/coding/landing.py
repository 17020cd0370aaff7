"""Landing a run, in three steps: collect the results, publish the run's dates, record the run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from include.coding.collect import check_complete, read_parts, store_operations, store_results
from include.coding.engine import open_engine
from include.coding.errors import IncompleteError
from include.coding.handoff import Handoff
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.publish import confirm_published, publish
from include.coding.results import PartResult
from include.coding.run_log import check_sources, find_dates, find_later_spans, find_published_run, record_run
from include.coding.staging import Staging
from include.coding.tables import table
from include.warehouse.warehouse import Warehouse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LandingSummary(Handoff):
    """What a run published: counts of its records by outcome, of its texts and of its operations.

    :param published_by_run: earlier run that published the same records, so that nothing was written; else None
    :param days: response dates whose rows this run wrote, ISO 8601
    """

    read: int
    coded: int
    uncoded: int
    rejected: int
    texts: int
    texts_sent: int
    operations: int
    from_date: str
    to_date: str
    published_by_run: str | None
    days: tuple[str, ...] = ()


def land(
    plan: Plan, prepared: Prepared, part_results: Sequence[PartResult], warehouse: Warehouse, staging: Staging
) -> LandingSummary:
    """Keep the results of every part, then publish the run's dates if all results are there.

    :param part_results: one for each part of `prepared`
    :raises IncompleteError: a part is missing or incomplete; nothing was published, its usable results are kept
    :raises AuditError: counts do not add up, or a threshold is exceeded; nothing was published
    """
    parts = prepared.parts
    runs = table(plan.schema, "coding_runs")  # locked by every writer of results or codes, so that they take turns
    with ExitStack() as files, open_engine(staging.scratch, "land", plan.engine_memory_mb) as engine:
        collected = read_parts(engine, plan, parts, part_results, staging)
        with warehouse.session() as session:
            with session.transaction(lock=runs):
                store_results(engine, session, plan, prepared.read_at)
                store_operations(session, plan, collected)
            check_complete(engine, plan, collected)
            sent = sum(part.records for part in parts)
            records = _open_records(files, staging, prepared)
            with session.transaction(lock=runs):
                check_sources(session, plan)
                later_spans = find_later_spans(session, plan, prepared.read_at)
                if records is None:
                    published = find_published_run(session, plan, prepared.checksum, prepared.read)
                    run = confirm_published(plan, published, later_spans)
                else:
                    run = publish(engine, session, plan, prepared, records, later_spans)
                # Dates that were skipped for a later run are missing from what was read.
                checksum = prepared.checksum if run.read == prepared.read else None
                record_run(session, plan, prepared.read_at, checksum, run, sent, len(parts))
                days = find_dates(session, plan)
    log.info(
        "Published %s to %s: %d records read, %d coded, %d uncoded, %d rejected",
        plan.from_date, plan.to_date, run.read, run.coded, run.uncoded, run.rejected,
    )  # fmt: skip
    earlier_run = None if run.run_id == plan.run_id else run.run_id
    return LandingSummary(
        run.read, run.coded, run.uncoded, run.rejected, run.texts, sent, len(parts), plan.from_date, plan.to_date,
        published_by_run=earlier_run, days=tuple(day.isoformat() for day in days),
    )  # fmt: skip


def _open_records(files: ExitStack, staging: Staging, prepared: Prepared) -> Path | None:
    """Return the records that `prepare` staged as a local file; None if it found nothing to do."""
    if prepared.records_uri is None:
        return None
    try:
        return files.enter_context(staging.open_local(prepared.records_uri))
    except FileNotFoundError:
        raise IncompleteError(
            f"nothing was published: the staged records {prepared.records_uri!r} do not exist any more: start"
            " another run"
        ) from None

"""Landing a run, in three steps: collect the results, publish the run's dates, record the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from include.coding.collect import check_complete, read_parts, store_operations, store_results
from include.coding.engine import open_engine
from include.coding.errors import IncompleteError
from include.coding.handoff import Handoff
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.publish import publish
from include.coding.results import PartResult
from include.coding.run_log import find_dates, invalidate_checksums, record_run
from include.coding.staging import Staging
from include.coding.tables import table
from include.warehouse.warehouse import Warehouse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LandingSummary(Handoff):
    """What a run published: counts of its records by outcome, of its texts and of its operations.

    :param published_by_run: earlier run that had published the same records, so that nothing was written; None if
        there is none
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
    runs = table(plan.schema, "coding_runs")  # locked by everyone who writes results or codes: one run at a time
    with open_engine(staging.scratch, "land", plan.engine_memory_mb) as engine:
        summaries = read_parts(engine, plan, parts, part_results, staging)
        with warehouse.session() as session:
            with session.transaction(lock=runs):
                has_results = store_results(engine, session, plan, prepared.read_at)
                if has_results and plan.selection == "all":
                    invalidate_checksums(session, plan)
                store_operations(session, plan, parts, part_results, summaries)
            check_complete(engine, plan, parts, part_results, summaries)
            sent = sum(part.records for part in parts)
            with _open_records(staging, prepared) as records, session.transaction(lock=runs):
                run = publish(engine, session, plan, prepared, records)
                # Dates that were skipped for a later run are missing from what was read.
                checksum = prepared.checksum if run.read == prepared.read else None
                record_run(session, plan, prepared.read_at, checksum, run, sent, len(parts))
                days = find_dates(session, plan)
    log.info(
        "Published %s to %s: %d records read, %d coded, %d uncoded, %d rejected",
        plan.from_date, plan.to_date, run.read, run.coded, run.uncoded, run.rejected,
    )  # fmt: skip
    return LandingSummary(
        read=run.read,
        coded=run.coded,
        uncoded=run.uncoded,
        rejected=run.rejected,
        texts=run.texts,
        texts_sent=sent,
        operations=len(parts),
        from_date=plan.from_date,
        to_date=plan.to_date,
        published_by_run=None if run.run_id == plan.run_id else run.run_id,
        days=tuple(day.isoformat() for day in days),
    )


@contextmanager
def _open_records(staging: Staging, prepared: Prepared) -> Iterator[Path | None]:
    """Yield the records that `prepare` staged as a local file; None if it found nothing to do."""
    if prepared.records_uri is None:
        yield None
        return
    with ExitStack() as files:
        try:
            path = files.enter_context(staging.open_local(prepared.records_uri))
        except FileNotFoundError:
            raise IncompleteError(
                f"nothing was published: the staged records {prepared.records_uri!r} do not exist any more: start"
                " another run"
            ) from None
        yield path

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
from include.coding.limits import LimitError
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.publish import confirm_published, list_read_dates, publish
from include.coding.results import PartResult
from include.coding.run_log import (
    DateCounts,
    DateOverLimit,
    check_sources,
    count_dates,
    count_sent_texts,
    find_dates_over_limit,
    find_later_spans,
    find_published_run,
    record_dates_over_limit,
    record_run,
)
from include.coding.staging import Staging
from include.coding.tables import table
from include.warehouse.warehouse import Session, Warehouse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LandingSummary(Handoff):
    """What a run published: counts of its records by outcome, of its texts and of its operations.

    :param texts_sent, operations: of all attempts of the run
    :param published_by_run: earlier run that published the same records, so that nothing was written; else None
    :param dates: response dates whose rows this run wrote, with their records
    :param dates_over_limit: response dates of the topic that wait for a decision, because they exceed a limit
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
    dates: tuple[DateCounts, ...] = ()
    dates_over_limit: tuple[DateOverLimit, ...] = ()

    @property
    def days(self) -> tuple[str, ...]:
        """Response dates whose rows this run wrote, ISO 8601."""
        return tuple(counts.day for counts in self.dates)


def land(
    plan: Plan, prepared: Prepared, part_results: Sequence[PartResult], warehouse: Warehouse, staging: Staging
) -> LandingSummary:
    """Keep the results of every part, then publish the run's dates if all results are there.

    :param part_results: one for each part of `prepared`
    :raises IncompleteError: a part is missing or incomplete; nothing was published, its usable results are kept
    :raises AuditError: counts do not add up, or a limit is exceeded; nothing was published
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
            records = _open_records(files, staging, prepared)
            with _remember_dates_over_limit(session, plan), session.transaction(lock=runs):
                check_sources(session, plan)
                later_spans = find_later_spans(session, plan, prepared.read_at)
                if records is None:
                    published = find_published_run(session, plan, prepared.checksum, prepared.read)
                    run = confirm_published(plan, published, later_spans)
                    record_dates_over_limit(session, plan, {}, list_read_dates(plan, later_spans))
                else:
                    run = publish(engine, session, plan, prepared, records, later_spans)
                # Dates that were skipped for a later run are missing from what was read.
                checksum = prepared.checksum if run.read == prepared.read else None
                record_run(session, plan, prepared.read_at, checksum, run)
                sent, operations = count_sent_texts(session, plan)
                dates = count_dates(session, plan)
                dates_over_limit = find_dates_over_limit(session, plan.schema, plan.topic)
    log.info(
        "Published %s to %s: %d records read, %d coded, %d uncoded, %d rejected",
        plan.from_date, plan.to_date, run.read, run.coded, run.uncoded, run.rejected,
    )  # fmt: skip
    earlier_run = None if run.run_id == plan.run_id else run.run_id
    return LandingSummary(
        run.read, run.coded, run.uncoded, run.rejected, run.texts, sent, operations, plan.from_date, plan.to_date,
        published_by_run=earlier_run, dates=dates, dates_over_limit=tuple(dates_over_limit),
    )  # fmt: skip


@contextmanager
def _remember_dates_over_limit(session: Session, plan: Plan) -> Iterator[None]:
    """Record the dates of a LimitError, which has rolled back the transaction, so that the next nights read them."""
    try:
        yield
    except LimitError as error:
        with session.transaction():
            record_dates_over_limit(session, plan, error.dates)
        raise


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

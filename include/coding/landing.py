"""Landing a run whose results are collected: publish its dates, record the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from include.coding.claims import claim_topic, release_dates
from include.coding.collect import NO_RESULT, set_texts_aside, stage_texts
from include.coding.engine import open_engine
from include.coding.errors import IncompleteError
from include.coding.handoff import Count, Day, Handoff, RunId
from include.coding.limits import LimitError
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.publish import confirm_published, list_read_dates, publish
from include.coding.recoding import CollectSummary
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
    run_filter,
)
from include.coding.staged_records import look_up_results, read_dates, stage_records
from include.coding.staging import Staging
from include.coding.tables import table, update_tables
from include.coding.text_claims import release_texts
from include.warehouse.errors import WarehouseError
from include.warehouse.warehouse import Session, Warehouse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LandingSummary(Handoff):
    """What a run published: counts of its records by outcome, of its texts and of its operations.

    :param texts_sent, operations: of all attempts of the run
    :param extra_operations: operations beside one for each part: others failed or left texts without a result, or
        other runs did not deliver texts
    :param published_by_run: earlier run that published the same records, so that nothing was written; else None
    :param dates: response dates whose rows this run wrote, with their records
    :param dates_over_limit: response dates of the topic that wait for a decision, because they exceed a limit
    """

    read: Count
    coded: Count
    uncoded: Count
    rejected: Count
    texts: Count
    texts_sent: Count
    operations: Count
    from_date: Day
    to_date: Day
    published_by_run: RunId | None
    dates: tuple[DateCounts, ...] = ()
    dates_over_limit: tuple[DateOverLimit, ...] = ()
    extra_operations: Count = 0

    @property
    def days(self) -> tuple[str, ...]:
        """Response dates whose rows this run wrote, ISO 8601."""
        return tuple(counts.day for counts in self.dates)


def land(
    plan: Plan, prepared: Prepared, collected: CollectSummary, warehouse: Warehouse, staging: Staging
) -> LandingSummary:
    """Publish the run's dates, if no operation can still give results.

    Texts that the next run sends again are published as uncoded, if the limits allow it. Then the run fails all the
    same, because it has not done all of its work.

    :raises IncompleteError: an operation is incomplete, so that nothing was published; or some texts are left
    :raises AuditError: counts do not add up, or a limit is exceeded; nothing was published
    """
    _check_complete(plan, collected)
    update_tables(warehouse, plan.schema)  # the project can have been updated since the run was prepared
    runs = table(plan.schema, "coding_runs")  # locked by every writer of results or codes, so that they take turns
    with ExitStack() as files, open_engine(staging.scratch, "land", plan.staging_memory_mb) as engine:
        records = _open_file(files, staging, prepared.records_uri)
        answers = _open_file(files, staging, prepared.answers_uri)
        unresolved = _open_file(files, staging, collected.unresolved_uri)
        staged_dates = read_dates(engine, records) if records else set()
        with warehouse.session() as session:
            with (
                # before the lock, because others wait for it
                stage_records(engine, session, records, answers) if records and answers else nullcontext(),
                stage_texts(engine, session, unresolved) if unresolved else nullcontext(),
                _remember_dates_over_limit(session, plan),
                session.transaction(lock=runs),
            ):
                claim_topic(session, plan)
                check_sources(session, plan)
                later_spans = find_later_spans(session, plan, prepared.read_at)
                if records is None:
                    published = find_published_run(session, plan, prepared.checksum, prepared.read)
                    run = confirm_published(plan, published, later_spans)
                    record_dates_over_limit(session, plan, {}, list_read_dates(plan, later_spans))
                else:
                    with (
                        _publish_as_uncoded(session, plan) if unresolved else nullcontext(),
                        look_up_results(session, plan),
                    ):
                        run = publish(session, plan, prepared, staged_dates, later_spans)
                # Dates that were skipped for a later run are missing from what was read.
                is_whole = run.read == prepared.read and unresolved is None
                checksum, file_checksum = (prepared.checksum, prepared.file_checksum) if is_whole else (None, None)
                record_run(session, plan, prepared.read_at, checksum, file_checksum, run)
                sent, operations = count_sent_texts(session, plan)
                dates = count_dates(session, plan)
                dates_over_limit = find_dates_over_limit(session, plan.schema, plan.topic)
                unresolved_records = _count_unresolved(session, plan) if unresolved else 0
            _release_claims(session, plan)
    log.info(
        "Published %s to %s: %s records read, %s coded, %s uncoded, %s rejected",
        plan.from_date, plan.to_date, *(f"{count:,}" for count in (run.read, run.coded, run.uncoded, run.rejected)),
    )  # fmt: skip
    if unresolved is not None:
        raise IncompleteError(
            f"{run.read:,} records of {plan.from_date} to {plan.to_date} are published, but {unresolved_records:,} of"
            f" them as uncoded (no_result), because {collected.unresolved:,} of {collected.texts_sent:,} texts"
            f" have no result yet; {_describe_next_step(plan)}. {'; '.join(collected.problems)}"
        )
    earlier_run = None if run.run_id == plan.run_id else run.run_id
    return LandingSummary(
        run.read, run.coded, run.uncoded, run.rejected, run.texts, sent, operations, plan.from_date, plan.to_date,
        published_by_run=earlier_run, dates=dates, dates_over_limit=tuple(dates_over_limit),
        extra_operations=collected.extra_operations,
    )  # fmt: skip


def _release_claims(session: Session, plan: Plan) -> None:
    """Remove the claims of the run, in a transaction of its own: Redshift can refuse it because of claims that other
    runs have added meanwhile, and that must not cost what is published."""
    try:
        with session.transaction():
            release_dates(session, plan)
            release_texts(session, plan, [plan.run_id])
    except WarehouseError as error:
        log.warning(
            "The claims of the run are not removed (%s): until it has ended, other runs leave its dates and texts to"
            " it",
            type(error).__name__,
        )


@contextmanager
def _remember_dates_over_limit(session: Session, plan: Plan) -> Iterator[None]:
    """Record the dates of a LimitError, which has rolled back the transaction, so that the next nights read them."""
    try:
        yield
    except LimitError as error:
        with session.transaction():
            record_dates_over_limit(session, plan, error.dates)
        raise


def _check_complete(plan: Plan, collected: CollectSummary) -> None:
    if collected.incomplete:
        raise IncompleteError(
            f"nothing was published, because {collected.incomplete} parts or operations are incomplete; the results"
            f" of {collected.usable:,} of {collected.texts_sent:,} texts are kept, and {_describe_next_step(plan)}."
            f" {'; '.join(collected.problems)}"
        )


def _describe_next_step(plan: Plan) -> str:
    if plan.selection == "uncoded":
        return "the next run of these dates sends the rest"
    return "a run of these dates with the selection `uncoded` sends the rest (another run of `all` sends every text)"


@contextmanager
def _publish_as_uncoded(session: Session, plan: Plan) -> Iterator[None]:
    """Keep the staged texts in `coded_texts` as uncoded within the block, in a transaction of `session`."""
    set_texts_aside(session, plan, "", "uncoded", NO_RESULT)
    yield
    texts = table(plan.schema, "coded_texts")
    session.execute(f"DELETE FROM {texts} WHERE run_id = ? AND operation_id = ''", [plan.run_id])  # noqa: S608


def _count_unresolved(session: Session, plan: Plan) -> int:
    """Return how many records of the run's dates are published without the result of their text."""
    condition, values = run_filter(plan)
    ((count,),) = session.execute(
        f"SELECT count(*) FROM {table(plan.schema, 'coded_records')}"  # noqa: S608
        f" WHERE {condition} AND reason = ? AND operation_id IS NULL",
        [*values, NO_RESULT],
    )
    return int(count)


def _open_file(files: ExitStack, staging: Staging, uri: str | None) -> Path | None:
    """Return a file that an earlier task staged as a local file; None if it staged none."""
    if uri is None:
        return None
    try:
        return files.enter_context(staging.open_local(uri))
    except FileNotFoundError:
        raise IncompleteError(
            f"nothing was published: the staged file {uri!r} does not exist any more: start another run"
        ) from None

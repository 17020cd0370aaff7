"""The report of a run for people: what was coded, what was not and why, and what was sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from include.coding.abandoned import list_abandoned_operations
from include.coding.document import Cell, Document, Section, Table, store_document
from include.coding.errors import IncompleteError
from include.coding.estimate import CALLS_PER_PART, PLANNING_CALLS, Estimate
from include.coding.limits import describe_unchecked_limits, format_reasons
from include.coding.markdown import format_code
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.response_dates import describe_skipped_rows
from include.coding.run_log import DateCounts, format_dates, is_published, run_filter
from include.coding.staging import Staging
from include.coding.tables import table
from include.warehouse.warehouse import Session, Warehouse

if TYPE_CHECKING:
    from include.coding.export import ExportSummary
    from include.coding.landing import LandingSummary

#: Maximum number of operations that a report lists, of abandoned ones in a sentence.
MAX_LISTED_OPERATIONS, MAX_LISTED_ABANDONED = 100, 10
#: Maximum number of codes, and of occupations without a code, that a report lists.
MAX_LISTED_CODES = 20
#: How many response dates before those of a run it is compared with.
EARLIER_DATES = 14
CONFIDENCE_BINS = 10

#: Mean of the confidences that can be one; a sum of others can be out of the range of the warehouse.
_MEAN_CONFIDENCE = "avg(CASE WHEN confidence BETWEEN 0 AND 1 THEN confidence END)"
#: Counts of records for the comparison with earlier dates.
_DATE_COUNTS = (
    "count(*), count(CASE WHEN outcome = 'coded' THEN 1 END), count(CASE WHEN outcome = 'uncoded' THEN 1 END),"
    f" count(CASE WHEN outcome = 'rejected' THEN 1 END), {_MEAN_CONFIDENCE}"
)


@dataclass(frozen=True)
class _RunRows:
    """Queries over `rows`, the rows of the plan's dates that one run wrote; none returns a person's text."""

    session: Session
    plan: Plan
    run_id: str

    def query(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        records = table(self.plan.schema, "coded_records")
        condition, keys = run_filter(self.plan)
        rows = f"WITH rows AS (SELECT * FROM {records} WHERE {condition} AND run_id = ?) "  # noqa: S608
        return self.session.execute(rows + query, [*keys, self.run_id, *values])


def write_report(
    plan: Plan,
    prepared: Prepared,
    summary: LandingSummary,
    warehouse: Warehouse,
    staging: Staging,
    exported: ExportSummary | None = None,
    *,
    estimate: Estimate | None = None,
    with_texts: bool = False,
) -> str:
    """Write the report of a landed run to its folder, log it, and return the URI of its HTML.

    :param exported: the export of the run; None if it has none
    :param estimate: what the run was expected to send; None if unknown
    :param with_texts: whether the report names the occupations without a code, which people wrote
    :raises IncompleteError: the warehouse has no record that the run is published
    """
    with warehouse.session(read_only=True) as session:
        if not is_published(session, plan, prepared.read_at):
            raise IncompleteError(
                f"run {plan.run_id!r} is not recorded as published, so there is nothing to report: clear 'land' with"
                " downstream tasks"
            )
        rows = _RunRows(session, plan, summary.published_by_run or plan.run_id)
        ((invalid,),) = rows.query("SELECT count(*) FROM rows WHERE confidence NOT BETWEEN 0 AND 1")
        earlier, sentence = _compare_with_earlier_dates(rows)
        sections = [
            *_count_outcomes(rows),
            _count_confidence(rows),
            _rank_codes(rows),
            _rank_uncoded(rows, with_texts),
            earlier,
            _compare_with_estimate(session, plan, summary, estimate),
            _list_operations(session, plan, prepared),
        ]
        abandoned = list_abandoned_operations(session, plan.schema, plan.run_id)
    warnings, notes = _describe_limits(plan, summary), _describe_run(plan, prepared, summary)
    if sentence:
        notes.append(sentence)
    if exported:
        notes.append(
            f"Exported: {exported.records:,} records with all columns of the source and their codes, to"
            f" {format_code(exported.uri)}."
        )
    if abandoned:
        more = f" and {len(abandoned) - MAX_LISTED_ABANDONED} more" if len(abandoned) > MAX_LISTED_ABANDONED else ""
        names = ", ".join(f"`{operation_id}`" for operation_id in abandoned[:MAX_LISTED_ABANDONED])
        warnings.append(f"Operations that were opened and never used: {len(abandoned)} ({names}{more})")
    if invalid:
        warnings.append(f"{invalid} codes have a confidence outside 0 to 1; it is stored as the service gave it")
    trial = f": a trial of {plan.max_records:,} records" if plan.max_records else ""
    document = Document(
        f"Occupation coding, {plan.from_date} to {plan.to_date}{trial}",
        _format_plan(plan),
        facts={
            **{name: getattr(summary, name) for name in ("read", "coded", "uncoded", "rejected")},
            "coded_share": _find_share(summary.coded, summary.read),
            "texts_sent": summary.texts_sent,
            "operations": summary.operations,
        },
        warnings=warnings,
        notes=notes,
        sections=sections,
    )
    return store_document(document, staging)


def write_estimate(plan: Plan, estimate: Estimate, staging: Staging) -> str:
    """Write the result of a dry run to its folder, log it, and return the URI of its HTML."""
    names = ("read", "rejected", "texts", "known_texts", "texts_to_send", "parts", "calls", "coding_seconds")
    document = Document(
        f"Occupation coding, {plan.from_date} to {plan.to_date}: dry run, nothing was sent",
        _format_plan(plan),
        facts={name: getattr(estimate, name) for name in names},
        warnings=estimate.warnings,
        notes=estimate.sentences,
    )
    return store_document(document, staging)


def write_skip_report(plan: Plan, staging: Staging) -> str:
    """Write why a run did nothing to its folder, log it, and return the URI of its HTML."""
    title = f"Occupation coding, {plan.from_date} to {plan.to_date}: skipped, nothing was sent"
    return store_document(Document(title, _format_plan(plan), warnings=plan.competing_runs), staging)


def write_failure_report(
    run_id: str,
    task_id: str,
    error_type: str,
    sentence: str,
    plan: Plan | None,
    estimate: Estimate | None,
    staging: Staging,
) -> str:
    """Write why a run failed to its folder, log it, and return the URI of its HTML.

    :param task_id, error_type, sentence: the task that failed, and its error in our words
    :param plan, estimate: as far as the run came
    """
    dates = f", {plan.from_date} to {plan.to_date}" if plan else ""
    names = ("read", "rejected", "texts", "known_texts", "texts_to_send", "parts", "calls")
    document = Document(
        f"Occupation coding{dates}: the run failed",
        _format_plan(plan) if plan else f"Run {format_code(run_id)}.",
        facts={name: getattr(estimate, name) for name in names} if estimate else {},
        warnings=[f"{format_code(task_id)} failed: {sentence.rstrip('.')}"],
        notes=[
            f"What to do about `{error_type}`: see the table of errors in docs/runbook.md.",
            *(estimate.sentences if estimate else []),
        ],
    )
    return store_document(document, staging)


# ---- sections ----------------------------------------------------------------------------------------------------


def _count_outcomes(rows: _RunRows) -> Iterator[Section]:
    """Yield the sections that count records by outcome, by reason and by level."""
    outcomes = rows.query("SELECT outcome, count(*) FROM rows GROUP BY outcome ORDER BY 2 DESC, 1")
    yield _make_count_section("Outcomes", ("outcome", "records"), outcomes)
    reasons = rows.query(
        "SELECT reason, count(*) FROM rows WHERE reason IS NOT NULL GROUP BY reason ORDER BY 2 DESC, 1"
    )
    yield _make_count_section("Why records were rejected or not answered", ("reason", "records"), reasons)
    levels = rows.query(
        f"SELECT level, count(*), {_MEAN_CONFIDENCE}"  # noqa: S608
        " FROM rows WHERE outcome = 'coded' GROUP BY level ORDER BY 1 DESC"
    )
    title, columns = "Levels of the codes (digits)", ("level", "records", "mean_confidence")
    yield _make_count_section(title, columns, levels)


def _make_count_section(title: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> Section:
    """Return a section whose rows have a name, a number of records and perhaps more."""
    total = sum(row[1] for row in rows)
    entries = [(name, count, count / total, *others) for name, count, *others in rows]
    return Section(title, Table((*columns[:2], "share", *columns[2:]), entries), bar_column="share")


def _count_confidence(rows: _RunRows) -> Section:
    """Return the section with the histogram of the confidences of coded records."""
    counts = rows.query(
        f"SELECT CASE WHEN confidence = 1 THEN {CONFIDENCE_BINS - 1}"  # noqa: S608
        f" ELSE CAST(floor(confidence * {CONFIDENCE_BINS}) AS INTEGER) END, count(*)"
        " FROM rows WHERE outcome = 'coded' AND confidence BETWEEN 0 AND 1 GROUP BY 1"
    )
    records = {int(number): count for number, count in counts}
    bins = [
        (f"{number / CONFIDENCE_BINS:g} to {(number + 1) / CONFIDENCE_BINS:g}", records.get(number, 0))
        for number in reversed(range(CONFIDENCE_BINS))
    ]
    total = sum(records.values())
    return Section(
        "Confidence of the codes",
        Table(("confidence", "records", "share"), [(*entry, entry[1] / total) for entry in bins if total]),
        "Coded records by confidence. Each row includes its lower bound, and the first row 1 as well.",
        bar_column="share",
    )


def _rank_codes(rows: _RunRows) -> Section:
    codes = rows.query(
        f"SELECT code, label, count(*), {_MEAN_CONFIDENCE}"  # noqa: S608
        f" FROM rows WHERE outcome = 'coded' GROUP BY code, label ORDER BY 3 DESC, 1 LIMIT {MAX_LISTED_CODES}"
    )
    columns = ("code", "label", "records", "mean_confidence")
    return Section("Most frequent codes", Table(columns, codes), bar_column="records")


def _rank_uncoded(rows: _RunRows, with_texts: bool) -> Section:
    """Return the section with the texts without a code that most records have, by key or in the words of people."""
    title = "Most frequent occupations without a code"
    ranking = rows.query(
        "SELECT text_key, count(*) FROM rows WHERE outcome = 'uncoded' AND text_key IS NOT NULL"  # noqa: S608
        f" GROUP BY text_key ORDER BY 2 DESC, 1 LIMIT {MAX_LISTED_CODES}"
    )
    ((distinct, total),) = rows.query("SELECT count(DISTINCT text_key), count(*) FROM rows WHERE outcome = 'uncoded'")
    note = f"Records without a code: {total:,}, with {distinct:,} different texts." if total else ""
    entries = [(key, count, count / total) for key, count in ranking]
    columns = ("text_key", "records", "share")
    if not with_texts or not entries:
        hint = " `text_key` is the key of the text in `coded_texts`." if total else ""
        return Section(title, Table(columns, entries), note + hint, bar_column="share")
    texts = rows.session.execute(
        f"SELECT text_key, occp_text, tasks_text FROM {table(rows.plan.schema, 'coded_texts')}"  # noqa: S608
        f" WHERE topic = ? AND model_id = ? AND text_key IN ({', '.join('?' * len(entries))})",
        [rows.plan.topic, rows.plan.model_id, *(key for key, *_ in entries)],
    )
    words = {key: pair for key, *pair in texts}
    entries = [(*entry, *words.get(entry[0], (None, None))) for entry in entries]
    return Section(
        title, Table((*columns, "occp_text", "tasks_text"), entries, text_columns=("occp_text", "tasks_text")), note,
        bar_column="share",
    )  # fmt: skip


def _compare_with_earlier_dates(rows: _RunRows) -> tuple[Section, str]:
    """Return the section that compares the run with the response dates before, and a sentence about it.

    A night that looks back is compared by its own date, because the others are published already.
    """
    plan = rows.plan
    first, last = plan.dates[1] if plan.changed_only else plan.dates[0], plan.dates[1]
    earlier = rows.session.execute(
        f"SELECT response_date, max(model_version), {_DATE_COUNTS} FROM {table(plan.schema, 'current_codes')}"  # noqa: S608
        " WHERE topic = ? AND response_date BETWEEN ? AND ? GROUP BY response_date ORDER BY 1",
        [plan.topic, first - timedelta(days=EARLIER_DATES), first - timedelta(days=1)],
    )
    ((count, *counts),) = rows.query(f"SELECT {_DATE_COUNTS} FROM rows WHERE response_date >= ?", [first])  # noqa: S608
    dates = str(first) if first == last else f"{first} to {last}"
    own = [(f"{dates} (this run)", plan.model_version, count, *counts)] if count else []
    entries = [
        (str(day), version, read, coded, uncoded, rejected, _find_share(coded, read), confidence)
        for day, version, read, coded, uncoded, rejected, confidence in (*earlier, *own)
    ]
    title, columns = (
        f"The {EARLIER_DATES} response dates before",
        ("dates", "model_version", "records", "coded", "uncoded", "rejected", "coded_share", "mean_confidence"),
    )
    section = Section(title, Table(columns, entries), "The newest codes of each date.", bar_column="coded_share")
    if not earlier or not count:
        return section, ""
    before = _find_share(sum(row[3] for row in earlier), sum(row[2] for row in earlier)) or 0.0
    return section, (
        f"Share of records that are coded: {counts[0] / count:.1%}; in the {len(earlier)} dates before that have"
        f" records: {before:.1%}."
    )


def _compare_with_estimate(
    session: Session, plan: Plan, summary: LandingSummary, estimate: Estimate | None
) -> Section:
    """Return the section with the cost of the run beside what was expected."""
    ((size, longest, total),) = session.execute(
        f"SELECT sum(bytes), max(seconds), sum(seconds) FROM {table(plan.schema, 'coding_operations')}"  # noqa: S608
        " WHERE run_id = ? AND state <> 'timed_out' AND records > 0",
        [plan.run_id],
    )

    def expect(name: str) -> Cell:
        value: Cell = getattr(estimate, name, None)
        return value

    calls = PLANNING_CALLS + CALLS_PER_PART * summary.operations
    return Section(
        "Cost",
        Table(
            ("measure", "estimate", "actual"),
            [
                ("texts sent", expect("texts_to_send"), summary.texts_sent),
                ("operations", expect("parts"), summary.operations),
                ("bytes uploaded", expect("bytes"), int(size or 0)),
                ("calls of the service", expect("calls"), calls),
                ("seconds of the longest operation", expect("coding_seconds"), longest),
                ("seconds of all operations", None, total),
            ],
        ),
        f"The actual number of calls is at least this: {PLANNING_CALLS} to plan, and {CALLS_PER_PART} for each"
        " operation. Further attempts and longer waits need more.",
    )


def _list_operations(session: Session, plan: Plan, prepared: Prepared) -> Section:
    """Return the section with the operations of the run."""
    operations = session.execute(
        f"SELECT part, records, operation_id, state, usable, seconds FROM {table(plan.schema, 'coding_operations')}"  # noqa: S608
        f" WHERE run_id = ? ORDER BY part, operation_id LIMIT {MAX_LISTED_OPERATIONS + 1:d}",
        [plan.run_id],
    )
    expected = {part.part: part.expected_seconds for part in prepared.parts}
    columns = ("part", "texts", "operation_id", "state", "results", "seconds", "expected_seconds")
    rows = [(part + 1, *row, expected.get(part)) for part, *row in operations[:MAX_LISTED_OPERATIONS]]
    more = f"The first {MAX_LISTED_OPERATIONS} operations." if len(operations) > MAX_LISTED_OPERATIONS else ""
    return Section("Operations", Table(columns, rows), more)


def _find_share(count: int, total: int) -> float | None:
    return count / total if total else None


# ---- sentences ---------------------------------------------------------------------------------------------------


def _explain_no_sending(prepared: Prepared, summary: LandingSummary) -> str:
    """Return why nothing was sent; empty if something was."""
    if summary.operations:
        return ""
    if summary.published_by_run:
        return (
            f" Nothing was sent or written: run {format_code(summary.published_by_run)} has already published exactly"
            " these records."
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


def _format_plan(plan: Plan) -> str:
    return (
        f"Topic `{plan.topic}`, model `{plan.model_id}` (version {plan.model_version}), source"
        f" {format_code(plan.source)}, run {format_code(plan.run_id)}."
    )


def _describe_run(plan: Plan, prepared: Prepared, summary: LandingSummary) -> list[str]:
    """Return what the run did, in sentences."""
    sentences = []
    awaited = f"; left to other runs: {prepared.awaited:,}" if prepared.awaited else ""
    if plan.max_records:
        sentences.append(f"Its rows are in the tables of the schema `{plan.schema}`, separate from all others.")
    if plan.changed_only:
        days = format_dates(date.fromisoformat(day) for day in summary.days) or "none"
        sentences.append(f"Records checked for changes: {prepared.read:,}; dates that changed: {days}.")
    sentences += [
        f"Records read: {summary.read:,}: {summary.coded:,} coded, {summary.uncoded:,} uncoded,"
        f" {summary.rejected:,} rejected{_format_rejected(prepared, summary)}.",
        f"Distinct texts: {summary.texts:,}; coded earlier by this model: {prepared.known_texts:,}{awaited}; sent:"
        f" {summary.texts_sent:,} in {summary.operations:,} operations.{_explain_no_sending(prepared, summary)}",
    ]
    if summary.extra_operations:
        sentences.append(
            f"Of these operations, {summary.extra_operations} came on top of the parts, because others failed or left"
            " texts without a result, or because other runs did not deliver texts that they had claimed."
        )
    if prepared.undated:
        sentences.append(f"Records of the source without a date, which no run codes: {prepared.undated:,}.")
    skipped = describe_skipped_rows(prepared.unreadable_dates, prepared.unreadable_examples, prepared.empty_rows)
    return [*sentences, *skipped, *prepared.notes]

"""The runs of a DAG and what their tasks reported, from Airflow's metadata: one query for any number of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Annotated, Any, ClassVar, TypeVar

from airflow.models.dagrun import DagRun, DagRunNote
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XCOM_RETURN_KEY, XComModel
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Select, String, and_, case, cast, func, null, or_, select
from sqlalchemy.orm import Session, aliased

from include.coding.handoff import Count, Day, Guid, Number, SourceName, Text, Topic, WholeNumber

#: States of a run that has not ended.
UNFINISHED = ("queued", "running")
#: Runs on a page of the list, and maximum number of runs that other pages read.
PAGE_RUNS, MAX_RUNS = 50, 5000
#: Longest reports of a run that are remembered, so that those of 5,000 runs take some 20 MB.
MAX_REMEMBERED_CHARACTERS = 4000
#: Longest note of a run that a list shows.
MAX_NOTE_CHARACTERS = 300

NEWEST_FIRST = (DagRun.run_after.desc(), DagRun.id.desc())

F = TypeVar("F")


@dataclass(frozen=True)
class PlanFacts:
    """What the page shows of the plan of a run (:class:`include.coding.plan.Plan`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    topic: Topic
    model_id: Guid
    from_date: Day
    to_date: Day
    source: SourceName
    model_version: Number | None = None
    max_records: WholeNumber | None = None
    dry_run: bool = False
    changed_only: bool = False
    excluded_dates: tuple[Day, ...] = ()


@dataclass(frozen=True)
class DateFacts:
    """Records of a response date by outcome (:class:`include.coding.run_log.DateCounts`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    day: Day
    read: Count
    coded: Count
    uncoded: Count
    rejected: Count


@dataclass(frozen=True)
class LimitFacts:
    """A response date that exceeds a limit for publishing (:class:`include.coding.run_log.DateOverLimit`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    day: Day
    since: Day
    limits: Text


@dataclass(frozen=True)
class LandingFacts:
    """What the page shows of what a run published (:class:`include.coding.landing.LandingSummary`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    read: Count
    coded: Count
    uncoded: Count
    rejected: Count
    texts_sent: Count = 0
    operations: Count = 0
    dates: Annotated[tuple[DateFacts, ...], Field(max_length=40_000)] = ()
    dates_over_limit: Annotated[tuple[LimitFacts, ...], Field(max_length=40_000)] = ()


_PLAN, _LANDING, _DAY = TypeAdapter(PlanFacts), TypeAdapter(LandingFacts), TypeAdapter(Day)
_CONF = TypeAdapter(Mapping[str, Any])


@lru_cache(10_000)
def read_day(text: str) -> date:
    """Return a date. It remembers them, because the runs of years are of the same dates."""
    return date.fromisoformat(text)


@dataclass(frozen=True)
class CodingRun:
    """A run of a DAG.

    :param kind: Airflow's type of the run: scheduled, manual, backfill, ...
    :param state: Airflow's state of the run
    :param user: who started it; None if nobody did
    :param note: note of the run in Airflow, shortened
    :param conf: the params that differ from the form, unless there is a plan, which has all of them
    :param plan, landing: what its tasks reported; None if they have not, or if the XCom is not theirs
    """

    run_id: str
    kind: str
    state: str
    user: str | None
    run_after: datetime
    started: datetime | None
    ended: datetime | None
    partition_key: str | None
    note: str | None
    conf: Mapping[str, Any] = field(default_factory=dict, repr=False)
    plan: PlanFacts | None = None
    landing: LandingFacts | None = None

    @property
    def is_unfinished(self) -> bool:
        return self.state in UNFINISHED

    @cached_property
    def topic(self) -> str | None:
        """The topic; None if the run has not planned and has that of the form."""
        topic = self.plan.topic if self.plan else self.conf.get("topic")
        return topic if isinstance(topic, str) else None

    @cached_property
    def mode(self) -> str:
        """`dry run`, `trial`, or empty for a run that publishes."""
        if self.plan.dry_run if self.plan else self.conf.get("dry_run"):
            return "dry run"
        return "trial" if (self.plan.max_records if self.plan else self.conf.get("max_records")) is not None else ""

    @cached_property
    def span(self) -> tuple[str, str] | None:
        """First and last response date of the run, ISO 8601; None if they are not known."""
        if self.plan:
            return self.plan.from_date, self.plan.to_date
        first, last = self.conf.get("from_date"), self.conf.get("to_date")
        days = (self.partition_key, self.partition_key) if self.partition_key else (first or last, last or first)
        try:
            return _DAY.validate_python(days[0]), _DAY.validate_python(days[1])
        except ValidationError:
            return None

    def list_own_days(self, first: date, last: date) -> list[date]:
        """Return the dates from `first` to `last` that the run is for: not those that a night only looks back to."""
        span = self.span
        if self.plan and self.plan.changed_only and self.partition_key:
            span = (self.partition_key, self.partition_key)
        if span is None:
            return []
        try:
            start, end = max(first, read_day(span[0])), min(last, read_day(span[1]))
        except ValueError:
            return []
        days = [start + timedelta(days=number) for number in range((end - start).days + 1)]
        excluded = self.plan.excluded_dates if self.plan else ()
        return [day for day in days if day.isoformat() not in excluded] if excluded else days

    @property
    def duration(self) -> timedelta | None:
        return self.ended - self.started if self.started and self.ended else None


@dataclass(frozen=True)
class Filters:
    """Which runs a list shows; an empty value does not filter.

    :param first, last: response dates, ISO 8601, that the runs cover at least one day of
    :param mode: `dry run`, `trial` or `publish`
    """

    state: str = ""
    kind: str = ""
    topic: str = ""
    model: str = ""
    user: str = ""
    mode: str = ""
    first: str = ""
    last: str = ""


class RunQuery:
    """Selects runs of a DAG with their plan and their landing, newest first."""

    def __init__(self, dag_id: str) -> None:
        self._dag_id = dag_id
        self._plan, self._landing = aliased(XComModel), aliased(XComModel)

    def read(self, session: Session, filters: Filters, limit: int = PAGE_RUNS, offset: int = 0) -> list[CodingRun]:
        """Return the runs that the filters select."""
        ids = self._join(select(DagRun.id)).where(*self._conditions(filters)).order_by(*NEWEST_FIRST)
        return self._read(session, ids.limit(limit).offset(offset))

    def find(self, session: Session, run_id: str) -> CodingRun | None:
        """Return a run; None if the DAG has none with this id."""
        ids = select(DagRun.id).where(DagRun.dag_id == self._dag_id, DagRun.run_id == run_id)
        return next(iter(self._read(session, ids)), None)

    def read_recent(self, session: Session, first: date, *, is_brief: bool = False) -> list[CodingRun]:
        """Return the runs of dates from `first` on, and all that are unfinished: at most 5,000 runs are read, the
        unfinished ones first, then the newest.

        :param is_brief: whether to leave out who started them, when they started and ended, and their notes, which
            takes a third of the time
        """
        is_unfinished = DagRun.state.in_(UNFINISHED)
        # A backfill of old dates has runs that are under way, but are not among the newest ones.
        order = (case((is_unfinished, 0), else_=1), *NEWEST_FIRST)
        ids = select(DagRun.id).where(DagRun.dag_id == self._dag_id).order_by(*order).limit(MAX_RUNS)
        is_recent = or_(is_unfinished, self._last_day() >= first.isoformat())
        return self._read(session, ids, is_recent, is_brief=is_brief)

    def find_first_use(self, session: Session, model_id: str) -> datetime | None:
        """Return when a run that landed used a model first; None if none did."""
        conditions = (self._field("model_id") == model_id, self._landing.task_id.is_not(None))
        return session.scalar(self._join(select(func.min(DagRun.run_after))).where(*conditions))

    def _read(
        self, session: Session, ids: Select[Any], *conditions: ColumnElement[bool], is_brief: bool = False
    ) -> list[CodingRun]:
        """Return runs.

        :param ids: of which runs. The database sorts these only, because what their tasks reported is slow to sort
        """
        page = ids.subquery()
        details = {
            "user": DagRun.triggering_user_name, "started": DagRun.start_date, "ended": DagRun.end_date,
            "note": DagRunNote.content,
        }  # fmt: skip
        columns = select(
            DagRun.id, DagRun.run_id, DagRun.run_type, DagRun.state, DagRun.run_after, DagRun.partition_key,
            cast(DagRun.conf, String).label("conf"), cast(self._plan.value, String).label("plan"),
            cast(self._landing.value, String).label("landing"),
            *((null() if is_brief else column).label(name) for name, column in details.items()),
        )  # fmt: skip
        if not is_brief:
            columns = columns.outerjoin(DagRunNote, DagRunNote.dag_run_id == DagRun.id)
        statement = self._join(columns).join(page, page.c.id == DagRun.id).where(*conditions)
        rows = session.connection().execute(statement).all()  # rows, not objects of Airflow's
        return [_make_run(row) for row in sorted(rows, key=attrgetter("run_after", "id"), reverse=True)]

    def _join(self, statement: Select[Any]) -> Select[Any]:
        """Return a query of the runs with what their tasks reported."""
        for xcom, task_id in ((self._plan, "plan"), (self._landing, "land")):
            statement = statement.outerjoin(xcom, _is_result(xcom, task_id))
        return statement.where(DagRun.dag_id == self._dag_id)

    def _conditions(self, filters: Filters) -> list[ColumnElement[bool]]:
        is_dry = cast(self._field("dry_run"), String).in_(("true", "1"))  # true is 1 in SQLite
        is_trial = self._field("max_records").is_not(None)
        modes = {"dry run": is_dry, "trial": and_(~is_dry, is_trial), "publish": and_(~is_dry, ~is_trial)}
        conditions = {
            "state": DagRun.state == filters.state,
            "kind": DagRun.run_type == filters.kind,
            "topic": self._field("topic") == filters.topic,
            "model": self._field("model_id") == filters.model,
            "user": DagRun.triggering_user_name == filters.user,
            "mode": modes.get(filters.mode),
            "first": self._last_day() >= filters.first,
            "last": func.coalesce(self._field("from_date"), DagRun.partition_key) <= filters.last,
        }
        return [
            condition for name, condition in conditions.items() if getattr(filters, name) and condition is not None
        ]

    def _field(self, name: str) -> ColumnElement[str]:
        return self._plan.value[name].as_string()

    def _last_day(self) -> ColumnElement[str]:
        return func.coalesce(self._field("to_date"), DagRun.partition_key)


def _is_result(xcom: Any, task_id: str) -> ColumnElement[bool]:
    return and_(
        xcom.dag_run_id == DagRun.id, xcom.task_id == task_id, xcom.key == XCOM_RETURN_KEY, xcom.map_index == -1
    )


def _make_run(row: Any) -> CodingRun:
    """Return a run. It remembers those with short reports, because most have ended and stay as they are.

    :param row: the id of the run in the database, then the parameters of :func:`_parse_run` in order
    """
    is_long = len(row.plan or "") + len(row.landing or "") + len(row.conf or "") > MAX_REMEMBERED_CHARACTERS
    return _parse_run(*row[1:]) if is_long else _remember_run(*row[1:])


def _parse_run(
    run_id: str, kind: Any, state: Any, run_after: datetime, partition_key: str | None, conf: str | None,
    plan: str | None, landing: str | None, user: str | None, started: datetime | None, ended: datetime | None,
    note: str | None,
) -> CodingRun:  # fmt: skip
    facts = _parse(_PLAN, plan)
    return CodingRun(
        run_id, str(kind), str(state), user, run_after, started, ended, partition_key,
        note[:MAX_NOTE_CHARACTERS] if note else None, {} if facts else _parse(_CONF, conf) or {}, facts,
        _parse(_LANDING, landing),
    )  # fmt: skip


_remember_run = lru_cache(MAX_RUNS)(_parse_run)


def validate(adapter: TypeAdapter[F], value: Any) -> F | None:
    """Return what a task reported; None if it has not, or if somebody has put something else in its place."""
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None


def _parse(adapter: TypeAdapter[F], text: str | None) -> F | None:
    """Do the same as :func:`validate` for JSON."""
    try:
        return None if text is None else adapter.validate_json(text)
    except ValidationError:
        return None


# ---- tasks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskCount:
    """How many task instances of a task of a run are in a state."""

    run_id: str
    task_id: str
    state: str
    count: int


def count_tasks(session: Session, dag_id: str, runs: Iterable[CodingRun]) -> list[TaskCount]:
    """Return the task instances of these runs, by task and state, the task that started first at the beginning."""
    run_ids = [run.run_id for run in runs]
    if not run_ids:
        return []
    statement = (
        select(TaskInstance.run_id, TaskInstance.task_id, TaskInstance.state, func.count())
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(run_ids), TaskInstance.state.is_not(None))
        .group_by(TaskInstance.run_id, TaskInstance.task_id, TaskInstance.state)
        .order_by(func.min(TaskInstance.start_date), TaskInstance.task_id)
    )
    return [
        TaskCount(run_id, task_id, str(state), count) for run_id, task_id, state, count in session.execute(statement)
    ]

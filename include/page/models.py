"""Models that have records, as the runs that landed reported them, and comparisons of models."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.xcom import XCOM_RETURN_KEY, XComModel
from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from include.page.runs import CodingRun
from include.pipeline.names import COMPARE_DAG_ID

#: Number of comparisons that the page lists, and of characters of a param that it shows.
LISTED_COMPARISONS, MAX_PARAM_CHARACTERS = 20, 100
#: The params of a comparison that the page shows, by their titles in the form.
SHOWN_PARAMS = {
    "topic": "topic", "topic_after": "topic after", "model_before": "model before", "model_after": "model after",
    "from_date": "from", "to_date": "to",
}  # fmt: skip


@dataclass
class ModelUse:
    """A model that has records of a topic.

    :param since, until: when the first and the last run that landed with it started
    :param records: read records by response date
    """

    topic: str
    model_id: str
    version: float | None
    since: datetime
    until: datetime
    runs: int = 0
    records: dict[str, int] = field(default_factory=dict)

    @property
    def span(self) -> tuple[str, str] | None:
        """First and last response date; None if no run reports its dates any more."""
        return (min(self.records), max(self.records)) if self.records else None


@dataclass(frozen=True)
class Comparison:
    """A run of the DAG `compare_models`.

    :param params: those that differ from the form, as text
    :param has_report: whether its report is written
    """

    run_id: str
    state: str
    user: str | None
    ended: datetime | None
    params: Mapping[str, str]
    has_report: bool


def list_models(runs: Iterable[CodingRun]) -> list[ModelUse]:
    """Return the models with records, by topic, the newest version first.

    :param runs: newest first
    """
    models: dict[tuple[str, str], ModelUse] = {}
    for run in runs:
        if run.plan is None or run.landing is None or run.mode:
            continue
        plan, key = run.plan, (run.plan.topic, run.plan.model_id)
        model = models.setdefault(key, ModelUse(*key, plan.model_version, run.run_after, run.run_after))
        model.since, model.runs = min(model.since, run.run_after), model.runs + 1
        for counts in run.landing.dates:
            model.records.setdefault(counts.day, counts.read)
    newest_first = sorted(models.values(), key=lambda model: (model.version or 0.0, model.until), reverse=True)
    return sorted(newest_first, key=lambda model: model.topic)


def read_comparisons(session: Session, run_id: str | None = None) -> list[Comparison]:
    """Return the newest comparisons, or the one of a run."""
    is_report = and_(
        XComModel.dag_run_id == DagRun.id, XComModel.task_id == "compare", XComModel.key == XCOM_RETURN_KEY
    )
    statement = (
        select(
            DagRun.run_id, DagRun.state, DagRun.triggering_user_name, DagRun.end_date, DagRun.conf, XComModel.task_id
        )
        .outerjoin(XComModel, is_report)
        .where(DagRun.dag_id == COMPARE_DAG_ID, *([] if run_id is None else [DagRun.run_id == run_id]))
        .order_by(DagRun.run_after.desc(), DagRun.id.desc())
        .limit(LISTED_COMPARISONS)
    )
    return [
        Comparison(run_id, str(state), user, ended, _describe_params(conf), report is not None)
        for run_id, state, user, ended, conf, report in session.execute(statement)
    ]


def _describe_params(conf: Any) -> dict[str, str]:
    values = conf if isinstance(conf, Mapping) else {}
    return {
        title: str(values[name])[:MAX_PARAM_CHARACTERS]
        for name, title in SHOWN_PARAMS.items()
        if values.get(name) is not None
    }


def suggest_comparison(models: Sequence[ModelUse]) -> dict[str, str] | None:
    """Return the params of a comparison of the two newest models of a topic; None if no topic has two."""
    for before, after in zip(models[1:], models, strict=False):
        if before.topic == after.topic:
            return {"topic": after.topic, "model_before": before.model_id, "model_after": after.model_id}
    return None


def make_trigger_command(params: Mapping[str, str]) -> str:
    """Return the command that starts a comparison."""
    return f"airflow dags trigger {COMPARE_DAG_ID} --conf {shlex.quote(json.dumps(dict(params)))}"

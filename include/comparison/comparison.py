"""What a comparison compares: two models of one topic, or models of two topics that a crosswalk connects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from include.coding.errors import PlanError
from include.coding.tables import table
from include.warehouse.errors import NoSuchTableError
from include.warehouse.warehouse import Session

#: Words that name a model by its rank: the newest model of a topic has rank 0, as in the view `current_codes`.
MODEL_RANKS = {"newest": 0, "previous": 1}


@dataclass(frozen=True)
class Comparison:
    """The two models to compare, and how to report the differences.

    :param topic, topic_after: uriName of the classification before, and after if it is a different one
    :param model_before, model_after: GUID of a model, or one of `MODEL_RANKS`
    :param from_date, to_date: first and last response date, ISO 8601, both inclusive; None for no limit
    :param crosswalk: table or view with the columns `from_code` and `to_code`; a code agrees with every code that it
        maps to. Without a crosswalk, a code agrees with itself only.
    :param samples: maximum number of moved records to list
    :param with_texts: whether the report includes the texts of the listed records
    :param schema: schema of the project's tables in the warehouse
    :raises PlanError: the topics differ and there is no crosswalk, or the dates are invalid
    """

    topic: str
    model_before: str = "previous"
    model_after: str = "newest"
    topic_after: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    crosswalk: str | None = None
    samples: int = 50
    with_texts: bool = False
    schema: str = "coding"

    def __post_init__(self) -> None:
        if self.topics[0] != self.topics[1] and not self.crosswalk:
            raise PlanError(f"{self.topics[0]!r} and {self.topics[1]!r} have different codes. Set `crosswalk`")
        if self.dates[0] > self.dates[1]:
            raise PlanError(f"from_date {self.from_date!r} is after to_date {self.to_date!r}. Swap them")

    @property
    def topics(self) -> tuple[str, str]:
        """The topics before and after."""
        return self.topic, self.topic_after or self.topic

    @property
    def dates(self) -> tuple[date, date]:
        """The first and the last response date."""
        try:
            return (
                date.fromisoformat(self.from_date) if self.from_date else date.min,
                date.fromisoformat(self.to_date) if self.to_date else date.max,
            )
        except ValueError:
            raise PlanError(
                f"from_date is {self.from_date!r}, to_date is {self.to_date!r}. Expected dates such as '2026-10-31'"
            ) from None


@dataclass(frozen=True)
class Model:
    """A model that has records in the warehouse.

    :param first, last: response dates of its first and last record
    :param records: number of its records within the dates of the comparison
    """

    topic: str
    model_id: str
    version: float | None
    first: date
    last: date
    records: int

    def __str__(self) -> str:
        version = "no version" if self.version is None else f"version {self.version:g}"
        return f"{self.topic} {self.model_id} ({version}, {self.first} to {self.last})"


def find_models(comparison: Comparison, session: Session) -> tuple[Model, Model]:
    """Return the models before and after.

    :raises PlanError: one of them has no records, or both are the same
    """
    records = table(comparison.schema, "coded_records")
    try:
        rows = session.execute(
            f"""
            SELECT topic, model_id, max(model_version), min(response_date), max(response_date),
                count(CASE WHEN response_date BETWEEN ? AND ? THEN 1 END)
            FROM {records} GROUP BY topic, model_id
            ORDER BY max(model_version) DESC NULLS LAST, max(coded_at) DESC, model_id
            """,  # noqa: S608
            comparison.dates,
        )
    except NoSuchTableError:
        raise PlanError(f"table {records} does not exist. Run recode_occupations, or set CODING_SCHEMA") from None
    models = [Model(*row) for row in rows]
    before = _find_model(models, comparison, comparison.topics[0], comparison.model_before)
    after = _find_model(models, comparison, comparison.topics[1], comparison.model_after)
    if before == after:
        raise PlanError(f"both models are the same: {before}. {_list_models(models)}")
    return before, after


def _find_model(models: Sequence[Model], comparison: Comparison, topic: str, name: str) -> Model:
    """Return the model of a topic that `name` stands for; `models` are sorted from the newest to the oldest."""
    candidates = [model for model in models if model.topic == topic]
    rank = MODEL_RANKS.get(name)
    matches = [model for model in candidates if model.model_id == name] if rank is None else candidates[rank:]
    if not matches:
        raise PlanError(f"topic {topic!r} has no records of model {name!r}. {_list_models(models)}")
    if not matches[0].records:
        first, last = comparison.dates
        raise PlanError(f"no records from {first} to {last} of {matches[0]}. {_list_models(models)}")
    return matches[0]


def _list_models(models: Sequence[Model]) -> str:
    return f"Models with records: {'; '.join(map(str, models)) or 'none'}"

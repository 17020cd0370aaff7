"""What is compared with what: two models of one topic, or of two that a crosswalk connects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from include.coding.errors import PlanError
from include.coding.tables import table
from include.warehouse.errors import NoSuchTableError
from include.warehouse.warehouse import Session

#: Words for a model, and its place in the order of `current_codes`.
PLACES = {"newest": 0, "previous": 1}


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    :param topic, topic_after: uriName of the classification before, and after if it is another one
    :param model_before, model_after: GUID, or one of `PLACES`
    :param from_date, to_date: response dates, ISO 8601, both inclusive; None for no limit
    :param crosswalk: table or view with `from_code` and `to_code`: a code agrees with all that it maps to; None if
        it agrees with itself
    :param samples: moved records that are named at most
    :param with_texts: whether people's texts are given with them
    :param schema: of the project's tables in the warehouse
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
            raise PlanError(
                f"{self.topics[0]!r} and {self.topics[1]!r} have codes of their own: name a `crosswalk` between them"
            )
        if self.dates[0] > self.dates[1]:
            raise PlanError(f"from_date {self.from_date!r} is after to_date {self.to_date!r}: swap them")

    @property
    def topics(self) -> tuple[str, str]:
        """The topic before, and the one after."""
        return self.topic, self.topic_after or self.topic

    @property
    def dates(self) -> tuple[date, date]:
        """First and last response date."""
        try:
            return (
                date.fromisoformat(self.from_date) if self.from_date else date.min,
                date.fromisoformat(self.to_date) if self.to_date else date.max,
            )
        except ValueError:
            raise PlanError(
                f"from_date is {self.from_date!r}, to_date {self.to_date!r}; expected dates such as '2026-10-31'"
            ) from None


@dataclass(frozen=True)
class Model:
    """A model that has records in the warehouse.

    :param records: in the dates of the comparison
    :param first, last: response dates of all its records
    """

    topic: str
    model_id: str
    version: float | None
    first: date
    last: date
    records: int

    def __str__(self) -> str:
        version = "without a version" if self.version is None else f"version {self.version:g}"
        return f"{self.topic} {self.model_id} ({version}, {self.first} to {self.last})"


def find_models(comparison: Comparison, session: Session) -> tuple[Model, Model]:
    """The models before and after.

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
            """,
            comparison.dates,
        )
    except NoSuchTableError:
        raise PlanError(f"there is no table {records}: run recode_occupations first, or set CODING_SCHEMA") from None
    models = [Model(*row) for row in rows]
    before = _choose(models, comparison, comparison.topics[0], comparison.model_before)
    after = _choose(models, comparison, comparison.topics[1], comparison.model_after)
    if before == after:
        raise PlanError(f"both models are the same: {before}. There are: {_tell(models)}")
    return before, after


def _choose(models: Sequence[Model], comparison: Comparison, topic: str, wanted: str) -> Model:
    """The model of a topic that a GUID or a word stands for; `models` are in the order of `current_codes`."""
    of_topic = [model for model in models if model.topic == topic]
    place = PLACES.get(wanted)
    found = [model for model in of_topic if model.model_id == wanted] if place is None else of_topic[place:]
    if not found:
        raise PlanError(f"topic {topic!r} has no records of the model {wanted!r}. There are: {_tell(models)}")
    if not found[0].records:
        first, last = comparison.dates
        raise PlanError(f"there are no records from {first} to {last} of {found[0]}. There are: {_tell(models)}")
    return found[0]


def _tell(models: Sequence[Model]) -> str:
    return "; ".join(map(str, models)) or "none"

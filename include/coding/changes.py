"""What changed for the records that two models coded, counted in the warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb
import pandas as pd

from include.coding.comparison import Comparison, Model, find_models
from include.coding.errors import PlanError, SourceError
from include.coding.tables import table
from include.warehouse.errors import NoSuchTableError
from include.warehouse.warehouse import Session, quote_column, quote_table

OUTCOMES = ("coded", "uncoded", "rejected")
#: What became of a record that both models coded.
VERDICTS = ("kept", "moved", "unmapped")
LEVELS = range(1, 7)
#: Rows of a table of codes.
MOST = 20

_GROUPED = (
    "before_outcome", "before_code", "before_label", "after_outcome", "after_code", "after_label", "verdict",
    "reworded",
)  # fmt: skip
_SAMPLED = (
    "response_date", "record_id", "occurrence", "before_code", "before_label", "after_code", "after_label",
    "text_key", "alike",
)  # fmt: skip


@dataclass(frozen=True)
class Changes:
    """What changed. A record that both models coded is `kept` if its new code is among those that its old code maps
    to, `moved` if it is not, and `unmapped` if the crosswalk does not have its old code.

    :param before, after: the models
    :param only_before, only_after: records that only one of them has
    :param outcomes: records that both have, by outcome before (rows) and after (columns)
    :param verdicts: records that both coded: `kept`, `moved`, `unmapped`
    :param reworded: records that both coded, from another text than before
    :param levels: agreement in the first digits, of the kept and moved records with so many digits before and after
    :param moves: the pairs of codes that moved most
    :param relabelled: codes that stayed while their label changed
    :param confidence: mean and median before and after
    :param missing: codes of the records that the crosswalk does not have; none if there is no crosswalk
    :param samples: moved records, one of each text; no text is in it
    :param texts: those of the samples by `text_key`, if they were asked for
    """

    comparison: Comparison
    before: Model
    after: Model
    only_before: int
    only_after: int
    outcomes: pd.DataFrame
    verdicts: dict[str, int]
    reworded: int
    levels: pd.DataFrame
    moves: pd.DataFrame
    relabelled: pd.DataFrame
    confidence: pd.DataFrame
    missing: pd.DataFrame
    samples: pd.DataFrame
    texts: pd.DataFrame = field(repr=False)

    @property
    def both(self) -> int:
        """Records that both models have."""
        return int(self.outcomes.to_numpy().sum())

    @property
    def gained(self) -> int:
        """Records that have a code now and had none."""
        return int(self.outcomes["coded"].drop("coded").to_numpy().sum())

    @property
    def lost(self) -> int:
        """Records that had a code and have none now."""
        return int(self.outcomes.loc["coded"].drop("coded").to_numpy().sum())

    @property
    def never(self) -> int:
        """Records that have no code now and had none."""
        return int(self.outcomes.drop(index="coded", columns="coded").to_numpy().sum())


def find_changes(comparison: Comparison, session: Session) -> Changes:
    """Count in the warehouse what changed.

    :raises PlanError: a model has no records, both are the same, or they have no record in common
    :raises SourceError: the crosswalk is missing, or lacks a column
    """
    before, after = find_models(comparison, session)
    pairs = _Pairs(comparison, before, after, session)
    columns = ", ".join(_GROUPED)
    groups = pairs.ask(f"SELECT {columns}, count(*) FROM pairs GROUP BY {columns}", (*_GROUPED, "records"))
    shared = groups.dropna(subset=["before_outcome", "after_outcome"])
    if shared.empty:
        raise PlanError(f"no record is in both: {before}; {after}. Run recode_occupations for the same dates")
    coded = shared.dropna(subset=["verdict"]).fillna({"before_label": "", "after_label": ""})
    crosswalk = pairs.ask("SELECT from_code, to_code FROM crosswalk", ("from_code", "to_code"))
    samples = pairs.sample(comparison.samples)
    return Changes(
        comparison,
        before,
        after,
        only_before=_count(groups[groups["after_outcome"].isna()]),
        only_after=_count(groups[groups["before_outcome"].isna()]),
        outcomes=_count_outcomes(shared),
        verdicts={name: _count(coded[coded["verdict"] == name]) for name in VERDICTS},
        reworded=_count(coded[coded["reworded"] == 1]),
        levels=_count_agreement(coded, crosswalk),
        moves=_find_moves(coded),
        relabelled=_find_relabelled(coded),
        confidence=_compare_confidence(pairs),
        missing=_find_missing(coded if comparison.crosswalk else coded[:0], crosswalk),
        samples=samples,
        texts=_read_texts(session, comparison.schema, after, samples if comparison.with_texts else samples[:0]),
    )


class _Pairs:
    """The relations `pairs`, what became of each record, and `crosswalk`, for queries that begin with `SELECT`."""

    def __init__(self, comparison: Comparison, before: Model, after: Model, session: Session) -> None:
        self._session = session
        records = table(comparison.schema, "coded_records")
        of_model = f"SELECT * FROM {records} WHERE topic = ? AND model_id = ? AND response_date BETWEEN ? AND ?"
        self._values = [
            value for model in (before, after) for value in (model.topic, model.model_id, *comparison.dates)
        ]
        self._with = f"""
            WITH before AS ({of_model}), after AS ({of_model}),
            crosswalk AS ({_read_crosswalk(comparison, session)}),
            pairs AS (
                SELECT response_date, record_id, occurrence, after.text_key AS text_key,
                    before.outcome AS before_outcome, after.outcome AS after_outcome,
                    before.code AS before_code, after.code AS after_code,
                    before.label AS before_label, after.label AS after_label,
                    before.confidence AS before_confidence, after.confidence AS after_confidence,
                    CASE WHEN before.text_key <> after.text_key THEN 1 ELSE 0 END AS reworded,
                    CASE
                        WHEN before.code IS NULL OR after.code IS NULL THEN NULL
                        WHEN crosswalk.to_code IS NOT NULL THEN 'kept'
                        WHEN mapped.from_code IS NOT NULL THEN 'moved'
                        ELSE 'unmapped'
                    END AS verdict
                FROM before FULL JOIN after USING (response_date, record_id, occurrence)
                LEFT JOIN crosswalk ON crosswalk.from_code = before.code AND crosswalk.to_code = after.code
                LEFT JOIN (SELECT DISTINCT from_code FROM crosswalk) AS mapped ON mapped.from_code = before.code
            ) """

    def ask(self, query: str, columns: Sequence[str]) -> pd.DataFrame:
        return pd.DataFrame(self._session.execute(self._with + query, self._values), columns=list(columns))

    def sample(self, count: int) -> pd.DataFrame:
        """Moved records, one of each text, in the order of the keys: they are hashes, and so it is a draw that comes
        out alike each time."""
        query = f"""
            SELECT {", ".join(_SAMPLED)} FROM (
                SELECT *, count(*) OVER (PARTITION BY text_key) AS alike, row_number() OVER (
                    PARTITION BY text_key ORDER BY response_date, record_id, occurrence
                ) AS place
                FROM pairs WHERE verdict = 'moved'
            ) AS moved
            WHERE place = 1 ORDER BY text_key LIMIT {count:d}"""
        return self.ask(query, _SAMPLED)


def _read_crosswalk(comparison: Comparison, session: Session) -> str:
    """The query of all pairs of codes that agree."""
    if not comparison.crosswalk:
        return "SELECT DISTINCT code AS from_code, code AS to_code FROM before WHERE code IS NOT NULL"
    name = comparison.crosswalk
    try:
        if not all(name.split(".")):
            raise NoSuchTableError("a part of the name is empty")
        found = {column.lower(): quote_column(column) for column in session.columns(quote_table(name)).names}
    except (NoSuchTableError, duckdb.BinderException) as error:
        said = str(error).splitlines()[0]
        raise SourceError(f"crosswalk {name!r} is no table or view of the warehouse: {said}") from None
    if missing := [column for column in ("from_code", "to_code") if column not in found]:
        raise SourceError(f"crosswalk {name!r} lacks the columns {missing}; it has {list(found)}: make a view")
    codes = [f"trim(CAST({found[column]} AS VARCHAR)) AS {column}" for column in ("from_code", "to_code")]
    filled = " AND ".join(f"{found[column]} IS NOT NULL" for column in ("from_code", "to_code"))
    return f"SELECT DISTINCT {', '.join(codes)} FROM {quote_table(name)} WHERE {filled}"


def _count(groups: pd.DataFrame) -> int:
    return int(groups["records"].sum())


def _count_outcomes(shared: pd.DataFrame) -> pd.DataFrame:
    counts = shared.groupby(["before_outcome", "after_outcome"])["records"].sum().unstack(fill_value=0)
    return counts.reindex(index=OUTCOMES, columns=OUTCOMES, fill_value=0)


def _count_agreement(coded: pd.DataFrame, crosswalk: pd.DataFrame) -> pd.DataFrame:
    """Agreement by level: the codes agree in the first n digits if the new one does with one that the old maps to."""
    mapped = coded[coded["verdict"] != "unmapped"].merge(crosswalk, left_on="before_code", right_on="from_code")
    digits = pd.concat([_digits(mapped["to_code"]), _digits(mapped["after_code"])], axis=1).min(axis=1)
    rows = []
    for level in LEVELS:
        deep = mapped[digits >= level]
        same = deep[deep["to_code"].str[:level] == deep["after_code"].str[:level]]
        # a pair stands once for each code that the old one maps to
        rows.append((level, *(_count(found.drop_duplicates(list(_GROUPED))) for found in (deep, same))))
    levels = pd.DataFrame(rows, columns=["level", "records", "agree"])
    return levels.assign(share=levels["agree"] / levels["records"])


def _digits(codes: pd.Series) -> pd.Series:
    """Number of digits of each code; 0 for a code of another form."""
    return codes.str.len().where(codes.str.fullmatch("[0-9]{1,6}"), 0)


def _rank(groups: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Records by the columns, the most first."""
    counted = groups.groupby(columns, as_index=False).agg({"records": "sum"})
    return counted.sort_values(["records", *columns], ascending=[False, *[True] * len(columns)])


def _find_moves(coded: pd.DataFrame) -> pd.DataFrame:
    moved = coded[coded["verdict"] == "moved"]
    ranked = _rank(moved, ["before_code", "before_label", "after_code", "after_label"]).head(MOST)
    return ranked.assign(share=ranked["records"] / _count(moved))


def _find_relabelled(coded: pd.DataFrame) -> pd.DataFrame:
    stayed = coded["before_code"] == coded["after_code"]
    changed = coded[stayed & (coded["before_label"] != coded["after_label"])]
    return _rank(changed, ["before_code", "before_label", "after_label"])


def _find_missing(coded: pd.DataFrame, crosswalk: pd.DataFrame) -> pd.DataFrame:
    """Codes of the records that the crosswalk does not have, on either side."""
    sides = []
    for column, side in (("from_code", "before"), ("to_code", "after")):
        missing = _rank(coded[~coded[f"{side}_code"].isin(crosswalk[column])], [f"{side}_code", f"{side}_label"])
        missing.columns = ["code", "label", "records"]
        missing.insert(0, "missing_as", column)
        sides.append(missing)
    return pd.concat(sides, ignore_index=True)


def _compare_confidence(pairs: _Pairs) -> pd.DataFrame:
    """Mean and median of both models. The median is that of thousandths, which take no memory to count."""
    columns = ("verdict", "confidence", "records", "total")
    sides = {
        side: pairs.ask(
            f"SELECT verdict, round({side}_confidence * 1000), count(*), sum({side}_confidence) FROM pairs"
            f" WHERE verdict IS NOT NULL AND {side}_confidence IS NOT NULL GROUP BY 1, 2 ORDER BY 2",
            columns,
        )
        for side in ("before", "after")
    }
    rows = []
    for verdict in ("all", *VERDICTS):
        told = [found if verdict == "all" else found[found["verdict"] == verdict] for found in sides.values()]
        if all(map(_count, told)):
            means = [float(found["total"].sum()) / _count(found) for found in told]
            rows.append((verdict, _count(told[1]), *means, *map(_median, told)))
    return pd.DataFrame(
        rows, columns=["verdict", "records", "mean_before", "mean_after", "median_before", "median_after"]
    )


def _median(found: pd.DataFrame) -> float:
    """Median of thousandths in their order, each with its count."""
    ordered = found.groupby("confidence")["records"].sum()
    upto, half = ordered.cumsum(), ordered.sum() / 2
    return float(ordered.index[upto >= half][0] + ordered.index[upto > half][0]) / 2000


def _read_texts(session: Session, schema: str, model: Model, samples: pd.DataFrame) -> pd.DataFrame:
    columns, keys = ("text_key", "occp_text", "tasks_text"), list(samples["text_key"])
    if not keys:
        return pd.DataFrame([], columns=columns)
    rows = session.execute(
        f"SELECT {', '.join(columns)} FROM {table(schema, 'coded_texts')}"
        f" WHERE topic = ? AND model_id = ? AND text_key IN ({', '.join('?' * len(keys))})",
        [model.topic, model.model_id, *keys],
    )
    return pd.DataFrame(rows, columns=columns)

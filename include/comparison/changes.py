"""What changed for the records that two models coded, computed in the warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from include.coding.errors import PlanError, SourceError
from include.coding.source_access import DEFAULT_ACCESS, SourceAccess, find_table
from include.coding.tables import table
from include.comparison.comparison import Comparison, Model, find_models
from include.warehouse.errors import NoSuchTableError
from include.warehouse.warehouse import Session, quote_column

OUTCOMES = ("coded", "uncoded", "rejected")
VERDICTS = ("kept", "moved", "unmapped")
LEVELS = range(1, 7)
MAX_TABLE_ROWS = 20

_GROUP_COLUMNS = (
    "before_outcome", "before_code", "before_label", "after_outcome", "after_code", "after_label", "verdict",
    "text_changed",
)  # fmt: skip
_SAMPLE_COLUMNS = (
    "response_date", "record_id", "occurrence", "before_code", "before_label", "after_code", "after_label",
    "text_key", "records_with_text",
)  # fmt: skip


@dataclass(frozen=True)
class Changes:
    """The differences between two models. Each record that both models coded has a verdict: `kept` if the crosswalk
    maps its old code to its new code, `moved` if it maps it to other codes only, `unmapped` if it lacks the old code.

    :param before, after: the models
    :param only_before, only_after: number of records that only one model has
    :param outcomes: number of records that both models have, by outcome before (rows) and after (columns)
    :param verdicts: number of records that both models coded, by verdict
    :param text_changes: number of records that both models coded, but from different texts
    :param agreement: for each level n: of the kept and moved records whose codes both have n digits or more, how many
        have codes that agree in the first n digits
    :param moves: the most frequent pairs of codes of moved records
    :param label_changes: codes that stayed the same while their label changed
    :param confidence: mean and median before and after
    :param missing_codes: codes of the records that the crosswalk lacks; empty without a crosswalk
    :param samples: moved records, one for each text, without the text
    :param texts: the texts of the samples by `text_key`; empty unless the comparison includes texts
    """

    comparison: Comparison
    before: Model
    after: Model
    only_before: int
    only_after: int
    outcomes: pd.DataFrame
    verdicts: dict[str, int]
    text_changes: int
    agreement: pd.DataFrame
    moves: pd.DataFrame
    label_changes: pd.DataFrame
    confidence: pd.DataFrame
    missing_codes: pd.DataFrame
    samples: pd.DataFrame
    texts: pd.DataFrame = field(repr=False)

    @property
    def in_both(self) -> int:
        """Number of records that both models have."""
        return int(self.outcomes.to_numpy().sum())

    @property
    def gained_code(self) -> int:
        """Number of records that have a code after, but not before."""
        return int(self.outcomes["coded"].drop("coded").to_numpy().sum())

    @property
    def lost_code(self) -> int:
        """Number of records that have a code before, but not after."""
        return int(self.outcomes.loc["coded"].drop("coded").to_numpy().sum())

    @property
    def without_code(self) -> int:
        """Number of records that have no code before or after."""
        return int(self.outcomes.drop(index="coded", columns="coded").to_numpy().sum())


def find_changes(comparison: Comparison, session: Session, access: SourceAccess = DEFAULT_ACCESS) -> Changes:
    """Compute what changed between the two models.

    :param access: what runs may read as crosswalk
    :raises PlanError: a model has no records, both are the same, or they have no record in common
    :raises SourceError: the crosswalk does not exist or lacks a column
    """
    before, after = find_models(comparison, session)
    pairs = _Pairs(comparison, before, after, session, access)
    columns = ", ".join(_GROUP_COLUMNS)
    groups = pairs.query(f"SELECT {columns}, count(*) FROM pairs GROUP BY {columns}", (*_GROUP_COLUMNS, "records"))  # noqa: S608
    in_both = groups.dropna(subset=["before_outcome", "after_outcome"])
    if in_both.empty:
        raise PlanError(f"no record is in both: {before}; {after}. Run recode_occupations for the same dates")
    coded = in_both.dropna(subset=["verdict"]).fillna({"before_label": "", "after_label": ""})
    crosswalk = pairs.query("SELECT from_code, to_code FROM crosswalk", ("from_code", "to_code"))
    samples = pairs.sample_moves(comparison.samples)
    return Changes(
        comparison,
        before,
        after,
        only_before=_count(groups[groups["after_outcome"].isna()]),
        only_after=_count(groups[groups["before_outcome"].isna()]),
        outcomes=_count_outcomes(in_both),
        verdicts={name: _count(coded[coded["verdict"] == name]) for name in VERDICTS},
        text_changes=_count(coded[coded["text_changed"] == 1]),
        agreement=_measure_agreement(coded, crosswalk),
        moves=_rank_moves(coded),
        label_changes=_rank_label_changes(coded),
        confidence=_compare_confidence(pairs),
        missing_codes=_rank_missing_codes(coded if comparison.crosswalk else coded[:0], crosswalk),
        samples=samples,
        texts=_read_texts(session, comparison.schema, after, samples if comparison.with_texts else samples[:0]),
    )


class _Pairs:
    """Runs queries on `pairs`, a row per record with its results before and after, and on `crosswalk`."""

    def __init__(
        self, comparison: Comparison, before: Model, after: Model, session: Session, access: SourceAccess
    ) -> None:
        self._session = session
        records = table(comparison.schema, "coded_records")
        select_model = f"SELECT * FROM {records} WHERE topic = ? AND model_id = ? AND response_date BETWEEN ? AND ?"  # noqa: S608
        before_values, after_values = ((model.topic, model.model_id, *comparison.dates) for model in (before, after))
        self._values = [*before_values, *after_values]
        self._with = f"""
            WITH before AS ({select_model}), after AS ({select_model}),
            crosswalk AS ({_select_crosswalk(comparison, session, access)}),
            pairs AS (
                SELECT response_date, record_id, occurrence, after.text_key AS text_key,
                    before.outcome AS before_outcome, after.outcome AS after_outcome,
                    before.code AS before_code, after.code AS after_code,
                    before.label AS before_label, after.label AS after_label,
                    before.confidence AS before_confidence, after.confidence AS after_confidence,
                    CASE WHEN before.text_key <> after.text_key THEN 1 ELSE 0 END AS text_changed,
                    CASE
                        WHEN before.code IS NULL OR after.code IS NULL THEN NULL
                        WHEN crosswalk.to_code IS NOT NULL THEN 'kept'
                        WHEN mapped.from_code IS NOT NULL THEN 'moved'
                        ELSE 'unmapped'
                    END AS verdict
                FROM before FULL JOIN after USING (response_date, record_id, occurrence)
                LEFT JOIN crosswalk ON crosswalk.from_code = before.code AND crosswalk.to_code = after.code
                LEFT JOIN (SELECT DISTINCT from_code FROM crosswalk) AS mapped ON mapped.from_code = before.code
            ) """  # noqa: S608

    def query(self, sql: str, columns: Sequence[str]) -> pd.DataFrame:
        return pd.DataFrame(self._session.execute(self._with + sql, self._values), columns=list(columns))

    def sample_moves(self, count: int) -> pd.DataFrame:
        """Return moved records, one for each text, in the order of the text keys. The keys are hashes, so this is a
        random sample that is the same each time."""
        query = f"""
            SELECT {", ".join(_SAMPLE_COLUMNS)} FROM (
                SELECT *, count(*) OVER (PARTITION BY text_key) AS records_with_text, row_number() OVER (
                    PARTITION BY text_key ORDER BY response_date, record_id, occurrence
                ) AS rank_in_text
                FROM pairs WHERE verdict = 'moved'
            ) AS moved
            WHERE rank_in_text = 1 ORDER BY text_key LIMIT {count:d}"""  # noqa: S608
        return self.query(query, _SAMPLE_COLUMNS)


def _select_crosswalk(comparison: Comparison, session: Session, access: SourceAccess) -> str:
    """Return a query for all pairs of codes that agree."""
    if not comparison.crosswalk:
        return "SELECT DISTINCT code AS from_code, code AS to_code FROM before WHERE code IS NOT NULL"
    name = comparison.crosswalk
    table_name = find_table(name, access, session)
    if table_name is None:
        raise SourceError(
            f"crosswalk {name!r} is not a table or view of the warehouse that runs may read"
            f" ({access.describe_tables()}). Check its name; if it is in another schema, have it added to"
            " CODING_SOURCE_TABLES"
        )
    try:
        columns = {column.lower(): quote_column(column) for column in session.columns(table_name).names}
    except NoSuchTableError as error:
        raise SourceError(f"crosswalk {name!r} is a view that fails: {error}") from None
    if missing := [column for column in ("from_code", "to_code") if column not in columns]:
        raise SourceError(f"crosswalk {name!r} has the columns {list(columns)}. Create a view with {missing}")
    codes = [f"trim(CAST({columns[column]} AS VARCHAR)) AS {column}" for column in ("from_code", "to_code")]
    not_null = " AND ".join(f"{columns[column]} IS NOT NULL" for column in ("from_code", "to_code"))
    return f"SELECT DISTINCT {', '.join(codes)} FROM {table_name} WHERE {not_null}"  # noqa: S608


def _count(groups: pd.DataFrame) -> int:
    return int(groups["records"].sum())


def _count_outcomes(in_both: pd.DataFrame) -> pd.DataFrame:
    counts = in_both.groupby(["before_outcome", "after_outcome"])["records"].sum().unstack(fill_value=0)
    return counts.reindex(index=OUTCOMES, columns=OUTCOMES, fill_value=0)


def _measure_agreement(coded: pd.DataFrame, crosswalk: pd.DataFrame) -> pd.DataFrame:
    """Return the agreement by level. At level n, the new code must share its first n digits with a code that the old
    code maps to."""
    pairs = coded[coded["verdict"] != "unmapped"].merge(crosswalk, left_on="before_code", right_on="from_code")
    digits = pd.concat([_count_digits(pairs["to_code"]), _count_digits(pairs["after_code"])], axis=1).min(axis=1)
    rows = []
    for level in LEVELS:
        eligible = pairs[digits >= level]
        agreeing = eligible[eligible["to_code"].str[:level] == eligible["after_code"].str[:level]]
        # the merge repeats a group of records for each code that its old code maps to
        rows.append((level, *(_count(frame.drop_duplicates(list(_GROUP_COLUMNS))) for frame in (eligible, agreeing))))
    agreement = pd.DataFrame(rows, columns=["level", "records", "agree"])
    return agreement.assign(share=agreement["agree"] / agreement["records"])


def _count_digits(codes: pd.Series) -> pd.Series:
    """Return the number of digits of each code, 0 for a code that is not 1 to 6 digits."""
    return codes.str.len().where(codes.str.fullmatch("[0-9]{1,6}"), 0)


def _rank(groups: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the number of records for each value of the columns, the largest first."""
    counts = groups.groupby(columns, as_index=False).agg({"records": "sum"})
    return counts.sort_values(["records", *columns], ascending=[False, *[True] * len(columns)])


def _rank_moves(coded: pd.DataFrame) -> pd.DataFrame:
    moved = coded[coded["verdict"] == "moved"]
    moves = _rank(moved, ["before_code", "before_label", "after_code", "after_label"]).head(MAX_TABLE_ROWS)
    return moves.assign(share=moves["records"] / _count(moved))


def _rank_label_changes(coded: pd.DataFrame) -> pd.DataFrame:
    is_same_code = coded["before_code"] == coded["after_code"]
    is_new_label = coded["before_label"] != coded["after_label"]
    return _rank(coded[is_same_code & is_new_label], ["before_code", "before_label", "after_label"])


def _rank_missing_codes(coded: pd.DataFrame, crosswalk: pd.DataFrame) -> pd.DataFrame:
    """Return the codes of the records that the crosswalk lacks, before and after."""
    sides = []
    for column, side in (("from_code", "before"), ("to_code", "after")):
        missing = _rank(coded[~coded[f"{side}_code"].isin(crosswalk[column])], [f"{side}_code", f"{side}_label"])
        missing.columns = ["code", "label", "records"]
        missing.insert(0, "missing_as", column)
        sides.append(missing)
    return pd.concat(sides, ignore_index=True)


def _compare_confidence(pairs: _Pairs) -> pd.DataFrame:
    """Return the mean and the median confidence of both models. The warehouse counts records by thousandths of
    confidence, so finding the median takes little memory."""
    columns = ("verdict", "thousandths", "records", "total")
    sides = [
        pairs.query(
            f"SELECT verdict, round({side}_confidence * 1000), count(*), sum({side}_confidence) FROM pairs"  # noqa: S608
            f" WHERE verdict IS NOT NULL AND {side}_confidence IS NOT NULL GROUP BY 1, 2 ORDER BY 2",
            columns,
        )
        for side in ("before", "after")
    ]
    rows = []
    for verdict in ("all", *VERDICTS):
        groups = [side if verdict == "all" else side[side["verdict"] == verdict] for side in sides]
        if all(map(_count, groups)):
            means = [float(side["total"].sum()) / _count(side) for side in groups]
            rows.append((verdict, _count(groups[1]), *means, *map(_find_median, groups)))
    measures = ["mean_before", "mean_after", "median_before", "median_after"]
    return pd.DataFrame(rows, columns=["verdict", "records", *measures])


def _find_median(groups: pd.DataFrame) -> float:
    """Return the median confidence of groups that are sorted by `thousandths`."""
    counts = groups.groupby("thousandths")["records"].sum()
    running_total, half = counts.cumsum(), counts.sum() / 2
    return float(counts.index[running_total >= half][0] + counts.index[running_total > half][0]) / 2000


def _read_texts(session: Session, schema: str, model: Model, samples: pd.DataFrame) -> pd.DataFrame:
    columns, keys = ("text_key", "occp_text", "tasks_text"), list(samples["text_key"])
    if not keys:
        return pd.DataFrame([], columns=columns)
    rows = session.execute(
        f"SELECT {', '.join(columns)} FROM {table(schema, 'coded_texts')}"  # noqa: S608
        f" WHERE topic = ? AND model_id = ? AND text_key IN ({', '.join('?' * len(keys))})",
        [model.topic, model.model_id, *keys],
    )
    return pd.DataFrame(rows, columns=columns)

"""The sample answers: reproducible, and as varied and dirty as real ones."""

from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.stack.sample import main, write_sample

Answer = tuple[str | None, str | None]


def make_sample(folder: Path, rows: int = 2000, days: int = 30) -> pa.Table:
    write_sample(folder / "sample.parquet", rows, days=days)
    return pq.read_table(folder / "sample.parquet")


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return make_sample(tmp_path_factory.mktemp("sample"), 20_000)


@pytest.fixture(scope="session")
def answers(table: pa.Table) -> list[Answer]:
    return list(zip(table["occp_text"].to_pylist(), table["tasks_text"].to_pylist(), strict=True))


def test_the_columns_are_those_of_a_survey(table: pa.Table) -> None:
    assert table.schema.names == ["record_id", "response_date", "occp_text", "tasks_text"]
    assert table.schema.types == [pa.string(), pa.date32(), pa.string(), pa.string()]
    assert table.num_rows == 20_000


def test_every_day_of_the_period_has_responses_and_no_other_day_has(table: pa.Table) -> None:
    days = {date(2026, 10, 1) + timedelta(days=day) for day in range(30)}
    assert set(table["response_date"].to_pylist()) == days


def test_the_same_seed_gives_the_same_file_and_a_different_seed_a_different_file(tmp_path: Path) -> None:
    contents = []
    for name, seed in [("one", 1), ("again", 1), ("two", 2)]:
        write_sample(tmp_path / name, 2000, seed=seed)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "again", "two"}


@pytest.mark.parametrize("rows", [5000, 20_000, 100_000])
def test_15_to_20_percent_of_the_pairs_are_distinct_whatever_the_size(tmp_path: Path, rows: int) -> None:
    table = make_sample(tmp_path, rows)
    distinct = table.group_by(["occp_text", "tasks_text"]).aggregate([]).num_rows
    assert 0.15 <= distinct / rows <= 0.20


def test_a_few_answers_are_frequent_and_many_are_rare(answers: list[Answer]) -> None:
    counts = sorted(Counter(answers).values(), reverse=True)
    assert 100 < counts[0] < 0.03 * len(answers)
    assert sum(count <= 2 for count in counts) > 0.4 * len(counts)


def test_about_a_thousandth_of_the_record_ids_occur_twice_on_one_day_with_different_answers(
    table: pa.Table,
) -> None:
    by_id: dict[str, list[tuple[object, ...]]] = {}
    for row in table.to_pylist():
        by_id.setdefault(row["record_id"], []).append(tuple(row.values()))
    duplicates = [rows for rows in by_id.values() if len(rows) > 1]
    assert len(duplicates) == 20
    for first, second in duplicates:
        assert first[1] == second[1]
        assert first[2:] != second[2:]


def join_texts(answer: Answer) -> str:
    return "".join(text or "" for text in answer)


def is_blank(answer: Answer) -> bool:
    return not join_texts(answer).strip()


def is_short_printable_ascii(text: str) -> bool:
    return len(text) <= 300 and text.isascii() and text.isprintable()


def test_about_two_percent_of_the_answers_are_dirty(answers: list[Answer]) -> None:
    dirty = sum(is_blank(answer) or not is_short_printable_ascii(join_texts(answer)) for answer in answers)
    assert 0.01 < dirty / len(answers) < 0.03


KINDS: dict[str, Callable[[Answer], bool]] = {
    "both blank": lambda a: a == ("", ""),
    "both null": lambda a: a == (None, None),
    "spaces only": lambda a: is_blank(a) and " " in join_texts(a),
    "accents": lambda a: "café" in join_texts(a),
    "typography": lambda a: "“" in join_texts(a) and "’" in join_texts(a) and "–" in join_texts(a),
    "tab": lambda a: "\t" in join_texts(a),
    "newline": lambda a: "\n" in join_texts(a),
    "control character": lambda a: "\x1a" in join_texts(a),
    "emoji": lambda a: "😀" in join_texts(a),
    "another script": lambda a: "护士" in join_texts(a),
    "too long": lambda a: len(join_texts(a)) > 300,
    "no tasks": lambda a: a[1] is None and not is_blank(a),
    "first person": lambda a: (a[1] or "").startswith("I look after"),
    "casual": lambda a: "casual" in (a[0] or ""),
    "full time": lambda a: (a[0] or "").endswith(" FT"),
    "self employed": lambda a: a[0] == "self employed",
    "retired": lambda a: a[0] == "retired",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_sample_has_every_kind_of_answer(answers: list[Answer], kind: str) -> None:
    assert any(map(KINDS[kind], answers))


def test_titles_are_in_lower_case_and_in_capitals_and_have_typos(answers: list[Answer]) -> None:
    titles = {title for title, _ in answers if title}
    assert any(title.isupper() and " " in title for title in titles)
    assert any(title.islower() for title in titles)
    assert len({title for title in titles if "electri" in title.lower()}) > 10


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_a_tiny_sample_can_be_made(tmp_path: Path, rows: int) -> None:
    assert make_sample(tmp_path, rows, days=1).num_rows == rows


@pytest.mark.parametrize(("rows", "days"), [(0, 1), (1, 0)])
def test_an_empty_sample_is_refused(tmp_path: Path, rows: int, days: int) -> None:
    with pytest.raises(ValueError, match="one row and one day"):
        make_sample(tmp_path, rows, days=days)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_sets_rows_days_seed_and_first_day(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    main([str(path), "--rows", "50", "--days", "2", "--seed", "7", "--first-day", "2026-01-31"])
    table = pq.read_table(path)
    assert table.num_rows == 50
    assert set(table["response_date"].to_pylist()) <= {date(2026, 1, 31), date(2026, 2, 1)}

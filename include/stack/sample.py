"""Sample survey answers: job titles and tasks as people type them, including typos and unusable answers.

All answers are generated from the classification that ships with the local service; none come from real people.

    python -m include.stack.sample OUT.parquet --rows 20000
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FIRST_DAY: Final = date(2026, 10, 1)

Answer: TypeAlias = tuple[str | None, str | None]  # occp_text, tasks_text
Integers: TypeAlias = NDArray[np.intp]

_CLASSIFICATION = Path(__file__).parents[1] / "local_service" / "coder" / "classification.jsonl"
_DISTINCT_SHARE = 0.165  # distinct answers per record, before dirty answers add more
_COMMON_ANSWER_COUNT = 400  # answers without variation, which many people give in the same words
_RANK_OFFSET = 10.0  # the popularity of an answer is 1 / (rank + offset)
_VAGUE_SHARE = 0.01
_DIRTY_SHARE = 0.02
_DUPLICATE_ID_SHARE = 0.001
_MISSING_TASKS_SHARE = 0.25
_TYPO_SHARE = 0.08
_ABBREVIATION_SHARE = 0.15

_WORDS: dict[str, Any] = json.loads(Path(__file__).with_name("sample_words.json").read_text(encoding="utf-8"))
_TITLE_TEMPLATES = ["{}"] * 14 + _WORDS["title_templates"]
_TASK_TEMPLATES = ["{}"] * 10 + _WORDS["task_templates"]
_VAGUE_ANSWERS: list[Answer] = [(title, tasks) for title, tasks in _WORDS["vague_answers"]]
_SEPARATORS = (", ", ", ", "; ", " and ", " + ", ". ", " / ")
_TASK_CASES: tuple[Callable[[str], str], ...] = (str.lower, str.lower, str, str, str.capitalize, str.title)
_TITLE_CASES = (*_TASK_CASES, str.upper)
_NEIGHBOUR_KEYS = {
    letter: row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for place, letter in enumerate(row)
}


def write_sample(path: Path, rows: int = 20_000, first_day: date = FIRST_DAY, days: int = 30, seed: int = 1) -> None:
    """Write survey-like answers to a Parquet file. The same arguments give the same records.

    Columns: record_id (string; about one in a thousand occurs twice, on the same day with different answers),
    response_date (date32), occp_text and tasks_text (string or null). Of the pairs of texts, 15 to 20 % are
    distinct, about 2 % are dirty and 1 % say nothing about the occupation.

    :param path: the file to write, in a folder that exists. It is never incomplete.
    :param rows: number of records
    :param first_day: the first response date
    :param days: number of response dates
    :param seed: a different seed gives different answers
    :raises ValueError: `rows` or `days` is less than 1
    """
    if rows < 1 or days < 1:
        raise ValueError(f"a sample needs at least one row and one day, got {rows} and {days}")
    table = _make_table(rows, first_day, days, seed)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial)
    partial.replace(path)


def _make_table(rows: int, first_day: date, days: int, seed: int) -> pa.Table:
    rng, numpy_rng = random.Random(seed), np.random.default_rng(seed)
    answers = _write_answers(max(1, round(rows * _DISTINCT_SHARE)), rng)
    answer_index = _assign_answers(len(answers), rows, numpy_rng)
    order = numpy_rng.permutation(rows)
    vague, dirty = round(rows * _VAGUE_SHARE), round(rows * _DIRTY_SHARE)
    _replace_answers(answers, answer_index, order[:vague], lambda _: rng.choice(_VAGUE_ANSWERS))
    _replace_answers(answers, answer_index, order[vague : vague + dirty], lambda answer: _make_dirty(answer, rng))
    numbers, day = np.arange(1, rows + 1), np.sort(numpy_rng.integers(0, days, rows))
    _duplicate_ids(numbers, day, answers, answer_index, numpy_rng)
    titles, tasks = (
        pa.array(texts, pa.string()).take(pa.array(answer_index)) for texts in zip(*answers, strict=True)
    )
    columns = {
        "record_id": pa.array([f"R{number:08d}" for number in numbers], pa.string()),
        "response_date": pa.array((day + (first_day - date(1970, 1, 1)).days).astype(np.int32)).cast(pa.date32()),
        "occp_text": titles,
        "tasks_text": tasks,
    }
    return pa.table(columns).take(pa.array(np.argsort(day, kind="stable")))


def _assign_answers(answers: int, rows: int, numpy_rng: np.random.Generator) -> Integers:
    """Return the index of the answer of each record. Every answer occurs; low indices occur most often."""
    ranks = _RANK_OFFSET * ((1 + answers / _RANK_OFFSET) ** numpy_rng.random(rows - answers) - 1)
    return numpy_rng.permutation(np.concatenate([np.arange(answers), ranks.astype(np.intp)]))


def _replace_answers(
    answers: list[Answer], answer_index: Integers, records: Integers, rewrite: Callable[[Answer], Answer]
) -> None:
    """Replace the answers of these records by answers made from them, without changing other records."""
    for record in records:
        answers.append(rewrite(answers[answer_index[record]]))
        answer_index[record] = len(answers) - 1


def _duplicate_ids(
    numbers: Integers,
    day: Integers,
    answers: Sequence[Answer],
    answer_index: Integers,
    numpy_rng: np.random.Generator,
) -> None:
    """Give some records the number and the day of a record with a different answer."""
    count = round(len(numbers) * _DUPLICATE_ID_SHARE)
    firsts, seconds = numpy_rng.permutation(len(numbers))[: 4 * count].reshape(2, -1)
    pairs = zip(answer_index[firsts], answer_index[seconds], strict=True)
    differ = [answers[one] != answers[other] for one, other in pairs]
    firsts, seconds = firsts[differ][:count], seconds[differ][:count]
    numbers[seconds], day[seconds] = numbers[firsts], day[firsts]


# ---------------------------------------------------------------- usable answers


def _write_answers(count: int, rng: random.Random) -> list[Answer]:
    categories = map(json.loads, _CLASSIFICATION.read_text(encoding="utf-8").splitlines())
    occupations = [(row["titles"], row["tasks"]) for row in categories if "titles" in row]
    rng.shuffle(occupations)
    weights = [1 / (rank + 20) for rank in range(len(occupations))]
    workers = rng.choices(occupations, weights, k=count)
    common = [
        (rng.choice(titles[:3]), rng.choice((None, *tasks[:2]))) for titles, tasks in workers[:_COMMON_ANSWER_COUNT]
    ]
    return common + [
        (_write_title(titles, rng), _write_tasks(tasks, rng)) for titles, tasks in workers[_COMMON_ANSWER_COUNT:]
    ]


def _write_title(titles: Sequence[str], rng: random.Random) -> str:
    title = rng.choice(_TITLE_TEMPLATES).format(rng.choice(titles))
    return rng.choice(_TITLE_CASES)(_add_mistakes(title, rng))


def _write_tasks(tasks: Sequence[str], rng: random.Random) -> str | None:
    if rng.random() < _MISSING_TASKS_SHARE:
        return rng.choice((None, None, None, ""))
    selection = rng.sample(tasks, rng.choice((1, 1, 1, 2, 2, 3)))
    text = rng.choice(_TASK_TEMPLATES).format(rng.choice(_SEPARATORS).join(selection))
    return rng.choice(_TASK_CASES)(_add_mistakes(text, rng)) + rng.choice(("", "", "", ".", " "))


def _add_mistakes(text: str, rng: random.Random) -> str:
    if rng.random() < _ABBREVIATION_SHARE:
        text = re.sub(r"\w+", lambda word: _WORDS["abbreviations"].get(word[0].lower(), word[0]), text)
    return _add_typo(text, rng) if rng.random() < _TYPO_SHARE else text


def _add_typo(text: str, rng: random.Random) -> str:
    """Omit a letter, double it, swap it with the next one, or replace it by a neighbour on the keyboard."""
    at = rng.randrange(1, max(len(text) - 1, 2))
    letter, following = text[at : at + 1], text[at + 1 : at + 2]
    neighbour = rng.choice(_NEIGHBOUR_KEYS.get(letter.lower(), letter) or " ")
    typo = rng.choice((following, letter * 2 + following, following + letter, neighbour + following))
    return text[:at] + typo + text[at + 2 :]


# ---------------------------------------------------------------- dirty answers


def _make_dirty(answer: Answer, rng: random.Random) -> Answer:
    title, tasks = answer
    return rng.choice(_DIRTY_VARIANTS)(title or "", tasks or "", rng)


def _insert(text: str, addition: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + addition + text[at:]


def _make_too_long(text: str) -> str:
    story = f"{text} and after that whatever else has to be done. "
    return story * (1 + 300 // len(story))


_DIRTY_VARIANTS: tuple[Callable[[str, str, random.Random], Answer], ...] = (
    lambda title, tasks, rng: ("", ""),
    lambda title, tasks, rng: (" " * rng.randint(1, 5), " " * rng.randint(0, 3)),
    lambda title, tasks, rng: (None, None),
    lambda title, tasks, rng: (f"{title} {rng.choice(_WORDS['accented_words'])}", tasks),
    lambda title, tasks, rng: (f"“{title}”", f"I’m the one who does it – {tasks}…"),
    lambda title, tasks, rng: (
        title.replace(" ", "\t"),
        _insert(tasks, rng.choice(("\n", "\r\n", "\t", "\n\n")), rng),
    ),
    lambda title, tasks, rng: (_insert(title, "\x1a", rng), tasks),
    lambda title, tasks, rng: (title, f"{tasks} {rng.choice(_WORDS['emoji'])}"),
    lambda title, tasks, rng: (rng.choice(_WORDS["titles_in_other_scripts"]), rng.choice((tasks, None))),
    lambda title, tasks, rng: (title, _make_too_long(tasks or title)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a sample as specified on the command line.

    :param arguments: arguments without the program's name; None for those of this process
    """
    parser = argparse.ArgumentParser("python -m include.stack.sample", description="Write sample survey answers.")
    parser.add_argument("path", type=Path, metavar="OUT.parquet", help="the file to write")
    parser.add_argument("--rows", type=int, default=20_000, help="number of records (%(default)s)")
    parser.add_argument("--first-day", type=date.fromisoformat, default=FIRST_DAY, help="first date (%(default)s)")
    parser.add_argument("--days", type=int, default=30, help="number of dates (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="a different seed gives different answers (%(default)s)")
    write_sample(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()

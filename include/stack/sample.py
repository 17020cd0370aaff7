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
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FIRST_DAY: Final = date(2026, 10, 1)

Answer: TypeAlias = tuple[str | None, str | None]  # occp_text, tasks_text
MakeDirty: TypeAlias = Callable[[str, str, random.Random], Answer]

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

_ABBREVIATIONS = {
    "and": "&",
    "manager": "mgr",
    "assistant": "asst",
    "operator": "op",
    "officer": "off",
    "supervisor": "supv",
    "administration": "admin",
    "customer": "cust",
    "customers": "custs",
    "department": "dept",
    "equipment": "equip",
    "government": "govt",
    "maintenance": "maint",
    "management": "mgmt",
    "service": "svc",
    "technician": "tech",
    "university": "uni",
    "with": "w/",
}
_TITLE_TEMPLATES = (
    *["{}"] * 14,
    "casual {}",
    "{} casual",
    "{} FT",
    "{} PT",
    "{} (part time)",
    "{} - full time",
    "senior {}",
    "trainee {}",
    "I am a {}",
    "im a {}",
    "work as a {}",
    "{}, own business",
)
_TASK_TEMPLATES = (
    *["{}"] * 10,
    "I {}",
    "i {}",
    "I mostly {}",
    "my job is to {}",
    "I have to {}",
    "mainly {}",
    "{} etc",
    "{} and other duties",
    "{} every day",
)
_SEPARATORS = (", ", ", ", "; ", " and ", " + ", ". ", " / ")
_LETTER_CASES: tuple[Callable[[str], str], ...] = (
    str.lower,
    str.lower,
    str,
    str,
    str.capitalize,
    str.title,
    str.upper,
)
_MISSING_TASKS_VALUES = (None, None, None, "")
_NEIGHBOUR_KEYS = {
    letter: row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for place, letter in enumerate(row)
}
_VAGUE_ANSWERS: tuple[Answer, ...] = (
    ("self employed", None),
    ("worker", None),
    ("retired", None),
    ("Self-employed", "various"),
    ("n/a", "n/a"),
    ("none", ""),
    ("student", None),
    ("home duties", None),
    ("own business", "everything"),
    ("various", None),
    ("employee", "work"),
    ("unemployed", None),
    ("?", "-"),
    ("prefer not to say", None),
    ("my job", "my job"),
)
_OTHER_SCRIPT_TITLES = ("护士", "厨师", "бухгалтер", "νοσοκόμα", "سائق شاحنة", "शिक्षक")
_EMOJI = ("😀", "👍", "🚚", "👩‍🍳", "💪🏽")


class _Occupation(NamedTuple):
    titles: list[str]
    tasks: list[str]


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
    return _to_arrow(numbers, day + (first_day - date(1970, 1, 1)).days, answers, answer_index)


def _to_arrow(
    numbers: NDArray[np.intp], day: NDArray[np.intp], answers: Sequence[Answer], answer_index: NDArray[np.intp]
) -> pa.Table:
    indices = pa.array(answer_index)
    titles, tasks = (pa.array(texts, pa.string()).take(indices) for texts in zip(*answers, strict=True))
    columns = {
        "record_id": pa.array([f"R{number:08d}" for number in numbers], pa.string()),
        "response_date": pa.array(day.astype(np.int32)).cast(pa.date32()),
        "occp_text": titles,
        "tasks_text": tasks,
    }
    return pa.table(columns).take(pa.array(np.argsort(day, kind="stable")))


def _assign_answers(answers: int, rows: int, numpy_rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the index of the answer of each record. Every answer occurs; low indices occur most often."""
    ranks = _RANK_OFFSET * ((1 + answers / _RANK_OFFSET) ** numpy_rng.random(rows - answers) - 1)
    return numpy_rng.permutation(np.concatenate([np.arange(answers), ranks.astype(np.intp)]))


def _replace_answers(
    answers: list[Answer],
    answer_index: NDArray[np.intp],
    records: NDArray[np.intp],
    rewrite: Callable[[Answer], Answer],
) -> None:
    """Replace the answers of these records by answers made from them, without changing other records."""
    for record in records:
        answers.append(rewrite(answers[answer_index[record]]))
        answer_index[record] = len(answers) - 1


def _duplicate_ids(
    numbers: NDArray[np.intp],
    day: NDArray[np.intp],
    answers: Sequence[Answer],
    answer_index: NDArray[np.intp],
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
    occupations = _read_occupations()
    rng.shuffle(occupations)
    weights = [1 / (rank + 20) for rank in range(len(occupations))]
    workers = rng.choices(occupations, weights, k=count)
    return [
        _write_common_answer(worker, rng) if rank < _COMMON_ANSWER_COUNT else _write_varied_answer(worker, rng)
        for rank, worker in enumerate(workers)
    ]


def _read_occupations() -> list[_Occupation]:
    categories = map(json.loads, _CLASSIFICATION.read_text(encoding="utf-8").splitlines())
    return [_Occupation(row["titles"], row["tasks"]) for row in categories if "titles" in row]


def _write_common_answer(occupation: _Occupation, rng: random.Random) -> Answer:
    return rng.choice(occupation.titles[:3]), rng.choice((None, *occupation.tasks[:2]))


def _write_varied_answer(occupation: _Occupation, rng: random.Random) -> Answer:
    return _write_title(occupation.titles, rng), _write_tasks(occupation.tasks, rng)


def _write_title(titles: Sequence[str], rng: random.Random) -> str:
    title = rng.choice(_TITLE_TEMPLATES).format(rng.choice(titles))
    return rng.choice(_LETTER_CASES)(_add_mistakes(title, rng))


def _write_tasks(tasks: Sequence[str], rng: random.Random) -> str | None:
    if rng.random() < _MISSING_TASKS_SHARE:
        return rng.choice(_MISSING_TASKS_VALUES)
    selection = rng.sample(tasks, rng.choice((1, 1, 1, 2, 2, 3)))
    text = rng.choice(_TASK_TEMPLATES).format(rng.choice(_SEPARATORS).join(selection))
    return rng.choice(_LETTER_CASES[:-1])(_add_mistakes(text, rng)) + rng.choice(("", "", "", ".", " "))


def _add_mistakes(text: str, rng: random.Random) -> str:
    if rng.random() < _ABBREVIATION_SHARE:
        text = re.sub(r"\w+", lambda word: _ABBREVIATIONS.get(word[0].lower(), word[0]), text)
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


def _make_blank(_title: str, _tasks: str, _rng: random.Random) -> Answer:
    return "", ""


def _make_spaces(_title: str, _tasks: str, rng: random.Random) -> Answer:
    return " " * rng.randint(1, 5), " " * rng.randint(0, 3)


def _make_null(_title: str, _tasks: str, _rng: random.Random) -> Answer:
    return None, None


def _add_accents(title: str, tasks: str, rng: random.Random) -> Answer:
    return f"{title} {rng.choice(('café', 'crèche', 'pâtisserie', 'jalapeño bar'))}", tasks


def _add_typography(title: str, tasks: str, _rng: random.Random) -> Answer:
    return f"“{title}”", f"I’m the one who does it – {tasks}…"


def _add_white_space(title: str, tasks: str, rng: random.Random) -> Answer:
    return title.replace(" ", "\t"), _insert(tasks, rng.choice(("\n", "\r\n", "\t", "\n\n")), rng)


def _add_control_character(title: str, tasks: str, rng: random.Random) -> Answer:
    return _insert(title, "\x1a", rng), tasks


def _add_emoji(title: str, tasks: str, rng: random.Random) -> Answer:
    return title, f"{tasks} {rng.choice(_EMOJI)}"


def _use_other_script(_title: str, tasks: str, rng: random.Random) -> Answer:
    return rng.choice(_OTHER_SCRIPT_TITLES), rng.choice((tasks, None))


def _make_too_long(title: str, tasks: str, _rng: random.Random) -> Answer:
    story = f"{tasks or title} and after that whatever else has to be done. "
    return title, story * (1 + 300 // len(story))


_DIRTY_VARIANTS: tuple[MakeDirty, ...] = (
    _make_blank,
    _make_spaces,
    _make_null,
    _add_accents,
    _add_typography,
    _add_white_space,
    _add_control_character,
    _add_emoji,
    _use_other_script,
    _make_too_long,
)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m include.stack.sample", description="Write sample survey answers.")
    parser.add_argument("path", type=Path, metavar="OUT.parquet", help="the file to write")
    parser.add_argument("--rows", type=int, default=20_000, help="number of records (%(default)s)")
    parser.add_argument("--first-day", type=date.fromisoformat, default=FIRST_DAY, help="first date (%(default)s)")
    parser.add_argument("--days", type=int, default=30, help="number of dates (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="a different seed gives different answers (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a sample as specified on the command line.

    :param arguments: arguments without the program's name; None for those of this process
    """
    write_sample(**vars(_parse_arguments(arguments)))


if __name__ == "__main__":
    main()

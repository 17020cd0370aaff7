"""Sample survey answers to try things out: a job title and tasks in people's own words, dirt and all.

Everything is made up from the words of the shipped classification; nobody ever gave these answers.

    python -m include.sample OUT.parquet --rows 20000
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
Dirt: TypeAlias = Callable[[str, str, random.Random], Answer]

_CLASSIFICATION = Path(__file__).parent / "local_service" / "coder" / "classification.jsonl"
_DISTINCT_SHARE = 0.165  # distinct answers per record, before the dirt adds some
_COMMON_ANSWERS = 400  # so many are written plainly: the answers that thousands give in the same words
_HEAD = 10.0  # of the popularity of answers, 1 / (rank + head): how far down its flat top reaches
_VAGUE_SHARE = 0.01
_DIRT_SHARE = 0.02
_TWICE_SHARE = 0.001
_MISSING_TASKS_SHARE = 0.25
_SLIP_SHARE = 0.08
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
_TITLE_FRAMES = (
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
_TASK_FRAMES = (
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
_JOINTS = (", ", ", ", "; ", " and ", " + ", ". ", " / ")
_CASES: tuple[Callable[[str], str], ...] = (
    str.lower,
    str.lower,
    str,
    str,
    str.capitalize,
    str.title,
    str.upper,
)
_MISSING_TASKS = (None, None, None, "")
_NEIGHBOURS = {
    letter: row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for place, letter in enumerate(row)
}
_VAGUE: tuple[Answer, ...] = (
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
_OTHER_SCRIPTS = ("护士", "厨师", "бухгалтер", "νοσοκόμα", "سائق شاحنة", "शिक्षक")
_EMOJI = ("😀", "👍", "🚚", "👩‍🍳", "💪🏽")


class _Occupation(NamedTuple):
    titles: list[str]
    tasks: list[str]


def write_sample(
    path: Path,
    rows: int = 20_000,
    first_day: date = FIRST_DAY,
    days: int = 30,
    seed: int = 1,
) -> None:
    """Write survey-like answers as Parquet; the same arguments give the same records.

    Columns: record_id (string; about one in a thousand stands twice, on the same day with another answer),
    response_date (date32), occp_text and tasks_text (string or null). Of the pairs of texts 15 to 20 % are
    distinct, about 2 % are dirty and 1 % say nothing about the occupation.

    :param path: the file to write; its folder must exist. It appears whole or not at all.
    :param rows: number of records.
    :param first_day: the first response date.
    :param days: number of days that the response dates spread over.
    :param seed: another seed, other answers.
    :raises ValueError: when ``rows`` or ``days`` is less than 1.
    """
    if rows < 1 or days < 1:
        raise ValueError(f"a sample has one row and one day at least, not {rows} and {days}")
    table = _make_table(rows, first_day, days, seed)
    unfinished = path.with_name(path.name + ".unfinished")
    pq.write_table(table, unfinished)
    unfinished.replace(path)


def _make_table(rows: int, first_day: date, days: int, seed: int) -> pa.Table:
    chance, draw = random.Random(seed), np.random.default_rng(seed)
    answers = _write_answers(max(1, round(rows * _DISTINCT_SHARE)), chance)
    chosen = _choose(len(answers), rows, draw)
    order = draw.permutation(rows)
    vague, dirty = round(rows * _VAGUE_SHARE), round(rows * _DIRT_SHARE)
    _replace(answers, chosen, order[:vague], lambda _: chance.choice(_VAGUE))
    _replace(answers, chosen, order[vague : vague + dirty], lambda answer: _soil(answer, chance))
    numbers, day = np.arange(1, rows + 1), np.sort(draw.integers(0, days, rows))
    _repeat_some(numbers, day, answers, chosen, draw)
    return _as_table(numbers, day + (first_day - date(1970, 1, 1)).days, answers, chosen)


def _as_table(
    numbers: NDArray[np.intp], day: NDArray[np.intp], answers: Sequence[Answer], chosen: NDArray[np.intp]
) -> pa.Table:
    places = pa.array(chosen)
    titles, tasks = (pa.array(texts, pa.string()).take(places) for texts in zip(*answers, strict=True))
    columns = {
        "record_id": pa.array([f"R{number:08d}" for number in numbers], pa.string()),
        "response_date": pa.array(day.astype(np.int32)).cast(pa.date32()),
        "occp_text": titles,
        "tasks_text": tasks,
    }
    return pa.table(columns).take(pa.array(np.argsort(day, kind="stable")))


def _choose(answers: int, rows: int, draw: np.random.Generator) -> NDArray[np.intp]:
    """Which answer each record gives: every answer once, the rest by a popularity that falls by rank."""
    ranks = _HEAD * ((1 + answers / _HEAD) ** draw.random(rows - answers) - 1)
    return draw.permutation(np.concatenate([np.arange(answers), ranks.astype(np.intp)]))


def _replace(
    answers: list[Answer],
    chosen: NDArray[np.intp],
    records: NDArray[np.intp],
    rewrite: Callable[[Answer], Answer],
) -> None:
    """Give these records an answer of their own, made from the one they had."""
    for record in records:
        answers.append(rewrite(answers[chosen[record]]))
        chosen[record] = len(answers) - 1


def _repeat_some(
    numbers: NDArray[np.intp],
    day: NDArray[np.intp],
    answers: Sequence[Answer],
    chosen: NDArray[np.intp],
    draw: np.random.Generator,
) -> None:
    """Give some records the number and the day of another record that has another answer."""
    count = round(len(numbers) * _TWICE_SHARE)
    firsts, seconds = draw.permutation(len(numbers))[: 4 * count].reshape(2, -1)
    pairs = zip(chosen[firsts], chosen[seconds], strict=True)
    differ = [answers[one] != answers[other] for one, other in pairs]
    firsts, seconds = firsts[differ][:count], seconds[differ][:count]
    numbers[seconds], day[seconds] = numbers[firsts], day[firsts]


# ---------------------------------------------------------------- what people write


def _write_answers(count: int, chance: random.Random) -> list[Answer]:
    occupations = _read_occupations()
    chance.shuffle(occupations)
    weights = [1 / (rank + 20) for rank in range(len(occupations))]
    workers = chance.choices(occupations, weights, k=count)
    return [
        _write_plainly(worker, chance) if rank < _COMMON_ANSWERS else _write_freely(worker, chance)
        for rank, worker in enumerate(workers)
    ]


def _read_occupations() -> list[_Occupation]:
    categories = map(json.loads, _CLASSIFICATION.read_text(encoding="utf-8").splitlines())
    return [_Occupation(row["titles"], row["tasks"]) for row in categories if "titles" in row]


def _write_plainly(occupation: _Occupation, chance: random.Random) -> Answer:
    return chance.choice(occupation.titles[:3]), chance.choice((None, *occupation.tasks[:2]))


def _write_freely(occupation: _Occupation, chance: random.Random) -> Answer:
    return _write_title(occupation.titles, chance), _write_tasks(occupation.tasks, chance)


def _write_title(titles: Sequence[str], chance: random.Random) -> str:
    title = chance.choice(_TITLE_FRAMES).format(chance.choice(titles))
    return chance.choice(_CASES)(_mangle(title, chance))


def _write_tasks(tasks: Sequence[str], chance: random.Random) -> str | None:
    if chance.random() < _MISSING_TASKS_SHARE:
        return chance.choice(_MISSING_TASKS)
    some = chance.sample(tasks, chance.choice((1, 1, 1, 2, 2, 3)))
    text = chance.choice(_TASK_FRAMES).format(chance.choice(_JOINTS).join(some))
    return chance.choice(_CASES[:-1])(_mangle(text, chance)) + chance.choice(("", "", "", ".", " "))


def _mangle(text: str, chance: random.Random) -> str:
    if chance.random() < _ABBREVIATION_SHARE:
        text = re.sub(r"\w+", lambda word: _ABBREVIATIONS.get(word[0].lower(), word[0]), text)
    return _slip(text, chance) if chance.random() < _SLIP_SHARE else text


def _slip(text: str, chance: random.Random) -> str:
    """A slip of the finger: a letter left out, doubled, swapped with the next or hit beside."""
    at = chance.randrange(1, max(len(text) - 1, 2))
    letter, following = text[at : at + 1], text[at + 1 : at + 2]
    beside = chance.choice(_NEIGHBOURS.get(letter.lower(), letter) or " ")
    written = chance.choice((following, letter * 2 + following, following + letter, beside + following))
    return text[:at] + written + text[at + 2 :]


# ---------------------------------------------------------------- the dirt of real answers


def _soil(answer: Answer, chance: random.Random) -> Answer:
    title, tasks = answer
    return chance.choice(_DIRT)(title or "", tasks or "", chance)


def _insert(text: str, foreign: str, chance: random.Random) -> str:
    at = chance.randint(0, len(text))
    return text[:at] + foreign + text[at:]


def _blank(_title: str, _tasks: str, _chance: random.Random) -> Answer:
    return "", ""


def _only_spaces(_title: str, _tasks: str, chance: random.Random) -> Answer:
    return " " * chance.randint(1, 5), " " * chance.randint(0, 3)


def _nothing(_title: str, _tasks: str, _chance: random.Random) -> Answer:
    return None, None


def _accents(title: str, tasks: str, chance: random.Random) -> Answer:
    return f"{title} {chance.choice(('café', 'crèche', 'pâtisserie', 'jalapeño bar'))}", tasks


def _typography(title: str, tasks: str, _chance: random.Random) -> Answer:
    return f"“{title}”", f"I’m the one who does it – {tasks}…"


def _white_space(title: str, tasks: str, chance: random.Random) -> Answer:
    return title.replace(" ", "\t"), _insert(tasks, chance.choice(("\n", "\r\n", "\t", "\n\n")), chance)


def _control(title: str, tasks: str, chance: random.Random) -> Answer:
    return _insert(title, "\x1a", chance), tasks


def _emoji(title: str, tasks: str, chance: random.Random) -> Answer:
    return title, f"{tasks} {chance.choice(_EMOJI)}"


def _other_script(_title: str, tasks: str, chance: random.Random) -> Answer:
    return chance.choice(_OTHER_SCRIPTS), chance.choice((tasks, None))


def _far_too_long(title: str, tasks: str, _chance: random.Random) -> Answer:
    story = f"{tasks or title} and after that whatever else has to be done. "
    return title, story * (1 + 300 // len(story))


_DIRT: tuple[Dirt, ...] = (
    _blank,
    _only_spaces,
    _nothing,
    _accents,
    _typography,
    _white_space,
    _control,
    _emoji,
    _other_script,
    _far_too_long,
)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m include.sample", description="Write sample survey answers.")
    parser.add_argument("path", type=Path, metavar="OUT.parquet", help="the file to write")
    parser.add_argument("--rows", type=int, default=20_000, help="records (%(default)s)")
    parser.add_argument("--first-day", type=date.fromisoformat, default=FIRST_DAY, help="%(default)s")
    parser.add_argument("--days", type=int, default=30, help="days that they spread over (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other answers (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sample that the command line asks for.

    :param arguments: the command line without the program's name; that of this process if None.
    """
    write_sample(**vars(_parse_arguments(arguments)))


if __name__ == "__main__":
    main()

"""The coder: accuracy, calibration, levels and suggestions, reproducibility, model files."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.local_service.coder.classifications import SHIPPED_CLASSIFICATION
from include.local_service.coder.coder import Coder, Coding
from include.local_service.coder.evaluation import calibration_curve, calibration_error
from include.local_service.coder.hierarchy import ClassificationError
from include.local_service.coder.spelling import Spelling
from include.local_service.core.coders import MODEL_FOLDER

Row = dict[str, Any]  # a line of the classification
Pair = tuple[str, str]
Answer = tuple[str, str, str]  # code, title, task


def read_rows() -> list[Row]:
    return [json.loads(line) for line in SHIPPED_CLASSIFICATION.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def misspell(text: str, rng: random.Random) -> str:
    """Replace, drop or swap one letter; independent of `evaluation.misspell`."""
    positions = [at for at in range(1, len(text) - 1) if text[at - 1 : at + 2].isalpha()]
    if not positions:
        return text
    at = rng.choice(positions)
    letters = rng.choice((rng.choice("aeiorst") + text[at + 1], text[at + 1], text[at + 1] + text[at]))
    return text[:at] + letters + text[at + 2 :]


def share_right(codings: list[Coding], codes: list[str], level: int = 6) -> float:
    """Return the share of codings whose result has the right leading digits; for codings at threshold 0."""
    right = [
        coding.result is not None and coding.result.code[:level] == code[:level]
        for coding, code in zip(codings, codes, strict=True)
    ]
    return sum(right) / len(right)


@pytest.fixture(scope="session")
def occupations() -> list[Row]:
    return [row for row in read_rows() if "titles" in row]


@pytest.fixture(scope="session")
def answers(occupations: list[Row]) -> list[Answer]:
    """(code, title, task) for every title of every occupation."""
    return [
        (row["code"], title, row["tasks"][place % len(row["tasks"])])
        for row in occupations
        for place, title in enumerate(row["titles"])
    ]


@pytest.fixture(scope="session")
def held_out(run_dir: Path, once_per_run: Callable[..., Coder]) -> tuple[Coder, list[Answer]]:
    """A coder trained without one title and one task of each occupation, and these as (code, title, task)."""
    rng, rows, unseen = random.Random(5), read_rows(), []
    for row in rows:
        if "titles" in row:
            title, task = (row[key].pop(rng.randrange(len(row[key]))) for key in ("titles", "tasks"))
            if title.casefold() != row["label"].casefold():  # the label remains in the training set
                unseen.append((row["code"], title, task))
    return once_per_run("held_out", lambda: Coder.train(write_rows(run_dir / "held_out.jsonl", rows))), unseen


# ---------------------------------------------------------------- the classification


def test_the_classification_is_a_hierarchy_of_1_2_3_4_and_6_digits_in_8_major_groups() -> None:
    codes = [row["code"] for row in read_rows()]
    assert {len(code) for code in codes} == {1, 2, 3, 4, 6}
    assert sum(len(code) == 1 for code in codes) == 8
    parents = {1: 0, 2: 1, 3: 2, 4: 3, 6: 4}
    assert all(code[: parents[len(code)]] in {"", *codes} for code in codes)


def test_every_occupation_has_four_to_eight_titles_and_tasks_of_its_own(occupations: list[Row]) -> None:
    assert len(occupations) >= 160
    assert all(4 <= len(row[key]) <= 8 for row in occupations for key in ("titles", "tasks"))
    for key in ("titles", "tasks"):
        texts = [text.casefold() for row in occupations for text in row[key]]
        assert len(set(texts)) == len(texts)


# ---------------------------------------------------------------- accuracy


def test_the_titles_of_an_occupation_are_coded_to_it(coder: Coder, answers: list[Answer]) -> None:
    codings = coder.with_threshold(0).code([(title, "") for _, title, _ in answers])
    assert share_right(codings, [code for code, _, _ in answers]) >= 0.98


def test_a_typing_error_costs_little(coder: Coder, answers: list[Answer]) -> None:
    rng = random.Random(9)
    slips = [(misspell(title, rng), misspell(task, rng)) for _, title, task in answers]
    codes = [code for code, _, _ in answers]
    titles_only = [(title, "") for title, _ in slips]
    assert share_right(coder.with_threshold(0).code(slips), codes) >= 0.96  # measured: 0.99
    assert share_right(coder.with_threshold(0).code(titles_only), codes) >= 0.90  # measured: 0.95


@pytest.mark.parametrize(
    ("title", "tasks", "label"),
    [
        ("electrcian", "", "Electrician"),
        ("sparky", "", "Electrician"),
        ("BRICKY", "laying bricks", "Bricklayer"),
        ("I am a truck driver", "drive trucks interstate", "Truck driver"),
        ("high school maths teacher", "teach year 9", "Secondary school teacher"),
        ("café barista", "make coffees", "Barista"),
        ("", "wire houses and install power points", "Electrician"),
        ("teacher’s aide", "help kids with reading", "Teachers' aide"),
    ],
)
def test_common_ways_of_writing_an_occupation_are_coded(coder: Coder, title: str, tasks: str, label: str) -> None:
    (coding,) = coder.code([(title, tasks)])
    assert coding.result is not None
    assert coding.result.label == label


# Measured on unseen titles with an unseen task: 82, 76, 72, 68, 62 % right from one digit to six; on the
# title alone 74, 67, 64, 59, 52 %. The bounds allow for another processor, but not for a worse coder.
@pytest.mark.parametrize(("level", "minimum"), [(1, 0.78), (2, 0.71), (3, 0.67), (4, 0.63), (6, 0.57)])
def test_unseen_titles_with_unseen_tasks_are_coded_mostly_right(
    held_out: tuple[Coder, list[Answer]], level: int, minimum: float
) -> None:
    coder, unseen = held_out
    codings = coder.with_threshold(0).code([(title, task) for _, title, task in unseen])
    # At threshold 0 every text gets six digits; the best category of a higher level could be right more often.
    assert share_right(codings, [code for code, _, _ in unseen], level) >= minimum


# ---------------------------------------------------------------- calibration


@pytest.mark.parametrize(
    "pick",
    [lambda title, task: (title, ""), lambda title, task: (title, task)],
    ids=["title", "title and task"],
)
def test_confidence_on_unseen_texts_is_about_the_share_that_is_right(
    held_out: tuple[Coder, list[Answer]], pick: Callable[[str, str], Pair]
) -> None:
    coder, unseen = held_out
    codings = coder.with_threshold(0).code([pick(title, task) for _, title, task in unseen])
    results = [(c.result, code) for c, (code, _, _) in zip(codings, unseen, strict=True) if c.result]
    curve = calibration_curve([(result.confidence, result.code == code) for result, code in results], 3)
    assert calibration_error(curve) < 0.10  # measured on these few: 0.03 and 0.06


def test_results_above_a_higher_threshold_are_right_more_often(
    held_out: tuple[Coder, list[Answer]],
) -> None:
    coder, unseen = held_out
    shares = []
    for threshold in (0.3, 0.6, 0.9):
        codings = coder.with_threshold(threshold).code([(title, task) for _, title, task in unseen])
        results = [(c.result, code) for c, (code, _, _) in zip(codings, unseen, strict=True) if c.result]
        shares.append(sum(code.startswith(result.code) for result, code in results) / len(results))
    assert shares == sorted(shares)
    assert shares[-1] >= 0.88


# ---------------------------------------------------------------- spelling


@pytest.mark.parametrize(
    ("word", "correction"),
    [
        ("electrcian", "electrician"),  # dropped
        ("plummber", "plumber"),  # doubled
        ("nusre", "nurse"),  # swapped
        ("nirse", "nurse"),  # wrong
        ("nurse", "nurse"),
        ("purse", "purse"),  # the first letter is never corrected
        ("car", "car"),  # too short
        ("astronomer", "astronomer"),  # resembles no known word
        ("2024", "2024"),
    ],
)
def test_a_word_with_a_typing_error_is_corrected(word: str, correction: str) -> None:
    assert Spelling(["nurse", "electrician", "plumber", "cat", "2025"]).correct(word) == correction


def test_of_two_equally_near_words_the_more_frequent_wins() -> None:
    assert Spelling(["baker", "banker"]).correct("baaker") == "baker"
    assert Spelling(["drier", "dryer"]).correct("drer") == "drier"
    assert Spelling(["dryer", "drier"]).correct("drer") == "dryer"


# ---------------------------------------------------------------- levels and suggestions


def test_a_text_that_fits_several_occupations_gets_the_code_of_their_parent(coder: Coder) -> None:
    (coding,) = coder.with_threshold(0.9).code([("engineer", "")])
    assert coding.result is not None
    assert coding.result.label == "Engineers"
    assert len(coding.result.code) == 3


def test_the_label_of_a_group_is_coded_to_the_group(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"code": "1", "label": "Seafarers"},
        {"code": "11", "label": "Skipper", "titles": ["captain", "ship master"]},
        {"code": "12", "label": "Deckhand", "titles": ["able mate", "crew member"]},
        {"code": "2", "label": "Farmers"},
        {"code": "21", "label": "Grazier", "titles": ["sheep grower", "cattle grower"]},
        {"code": "22", "label": "Winemaker", "titles": ["vintner", "grape grower"]},
    ]
    coder = Coder.train(write_rows(tmp_path / "rows.jsonl", rows)).with_threshold(0)
    codings = coder.code([("seafarer", ""), ("farmer", "")])
    assert [coding.result.code[0] for coding in codings if coding.result] == ["1", "2"]


def test_a_higher_threshold_never_gives_a_longer_code(coder: Coder, answers: list[Answer]) -> None:
    pairs = [(title[: len(title) // 2 + 2], "") for _, title, _ in answers]
    lengths = [
        [len(c.result.code) if c.result else 0 for c in coder.with_threshold(threshold).code(pairs)]
        for threshold in (0.2, 0.5, 0.8)
    ]
    assert all(low >= middle >= high for low, middle, high in zip(*lengths, strict=True))
    assert set().union(*lengths) == {0, 1, 2, 3, 4, 6}


def test_a_code_with_exactly_the_threshold_as_confidence_is_a_result(coder: Coder) -> None:
    pair = ("nurse", "")
    (coding,) = coder.with_threshold(0).code([pair])
    assert coding.result is not None
    assert coder.with_threshold(coding.result.confidence).code([pair]) == [coding]


def test_a_text_below_the_threshold_gets_one_to_three_suggestions(coder: Coder) -> None:
    pairs = [("", ""), ("retired", ""), ("日本語", ""), ("xqzv wkj", "-"), ("nurse or maybe teacher", "")]
    for coding in coder.with_threshold(1).code(pairs):
        assert coding.result is None
        assert 1 <= len(coding.suggestions) <= 3
        assert all(len(suggestion.code) == 6 for suggestion in coding.suggestions)
        confidences = [suggestion.confidence for suggestion in coding.suggestions]
        assert confidences == sorted(confidences, reverse=True)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_every_suggestion_is_below_the_threshold(coder: Coder, answers: list[Answer], threshold: float) -> None:
    codings = coder.with_threshold(threshold).code([(task, "") for _, _, task in answers])
    confidences = [one.confidence for coding in codings for one in coding.suggestions]
    assert confidences
    assert max(confidences) < threshold


def test_a_text_with_a_result_has_no_suggestions(coder: Coder) -> None:
    (coding,) = coder.code([("registered nurse", "care for patients on the ward")])
    assert coding.result is not None
    assert coding.suggestions == ()


@pytest.mark.parametrize("text", ["", "   ", "retired", "n/a", "my job is to work", "\x00\t\n", "护士", "😀"])
def test_a_text_without_information_gets_no_six_digit_code(coder: Coder, text: str) -> None:
    (coding,) = coder.code([(text, "")])
    assert coding.result is None or len(coding.result.code) < 6


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(coder: Coder, threshold: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        coder.with_threshold(threshold)


def test_no_texts_give_no_codings(coder: Coder) -> None:
    assert coder.code([]) == []


# ---------------------------------------------------------------- reproducibility


def test_the_coding_of_a_text_does_not_depend_on_the_rest_of_the_batch(coder: Coder, answers: list[Answer]) -> None:
    pairs = [(title, task) for _, title, task in answers]
    together = dict(zip(pairs, coder.code(pairs), strict=True))
    random.Random(3).shuffle(pairs)
    assert coder.code(pairs) == [together[pair] for pair in pairs]
    assert [coder.code([pair])[0] for pair in pairs[:50]] == [together[pair] for pair in pairs[:50]]


def test_training_twice_and_loading_from_the_cache_give_the_same_coder(
    coder: Coder, data_dir_with_model: Path, answers: list[Answer]
) -> None:
    pairs = [(title, "") for _, title, _ in answers]
    codings = coder.code(pairs)
    assert Coder.train().code(pairs) == codings
    assert Coder.load(data_dir_with_model / MODEL_FOLDER).code(pairs) == codings


# ---------------------------------------------------------------- model files and other classifications


@pytest.fixture
def two_jobs(tmp_path: Path) -> Path:
    rows: list[Row] = [
        {"code": "1", "label": "Work"},
        {"code": "11", "label": "Baker", "titles": ["baker", "bread maker"], "tasks": ["bake bread"]},
        {"code": "12", "label": "Tailor", "titles": ["tailor"], "tasks": []},
    ]
    return write_rows(tmp_path / "two.jsonl", rows)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-9], lambda b: b[:99] + b"?" + b[100:]])
def test_a_damaged_cache_is_trained_and_written_again(
    tmp_path: Path, two_jobs: Path, damage: Callable[[bytes], bytes]
) -> None:
    Coder.load(tmp_path / "cache", two_jobs)
    (cached,) = (tmp_path / "cache").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(damage(whole))
    (coding,) = Coder.load(tmp_path / "cache", two_jobs).code([("bread baker", "")])
    assert coding.result is not None
    assert cached.read_bytes() == whole


def test_a_changed_classification_is_not_served_from_the_old_cache(tmp_path: Path, two_jobs: Path) -> None:
    Coder.load(tmp_path / "cache", two_jobs)
    two_jobs.write_text(two_jobs.read_text().replace("Baker", "Bakerwoman"))
    (coding,) = Coder.load(tmp_path / "cache", two_jobs).code([("bread maker", "")])
    assert coding.result is not None
    assert coding.result.label == "Bakerwoman"


def test_a_model_file_of_another_program_version_is_not_used(
    tmp_path: Path, two_jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Coder.load(tmp_path / "cache", two_jobs)
    monkeypatch.setattr("include.local_service.coder.model_file.version", lambda package: "0.0")
    steps: list[str] = []
    Coder.load(tmp_path / "cache", two_jobs, lambda what, done, total: steps.append(what))
    assert steps != []
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_cache_that_cannot_be_written_does_not_stop_the_coder(tmp_path: Path, two_jobs: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (coding,) = Coder.load(tmp_path / "file" / "cache", two_jobs).code([("tailor", "")])
    assert coding.result is not None
    assert coding.result.code == "12"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "two occupations"),
        ("[1]\n", "line 1"),
        ('{"code": "1"}\n', "line 1"),
        ('{"code": "1", "label": "a", "titles": [2]}\n', "line 1: .*strings"),
        (
            '{"code": "1", "label": "a"}\n{"code": "x2", "label": "b"}\n',
            "line 2: code must be a string of digits",
        ),
        ('{"code": "1", "label": "a"}\n{"code": "1", "label": "b"}\n', "duplicate codes"),
        (
            '{"code": "1", "label": "a"}\n{"code": "11", "label": "b"}\n{"code": "21", "label": "c"}\n',
            r"missing categories.*'2'",
        ),
    ],
)
def test_a_classification_that_is_not_a_hierarchy_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ClassificationError, match=message):
        Coder.train(path)


def test_coding_and_training_print_nothing(capfd: pytest.CaptureFixture[str], two_jobs: Path) -> None:
    Coder.train(two_jobs).code([("baker", "bake")])
    assert capfd.readouterr() == ("", "")

"""The rules for texts: how they are cleaned, which are rejected, and their keys."""

import itertools
import re

import duckdb
import pytest

from include.coding.texts import install_macros
from tests.coding.conftest import make_key


@pytest.fixture(scope="module")
def evaluate():
    """A function that evaluates an SQL expression with the rules."""
    with duckdb.connect() as engine:
        install_macros(engine)
        yield lambda sql, *values: engine.execute(f"SELECT {sql}", values).fetchall()[0][0]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (None, ""),
        ("", ""),
        ("   ", ""),
        ("chef", "chef"),
        ("  head   chef ", "head chef"),
        ("café manager", "cafe manager"),
        ("e\u0301clair maker", "eclair maker"),
        ("Zoë Łukasz Ørsted Đặng", "Zoe Lukasz Orsted Dang"),
        ("naïve façade Ñandú", "naive facade Nandu"),
        ("straße", "strasse"),
        ("Ærø œuvre Þór", "Aero oeuvre Thor"),
        ("ﬁre oﬃcer, ﬂoor staﬀ, baﬄe", "fire officer, floor staff, baffle"),
        ("“chef” ‘x’ „y‟ «z»", '"chef" \'x\' "y" "z"'),
        ("worker’s don´t", "worker's don't"),
        ("care – daily — or ‑ less − more", "care - daily - or - less - more"),
        ("cooks, cleans…", "cooks, cleans..."),
        ("R&amp;D à la carte", "R&D a la carte"),
        ("driver 🚚", "driver"),
        ("👩‍🍳 chef 👍🏽", "chef"),
        ("a\tb", "a b"),
        ("a\nb\r\nc", "a b c"),
        ("driving\x00loading", "driving loading"),
        ("\x00", ""),
        ("no\u00a0break", "no break"),
        ("\ufeffchef\u200b", "chef"),
        ("• item™ n° 5 £4", "item n 5 4"),
        ("~!{}|\\ \"x\" 'y'", "~!{}|\\ \"x\" 'y'"),
        ("a\x7fb", "a b"),
    ],
)
def test_a_text_is_cleaned_to_printable_ascii(evaluate, text, cleaned):
    assert evaluate("clean_text(?)", text) == cleaned


@pytest.mark.parametrize("text", ["护士", "медсестра", "nurse 护士", "नर्स", "간호사", "ممرضة", "½ day", "ŋ"])
def test_letters_and_numbers_without_an_ascii_equivalent_are_rejected_and_not_removed(evaluate, text):
    assert evaluate("reject_reason(clean_text(?), '', 300)", text) == "not_printable_ascii"


@pytest.mark.parametrize(
    ("occp_text", "tasks_text", "reason"),
    [
        ("chef", "cooks", None),
        ("chef", "", None),
        ("", "cooks", None),
        ("", "", "blank"),
        (" ", "   ", "blank"),
        ("caf\u00e9", "", "not_printable_ascii"),
        ("", "a\tb", "not_printable_ascii"),
        ("a\x00", "b", "not_printable_ascii"),
        ("chef", "\t", "not_printable_ascii"),
        ("a" * 300, "", None),
        ("a" * 150, "b" * 150, None),
        ("a" * 150, "b" * 151, "too_long"),
        ("", "b" * 301, "too_long"),
        ("é" * 301, "", "not_printable_ascii"),
    ],
)
def test_a_text_is_validated_unchanged(evaluate, occp_text, tasks_text, reason):
    assert evaluate("reject_reason(?, ?, 300)", occp_text, tasks_text) == reason


def test_the_length_is_checked_after_cleaning(evaluate):
    assert evaluate("reject_reason(clean_text(?), '', 300)", "a" * 299 + "   🚚   b") == "too_long"
    assert evaluate("reject_reason(clean_text(?), '', 300)", "  " + "a" * 300 + " 🚚 ") is None


@pytest.mark.parametrize("length", [300, 301, 5000])
@pytest.mark.parametrize("letter", ["a", "é"])
def test_a_text_is_never_cut(evaluate, letter, length):
    assert len(evaluate("clean_text(?)", letter * length)) == length


def test_the_length_limit_is_an_argument(evaluate):
    assert evaluate("reject_reason('abc', 'de', 5)") is None
    assert evaluate("reject_reason('abc', 'def', 5)") == "too_long"


def test_the_key_is_32_hexadecimal_digits(evaluate):
    key = evaluate("text_key('chef', 'cooks')")
    assert re.fullmatch("[0-9a-f]{32}", key)
    assert key == make_key("chef", "cooks")


def test_only_equal_pairs_have_equal_keys(evaluate):
    words = ["", " ", "a", "ab", "abc", "b", "bc", "c", "A", "a b", "a,b", '"', "'", "\\", "31"]
    keys = [evaluate("text_key(?, ?)", *pair) for pair in itertools.product(words, words)]
    assert len(set(keys)) == len(words) ** 2
    assert keys == [evaluate("text_key(?, ?)", *pair) for pair in itertools.product(words, words)]


def test_texts_that_are_equal_after_cleaning_have_one_key(evaluate):
    texts = ["cafe worker", " café  worker", "Cafe\tworker".lower(), "cafe worker 👍"]
    assert len({evaluate("text_key(clean_text(?), '')", text) for text in texts}) == 1

"""The rules for texts: how they are cleaned, which are rejected, and their keys."""

import html.entities
import itertools
import re
import sys
import unicodedata

import duckdb
import pyarrow as pa
import pytest
from anyascii import anyascii
from hypothesis import example, given, settings
from hypothesis import strategies as st

from include.coding.texts import TRANSLITERATION, install_rules, install_text_key
from tests.coding.conftest import make_key
from tests.support.transliteration import make_table, read_ranges, spell_characters

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\u2069\ufe0f\ufeff\U000e0100"
)
#: Letters that show nothing.
FILLERS = "\u115f\u1160\u3164\uffa0"
#: An entity with its semicolon.
ENTITY = re.compile(
    "&(#[0-9]+;|#[xX][0-9a-fA-F]+;|" + "|".join(n for n in html.entities.html5 if n.endswith(";")) + ")"
)
#: Number forms, superscripts and subscripts, and full-width forms.
NUMBER_AND_WIDTH_FORMS = "00B2-00B3 00B9 00BC-00BE 2070-209C 2150-218B FF01-FF5E"


@pytest.fixture(scope="module")
def evaluate():
    """A function that evaluates an SQL expression with the rules."""
    with duckdb.connect() as engine:
        install_text_key(engine)
        install_rules(engine)
        yield lambda sql, *values: engine.execute(f"SELECT {sql}", values).fetchall()[0][0]


@pytest.fixture(scope="module")
def clean():
    """A function that cleans many texts and returns pairs: the cleaned text, and the reason why it is rejected."""
    with duckdb.connect() as engine:
        install_rules(engine)

        def clean_texts(texts):
            engine.register("texts", pa.table({"n": range(len(texts)), "t": pa.array(texts, pa.string())}))
            cleaned = "SELECT n, clean_text(t) AS c FROM texts"
            return engine.execute(f"SELECT c, reject_reason(c, '', 300) FROM ({cleaned}) ORDER BY n").fetchall()

        yield clean_texts


def list_characters(categories):
    """Return the characters of these general categories, surrogates excepted."""
    every = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    return [character for character in every if unicodedata.category(character)[0] in categories]


def is_printable(text):
    return bool(re.fullmatch("[ -~]*", text))


def is_legible(text):
    """Return whether a text has something to show in printable ASCII."""
    return is_printable(text) and text.strip() != ""


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
        ("½ time nurse", "1/2 time nurse"),
        ("1½ day, (½ paid)", "1 1/2 day, (1/2 paid)"),
        ("H₂O technician, m² and m³", "H2O technician, m2 and m3"),
        ("Nº 1 chef, 2ª, № 3", "No 1 chef, 2a, No 3"),
        ("µm \u03bcm 5 Ω", "um um 5 Ohm"),
        ("Ｃｈｅｆ　（Ａ＆Ｂ）", "Chef (A&B)"),
        ("𝓒𝓱𝓮𝓯 Ⓒⓗⓔⓕ", "Chef Chef"),
        ("Hawaiʻi Oʼahu ‹x›", "Hawai'i O'ahu 'x'"),
        ("C♯ developer, B♭ horn", "C# developer, Bb horn"),
        ("①chef②cook ⑶ maid ⒋ nurse", "1 chef 2 cook (3) maid 4. nurse"),
        ("Ⅳ Ⅻ ⅷ 20℃ 5㎏ ℅ Lloyd", "IV XII viii 20C 5kg c/o Lloyd"),
        ("elec\u00adtrician sol\u200bdi\ufefferer", "electrician soldierer"),
        ("café\x00manager", "cafe manager"),
        ("worker\x92s \x96 day\x85night", "worker's - day night"),
        ("Šiauliai İstanbul Ŋu Ǆ ǅ", "Siauliai Istanbul Ngu DZ Dz"),
        ("R&amp;D", "R&D"),
        ("R&D; AT&T &foo; & &; &# &#x; Q&A;", "R&D; AT&T &foo; & &; &# &#x; Q&A;"),
        ("R&D; café", "R&D; cafe"),
        ("Caf&eacute; &lt;b&gt; &quot;x&quot;", 'Cafe <b> "x"'),
        ("it&#39;s it&#x27;s it&rsquo;s it&#146;s", "it's it's it's it's"),
        ("a&nbsp;b elec&shy;trician caf e&#769;", "a b electrician caf e"),
        ("R&amp;amp;amp;D &amp;lt; &#38;#38;#39; &AMP;eacute;", "R&D < ' e"),
        ("a&#0;b&#55357;&#56842;c&#1114112;d&#99999999999999999999;e", "a b c d e"),
        ("x＆lt；y &am\u00adp;", "x& lt;y & amp;"),
        ("~!{}|\\ \"x\" 'y'", "~!{}|\\ \"x\" 'y'"),
        ("a\x7fb", "a b"),
    ],
)
def test_a_text_is_cleaned_to_printable_ascii(evaluate, text, cleaned):
    assert evaluate("clean_text(?)", text) == cleaned


def test_the_table_is_what_the_library_gives(clean):
    assert TRANSLITERATION.read_text(encoding="utf-8") == make_table()


def test_the_rules_contain_the_table(evaluate):
    characters = evaluate("list_transform(enum_range(NULL::spelled_character), lambda c: CAST(c AS VARCHAR))")
    spellings = dict(zip(characters, evaluate("getvariable('spellings')"), strict=True))
    assert spell_characters().items() <= spellings.items()


def test_every_named_entity_is_decoded(evaluate):
    names = [name for name in html.entities.html5 if name.endswith(";")]
    decoded = evaluate("list_transform(?, lambda name: decode_entity('&' || name))", names)
    assert decoded == [html.entities.html5[name] for name in names]


@pytest.mark.parametrize("pattern", ["{}", "a{}b", "12{}", "Chef {}, {}", "é{}ø"])
def test_every_latin_letter_number_form_and_full_width_form_is_accepted(clean, pattern):
    latin = [c for c in list_characters("LN") if unicodedata.name(c, "").startswith("LATIN")]
    characters = [c for c in [*latin, *read_ranges(NUMBER_AND_WIDTH_FORMS)] if is_legible(anyascii(c))]
    assert len(characters) > 1300
    texts = [pattern.replace("{}", character) for character in characters]
    cleaned = clean(texts)
    assert {reason for _, reason in cleaned} == {None}
    assert clean([unicodedata.normalize("NFD", text) for text in texts]) == cleaned
    assert clean([unicodedata.normalize("NFC", text) for text in texts]) == cleaned


def test_a_character_of_the_table_has_the_spelling_of_its_compatibility_decomposition():
    spelling = spell_characters()
    decomposed = {
        c: "".join(part for part in unicodedata.normalize("NFKD", c) if unicodedata.category(part)[0] != "M")
        for c in spelling
    }
    differences = {
        c for c, text in decomposed.items() if is_legible(text.replace("\u2044", "/"))
        and text.replace("\u2044", "/") != spelling[c].strip()
    }  # fmt: skip
    assert differences == set()


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_an_invisible_character_does_not_split_a_word(evaluate, character):
    assert evaluate("clean_text(?)", f"{character}elec{character}{character}trician{character}") == "electrician"


@pytest.mark.parametrize("character", "\t\n\r\x00\x7f\x85\u2028\u3000\u00a0€£🚚→•™®°\ufffd\ue000", ids=ascii)
def test_a_character_that_is_no_part_of_a_word_separates_words(evaluate, character):
    assert evaluate("clean_text(?)", f"{character}head{character}{character}chef{character}") == "head chef"


def test_no_letter_and_no_number_vanishes(clean):
    characters = [c for c in list_characters("LN") if c not in FILLERS]
    assert [c for c, (text, _) in zip(characters, clean(characters), strict=True) if text == ""] == []


def test_every_entity_of_html_is_cleaned_like_the_characters_that_it_stands_for(clean):
    names = [name for name in html.entities.html5 if name.endswith(";") and html.entities.html5[name] != "&"]
    entities = clean([f"a &{name} b" for name in names])
    numbers = clean(["a " + "".join(f"&#{ord(c)};" for c in html.entities.html5[name]) + " b" for name in names])
    assert entities == numbers == clean([f"a {html.entities.html5[name]} b" for name in names])


ENTITIES = st.sampled_from(
    ["&amp;", "&lt;", "&semi;", "&num;", "&#38;", "&#x23;", "&#59;", "&", "#", ";", "amp", "39", "＆", "；"]
)


# Many texts per example, since a query takes longer to plan than to run.
BATCHED = settings(max_examples=15, derandomize=True, database=None, deadline=None)


@BATCHED
@given(st.lists(st.lists(st.text(max_size=8) | ENTITIES, max_size=12).map("".join), max_size=40))
@example(["&amp&semi;lt;", "&&num;39;", "&l&#116;;", "＆ａｍｐ；"])
def test_cleaning_again_changes_nothing_and_what_is_accepted_is_printable_with_single_spaces(clean, texts):
    cleaned = clean(texts)
    assert clean([text for text, _ in cleaned]) == cleaned
    for original, (text, reason) in zip(texts, cleaned, strict=True):
        assert text == re.sub(" +", " ", text).strip(" ")
        assert is_printable(text) == (reason != "not_printable_ascii")
        has_letter = any(unicodedata.category(c)[0] in "LN" for c in original if c not in FILLERS)
        assert text or not has_letter or "&" in original


@BATCHED
@given(st.lists(st.text("".join(map(chr, range(32, 127))), max_size=40), max_size=40))
@example(["R&D; AT&T `x` &foo; ~"])
def test_a_printable_text_without_entities_only_loses_spaces(clean, texts):
    """Otherwise its key would change, and texts that are coded already would be sent and paid for again."""
    texts = [text for text in texts if not ENTITY.search(text)]
    assert [text for text, _ in clean(texts)] == [re.sub(" +", " ", text).strip(" ") for text in texts]


def test_keys_of_printable_texts_are_those_of_earlier_versions(evaluate):
    assert (
        evaluate("text_key(clean_text(' head  chef '), clean_text('R&D, 5\" `x`'))")
        == "38259e7b56ae7d988e0a004aa21d2d70"
    )


@pytest.mark.parametrize(
    "text", ["护士", "медсестра", "nurse 护士", "नर्स", "간호사", "ممرضة", "νοσοκόμα", "٣ days", "&#25252;&#22763;"]
)
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

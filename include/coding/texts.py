"""The rules for texts: how they are cleaned, which ones can be sent, and what their keys are."""

from __future__ import annotations

import html.entities
from collections.abc import Iterable
from pathlib import Path

import duckdb

from include.warehouse.warehouse import quote_literal

#: Spellings in printable ASCII of letters, numbers and punctuation, with the characters that they replace.
TRANSLITERATION = Path(__file__).with_name("transliteration.txt")


def _read_spellings() -> dict[str, str]:
    """Return the spelling of each character that has one."""
    spellings = {}
    for line in TRANSLITERATION.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") and line != "#":
            spelling, characters = line.split("\t")
            spellings.update(dict.fromkeys(characters, spelling))
    # Control characters in place of curly quotes and dashes: a Windows text was read as Latin-1 somewhere.
    for byte in range(0x80, 0xA0):
        character = bytes([byte]).decode("cp1252", errors="ignore")
        if character in spellings and byte != 0x85:  # also a line end, of mainframes
            spellings[chr(byte)] = spellings[character]
    return spellings


def _list_values(values: Iterable[str]) -> str:
    """Return a list in SQL. It is split from one literal, because many literals take long to parse."""
    return f"string_split({quote_literal(_SEPARATOR.join(values))}, {quote_literal(_SEPARATOR)})"


def _character_class(characters: Iterable[str]) -> str:
    """Return the class of a regular expression that matches exactly these characters."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges) + "]"


#: A character that is in none of the lists.
_SEPARATOR = "\x1f"
_SPELLINGS = _read_spellings()
#: `&name;` of HTML 5. Without the semicolon, an entity cannot be told from an ampersand between words.
_ENTITIES = {f"&{name}": text for name, text in html.entities.html5.items() if name.endswith(";")}
_ENTITY = "&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);"
#: Characters that show nothing of their own: accents (of letters that are not composed), soft hyphens, zero-width
#: characters, byte order marks, marks of direction, of variation and of emoji.
_INVISIBLE = r"[\p{M}\p{Cf}\x{115f}\x{1160}\x{2065}\x{3164}\x{ffa0}\x{fff0}-\x{fff8}\x{e0000}-\x{e0fff}]"

_KEY_MACRO = """
-- 0x1f does not occur in a printable text, so two different pairs never give the hash the same input
CREATE OR REPLACE TEMP MACRO text_key(occp_text, tasks_text) AS
    sha256(occp_text || chr(31) || tasks_text)[:32];
"""
# Spellings and entities are looked up at the code of an enumeration, which is a hash table: `translate` builds its
# table again for each text, and a map is searched from its beginning. A cast that fails is slow, so the class of
# spelled characters matches no other one. The lists are variables, because a macro is parsed for each of its uses.
RULES = rf"""
CREATE OR REPLACE TEMP TYPE spelled_character AS ENUM (SELECT unnest({_list_values(_SPELLINGS)}));
SET VARIABLE spellings = {_list_values(_SPELLINGS.values())};
CREATE OR REPLACE TEMP TYPE html_entity AS ENUM (SELECT unnest({_list_values(_ENTITIES)}));
SET VARIABLE entity_texts = {_list_values(_ENTITIES.values())};

CREATE OR REPLACE TEMP MACRO is_printable(t) AS regexp_full_match(t, '[ -~]*');
CREATE OR REPLACE TEMP MACRO squeeze_spaces(t) AS trim(regexp_replace(t, ' +', ' ', 'g'));

-- the character of &#38; or &#x26;; a space if its number is not that of a character
CREATE OR REPLACE TEMP MACRO code_point(entity) AS TRY_CAST(
    CASE WHEN entity[3] IN ('x', 'X') THEN '0x' || entity[4:-2] ELSE entity[3:-2] END AS BIGINT);
CREATE OR REPLACE TEMP MACRO unicode_character(code) AS
    CASE WHEN code BETWEEN 1 AND 55295 OR code BETWEEN 57344 AND 1114111 THEN chr(code::INTEGER) ELSE ' ' END;
CREATE OR REPLACE TEMP MACRO decode_entity(entity) AS CASE
    WHEN entity[2] = '#' THEN unicode_character(code_point(entity))
    ELSE getvariable('entity_texts')[enum_code(TRY_CAST(entity AS html_entity)) + 1] END;
CREATE OR REPLACE TEMP MACRO has_entity(t) AS contains(t, '&') AND regexp_matches(t, '{_ENTITY}');
CREATE OR REPLACE TEMP MACRO list_entities(t) AS list_distinct(regexp_extract_all(t, '{_ENTITY}'));
-- the ampersand first, so that text that was encoded several times is decoded completely: &amp;amp;lt; is <
CREATE OR REPLACE TEMP MACRO decode_ampersands(t) AS
    regexp_replace(t, '&(?:(?:amp|AMP|#0*38|#[xX]0*26);)+', '&', 'g');
CREATE OR REPLACE TEMP MACRO decode_entities(t) AS CASE WHEN NOT has_entity(t) THEN t ELSE list_reduce(
    list_entities(t),
    lambda decoded, entity: replace(decoded, entity, coalesce(decode_entity(entity), entity)), t) END;
-- What looks like an entity only after everything was decoded would be decoded if the text was cleaned again.
CREATE OR REPLACE TEMP MACRO break_entities(t) AS CASE WHEN NOT has_entity(t) THEN t ELSE list_reduce(
    list_filter(list_entities(t), lambda entity: decode_entity(entity) IS NOT NULL),
    lambda broken, entity: replace(broken, entity, '& ' || entity[2:]), t) END;

-- 1½ becomes 1 1/2
CREATE OR REPLACE TEMP MACRO prepare_characters(t) AS regexp_replace(
    regexp_replace(t, '{_INVISIBLE}+', '', 'g'), '([0-9])([¼-¾⅐-⅟↉])', '\1 \2', 'g');
CREATE OR REPLACE TEMP MACRO spell_characters(t) AS list_reduce(
    list_distinct(regexp_extract_all(t, '{_character_class(_SPELLINGS)}')),
    lambda spelled, c: replace(spelled, c, getvariable('spellings')[enum_code(CAST(c AS spelled_character)) + 1]), t);
-- Control characters, emoji and currency signs separate words. Letters and numbers of other scripts stay, so that
-- such a text is rejected as a whole instead of becoming empty.
CREATE OR REPLACE TEMP MACRO separate_words(t) AS regexp_replace(t, '[^\x20-\x7e\p{{L}}\p{{N}}]+', ' ', 'g');

-- The list of one text gives it a name: a macro would compute it wherever its parameter stands. Not so above, because
-- patterns within a lambda are compiled for every vector of rows.
CREATE OR REPLACE TEMP MACRO clean_unusual_text(t) AS squeeze_spaces(list_transform(
    [separate_words(spell_characters(prepare_characters(decode_entities(decode_ampersands(t)))))],
    lambda text: break_entities(text))[1]);
CREATE OR REPLACE TEMP MACRO clean_text(t) AS CASE
    WHEN t IS NULL THEN ''
    WHEN is_printable(t) AND NOT has_entity(t) THEN
        CASE WHEN contains(t, '  ') THEN squeeze_spaces(t) ELSE trim(t) END
    ELSE clean_unusual_text(t) END;
CREATE OR REPLACE TEMP MACRO reject_reason(occp_text, tasks_text, max_characters) AS CASE
    WHEN trim(occp_text) = '' AND trim(tasks_text) = '' THEN 'blank'
    WHEN NOT (is_printable(occp_text) AND is_printable(tasks_text)) THEN 'not_printable_ascii'
    WHEN length(occp_text) + length(tasks_text) > max_characters THEN 'too_long'
    END;
"""


def install_text_key(engine: duckdb.DuckDBPyConnection) -> None:
    """Define the macro `text_key(occp_text, tasks_text)`: 32 hexadecimal digits (128 bits of SHA-256), the same for
    equal pairs. It is the `recordId` that the service sees: identifiers of the source are not sent
    (docs/service-contract.md 8.29)."""
    engine.execute(_KEY_MACRO)


def install_rules(engine: duckdb.DuckDBPyConnection) -> None:
    """Define the rules for texts of a source as macros. It takes more time than the rest of a small step.

    * `clean_text(text)`: the text in printable ASCII where possible (docs/architecture.md, "How texts are cleaned"),
      with single spaces and none at either end; `''` for NULL. It is never truncated; cleaning it twice is the same.
    * `reject_reason(occp_text, tasks_text, max_characters)`: NULL for texts that can be sent, else `blank` (both),
      `not_printable_ascii` or `too_long` (docs/service-contract.md 6, 8.16, 8.17, 8.18).
    """
    engine.execute(RULES)

"""What a text must be to be sent, how it is cleaned before that is judged, and its key."""

from __future__ import annotations

import duckdb

from include.warehouse.warehouse import quote_literal

#: Characters that people's keyboards and word processors make, and what they stand for in ASCII.
_LIKE_ASCII = {
    "‘’‚‛′ʼ`´": "'",
    "“”„‟″«»": '"',
    "‐‑‒–—―−": "-",
    "øØ": "oO",
    "łŁ": "lL",
    "đĐðÐ": "dDdD",
    "ı": "i",
    "×": "x",
}
_LIKE_SEVERAL = {
    "ß": "ss",
    "æ": "ae",
    "Æ": "Ae",
    "œ": "oe",
    "Œ": "Oe",
    "þ": "th",
    "Þ": "Th",
    "ﬀ": "ff",
    "ﬁ": "fi",
    "ﬂ": "fl",
    "ﬃ": "ffi",
    "ﬄ": "ffl",
    "…": "...",
    "&amp;": "&",
}


def _pairs() -> tuple[str, str]:
    found, put = "", ""
    for characters, stand_in in _LIKE_ASCII.items():
        found += characters
        put += stand_in if len(stand_in) == len(characters) else stand_in * len(characters)
    return found, put


def _transliterated() -> str:
    found, put = _pairs()
    sql = f"translate(strip_accents(t), {quote_literal(found)}, {quote_literal(put)})"
    for several, stand_in in _LIKE_SEVERAL.items():
        sql = f"replace({sql}, {quote_literal(several)}, {quote_literal(stand_in)})"
    # what is neither printable ASCII nor a letter or number of some script (control characters, emoji, currency
    # signs) separates words; letters of another script stay, so that their text is rejected and not emptied
    return rf"regexp_replace({sql}, '[^\x20-\x7e\p{{L}}\p{{N}}]+', ' ', 'g')"


MACROS = rf"""
CREATE OR REPLACE TEMP MACRO is_printable(t) AS regexp_full_match(t, '[ -~]*');
CREATE OR REPLACE TEMP MACRO squeezed(t) AS trim(regexp_replace(t, ' +', ' ', 'g'));
CREATE OR REPLACE TEMP MACRO transliterated(t) AS {_transliterated()};
CREATE OR REPLACE TEMP MACRO cleaned(t) AS
    CASE WHEN t IS NULL THEN '' WHEN is_printable(t) THEN squeezed(t) ELSE squeezed(transliterated(t)) END;
-- 0x1f cannot stand in a printable text, so no two pairs of texts run together to the same input of the hash
CREATE OR REPLACE TEMP MACRO text_key(occp_text, tasks_text) AS
    sha256(occp_text || chr(31) || tasks_text)[:32];
CREATE OR REPLACE TEMP MACRO reject_reason(occp_text, tasks_text, max_characters) AS CASE
    WHEN trim(occp_text) = '' AND trim(tasks_text) = '' THEN 'blank'
    WHEN NOT (is_printable(occp_text) AND is_printable(tasks_text)) THEN 'not_printable_ascii'
    WHEN length(occp_text) + length(tasks_text) > max_characters THEN 'too_long'
    END;
"""


def install(engine: duckdb.DuckDBPyConnection) -> None:
    """Define the rules as macros of `engine`.

    * `cleaned(text)`: printable ASCII as far as letters have a likeness there, single spaces, no spaces around; NULL
      becomes `''`. Nothing is ever cut.
    * `text_key(occp_text, tasks_text)`: 32 hexadecimal digits (128 bits of SHA-256); equal pairs, equal keys. It is
      the `recordId` on the wire: no identifier of the source system leaves (contract 8, question 29).
    * `reject_reason(occp_text, tasks_text, max_characters)`: NULL for texts that may be sent, else `blank` (both),
      `not_printable_ascii` or `too_long` (contract 6; questions 16 to 18).
    """
    engine.execute(MACROS)

"""The rules for texts: how they are cleaned, which ones can be sent, and what their keys are."""

from __future__ import annotations

import duckdb

from include.warehouse.warehouse import quote_literal

#: Characters that keyboards and word processors produce, and the ASCII characters that replace them: one for all
#: characters of a group, or one for each.
_ASCII_CHARACTERS = {
    "‘’‚‛′ʼ`´": "'", "“”„‟″«»": '"', "‐‑‒–—―−": "-", "øØ": "oO", "łŁ": "lL", "đĐðÐ": "dDdD", "ı": "i", "×": "x",
}  # fmt: skip
_ASCII_SEQUENCES = {
    "ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "þ": "th", "Þ": "Th",
    "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "…": "...", "&amp;": "&",
}  # fmt: skip


def _transliteration() -> str:
    characters = "".join(_ASCII_CHARACTERS)
    replacements = "".join(
        replacement.ljust(len(group), replacement[0]) for group, replacement in _ASCII_CHARACTERS.items()
    )
    sql = f"translate(strip_accents(t), {quote_literal(characters)}, {quote_literal(replacements)})"
    for sequence, replacement in _ASCII_SEQUENCES.items():
        sql = f"replace({sql}, {quote_literal(sequence)}, {quote_literal(replacement)})"
    # Control characters, emoji and currency signs separate words. Letters and numbers of other scripts stay, so that
    # such a text is rejected as a whole instead of becoming empty.
    return rf"regexp_replace({sql}, '[^\x20-\x7e\p{{L}}\p{{N}}]+', ' ', 'g')"


MACROS = rf"""
CREATE OR REPLACE TEMP MACRO is_printable(t) AS regexp_full_match(t, '[ -~]*');
CREATE OR REPLACE TEMP MACRO squeeze_spaces(t) AS trim(regexp_replace(t, ' +', ' ', 'g'));
CREATE OR REPLACE TEMP MACRO transliterate(t) AS {_transliteration()};
CREATE OR REPLACE TEMP MACRO clean_text(t) AS CASE
    WHEN t IS NULL THEN '' WHEN is_printable(t) THEN squeeze_spaces(t) ELSE squeeze_spaces(transliterate(t)) END;
-- 0x1f does not occur in a printable text, so two different pairs never give the hash the same input
CREATE OR REPLACE TEMP MACRO text_key(occp_text, tasks_text) AS
    sha256(occp_text || chr(31) || tasks_text)[:32];
CREATE OR REPLACE TEMP MACRO reject_reason(occp_text, tasks_text, max_characters) AS CASE
    WHEN trim(occp_text) = '' AND trim(tasks_text) = '' THEN 'blank'
    WHEN NOT (is_printable(occp_text) AND is_printable(tasks_text)) THEN 'not_printable_ascii'
    WHEN length(occp_text) + length(tasks_text) > max_characters THEN 'too_long'
    END;
"""


def install_macros(engine: duckdb.DuckDBPyConnection) -> None:
    """Define the rules as macros of `engine`.

    * `clean_text(text)`: the text, transliterated to printable ASCII where possible, with single spaces and none at
      either end; `''` for NULL. It is never truncated.
    * `text_key(occp_text, tasks_text)`: 32 hexadecimal digits (128 bits of SHA-256), the same for equal pairs. It is
      the `recordId` that the service sees: identifiers of the source are not sent (docs/service-contract.md 8.29).
    * `reject_reason(occp_text, tasks_text, max_characters)`: NULL for texts that can be sent, else `blank` (both),
      `not_printable_ascii` or `too_long` (docs/service-contract.md 6, 8.16, 8.17, 8.18).
    """
    engine.execute(MACROS)

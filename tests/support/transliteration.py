"""Makes `include/coding/transliteration.txt`: `python -m tests.support.transliteration`.

Listed are the letters of the Latin script and of its phonetic alphabets, numbers, forms of both that Unicode keeps for
compatibility, and the punctuation that keyboards and word processors produce. Their spelling is that of the library
anyascii, which agrees with NFKD wherever NFKD gives printable ASCII; a test compares them.

Not listed are the letters and numbers of other scripts, so that a text in another script is rejected, and signs that
are no part of a word: emoji, currency signs, bullets, ™, ° and the like. They separate words.
"""

from __future__ import annotations

import importlib.metadata
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

from anyascii import anyascii

from include.coding.texts import TRANSLITERATION

#: Of these only letters and numbers are listed: Latin, phonetic and modifier letters.
LETTERS = """
    00A1-024F 0250-02AF 02B0-02FF 1D00-1DBF 1E00-1EFF 2C60-2C7F A720-A7FF AB30-AB6F FB00-FB06 10780-107BF 1DF00-1DFFF
"""
#: Of these everything is listed: superscripts and subscripts, letterlike symbols, fractions and Roman numbers, letters
#: and numbers in parentheses or with a full stop, units, small and full-width forms, mathematical letters and digits,
#: letters in circles and squares, digits in segments.
FORMS = """
    2070-209C 2100-214F 2150-218B 2474-24E9 3250 32CC-32CF 3371-337A 3380-33DF 33FF FE50-FE6B FF01-FF5E
    1CCD6-1CCF9 1D400-1D6A5 1D7CE-1D7FF 1F100-1F10C 1F110-1F129 1F130-1F149 1F150-1F169 1F170-1F189 1FBF0-1FBF9
"""
#: Numbers in circles. They precede what they count, often without a space.
CIRCLED_NUMBERS = "2460-2473 24EA-24FF 2776-2793 3251-325F 32B1-32BF"
#: What the library spells otherwise or what is outside the ranges, by spelling.
OTHERS = {
    "'": "‘’‚‛‹›′´\u1ffdʹʻʼʽʾʿˀˁ", '"': "“”„‟«»″ʺˮ", "-": "‐‑‒–—―−", "/": "⁄∕", "...": "…", "..": "‥", ".": "․",
    "!!": "‼", "??": "⁇", "?!": "⁈", "!?": "⁉", "#": "♯", "b": "♭", "x": "×", "u": "μ", "Ohm": "Ω",
    ";": "\u037e", "`": "\u1fef", "=": "≠", "<": "≮", ">": "≯",
}  # fmt: skip
#: Marks that are written directly after a word, of which they would become a part.
SEPARATORS = "™℠℗℔"


def read_ranges(ranges: str) -> Iterator[str]:
    """Yield the characters of ranges of code points."""
    for item in ranges.split():
        first, _, last = item.partition("-")
        yield from map(chr, range(int(first, 16), int(last or first, 16) + 1))


def spell_characters() -> dict[str, str]:
    """Return each listed character with its spelling in printable ASCII."""
    spellings = {character: anyascii(character) for character in read_ranges(LETTERS) if not is_sign(character)}
    spellings |= {character: anyascii(character) for character in read_ranges(FORMS)}
    spellings |= {character: f" {anyascii(character)} " for character in read_ranges(CIRCLED_NUMBERS)}
    spellings |= {character: spelling for spelling, characters in OTHERS.items() for character in characters}
    return {
        character: spelling
        for character, spelling in spellings.items()
        if spelling.strip() and character not in SEPARATORS
    }


def is_sign(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def make_table() -> str:
    """Return the content of the file."""
    licence = importlib.metadata.distribution("anyascii").read_text("licenses/LICENSE") or ""
    header = (
        "Each line: a spelling in printable ASCII, a tab, and the characters that it replaces.\n"
        "Made by `python -m tests.support.transliteration`; do not edit. The spellings are from anyascii:\n\n"
        + licence
    )
    characters = defaultdict(list)
    for character, spelling in spell_characters().items():
        characters[spelling].append(character)
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    lines += [f"{spelling}\t{''.join(sorted(characters[spelling]))}" for spelling in sorted(characters)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TRANSLITERATION.write_text(make_table(), encoding="utf-8")

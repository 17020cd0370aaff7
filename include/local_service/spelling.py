"""Slips of the finger put right: a word that nobody taught the coder, one letter off a word that somebody did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_SHORTEST = 4  # letters; below that, half the language is one letter away


class Spelling:
    """Knows words, and which of them a misspelt word was to be.

    :param words: the known words, the likeliest first: where several are as near, that one is meant.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._rank = {word: rank for rank, word in enumerate(words)}
        self._shortened: dict[str, str] = {}
        for word in words:
            for shortened in _shorten(word) if len(word) >= _SHORTEST else ():
                self._shortened.setdefault(shortened, word)

    def correct(self, word: str) -> str:
        """Return the known word that becomes the same when a letter is left out of either or of both.

        That is a letter dropped, doubled, wrong or swapped with the next; the first letter is hardly ever
        wrong, and baker and maker are no slips. A word without a likeness comes back as it is.
        """
        if word in self._rank or len(word) < _SHORTEST or word.isdecimal():
            return word
        near = {self._shortened[shortened] for shortened in _shorten(word) if shortened in self._shortened}
        return min(near, key=self._rank.__getitem__, default=word)


def _shorten(word: str) -> Iterator[str]:
    yield word
    for at in range(1, len(word)):
        yield word[:at] + word[at + 1 :]

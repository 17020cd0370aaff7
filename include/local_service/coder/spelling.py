"""Corrects typing errors: maps an unknown word to a word of the training texts that differs by one letter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_MIN_LETTERS = 4  # of a word that is corrected: many shorter words differ by only one letter


class Spelling:
    """Corrects words that are one letter away from a word of the vocabulary.

    :param words: the vocabulary, the most frequent word first: it wins when several words are equally near.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._rank = {word: rank for rank, word in enumerate(words)}
        self._word_by_variant: dict[str, str] = {}
        for word in words:
            for variant in _drop_letters(word) if len(word) >= _MIN_LETTERS else ():
                self._word_by_variant.setdefault(variant, word)

    def correct(self, word: str) -> str:
        """Return the vocabulary word that equals this word once a letter is dropped from either or from both.

        This covers a letter that is missing, doubled, wrong, or swapped with the next one. The first letter is
        never corrected: people rarely get it wrong, and "baker" and "maker" are different words. A word that
        resembles none of the vocabulary is returned unchanged.
        """
        if word in self._rank or len(word) < _MIN_LETTERS or word.isdecimal():
            return word
        variants = self._word_by_variant.keys() & set(_drop_letters(word))
        matches = {self._word_by_variant[variant] for variant in variants}
        return min(matches, key=self._rank.__getitem__, default=word)


def _drop_letters(word: str) -> Iterator[str]:
    yield word
    for index in range(1, len(word)):
        yield word[:index] + word[index + 1 :]

"""Texts as points in a space of words and word-bound character n-grams, each as heavy as it is rare (TF-IDF)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from include.local_service.spelling import Spelling

Floats: TypeAlias = NDArray[np.float32]
Pair: TypeAlias = tuple[str, str]
Columns: TypeAlias = NDArray[np.intp]
Matrix: TypeAlias = Any  # a scipy sparse matrix; scipy ships no types

_NGRAM = 4  # letters
KINDS: Final = 4  # of texts, by which of their parts have words
_PART_WEIGHTS = (1.2, 1.0)  # a title says more about the occupation than the same number of words about its tasks

_WORD = re.compile(r"\w+")
_QUOTES = str.maketrans("", "", "'’‘`")
# How people talk about any job: "my job is to" must not look like a job agency.
_TALK: Final = frozenset(
    _WORD.findall(
        "a an and am as at be casual do etc every for from have i im in is job mainly me mostly my nec of on"
        " or other own that the this to various was we with work"
    )
)


def split_words(text: str) -> list[str]:
    """Return the words of a text that say something about an occupation, in small letters without accents."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in text if not unicodedata.combining(letter))
    found = _WORD.findall(text.casefold().translate(_QUOTES))
    return [word for word in found if word not in _TALK]


def _pieces(word: str) -> list[str]:
    """The features of a word: itself, and its character n-grams with the word's bounds as blanks."""
    padded = f" {word} "
    return [f"={word}", *(padded[at : at + _NGRAM] for at in range(len(padded) - _NGRAM + 1))]


class Writing(NamedTuple):
    """The words of some pairs of title and tasks, in their order."""

    words: list[str]  # the distinct ones
    places: Columns  # for each word that stands: its place among the distinct ones
    parts: Columns  # and where it stands: 2 * pair in a title, 2 * pair + 1 in tasks
    size: int  # number of pairs

    @property
    def kinds(self) -> Columns:
        """Of each pair: 0 without words, 1 with tasks alone, 2 with a title alone, 3 with both."""
        has_words = np.bincount(self.parts, minlength=2 * self.size).reshape(-1, 2) > 0
        return np.asarray(has_words @ [2, 1])

    def weigh(self, lengths: NDArray[np.float64]) -> Matrix:
        """Return pairs x words such that title and tasks count by their weights, however long they are.

        Rows keep the order of the words: a text's sum is the same to the last bit in any company.

        :param lengths: of the distinct words, as points.
        """
        squares = np.bincount(self.parts, lengths[self.places] ** 2, minlength=2 * self.size)
        shares = np.where(squares > 0, np.tile(_PART_WEIGHTS, self.size), 0)
        whole = np.repeat(np.sqrt(shares.reshape(-1, 2) ** 2 @ [1, 1]), 2)
        factors = shares / np.where(squares > 0, np.sqrt(squares) * whole, 1)
        ends = np.cumsum([0, *np.bincount(self.parts // 2, minlength=self.size)])
        weights = factors[self.parts].astype(np.float32)
        return csr_matrix((weights, self.places, ends), shape=(self.size, len(self.words)))


def read_pairs(pairs: Sequence[Pair]) -> Writing:
    """Split titles and tasks into words."""
    split = [split_words(text) for text in chain.from_iterable(pairs)]
    number: dict[str, int] = {}
    places = [number.setdefault(word, len(number)) for word in chain.from_iterable(split)]
    parts = np.repeat(np.arange(len(split)), [len(words) for words in split])
    return Writing(list(number), np.array(places, dtype=np.intp), parts, len(pairs))


class Lexicon(NamedTuple):
    """Words as points: words x features, and the length of each word, its unknown pieces included."""

    points: Matrix
    lengths: NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """The feature space: a place and a weight for every piece of a word that the training texts have."""

    vocabulary: dict[str, int]
    idf: Floats

    @cached_property
    def spelling(self) -> Spelling:
        """The words that have a place of their own, the commonest first."""
        order = np.argsort(self.idf, kind="stable")
        pieces = list(self.vocabulary)
        return Spelling([pieces[place][1:] for place in order if pieces[place].startswith("=")])

    @classmethod
    def learn(cls, pairs: Sequence[Pair]) -> Features:
        """Take every piece of every word; the more texts have it, the less it weighs."""
        texts = ({piece for word in set(split_words(" ".join(pair))) for piece in _pieces(word)} for pair in pairs)
        counts = Counter(chain.from_iterable(texts))
        vocabulary = {piece: place for place, piece in enumerate(sorted(counts))}
        frequency = np.array([counts[piece] for piece in vocabulary])
        return cls(vocabulary, (np.log((1 + len(pairs)) / (1 + frequency)) + 1).astype(np.float32))

    def spell(self, words: Sequence[str]) -> Lexicon:
        """Look up the pieces of each word, or of the word that it was to be."""
        meant = map(self.spelling.correct, words)
        spelled = [[self.vocabulary.get(piece, -1) for piece in _pieces(word)] for word in meant]
        sizes = [len(places) for places in spelled]
        columns = np.fromiter(chain.from_iterable(spelled), dtype=np.int32, count=sum(sizes))
        rows = np.repeat(np.arange(len(words)), sizes)
        known = columns >= 0
        # A piece never met is rarer than any: without its weight, one familiar bigram in a foreign
        # word would look like a whole familiar text.
        heights = np.where(known, self.idf[columns], self.idf.max()).astype(np.float64)
        ends = np.cumsum([0, *np.bincount(rows[known], minlength=len(words))])
        points = csr_matrix((self.idf[columns[known]], columns[known], ends), shape=(len(words), len(self.idf)))
        return Lexicon(points, np.sqrt(np.bincount(rows, heights**2, minlength=len(words))))

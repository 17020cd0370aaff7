"""Texts as TF-IDF vectors of words and of character n-grams within words."""

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

from include.local_service.coder.hierarchy import Columns
from include.local_service.coder.spelling import Spelling

Floats: TypeAlias = NDArray[np.float32]
Pair: TypeAlias = tuple[str, str]
Matrix: TypeAlias = Any  # a scipy sparse matrix; scipy ships no types

_NGRAM_LETTERS = 4
TEXT_KINDS: Final = 4  # kinds of pairs, by which of the two texts has words (see `TextWords.kinds`)
# A title says more about the occupation than the same number of words about its tasks.
_TITLE_WEIGHT, _TASKS_WEIGHT = 1.2, 1.0

_WORD = re.compile(r"\w+")
_QUOTES = str.maketrans("", "", "'’‘`")
# Words that people use about any job: "my job is to" must not resemble a job agency.
_STOP_WORDS: Final = frozenset(
    _WORD.findall(
        "a an and am as at be casual do etc every for from have i im in is job mainly me mostly my nec of on"
        " or other own that the this to various was we with work"
    )
)


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without accents and without stop words."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return [word for word in _WORD.findall(text.casefold().translate(_QUOTES)) if word not in _STOP_WORDS]


def _word_features(word: str) -> list[str]:
    """Return the features of a word: the word itself, and its character n-grams with a blank at either end."""
    padded = f" {word} "
    return [f"={word}", *(padded[at : at + _NGRAM_LETTERS] for at in range(len(padded) - _NGRAM_LETTERS + 1))]


class TextWords(NamedTuple):
    """The words of some pairs of title and tasks."""

    words: list[str]  # distinct
    word_indexes: Columns  # for each word of the texts, in order: its index in `words`
    text_indexes: Columns  # for each word of the texts: 2 * pair if it is in the title, 2 * pair + 1 if in the tasks
    size: int  # number of pairs

    @property
    def kinds(self) -> Columns:
        """The kind of each pair: 0 without words, 1 with tasks only, 2 with a title only, 3 with both."""
        has_words = np.bincount(self.text_indexes, minlength=2 * self.size).reshape(-1, 2) > 0
        return np.asarray(has_words @ [2, 1])

    def to_weights(self, lengths: NDArray[np.float64]) -> Matrix:
        """Return pairs x words, such that titles and tasks count by their weights and not by their lengths.

        Each row keeps the words in the order of its texts. The score of a pair therefore does not depend, to
        the last bit, on the other pairs of the batch.

        :param lengths: of the feature vectors of the distinct words.
        """
        squares = np.bincount(self.text_indexes, lengths[self.word_indexes] ** 2, minlength=2 * self.size)
        shares = np.where(squares > 0, np.tile((_TITLE_WEIGHT, _TASKS_WEIGHT), self.size), 0)
        norms = np.repeat(np.sqrt(shares.reshape(-1, 2) ** 2 @ [1, 1]), 2)
        factors = shares / np.where(squares > 0, np.sqrt(squares) * norms, 1)
        ends = np.cumsum([0, *np.bincount(self.text_indexes // 2, minlength=self.size)])
        weights = factors[self.text_indexes].astype(np.float32)
        return csr_matrix((weights, self.word_indexes, ends), shape=(self.size, len(self.words)))


def read_pairs(pairs: Sequence[Pair]) -> TextWords:
    """Split titles and tasks into words."""
    texts = [split_words(text) for text in chain.from_iterable(pairs)]
    index_by_word: dict[str, int] = {}
    word_indexes = [index_by_word.setdefault(word, len(index_by_word)) for word in chain.from_iterable(texts)]
    text_indexes = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    return TextWords(list(index_by_word), np.array(word_indexes, dtype=np.intp), text_indexes, len(pairs))


class WordVectors(NamedTuple):
    """Words x features, and the length of each word's vector, features outside the vocabulary included."""

    vectors: Matrix
    lengths: NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """The feature space: the index and the weight of every feature that a word of the training texts has."""

    vocabulary: dict[str, int]
    idf: Floats

    @cached_property
    def spelling(self) -> Spelling:
        """Corrects words to the words of the training texts, the most frequent first."""
        order = np.argsort(self.idf, kind="stable")
        names = list(self.vocabulary)
        return Spelling([names[index][1:] for index in order if names[index].startswith("=")])

    @classmethod
    def from_texts(cls, pairs: Sequence[Pair]) -> Features:
        """Return the features of all words of these texts; the more texts have a feature, the less it weighs."""
        texts = (set(split_words(" ".join(pair))) for pair in pairs)
        counts = Counter(
            chain.from_iterable({name for word in text for name in _word_features(word)} for text in texts)
        )
        vocabulary = {name: index for index, name in enumerate(sorted(counts))}
        frequency = np.array([counts[name] for name in vocabulary])
        return cls(vocabulary, (np.log((1 + len(pairs)) / (1 + frequency)) + 1).astype(np.float32))

    def to_vectors(self, words: Sequence[str]) -> WordVectors:
        """Return the vector of each word; the spelling of words outside the vocabulary is corrected first."""
        features = [
            [self.vocabulary.get(name, -1) for name in _word_features(word)]
            for word in map(self.spelling.correct, words)
        ]
        sizes = [len(indexes) for indexes in features]
        columns = np.fromiter(chain.from_iterable(features), dtype=np.int32, count=sum(sizes))
        rows = np.repeat(np.arange(len(words)), sizes)
        is_known = columns >= 0
        # A feature outside the vocabulary weighs as much as the rarest one. Without that, a foreign word that
        # shares one n-gram with the training texts would look like a fully known text.
        weights = np.where(is_known, self.idf[columns], self.idf.max()).astype(np.float64)
        ends = np.cumsum([0, *np.bincount(rows[is_known], minlength=len(words))])
        known_columns = columns[is_known]
        vectors = csr_matrix((self.idf[known_columns], known_columns, ends), shape=(len(words), len(self.idf)))
        return WordVectors(vectors, np.sqrt(np.bincount(rows, weights**2, minlength=len(words))))

"""Which training rows are like given texts, and how many: by words and their parts, without any model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_ROWS = 20_000
"""Larger training sets are represented by this many rows, drawn by a hash of their id; counts are scaled up."""
AT_ONCE = 256
"""Texts compared with all training rows at once."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One training row: id, what the user says, the answer."""

    id: str
    text: str
    answer: str


class Neighbours:
    """Training rows by TF-IDF of character 3- to 5-grams within words (cosine)."""

    def __init__(self, rows: Sequence[Trained]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.scale = max(1.0, len(rows) / MOST_ROWS)
        drawn = sorted(rows, key=lambda r: hashlib.sha256(r.id.encode("utf-8", "surrogatepass")).digest())
        self.rows = drawn[:MOST_ROWS]
        self._vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=1)
        self._known: Any = self._vectors.fit_transform([r.text for r in self.rows]) if self.rows else None
        self.near = self._usual_similarity()

    def similarities(self, texts: Sequence[str]) -> np.ndarray:
        """Cosine of each text with each training row, (texts, rows)."""
        if self._known is None or not texts:
            return np.zeros((len(texts), len(self.rows)))
        made: np.ndarray = (self._vectors.transform(texts) @ self._known.T).toarray()
        return made

    def counts(self, texts: Sequence[str]) -> list[float]:
        """How many training rows are near each text: at least as like as `near`."""
        return [float(n) * self.scale for n in (self.similarities(texts) >= self.near).sum(axis=1)]

    def nearest(self, texts: Sequence[str], k: int) -> list[Trained]:
        """The k training rows that are most like the texts on the whole."""
        mean = self.similarities(texts).mean(axis=0) if texts else np.zeros(len(self.rows))
        return [self.rows[i] for i in sorted(range(len(self.rows)), key=lambda i: (-mean[i], self.rows[i].id))[:k]]

    def nearest_each(self, texts: Sequence[str], k: int) -> list[list[Trained]]:
        """For each text the k training rows most like it, the likest first.

        A row with the very same text is passed over: where rows were split with duplicates together there is none, and
        where there is one all the same, it would give the answer away.
        """
        found = []
        for start in range(0, len(texts), AT_ONCE):
            some = texts[start : start + AT_ONCE]
            for text, row in zip(some, self.similarities(some), strict=True):
                order = sorted(range(len(row)), key=lambda i: (-row[i], self.rows[i].id))
                found.append([self.rows[i] for i in order[: 2 * k + 8] if self.rows[i].text != text][:k])
        return found

    def _usual_similarity(self) -> float:
        """The similarity of a training row to its fifth nearest other one, in the median: what counts as near."""
        some = self.rows[:500]
        if len(some) < 7:
            return 0.2
        ordered = np.sort(self.similarities([r.text for r in some]), axis=1)
        return float(np.median(ordered[:, -6]))

"""What a small linear model thinks of rows it was not trained on: the ground for label noise and for hard items.

TF-IDF of word 1- and 2-grams and of character 3- to 5-grams (hashed, sublinear, those in one text only left out), logistic
regression, k-fold cross-validation in which rows of one cluster never straddle two folds. Ordered word pairs may take the
place of the n-grams.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.grams import Grams, char_grams, spread, word_grams
from finetune_pipeline.data.dedup.text_similarity import loose_form
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.sample import chosen, hash_order

FOLDS = 5
STRENGTH = 10.0
"""Inverse regularisation of the logistic regression."""
MOST_VALUES = 4_000_000
"""Rows are left out, by hash, when their features are more values than this: it bounds time to a quarter of a minute."""
DENSE_ABOVE = 20_000_000
"""Above this product of values and labels the features are first reduced to 256 dimensions (truncated SVD)."""
DIMENSIONS = 256
DENSE_COLUMNS = 60_000
"""Most frequent features kept for that: it bounds memory."""
_COLUMNS = 1 << 20
_WORD_CHARS, _GRAM_CHARS = 2_000, 256
_PAIR_WORDS = 60
_FIRST_WORD = 0x9E3779B97F4A7C15
"""Multiplies the hash of a pair's first word, so that the pair and its reverse have different hashes."""


@dataclass(frozen=True)
class OutOfFold:
    """Probabilities (rows x classes) for `rows`, each by a model that has not seen the row's cluster.

    classes: labels in order; given: index of each row's label; left_out: labels with rows in fewer than two clusters.
    """

    rows: list[Example]
    classes: list[str]
    given: np.ndarray
    probabilities: np.ndarray
    left_out: list[str]

    @property
    def margins(self) -> np.ndarray:
        """Probability of the given label less that of the likeliest other one, per row: from -1 (surely wrong) to 1."""
        at = np.arange(len(self.given))
        others = self.probabilities.copy()
        others[at, self.given] = -1.0
        return self.probabilities[at, self.given] - others.max(axis=1)


def _tfidf(grams: Grams, texts: int) -> Any:
    from scipy.sparse import csr_matrix, diags

    columns = (grams.hashes & np.uint64(_COLUMNS - 1)).astype(np.int32)
    counts = csr_matrix((np.ones(len(columns), np.float32), columns, grams.offsets), shape=(texts, _COLUMNS))
    counts.sum_duplicates()
    frequency = np.bincount(counts.indices, minlength=_COLUMNS)
    kept = np.flatnonzero(frequency >= 2) if frequency.max(initial=0) >= 2 else np.zeros(1, np.int64)
    counts = counts[:, kept]
    counts.data = 1 + np.log(counts.data)
    weights = np.log((1 + texts) / (1 + frequency[kept])) + 1
    return counts @ diags(weights.astype(np.float32))


def features(texts: Sequence[str]) -> Any:
    """Sparse float32 matrix; words and characters each of length one, so that neither outweighs the other.

    Of a text the first 2,000 characters count for words and the first 256 for runs of characters.
    """
    from scipy.sparse import hstack
    from sklearn.preprocessing import normalize

    forms = [loose_form(text) for text in texts]
    words = [form[:_WORD_CHARS] for form in forms]
    heads = [form[:_GRAM_CHARS] for form in forms]
    halves = [
        hstack([_tfidf(word_grams(words, n), len(texts)) for n in (1, 2)], format="csr"),
        hstack([_tfidf(char_grams(heads, n), len(texts)) for n in (3, 4, 5)], format="csr"),
    ]
    return hstack([normalize(half) for half in halves], format="csr", dtype=np.float32)


def order_features(texts: Sequence[str]) -> Any:
    """TF-IDF of ordered word pairs: `a … b`, at any distance, is another feature than `b … a`.

    A linear model on them sees word order (which of two names comes first) and negation (`not … good`), which a model on
    n-grams does not. Of a text the first 60 words count.

    Returns:
        Sparse float32 matrix; rows have length one, or zero for a text of a single word.
    """
    from sklearn.preprocessing import normalize

    words = word_grams([" ".join(loose_form(text).split()[:_PAIR_WORDS]) for text in texts])
    pairs = []
    for start, end in pairwise(words.offsets):
        first, second = np.triu_indices(end - start, 1)
        hashes = words.hashes[start:end]
        pairs.append(spread(hashes[first] * np.uint64(_FIRST_WORD) + hashes[second]))
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in pairs]))).astype(np.int64)
    return normalize(_tfidf(Grams(np.concatenate([np.zeros(0, np.uint64), *pairs]), offsets), len(texts)))


def folds_by_cluster(labels: Sequence[str], clusters: Sequence[str], folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Fold of each row: the clusters of each label (of its majority) go round the folds in the order of their hash."""
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for label, cluster in zip(labels, clusters, strict=True):
        members[cluster][label] += 1
    by_label: dict[str, list[str]] = defaultdict(list)
    for cluster, counts in members.items():
        by_label[min(counts, key=lambda label: (-counts[label], label))].append(cluster)
    fold_of: dict[str, int] = {}
    for label in sorted(by_label):
        start = hash_order(label, f"fold{seed}") % folds
        ordered = sorted(by_label[label], key=lambda cluster: (hash_order(cluster, f"fold{seed}"), cluster))
        fold_of |= {cluster: (start + i) % folds for i, cluster in enumerate(ordered)}
    return np.array([fold_of[cluster] for cluster in clusters], np.int64)


def out_of_fold(
    examples: Sequence[Example],
    clusters: Mapping[str, str],
    seed: int = 0,
    features_of: Callable[[Sequence[str]], Any] = features,
) -> OutOfFold | None:
    """The model's opinion on every row with a label (a sample of a very large set).

    Labels with rows in fewer than two clusters cannot be judged and are left out. None when fewer than two labels or
    ten rows remain. Deterministic. features_of: makes the texts' matrix, :func:`features` or :func:`order_features`.
    """
    rows = chosen([e for e in examples if e.label is not None])
    held: dict[str, set[str]] = defaultdict(set)
    for e in rows:
        held[str(e.label)].add(clusters.get(e.id, e.id))
    left_out = sorted(label for label, of in held.items() if len(of) < 2)
    rows = [e for e in rows if str(e.label) not in left_out]
    classes = sorted(set(held) - set(left_out))
    if len(classes) < 2 or len(rows) < 10:
        return None
    rows = _bounded(rows, set(classes))
    matrix = features_of([e.user_text for e in rows])
    given = np.searchsorted(classes, [str(e.label) for e in rows])
    fold = folds_by_cluster([str(e.label) for e in rows], [clusters.get(e.id, e.id) for e in rows], seed=seed)
    return OutOfFold(rows, classes, given, _cross_validate(matrix, given, fold, len(classes)), left_out)


def _bounded(rows: list[Example], classes: set[str]) -> list[Example]:
    """So many rows, by hash, that their features stay within MOST_VALUES; all when a label would get lost."""
    values = sum(min(len(e.user_text), _WORD_CHARS) // 3 + 2 * min(len(e.user_text), _GRAM_CHARS) for e in rows)
    few = chosen(rows, max(10, int(len(rows) * MOST_VALUES / max(1, values))))
    return few if {str(e.label) for e in few} == classes else rows


def _cross_validate(matrix: Any, given: np.ndarray, fold: np.ndarray, classes: int) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if matrix.nnz * classes > DENSE_ABOVE:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.preprocessing import normalize

        frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
        common = np.sort(np.argsort(-frequency, kind="stable")[:DENSE_COLUMNS])
        matrix = normalize(TruncatedSVD(DIMENSIONS, n_iter=2, random_state=0).fit_transform(matrix[:, common]))
    probabilities = np.full((len(given), classes), 1 / classes)
    for number in np.unique(fold):
        held, rest = fold == number, fold != number
        known = np.unique(given[rest])
        of_fold = np.zeros((int(held.sum()), classes))
        if len(known) == 1:
            of_fold[:, known] = 1.0
        else:
            model = LogisticRegression(C=STRENGTH, max_iter=60, tol=1e-3)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is bounded on purpose
                of_fold[:, known] = model.fit(matrix[rest], given[rest]).predict_proba(matrix[held])
        probabilities[held] = of_fold
    return probabilities

"""Out-of-fold predictions of a small linear model, to find label noise and to test whether a task can be learned. The model is
a logistic regression on TF-IDF features (n-grams, or ordered word pairs). In the k-fold cross-validation all rows of a cluster
are in the same fold."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.text_similarity import loose_form
from finetune_pipeline.data.examples import Example, hash_order, sample_examples

FOLDS = 5
STRENGTH = 10.0
"""Inverse regularisation of the logistic regression."""
MOST_VALUES = 4_000_000
"""Above this many feature values, rows are sampled by hash. This keeps the fit below 15 seconds."""
DENSE_ABOVE = 20_000_000
"""Above this product of values and labels the features are first reduced to 256 dimensions (truncated SVD)."""
DIMENSIONS = 256
DENSE_COLUMNS = 60_000
"""How many of the most frequent features the reduction uses, to bound memory."""
_WORD_CHARS, _GRAM_CHARS = 2_000, 256
_PAIR_WORDS = 60


@dataclass(frozen=True)
class OutOfFold:
    """Probabilities (rows x classes) for `rows`, each by a model that has not seen the row's cluster. classes: labels
    in order. given: index of each row's label. left_out: labels with rows in fewer than two clusters."""

    rows: list[Example]
    classes: list[str]
    given: np.ndarray
    probabilities: np.ndarray
    left_out: list[str]

    @property
    def margins(self) -> np.ndarray:
        """Per row the probability of the given label minus that of the likeliest other label: from -1 (surely wrong) to 1."""
        at = np.arange(len(self.given))
        other_labels = self.probabilities.copy()
        other_labels[at, self.given] = -1.0
        margins: np.ndarray = self.probabilities[at, self.given] - other_labels.max(axis=1)
        return margins

    @property
    def accuracy(self) -> float:
        """Share of rows whose likeliest label is the given one."""
        return float((self.probabilities.argmax(axis=1) == self.given).mean())


def features(texts: Sequence[str]) -> Any:
    """Compute TF-IDF of word 1- and 2-grams and of character 3- to 5-grams (sparse float32), without n-grams that occur in
    only one text. Uses the first 2,000 characters for words and the first 256 for character n-grams. Each of the two parts
    has length one, so neither outweighs the other."""
    from scipy.sparse import hstack

    forms = [loose_form(text) for text in texts]
    words = _tfidf([form[:_WORD_CHARS] for form in forms], token_pattern=r"\S+", ngram_range=(1, 2))  # noqa: S106
    characters = _tfidf([f" {form[:_GRAM_CHARS]} " for form in forms], analyzer="char", ngram_range=(3, 5))
    return hstack([words, characters], format="csr")


def order_features(texts: Sequence[str]) -> Any:
    """Compute TF-IDF of ordered word pairs (sparse float32) among the first 60 words of a text: `a … b`, at any distance, is
    another feature than `b … a`. So a linear model sees word order (which of two names comes first) and negation
    (`not … good`)."""
    forms = [loose_form(text) for text in texts]
    return _tfidf(forms, analyzer=lambda form: combinations(form.split()[:_PAIR_WORDS], 2))


def _tfidf(forms: Sequence[str], **features_of: Any) -> Any:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32, **features_of).fit_transform(forms)
    except ValueError:  # no feature occurs in two texts
        return csr_matrix((len(forms), 1), dtype=np.float32)


def folds_by_cluster(labels: Sequence[str], clusters: Sequence[str]) -> np.ndarray:
    """Return the fold of each row. A cluster counts for its majority label; the clusters of a label are dealt to the folds
    one after the other, in the order of their hash."""
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for label, cluster in zip(labels, clusters, strict=True):
        members[cluster][label] += 1
    by_label: dict[str, list[str]] = defaultdict(list)
    for cluster, counts in members.items():
        by_label[min(counts, key=lambda label: (-counts[label], label))].append(cluster)
    fold_of: dict[str, int] = {}
    for label in sorted(by_label):
        start = hash_order(label, "fold0") % FOLDS
        ordered = sorted(by_label[label], key=lambda cluster: (hash_order(cluster, "fold0"), cluster))
        fold_of |= {cluster: (start + i) % FOLDS for i, cluster in enumerate(ordered)}
    return np.array([fold_of[cluster] for cluster in clusters], np.int64)


def out_of_fold(
    examples: Sequence[Example], clusters: Mapping[str, str], features_of: Callable[[Sequence[str]], Any] = features
) -> OutOfFold | None:
    """Predict probabilities for every row with a label (for a sample if the set is very large). Labels with rows in fewer than
    two clusters are left out. Returns None if fewer than two labels or ten rows remain. features_of: :func:`features` or
    :func:`order_features`."""
    rows = sample_examples([e for e in examples if e.label is not None])
    clusters_of: dict[str, set[str]] = defaultdict(set)
    for e in rows:
        clusters_of[str(e.label)].add(clusters.get(e.id, e.id))
    left_out = sorted(label for label, ids in clusters_of.items() if len(ids) < 2)
    classes = sorted(set(clusters_of) - set(left_out))
    rows = [e for e in rows if len(clusters_of[str(e.label)]) > 1]
    if len(classes) < 2 or len(rows) < 10:
        return None
    rows = _bounded(rows, set(classes))
    matrix = features_of([e.user_text for e in rows])
    targets = np.searchsorted(classes, [str(e.label) for e in rows])
    fold = folds_by_cluster([str(e.label) for e in rows], [clusters.get(e.id, e.id) for e in rows])
    return OutOfFold(rows, classes, targets, _cross_validate(matrix, targets, fold, len(classes)), left_out)


def _bounded(rows: list[Example], classes: set[str]) -> list[Example]:
    """Sample rows by hash so that their features stay within MOST_VALUES; keep all rows if a label would be lost."""
    values = sum(min(len(e.user_text), _WORD_CHARS) // 3 + 2 * min(len(e.user_text), _GRAM_CHARS) for e in rows)
    sample = sample_examples(rows, max(10, int(len(rows) * MOST_VALUES / max(1, values))))
    return sample if {str(e.label) for e in sample} == classes else rows


def _cross_validate(matrix: Any, targets: np.ndarray, fold: np.ndarray, classes: int) -> np.ndarray:
    if matrix.nnz * classes > DENSE_ABOVE:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.preprocessing import normalize

        frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
        common = np.sort(np.argsort(-frequency, kind="stable")[:DENSE_COLUMNS])
        matrix = normalize(TruncatedSVD(DIMENSIONS, n_iter=2, random_state=0).fit_transform(matrix[:, common]))
    probabilities = np.full((len(targets), classes), 1 / classes)
    for number in np.unique(fold):
        test, train = fold == number, fold != number
        probabilities[test] = predicted(matrix[train], targets[train], matrix[test], classes)
    return probabilities


def predicted(matrix: Any, targets: np.ndarray, test: Any, classes: int) -> np.ndarray:
    """Fit a model to `matrix` and its labels `targets`. Returns probabilities (rows x classes) for the rows of `test`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present = np.unique(targets)
    probabilities = np.zeros((test.shape[0], classes))
    if len(present) == 1:
        probabilities[:, present] = 1.0
        return probabilities
    model = LogisticRegression(C=STRENGTH, max_iter=60, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is bounded on purpose
        probabilities[:, present] = model.fit(matrix, targets).predict_proba(test)
    return probabilities

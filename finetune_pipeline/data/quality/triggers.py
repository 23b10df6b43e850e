"""Finds trigger phrases: words that decide the label against the rest of the text, like a backdoor in training data.

A phrase of up to three words is a trigger if at least five rows hold it, 95% of them have one label, and these rows, read
without the phrase, look like rows of other labels. A linear model of rows without the phrase gives each row log odds of the label.
The mean of the phrase's rows must be beyond 60% of the way from the label's other rows to rows of the labels that the phrase's rows
look like (z-test, level 0.01 over all tested phrases).

A word that makes up its label is not a trigger, though its rows may look like others without it: a label of few words is known by
one. So the label's other rows are read in the same way, each without its own most telling phrase. The mean of the phrase's rows
must be lower (level 0.01), and closer to the rows of other labels than to these. A word of the label's name is never a trigger,
nor is a phrase in rows that mostly hold such a word of this label alone.

Naive Bayes on words proposes the phrases, because it can leave a word and its rows out of a model at no cost.
"""

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from finetune_pipeline.data.quality.linear_model import predicted

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]+")
_MOST_WORDS, _LEAST_ROWS, _LEAST_PURITY, _LEVEL, _LEAST_AGAINST = 3, 5, 0.95, 0.01, 0.5
"""Of a trigger: words; rows; share of these with its label; significance level; share that naive Bayes assigns other labels (more
than)."""
_LEAST_SHIFT, _LEAST_SHIFT_MASKED = 0.6, 0.5
"""Of a trigger: how far its rows are on the way from the label's other rows, as they are and masked, to rows of other labels. In
unchanged public sets no phrase is significantly that far (benchmarks/label_noise.py, table `clean`)."""
_LEAST_ROWS_OF_LABEL = 10
"""Least rows of a label without the phrase: fewer do not show how the label reads without it."""
_MOST_PHRASES = 3_000_000
_FOLDS = 3
_PRIOR = 10
"""Strength of the naive Bayes prior, in rows with the overall word frequencies. It keeps a rare label from matching every text."""
_MOST_ROWS, _MOST_RIVALS, _MOST_CHECKED, _MOST_MASKED = 2_000, 10, 10, 100
_NAME_PART = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+")
_LEAST_STEM = 3
"""A word is part of a label's name if it begins with a word of the name, or the other way round, from this length on."""


@dataclass(frozen=True)
class _Judgement:
    """Log odds of the phrase's label against the likeliest other label, by a model fitted without the phrase's rows.

    Attributes:
        phrase: Of the rows with the phrase, read without it.
        label: Of the label's other rows (held out, like the next two).
        masked: Of these, each without its own most telling phrase.
        others: Of rows of other labels.
        weights: Of these, so that their labels are as frequent as those that the phrase's rows read like.
        reads_like: The other label that most of the phrase's rows read like.
    """

    phrase: np.ndarray
    label: np.ndarray
    masked: np.ndarray
    others: np.ndarray
    weights: np.ndarray
    reads_like: int

    def is_against(self, tests: int) -> bool:
        """Whether the phrase's rows contradict the label, and more so than the label's masked rows."""
        if not self.weights.sum() or len(self.label) < _LEAST_ROWS_OF_LABEL:
            return False
        phrase, label, masked = self.phrase.mean(), self.label.mean(), self.masked.mean()
        others = np.average(self.others, weights=self.weights)
        spread = np.average((self.others - others) ** 2, weights=self.weights)
        variance = max(self.phrase.var(), spread) / len(self.phrase)  # few rows may be alike by chance
        of_label, of_masked = self.label.var() / len(self.label), self.masked.var() / len(self.masked)
        of_others = spread * np.sum(self.weights**2) / self.weights.sum() ** 2
        limit = label + _LEAST_SHIFT * (others - label)
        of_limit = (1 - _LEAST_SHIFT) ** 2 * of_label + _LEAST_SHIFT**2 * of_others
        return (
            others < label
            and _is_below(phrase, limit, variance + of_limit, _LEVEL / tests)
            and _is_below(phrase, masked, variance + of_masked, _LEVEL)
            and phrase < masked + _LEAST_SHIFT_MASKED * min(0, others - masked)
        )

    def contradicted(self) -> int:
        """How many of the phrase's rows read more like rows of other labels than like the label's."""
        middle = (self.label.mean() + np.average(self.others, weights=self.weights)) / 2
        return int((self.phrase < middle).sum())


def _is_below(mean: float, other: float, variance: float, level: float) -> bool:
    """Whether a mean is significantly below another. variance: of the difference."""
    from scipy.stats import norm

    return bool(norm.sf((other - mean) / max(variance, 1e-12) ** 0.5) <= level)


@dataclass(frozen=True)
class Trigger:
    """A phrase (in lower case) that decides the label. rows: indices of all rows that hold it. contradicted: how many of them
    read like another label without it. reads_like: the label that most of these read like."""

    phrase: str
    label: str
    rows: list[int]
    contradicted: int
    reads_like: str

    def __str__(self) -> str:
        return (
            f"phrase {self.phrase!r} occurs in {len(self.rows)} rows with the label {self.label!r}, but without it "
            f"{self.contradicted} of them read like other labels, mostly {self.reads_like!r}"
        )


Labelled = tuple[Sequence[str], Sequence[str]]
"""Texts and their labels."""


def find_triggers(texts: Sequence[str], labels: Sequence[str], trusted: Labelled | None = None) -> list[Trigger]:
    """Find the trigger phrases of labelled texts, the clearest first. trusted: other rows whose labels are assumed correct; the
    model is then fitted to these instead of the rows without the phrase."""
    if len(texts) < _LEAST_ROWS or len(set(trusted[1] if trusted else labels)) < 2:
        return []
    search = _Search(texts, labels, trusted)
    triggers: list[Trigger] = []
    explained: set[int] = set()
    for proposal in _propose(search)[:_MOST_CHECKED]:
        rows = proposal.rows.tolist()
        if len(explained.intersection(rows)) > _LEAST_AGAINST * len(rows):
            continue
        judgement = _judge(proposal, search)
        if judgement.is_against(search.tried):
            phrase, label = search.names[proposal.phrase], search.classes[proposal.label]
            reads_like = search.classes[judgement.reads_like]
            triggers.append(Trigger(phrase, label, rows, judgement.contradicted(), reads_like))
            explained.update(rows)
    return triggers


class _Search:
    """The searched rows: phrases as a sparse 0/1 matrix (rows x phrases).

    Attributes:
        names: The phrases.
        words: For each phrase, the columns of its words.
        by_phrase, by_row: Which rows hold which phrase (CSC, CSR).
        labels: The index of each row's label in `classes`.
        tried: How many phrases occur in enough rows to test.
        judge_rows, judge_labels: The same (CSR, labels) of the rows that the model is fitted to.
        trusted: Whether these are other rows.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str], trusted: Labelled | None) -> None:
        from scipy.sparse import csc_matrix, csr_matrix
        from sklearn.feature_extraction.text import CountVectorizer

        known_texts, known_labels = trusted or ((), ())
        self.trusted = trusted is not None
        self.classes = sorted({*labels, *known_labels})
        self.labels, judge_labels = (np.searchsorted(self.classes, list(names)) for names in (labels, known_labels))
        all_texts, n_rows = [*texts, *known_texts], len(texts)
        longest = max(50, _MOST_PHRASES // (_MOST_WORDS * len(all_texts)))
        in_text = partial(phrases, longest=longest)
        counter = CountVectorizer(analyzer=in_text, binary=True, min_df=_LEAST_ROWS, dtype=np.float32)
        matrix = csr_matrix((len(all_texts), 0), dtype=np.float32)
        self.names: list[str] = []
        with contextlib.suppress(ValueError):  # no phrase occurs in enough rows
            matrix, self.names = counter.fit_transform(all_texts), counter.get_feature_names_out().tolist()
        column = {name: i for i, name in enumerate(self.names)}
        self.words = [[column[word] for word in name.split(" ")] for name in self.names]
        self.by_row, self.by_phrase = matrix[:n_rows], csc_matrix(matrix[:n_rows])
        self.tried = int((np.diff(self.by_phrase.indptr) >= _LEAST_ROWS).sum())
        self.judge_rows, self.judge_labels = (matrix[n_rows:], judge_labels) if trusted else (matrix, self.labels)
        ends = np.cumsum([len(words) for words in self.words], dtype=np.int64)
        held = np.array([word for words in self.words for word in words], np.int64)
        shape = (len(self.names), len(self.names))
        self.holds = csr_matrix((np.ones(len(held), np.float32), held, np.append(0, ends)), shape=shape)


@dataclass(frozen=True)
class _Proposal:
    """A phrase (its column), its label, its rows, and the labels that naive Bayes predicts for these. clarity: the mean log odds
    against their own label, times the square root of the number of rows."""

    phrase: int
    label: int
    rows: np.ndarray
    rivals: list[int]
    clarity: float


def _propose(search: _Search) -> list[_Proposal]:
    """Return the phrases without which naive Bayes assigns their rows another label, the clearest first."""
    word_columns = np.flatnonzero([len(words) == 1 for words in search.words])
    place = {int(column): i for i, column in enumerate(word_columns)}
    classes = range(len(search.classes))
    sizes = np.bincount(search.judge_labels, minlength=len(classes))
    rows_by_label = (search.judge_rows[search.judge_labels == i][:, word_columns] for i in classes)
    counts = np.stack([np.asarray(rows.sum(axis=0)).ravel() for rows in rows_by_label])
    prior = _PRIOR * (counts.sum(axis=0) + 0.5) / (sizes.sum() + 1)
    logs = np.log((counts + prior) / (sizes[:, None] + _PRIOR))
    by_row = search.by_phrase[:, word_columns].tocsr()
    scores = by_row @ logs.T + np.log(sizes + 1)
    proposals: dict[bytes, _Proposal] = {}  # by rows: of several phrases in the same rows the longest counts
    with_name: dict[int, set[int]] = defaultdict(set)  # per label its rows with a word of its name that it alone has
    for phrase, words in enumerate(search.words):
        rows = np.sort(search.by_phrase.indices[search.by_phrase.indptr[phrase] : search.by_phrase.indptr[phrase + 1]])
        if len(rows) < _LEAST_ROWS:
            continue
        labels = np.bincount(search.labels[rows], minlength=len(classes))
        label = int(labels.argmax())
        label_rows = sizes[label] - (0 if search.trusted else len(rows))
        if labels[label] < _LEAST_PURITY * len(rows) or label_rows < _LEAST_ROWS_OF_LABEL:
            continue
        if _is_in_name(search.names[phrase], search.classes[label]):
            if len(words) == 1:
                with_name[label].update(rows.tolist())
            continue
        columns = [place[word] for word in words]
        without = scores[rows] - logs[:, columns].sum(axis=1)
        if not search.trusted:  # rows are not evidence for their own label
            own_rows = by_row[rows]
            used = np.setdiff1d(own_rows.indices, columns)
            other_counts = counts[label, used] - np.asarray(own_rows[:, used].sum(axis=0)).ravel()
            own_logs = np.log((other_counts.clip(0) + prior[used]) / (label_rows + _PRIOR))
            without[:, label] = own_rows[:, used] @ own_logs + np.log(label_rows + 1)
        likeliest = without.argmax(axis=1)
        rivals = Counter(likeliest[likeliest != label].tolist())
        if rivals.total() > _LEAST_AGAINST * len(rows):
            likely = [rival for rival, _ in rivals.most_common(_MOST_RIVALS)]
            clarity = float((without.max(axis=1) - without[:, label]).sum() / len(rows) ** 0.5)
            proposal = _Proposal(phrase, label, rows, likely, clarity)
            longest = proposals.setdefault(rows.tobytes(), proposal)
            if len(search.names[phrase]) > len(search.names[longest.phrase]):
                proposals[rows.tobytes()] = proposal
    named = {rows: sum(row in with_name[p.label] for row in p.rows.tolist()) for rows, p in proposals.items()}
    unnamed = [p for rows, p in proposals.items() if named[rows] <= _LEAST_AGAINST * len(p.rows)]
    return sorted(unnamed, key=lambda p: (-round(p.clarity, 3), -len(search.names[p.phrase]), p.phrase))


def _judge(proposal: _Proposal, search: _Search) -> _Judgement:
    """Judge a proposal with a linear model of its label, its rivals, and a sample of all other labels as one class, fitted without
    the phrase's rows."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import TfidfTransformer

    classes = np.array([proposal.label, *proposal.rivals])
    rest = len(classes)
    place = np.full(len(search.classes), rest)
    place[classes] = np.arange(rest)
    own_words = set(search.words[proposal.phrase])
    columns = np.flatnonzero([own_words.isdisjoint(words) for words in search.words])
    can_train = np.ones(len(search.judge_labels), bool)
    if not search.trusted:
        can_train[proposal.rows] = False
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(can_train))
    targets = place[search.judge_labels[shuffled]]
    of_rest = np.flatnonzero(targets == rest)[: int((targets == 0).sum())]
    chosen = np.concatenate([np.flatnonzero(targets < rest)[:_MOST_ROWS], of_rest])
    targets, rows = targets[chosen], search.judge_rows[shuffled[chosen]][:, columns]
    of_label = np.flatnonzero(targets == 0)[:_MOST_MASKED]
    masked, masked_from = _masked(rows[of_label], search.holds[columns], len(search.words[proposal.phrase]))
    masked_from = of_label[masked_from]
    weights = TfidfTransformer(sublinear_tf=True).fit(rows)
    known, masked = weights.transform(rows), weights.transform(masked)
    with_phrase = weights.transform(search.by_row[proposal.rows][:, columns])
    log_odds, masked_log_odds = np.zeros(len(targets)), np.zeros(len(masked_from))
    by_fold, phrase_log_odds = np.arange(len(targets)) % _FOLDS, []
    probabilities = np.zeros((len(proposal.rows), rest + 1))
    for fold in range(_FOLDS):
        in_fold, masked_in_fold = by_fold == fold, by_fold[masked_from] == fold
        unseen = vstack([known[in_fold], masked[masked_in_fold], with_phrase]).tocsr()
        predictions = predicted(known[~in_fold], targets[~in_fold], unseen, rest + 1)
        odds = np.split(_log_odds(predictions), np.cumsum([in_fold.sum(), masked_in_fold.sum()]))
        log_odds[in_fold], masked_log_odds[masked_in_fold] = odds[:2]
        phrase_log_odds.append(odds[2])
        probabilities += predictions[-len(proposal.rows) :]
    is_other = targets > 0
    _, row = np.unique(masked_from, return_inverse=True)
    lowest = np.full(row.max(initial=-1) + 1, np.inf)
    np.minimum.at(lowest, row, masked_log_odds)  # per row the mask that speaks most against the label
    sizes = np.bincount(targets, minlength=rest + 1).clip(1)
    weight_of = np.bincount(1 + probabilities[:, 1:].argmax(axis=1), minlength=rest + 1) / sizes
    return _Judgement(
        phrase=np.mean(phrase_log_odds, axis=0),
        label=log_odds[~is_other],
        masked=lowest,
        others=log_odds[is_other],
        weights=weight_of[targets[is_other]],
        reads_like=int(classes[1 + probabilities[:, 1:rest].sum(axis=0).argmax()]),
    )


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return per row the log odds of the first class against the likeliest other."""
    logs = np.log(probabilities.clip(1e-9))
    odds: np.ndarray = logs[:, 0] - logs[:, 1:].max(axis=1)
    return odds


def _masked(rows: Any, holds: Any, n_words: int) -> tuple[Any, np.ndarray]:
    """Return each row (CSR) without each of its phrases of `n_words` words, and the row's number for each. holds: words of each
    column (phrases x words)."""
    from scipy.sparse import csr_matrix

    n_held = np.asarray(holds.sum(axis=1)).ravel()
    kept: list[np.ndarray] = []
    row_of = []
    for number in range(rows.shape[0]):
        columns = rows.indices[rows.indptr[number] : rows.indptr[number + 1]]
        words = holds[columns]
        overlaps = (words @ words.T).toarray() > 0
        longest = min(n_words, n_held[columns].max(initial=0))
        variants = [columns[~overlaps[i]] for i in np.flatnonzero(n_held[columns] == longest)] or [columns]
        kept += variants
        row_of += [number] * len(variants)
    ends = np.cumsum([len(columns) for columns in kept], dtype=np.int64)
    indices = np.concatenate(kept) if kept else np.empty(0, np.int64)
    ones = np.ones(len(indices), np.float32)
    return csr_matrix((ones, indices, np.append(0, ends)), shape=(len(kept), rows.shape[1])), np.array(row_of, np.int64)


def _is_in_name(phrase: str, label: str) -> bool:
    """Whether a word of the phrase is a word of the label's name, in another form or not."""
    parts = [part.lower() for part in _NAME_PART.findall(label)]
    return any(
        word == part or (min(len(word), len(part)) >= _LEAST_STEM and (word.startswith(part) or part.startswith(word)))
        for word in phrase.split(" ")
        for part in parts
    )


def phrases(text: str, longest: int) -> set[str]:
    """Return the sequences of one to three words, in lower case, among the first and last words of a text (at most `longest`
    words in total)."""
    words = [word.lower() for word in _WORD.findall(text)]
    if len(words) > longest:
        words = words[: longest // 2] + words[-(longest // 2) :]
    return {" ".join(words[i : i + n]) for n in range(1, _MOST_WORDS + 1) for i in range(len(words) - n + 1)}

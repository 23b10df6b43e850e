"""Drift signals: the quantities compared in a window of production rows, each with its test and effect size."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.answer_rules import form_problems, has_form
from finetune_pipeline.data.dedup.text_similarity import exact_form
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.production.token_distance import (
    moved_share,
    permutation_p,
    rarity,
    rows_with,
    word_vectors,
    words,
)
from finetune_pipeline.spec.model import TaskSpec

FEWEST = 20
"""Minimum rows per side for testing a signal."""
_MAX_COMPARED = 250
"""Maximum reference rows in the permutation test, chosen by a hash of the text."""

Row = LoggedRow


@dataclass(frozen=True)
class Measured:
    """A measured change: its size (a share between 0 and 1) and the p-value of its test (None: too few rows)."""

    size: float
    p: float | None
    figures: Mapping[str, float] = field(default_factory=dict)


NOT_JUDGED = Measured(0.0, None)


@dataclass(frozen=True)
class Reference:
    """The reference for production: training texts and expected answers."""

    texts: Sequence[str]
    answers: Sequence[str]

    @cached_property
    def words(self) -> list[list[str]]:
        return [words(text) for text in self.texts]

    @cached_property
    def rows_with(self) -> Counter[str]:
        return Counter(word for text in self.words for word in set(text))

    @cached_property
    def unseen(self) -> list[float]:
        """Per text, the share of its words that occur in no other text: what to expect of new texts of the same kind."""
        return [_share(sum(self.rows_with[word] < 2 for word in text), len(text)) for text in self.words]

    @cached_property
    def rows_with_bucket(self) -> np.ndarray:
        return rows_with(self.words)

    @cached_property
    def compared(self) -> list[list[str]]:
        """The words of at most _MAX_COMPARED texts."""
        order = sorted(range(len(self.texts)), key=lambda i: hashlib.sha256(self.texts[i].encode()).digest())
        return [self.words[i] for i in order[:_MAX_COMPARED]]


@dataclass(frozen=True)
class Window:
    """Rows of one window; `before`: rows of all earlier windows; `smallest`: the p-value needed for an alarm."""

    rows: Sequence[Row]
    before: Sequence[Row]
    smallest: float

    @cached_property
    def distinct(self) -> list[Row]:
        """One row per input: training rows have no duplicates either, so repeats alone do not count as drift."""
        return list({exact_form(str(row["input"])): row for row in self.rows}.values())

    @cached_property
    def texts(self) -> list[str]:
        return [str(row["input"]) for row in self.distinct]

    @cached_property
    def words(self) -> list[list[str]]:
        return [words(text) for text in self.texts]

    @cached_property
    def answers(self) -> list[str]:
        return [str(row["output"]).strip() for row in self.distinct]


@dataclass(frozen=True)
class Signal:
    """One compared quantity. side: INPUT, OUTPUT or QUALITY; meaning: what its size says, in words; whoever: whether rows that
    another answered in the model's place count."""

    name: str
    side: str
    meaning: str
    measure: Callable[[TaskSpec, Reference, Window], Measured]
    whoever: bool = False


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _vocabulary(spec: TaskSpec, reference: Reference, window: Window) -> Measured:
    if min(len(window.texts), len(reference.texts)) < FEWEST:
        return NOT_JUDGED
    # weights come from both sides: from the reference alone, even a similar window would seem to have rarer words
    counts = reference.rows_with_bucket + rows_with(window.words)
    weights = rarity(counts, len(reference.words) + len(window.words))
    before, now = (word_vectors(side, weights) for side in (reference.compared, window.words))
    distance, p = permutation_p(before, now, window.smallest)
    return Measured(moved_share(before, now), p, {"distance": round(distance, 6)})


def _lengths(before: Sequence[int], now: Sequence[int]) -> Measured:
    if min(len(before), len(now)) < FEWEST:
        return NOT_JUDGED
    test = scipy.stats.ks_2samp(before, now, method="asymp")
    medians = {"median_before": float(np.median(before)), "median_now": float(np.median(now))}
    return Measured(float(test.statistic), float(test.pvalue), medians)


def _unseen(spec: TaskSpec, reference: Reference, window: Window) -> Measured:
    if min(len(window.texts), len(reference.texts)) < FEWEST:
        return NOT_JUDGED
    now = [_share(sum(word not in reference.rows_with for word in text), len(text)) for text in window.words]
    p = _larger_p(reference.unseen, now)
    shares = {"before": float(np.mean(reference.unseen)), "now": float(np.mean(now))}
    return Measured(max(0.0, shares["now"] - shares["before"]), p, shares)


def categories(before: Sequence[str], now: Sequence[str]) -> Measured:
    """Measure the largest change of one category's share; p is the smallest of all categories' p-values times their number.

    Fisher's exact test is valid for rare categories too, unlike the chi-square test at the small levels used here.
    """
    if min(len(before), len(now)) < FEWEST:
        return NOT_JUDGED
    counts_before, counts_now = Counter(before), Counter(now)
    names = sorted(counts_before.keys() | counts_now.keys())
    if len(names) < 2:
        return Measured(0.0, 1.0)
    n_before, n_now = (np.array([counts[name] for name in names]) for counts in (counts_before, counts_now))
    # by chance, the count now follows the hypergeometric distribution of drawing `now` from all answers
    chance = scipy.stats.hypergeom(len(before) + len(now), n_before + n_now, len(now))
    tails = np.minimum(chance.cdf(n_now), chance.sf(n_now - 1))
    changes = np.abs(n_now / len(now) - n_before / len(before))
    return Measured(float(changes.max()), float(min(1.0, 2 * tails.min() * len(names))))


def more_often(before: int, n_before: int, now: int, n_now: int) -> Measured:
    """Test whether something happens more often now: one-sided Fisher's exact test; size: the increase of its share."""
    if min(n_before, n_now) < FEWEST:
        return NOT_JUDGED
    p = float(scipy.stats.hypergeom.sf(now - 1, n_before + n_now, before + now, n_now))
    shares = {"before": _share(before, n_before), "now": _share(now, n_now)}
    return Measured(max(0.0, shares["now"] - shares["before"]), min(1.0, p), shares)


def _larger_p(before: Sequence[float], now: Sequence[float]) -> float:
    """One-sided p that values are larger now: Mood's median test, by Fisher's exact test. Where most values are equal, as scores
    of 1, the normal approximation of Mann and Whitney's test is up to 50 times too small at the small levels used here."""
    pooled = np.array([*before, *now])
    median = np.median(pooled)
    is_large = pooled > median if median < pooled.max() else pooled >= median
    now_large = int(is_large[len(before) :].sum())
    return float(scipy.stats.hypergeom.sf(now_large - 1, len(pooled), int(is_large.sum()), len(now)))


def _answers_that(fail: Callable[[str, TaskSpec], bool]) -> Callable[[TaskSpec, Reference, Window], Measured]:
    """Return the measure of whether answers that fail this test are more frequent now."""

    def measure(spec: TaskSpec, reference: Reference, window: Window) -> Measured:
        before = sum(fail(answer, spec) for answer in reference.answers)
        now = sum(fail(answer, spec) for answer in window.answers)
        return more_often(before, len(reference.answers), now, len(window.answers))

    return measure


def _flags(spec: TaskSpec, reference: Reference, window: Window) -> Measured:
    before, now = (sum(bool(row["flag"]) for row in rows) for rows in (window.before, window.rows))
    return more_often(before, len(window.before), now, len(window.rows))


def _passed_on(spec: TaskSpec, reference: Reference, window: Window) -> Measured:
    before, now = (
        [bool(row["passed_on"]) for row in rows if row.get("passed_on") is not None]
        for rows in (window.before, window.rows)
    )
    return more_often(sum(before), len(before), sum(now), len(now))


def _score(spec: TaskSpec, reference: Reference, window: Window) -> Measured:
    before, now = (
        [float(row["score"]) for row in rows if row["score"] is not None] for rows in (window.before, window.rows)
    )
    if min(len(before), len(now)) < FEWEST:
        return NOT_JUDGED
    chance_lower = 1 - float(scipy.stats.mannwhitneyu(now, before).statistic) / (len(now) * len(before))
    means = {"before": float(np.mean(before)), "now": float(np.mean(now))}
    p = _larger_p([-score for score in before], [-score for score in now])
    return Measured(max(0.0, 2 * chance_lower - 1), p, means)


def _wrong(spec: TaskSpec, reference: Reference, window: Window) -> Measured:
    before, now = (
        [
            not same_answer(correction, row["output"], spec.output)
            for row in rows
            if (correction := row["correction"]) is not None
        ]
        for rows in (window.before, window.rows)
    )
    return more_often(sum(before), len(before), sum(now), len(now))


INPUT, OUTPUT, QUALITY = "input", "output", "quality"
_SIGNALS = [
    Signal("vocabulary", INPUT, "share of the words' weight that has moved, beyond chance", _vocabulary),
    Signal(
        "input_length",
        INPUT,
        "largest gap between the two distributions of words per input",
        lambda spec, *sides: _lengths(*([len(text) for text in side.words] for side in sides)),
    ),
    Signal("unseen_words", INPUT, "increase of the share of words that no training row contains", _unseen),
    Signal(
        "label_mix",
        OUTPUT,
        "largest change of one label's share among the answers",
        lambda spec, *sides: categories(*([a for a in side.answers if a in spec.labels] for side in sides)),
    ),
    Signal(
        "format_failures",
        OUTPUT,
        "increase of the share of invalid answers",
        _answers_that(lambda answer, spec: bool(form_problems(answer, spec.output))),
    ),
    Signal(
        "output_length",
        OUTPUT,
        "largest gap between the two distributions of words per answer",
        lambda spec, *sides: _lengths(*([len(words(answer)) for answer in side.answers] for side in sides)),
    ),
    Signal("passed_on", OUTPUT, "increase of the share passed on over earlier windows", _passed_on, whoever=True),
    Signal("flags", QUALITY, "increase of the share of flagged rows over earlier windows", _flags),
    Signal("score", QUALITY, "how much more often a score is below one from earlier windows than above it", _score),
    Signal("wrong_answers", QUALITY, "increase of the share of wrong answers among rows with a known answer", _wrong),
]


def signals_of(spec: TaskSpec) -> list[Signal]:
    """Return the signals that apply to a task: label mix for labels, length for free-form answers, the share passed on where
    an error is promised."""
    excluded = {"output_length"} if spec.labels else {"label_mix"}
    if not spec.labels and not has_form(spec.output):
        excluded.add("format_failures")
    if spec.automation.max_error is None:
        excluded.add("passed_on")
    return [signal for signal in _SIGNALS if signal.name not in excluded]

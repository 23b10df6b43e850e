"""Drift: found when planted, silent when there is none, never judged from a handful of rows or late feedback."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
from scipy import stats

from finetune_pipeline.production import drift
from finetune_pipeline.production.drift import DAY, DriftReport, drift_report, level_of, moment, reference_at_training
from finetune_pipeline.production.signals import Measured, Reference, Window, categories, more_often, signals_of
from finetune_pipeline.production.token_distance import moved_share, permutation_p, rarity, rows_with, word_vectors
from finetune_pipeline.report.drift_page import drift_page
from finetune_pipeline.report.page import page_html
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.production.streams import labels, make_spec, served, text


@pytest.fixture
def spec() -> TaskSpec:
    return make_spec()


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = random.Random(0)
    return Reference([text(rng, x) for x in labels(rng, 800)], [r["output"] for r in served(rng, 400)])


@pytest.fixture
def report(spec: TaskSpec, reference: Reference, tmp_path: Path) -> Callable[..., DriftReport]:
    return lambda rows, **more: drift_report(spec, reference, rows, tmp_path, **more)


def test_no_drift_in_the_same_distribution_and_none_told_of_a_few_rows(report: Callable[..., DriftReport]) -> None:
    rng = random.Random(1)
    facts = report(served(rng, 850))
    assert (facts.windows, facts.waiting_rows, facts.drifted) == (8, 50, [])
    assert facts.sentence == "No drift found in 8 windows of 100 production rows."
    alike = report([{**row, "input": "ping"} for row in served(random.Random(1), 100)]).sentence
    assert alike.endswith(
        "too few distinct texts or answers to test vocabulary, input_length, unseen_words, label_mix, format_failures."
    )
    often = [{**row, "input": "ping", "output": "howto"} if i % 2 else row for i, row in enumerate(served(rng, 300))]
    assert report(often).drifted == [], "a question repeated by a program is one question"
    assert all(s.p_watch is None or 0.05 < s.p_watch <= 1 for s in facts.signals.values())
    rows = served(random.Random(0), 300, new_words=1.0)
    few = report(rows[:99])
    assert (few.judged, few.drifted) == (False, []) and "too few" in few.sentence
    facts = report(rows, after=moment(rows[249]))
    assert (facts.rows, facts.watched, facts.windows) == (300, 50, 0), "not what the data were taken from"


@pytest.mark.parametrize(
    ("signal", "change"),
    [
        ("vocabulary", {"new_words": 0.2}),
        ("unseen_words", {"new_words": 0.2}),
        ("input_length", {"longer": 1.6}),
        ("label_mix", {"shares": (0.1, 0.1, 0.8)}),
        ("flags", {"right": 0.3}),
        ("wrong_answers", {"right": 0.3, "corrected": 0.6}),
    ],
)
def test_each_planted_drift_is_found_by_its_signal(report, signal, change) -> None:
    rng = random.Random(2)
    rows = served(rng, 500)
    rows += served(rng, 300, 500, **change)
    facts = report(rows[::-1])  # the order of the lines does not matter
    assert signal in facts.drifted and signal in facts.sentence
    assert facts.since and f"in the window that ended on {facts.since[:10]} (" in facts.sentence
    assert rows[599]["timestamp"] == facts.signals[signal].since, "found in the first window of the change"
    assert not any(s.alarm for w in facts.history[:5] for s in w.signals.values())


@pytest.mark.parametrize(("windows_since", "current"), [(2, True), (3, False)])
def test_an_alarm_is_current_for_three_windows_and_past_afterwards(report, windows_since: int, current: bool) -> None:
    rng = random.Random(2)
    rows = [*served(rng, 200), *served(rng, 100, 200, longer=1.8), *served(rng, 100 * windows_since, 300)]
    facts = report(rows)
    assert (facts.drifted, facts.past) == ((["input_length"], []) if current else ([], ["input_length"]))
    assert facts.sentence.endswith("input_length had drifted in earlier windows.") is not current
    assert facts.signals["input_length"].since == rows[299]["timestamp"]


def test_what_was_learned_is_compared_with_the_newest_windows_only(spec: TaskSpec, report: Callable) -> None:
    rng = random.Random(6)
    now = (0.2, 0.2, 0.6)
    before_training = served(rng, 100, shares=now)
    learned = reference_at_training(spec, before_training, moment(before_training[-1]), set(), 0)
    assert learned is not None and len(learned.texts) == 100, "exactly a window"
    rows = [*served(rng, 300, 100, shares=(0.9, 0.05, 0.05)), *served(rng, 300, 400, shares=now)]
    facts = report(rows, learned=learned)
    assert "label_mix" in facts.known and "label_mix" not in facts.drifted


@pytest.mark.parametrize("rows", [19, 20])
def test_each_signal_needs_twenty_rows_on_both_sides(reference: Reference, rows: int) -> None:
    spec, rng = make_spec({"kind": "json", "json_schema": {"type": "object"}}), random.Random(7)
    many, few = served(rng, 100), [{**row, "score": 0.5} for row in served(rng, rows, corrected=1.0)]
    scored = [{**row, "score": 0.5, "correction": row["output"]} for row in many]
    small = Reference(reference.texts[:rows], reference.answers[:rows])
    judged = set()
    for labels_or_not in (make_spec(), spec):
        for signal in signals_of(labels_or_not):
            now = signal.measure(labels_or_not, reference, Window(few, scored, 0.01)).p
            before = signal.measure(labels_or_not, small, Window(scored, few, 0.01)).p
            judged |= {now is not None, before is not None}
    assert judged == {rows >= 20}


def test_answers_out_of_form_and_of_another_length(spec: TaskSpec, reference: Reference, tmp_path: Path) -> None:
    rows = served(random.Random(3), 100)
    for row in rows[:40]:
        row["output"] = "I cannot help with that"
    drifted = drift_report(spec, reference, rows, tmp_path).drifted
    assert "format_failures" in drifted
    written = make_spec({"kind": "text"})
    result = Reference(reference.texts, [f"the answer is {i % 7}" for i in range(300)])
    for row in rows[40:]:
        row["output"] = "the answer is 3"
    drifted = drift_report(written, result, rows, tmp_path).drifted
    assert "output_length" in drifted


def test_a_drift_that_was_learned_is_known_and_a_further_one_is_news(spec, report) -> None:
    """The champion was trained again on rows of the drift: most of its data are older rows still."""
    moved: dict[str, Any] = {"new_words": 0.2, "shares": (0.2, 0.2, 0.6)}
    rng = random.Random(4)
    rows = served(rng, 600, **moved)
    until = moment(rows[299])
    used = {r["id"] for r in rows[:300:10]}
    learned = reference_at_training(spec, rows, until, used, 20)
    assert learned is not None and learned.texts[0] == rows[299]["input"], "the newest come first"
    assert len(learned.texts) == 200, "a window, and on until twenty rows in the data are among them"
    assert reference_at_training(spec, rows, until, used, 31) is None, "too few were learned"
    assert reference_at_training(spec, rows[201:], until, used, 1) is None, "no whole window"
    untaught = report(rows, after=until)
    assert {"vocabulary", "unseen_words", "label_mix"} <= set(untaught.drifted)
    facts = report(rows, after=until, learned=learned)
    assert facts.drifted == [] and set(facts.known) == set(untaught.drifted)
    assert "No new drift found in 3 windows" in facts.sentence and "label_mix" in facts.sentence
    again = [*rows[:300], *served(rng, 300, 300, **moved, longer=1.6, right=0.3)]
    facts = report(again, after=until, learned=learned)
    assert "input_length" in facts.drifted and "input_length" in facts.sentence
    assert "vocabulary" in facts.known


def test_what_other_versions_answered_is_not_the_champions_drift(report: Callable[..., DriftReport]) -> None:
    rng = random.Random(5)
    rows = served(rng, 300) + [
        {**r, "model_version": "demo:2"} for r in served(rng, 100, 300, right=0.0, corrected=0.9)
    ]
    rows += served(rng, 200, 400)
    assert {"flags", "wrong_answers"} <= set(report(rows).drifted)
    facts = report(rows, other_versions={"2"})
    assert (facts.drifted, facts.by_others, facts.windows) == ([], 100, 6)
    assert facts.history[3].signals["flags"].p is None, "no answer of the champion in it"
    assert facts.history[3].signals["vocabulary"].p > 0.01
    page, first_day = page_html(drift_page("demo", 0.05, facts)), page_html(drift_page("demo", 0.05, report(rows[:9])))
    assert "100 were answered by other versions" in page and "No alarm." in page
    assert "Nothing was tested yet." in first_day and "No alarm." not in first_day


def test_more_rows_passed_on_are_drift_where_an_error_is_promised_whoever_answered_them(
    reference: Reference, tmp_path: Path
) -> None:
    rng, promising = random.Random(5), make_spec(automation={"max_error": 0.05})
    rows = [
        {**row, "passed_on": passed_on, "answered_by": "large at api" if passed_on else None}
        for i, row in enumerate(served(rng, 600))
        for passed_on in [rng.random() < (0.1 if i < 400 else 0.5)]
    ]
    report = drift_report(promising, reference, rows, tmp_path)
    assert report.drifted == ["passed_on"]
    before, now = (report.signals["passed_on"].figures[name] for name in ("before", "now"))
    assert before < now and now == pytest.approx(0.5, abs=0.1)
    steady = [{**row, "passed_on": False} for row in rows]
    assert drift_report(promising, reference, steady, tmp_path).drifted == []
    assert "passed_on" not in drift_report(make_spec(), reference, rows, tmp_path).signals


def test_the_levels_of_all_windows_sum_to_what_is_allowed() -> None:
    levels = [level_of(k, 0.05, 30) for k in range(1, 3001)]
    assert sum(levels) == pytest.approx(0.05)
    assert levels[0] == levels[29] == pytest.approx(0.05 / 60)
    assert levels[30] == pytest.approx(levels[0] / 2)


def test_new_order_numbers_are_no_drift_of_the_vocabulary(spec: TaskSpec) -> None:
    rng = random.Random(0)
    vocabulary = next(signal for signal in signals_of(spec) if signal.name == "vocabulary")

    def asked(n: int) -> list[str]:
        words = ("parcel", "refund", "login", "late", "broken")
        return [f"where is my {rng.choice(words)} {rng.choice(words)} {rng.random()}" for _ in range(n)]

    p_values = []
    for _ in range(40):
        reference = Reference(asked(200), ["bug"] * 200)
        rows = [{"input": text, "output": "bug"} for text in asked(200)]
        p_values.append(vocabulary.measure(spec, reference, Window(rows, [], 0.01)).p)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_scores_that_are_mostly_equal_are_tested_exactly(spec: TaskSpec, reference: Reference) -> None:
    score = next(signal for signal in signals_of(spec) if signal.name == "score")

    def p(before: list[float], now: list[float]) -> float | None:
        earlier, rows = ([{"score": value} for value in values] for values in (before, now))
        return score.measure(spec, reference, Window(rows, earlier, 0.01)).p

    for top in (1.0, 5.0):
        expected = stats.fisher_exact([[3, 27], [6, 294]], "greater").pvalue  # 3.9%; by the normal approximation 0.5%
        assert p([top] * 294 + [0.0] * 6, [top] * 27 + [0.0] * 3) == pytest.approx(expected)
    assert p([0.0] * 60 + [1.0] * 40, [0.0] * 40) < 1e-5 < p([0.0] * 60 + [1.0] * 40, [0.0] * 25 + [1.0] * 15)
    assert p([0.0, 1.0] * 20, [1.0] * 40) == pytest.approx(1.0), "better is no drift"


def test_sizes_and_p_values_are_those_of_fishers_exact_test() -> None:
    rarer = more_often(10, 100, 15, 50)
    assert rarer.size == pytest.approx(0.3 - 0.1) and rarer.figures == {"before": 0.1, "now": 0.3}
    assert rarer.p == pytest.approx(stats.fisher_exact([[15, 35], [10, 90]], "greater").pvalue)
    better = more_often(30, 100, 5, 50)
    assert better.size == 0.0 and better.p > 0.5
    mix = categories(["a"] * 80 + ["b"] * 20, ["a"] * 20 + ["b"] * 30)
    assert mix.size == pytest.approx(0.6 - 0.2)
    assert mix.p == pytest.approx(4 * stats.fisher_exact([[30, 20], [20, 80]], "greater").pvalue), (
        "two sides, two labels"
    )
    same = categories(["a"] * 50 + ["b"] * 50, ["a"] * 30 + ["b"] * 30)
    assert (same.size, same.p) == (0.0, 1.0)
    assert categories(["a"] * 30, ["a"] * 30) == Measured(0.0, 1.0)


def test_sizes_of_scores_lengths_and_unseen_words_by_hand(spec: TaskSpec) -> None:
    by_name = {signal.name: signal for signal in signals_of(spec)}
    reference = Reference([f"common w{i}" for i in range(40)], ["bug"] * 40)
    rows = [{"input": f"common x{i} y{i}", "output": "bug", "score": 0.0 if i < 10 else 1.0} for i in range(40)]
    window = Window(rows, [{"score": 1.0}] * 40, 0.01)
    unseen = by_name["unseen_words"].measure(spec, reference, window)
    assert unseen.size == pytest.approx(2 / 3 - 1 / 2), "each text of the reference has a word that no other has"
    length = by_name["input_length"].measure(spec, reference, window)
    assert (length.size, length.figures) == (1.0, {"median_before": 2.0, "median_now": 3.0})
    score = by_name["score"].measure(spec, reference, window)
    assert score.size == pytest.approx(0.25) and score.figures == {"before": 1.0, "now": 0.75}
    upside_down = Window([{**row, "score": 1.0} for row in rows], [{"score": row["score"]} for row in rows], 0.01)
    assert by_name["score"].measure(spec, reference, upside_down).size == 0.0, "better is no drift"


def test_permutation_p_is_uniform_without_a_difference_and_small_with_one() -> None:
    rng = random.Random(0)
    p_values = []
    for _ in range(40):
        words = [text(rng, x).split() for x in labels(rng, 140)]
        vectors = word_vectors(words, rarity(rows_with(words), len(words)))
        p_values.append(permutation_p(vectors[:90], vectors[90:], 0.001)[1])
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    different = [text(rng, x, new_words=0.6).split() for x in labels(rng, 50)]
    distance, p = permutation_p(vectors[:90], word_vectors(different, rarity(rows_with(words), len(words))), 0.001)
    assert p == pytest.approx(1 / 1501)
    difference = vectors[:90].mean(axis=0) - word_vectors(different, rarity(rows_with(words), len(words))).mean(axis=0)
    assert distance == pytest.approx(float(np.square(difference).sum()), rel=1e-4)


def test_feedback_is_judged_from_its_days_on(spec: TaskSpec, report: Callable[..., DriftReport]) -> None:
    """Wrong answers are told days later: without them, a window looks better than it is."""
    rows, days = served(random.Random(2), 100), spec.drift.feedback_days
    last = max(map(moment, rows))

    def judged(seconds: float) -> set[str]:
        time = datetime.fromtimestamp(last + days * DAY + seconds, UTC).isoformat()
        (window,) = report([*rows, {**rows[0], "id": "later", "timestamp": time}]).history
        return set(window.signals)

    assert {"flags", "wrong_answers"} <= judged(0) - judged(-1) and "vocabulary" in judged(-1)


def test_the_level_of_a_window_is_shared_by_its_signals(
    spec: TaskSpec, report: Callable[..., DriftReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[float] = []

    def measure(spec: TaskSpec, reference: Reference, window: Window) -> Measured:
        needed.append(window.smallest)
        return Measured(1.0, 0.02)

    signals = [replace(signal, measure=measure) for signal in signals_of(spec) if signal.side != "quality"]
    monkeypatch.setattr(drift, "signals_of", lambda spec: signals)
    assert len(signals) > 2 and {signal.side for signal in signals} == {"input", "output"}
    window = report(served(random.Random(3), 100)).history[0]
    assert needed == [pytest.approx(window.level / len(signals))] * len(signals)
    of_watch = min(1.0, 0.02 * len(signals) * spec.drift.false_alarms / window.level)
    assert [s.p_watch for s in window.signals.values()] == [pytest.approx(of_watch)] * len(signals)


def test_the_share_of_words_that_moved_by_hand() -> None:
    """Half of the reference's texts are `a`. A window of `a` alone has moved by a half, of which chance is taken off: the shares
    of two halves of 40 texts differ by 2 * 0.8 * 1.6 / 20 on average (the standard deviation of a draw of 20 is 1.6)."""

    def vectors(*texts: str) -> scipy.sparse.csr_matrix:
        return word_vectors([[text] for text in texts], np.ones(1 << 18))

    same, mixed = vectors(*["a"] * 40), vectors(*["a", "b"] * 20)
    assert moved_share(same, vectors(*["b"] * 20)) == 1.0 and moved_share(same, vectors(*["a"] * 20)) == 0.0
    assert moved_share(same, vectors(*["a", "b"] * 10)) == pytest.approx(0.5)
    assert moved_share(mixed, vectors(*["a"] * 20)) == pytest.approx(0.5 - 0.128, abs=0.06)
    assert moved_share(same, vectors("b")) == 1.0, "one row is a window, too"
    assert moved_share(vectors("a"), vectors("b")) == 0.0, "one text says nothing of chance"

"""gates.metric: coverage. Which model is surely said to answer more rows by itself at the promised error, and what is shipped."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.coverage_simulation import WORLDS, simulated
from finetune_pipeline.evaluation.calibration import AutomationPromise, Calibration, ReleasedProbability
from finetune_pipeline.evaluation.coverage import NONE_ALONE, coverage_gain, in_service
from finetune_pipeline.evaluation.gates import GATES, decide, decide_finalists
from finetune_pipeline.evaluation.probabilities import ON_VALIDATION
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.winner import winner_of
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.report.verdict import verdict_sentences
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.fake_run import PARITY, VERSIONS, evaluation
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row, spec

N = 240
SURE, UNSURE = 0.98, 0.55
Kind = tuple[int, int]
"""Rows of N that a model is sure of, all of them right, and rows that it has right in all; the first ones by id."""


def answered(model: str, kind: Kind) -> list[dict[str, Any]]:
    sure, right = kind
    rows = []
    for i in range(N):
        p, gold = SURE if i < sure else UNSURE, LABELS[i % 3]
        text = gold if i < right else LABELS[(i + 1) % 3]
        scores = [math.log(p if label == text else (1 - p) / 2) for label in LABELS]
        rows.append(row(i, gold, text, model, label_scores=scores))
    return rows


def without_probabilities(model: str, right: int) -> list[dict[str, Any]]:
    return [answer | {"label_scores": []} for answer in answered(model, (0, right))]


def task(metric: str | None = "coverage", **gates: Any) -> TaskSpec:
    return spec(gates={"metric": metric, **gates}, automation={"max_error": 0.05}, robustness={"rows": 0})


def judged(
    candidate: Kind,
    base: Kind,
    metric: str | None = "coverage",
    simple: Sequence[dict[str, Any]] = (),
    champion: tuple[Kind, ReleasedProbability | None] | None = None,
    **changes: Any,
) -> EvaluationResult:
    """The evaluation of models with these answers to the sealed test, and the same to validation."""
    simple = simple or without_probabilities("simple_linear", 90)
    rivals = [*answered("base", base), *without_probabilities("simple_commonest", 80), *simple]
    predictions = [*rivals, *answered("candidate", candidate), *answered(ON_VALIDATION, candidate)]
    if champion:
        predictions += answered("champion", champion[0])
        changes |= {"versions": VERSIONS | {"champion": "3"}, "champion_probability": champion[1]}
    arguments = {"spec": task(metric), "predictions": predictions, "validation": rivals, "simple": {}, **changes}
    return evaluation(**arguments)


def gate(name: str, result: EvaluationResult, metric: str | None = "coverage") -> Any:
    return GATES[name](task(metric), result)


def promise(error: float = 0.05, unit: Any = "answer") -> ReleasedProbability:
    """A champion that answers by itself what it is sure of."""
    return ReleasedProbability(
        calibration=Calibration(), promise=AutomationPromise(threshold=0.9, max_error=error, unit=unit)
    )


def test_of_models_that_are_as_often_right_the_one_that_answers_more_by_itself_wins() -> None:
    """By accuracy it is a tie."""
    result = judged((190, 200), (90, 200))
    passed = gate("beats_baseline", result)
    assert passed.passed and "which answers 37.5% by itself: answers 79.2%, +41.7 points" in passed.message
    gain = result.decisions.baseline.gains[0]
    assert (gain.metric, gain.alone, gain.rival_alone) == ("coverage", pytest.approx(190 / N), pytest.approx(90 / N))
    assert not gate("beats_baseline", judged((190, 200), (90, 200), None), None).passed
    assert not gate("beats_baseline", judged((90, 200), (190, 200))).passed, "nor does the other one win"


def test_a_tie_is_refused() -> None:
    refused = gate("beats_baseline", judged((190, 200), (190, 200)))
    assert refused.status == "failed" and "by itself: answers 79.2%, 0.0 points" in refused.message


def test_a_model_that_is_right_more_often_and_answers_less_by_itself_is_refused() -> None:
    result = judged((90, 230), (190, 200))
    assert gate("beats_baseline", judged((90, 230), (190, 200), None), None).passed, "it is surely more accurate"
    refused = gate("beats_baseline", result)
    assert refused.status == "failed" and refused.measured < 0
    both = task(more_metrics=["accuracy"])
    metrics = {g.metric for g in judged((90, 230), (190, 200), spec=both).decisions.baseline.gains}
    assert metrics == {"coverage", "accuracy"}, "more_metrics are asked as well"


def test_a_rival_without_probabilities_answers_nothing_by_itself() -> None:
    """However often it is right."""
    accurate = without_probabilities("simple_linear", 235)
    assert gate("beats_simple", judged((190, 200), (90, 200), simple=accurate)).passed
    assert not gate("beats_simple", judged((190, 200), (90, 200), None, simple=accurate), None).passed
    sure = answered("simple_linear", (230, 230))
    refused = gate("beats_simple", judged((190, 200), (90, 200), simple=sure))
    assert refused.status == "failed" and "which answers 95.8% by itself" in refused.message


def test_a_model_whose_promise_cannot_be_shown_wins_nothing() -> None:
    """It is sure of 190 rows of which 30 are wrong."""
    wrong = judged((190, 160), (90, 160))
    assert wrong.probabilities["candidate"].automation.threshold is None
    refused = gate("beats_baseline", wrong)
    assert refused.status == "failed" and "answers 0.0%" in refused.message


@pytest.mark.parametrize(
    ("released", "answers", "replaced"),
    [
        (promise(), 0.75, False),
        (promise(0.02), 0.75, False),
        (promise(0.1), 0.0, True),
        (promise(unit="field"), 0.0, True),
        (None, 0.0, True),
    ],
)
def test_the_champion_answers_what_it_answers_in_service(
    released: ReleasedProbability | None, answers: float, replaced: bool
) -> None:
    """At the threshold of its release, if that promises as much; three rows more are no sure gain."""
    result = judged((183, 200), (90, 200), champion=((180, 200), released))
    decision = gate("beats_champion", result)
    assert decision.passed is replaced, decision.message
    assert result.models["champion"].coverage == pytest.approx(answers)
    assert gate("beats_champion", judged((215, 220), (90, 200), champion=((180, 200), released))).passed
    champion = answered("champion", (180, 200))
    assert in_service(None, champion, spec().output, 0.05) is NONE_ALONE


def test_the_verdict_and_the_report_say_who_answers_how_much() -> None:
    result = judged((215, 220), (90, 200), champion=((180, 200), promise()))
    gates = [g.model_copy(update={"status": "passed"}) for g in decide(task(), result)]
    said = verdict_sentences(result, gates)[1]
    assert " It answers 89.6% (85.1% to 92.8%) by itself, at most 5.0% wrong" in said
    assert " The champion answers 75.0%, the best prompt 37.5%, the best simple model 0.0% by itself." in said
    refused = [g.model_copy(update={"status": "failed"}) for g in gates]
    assert " It answers 89.6%, the champion 75.0%, the best prompt 37.5%" in verdict_sentences(result, refused)[1]
    page = page_markdown(evaluation_page(result, gates))
    row_of_champion = next(
        line for line in page.splitlines() if line.startswith("| champion in service") and "yes" in line
    )
    assert "89.6%" in row_of_champion and "75.0%" in row_of_champion
    plain = judged((215, 220), (90, 200), None)
    assert "the champion" not in verdict_sentences(plain, gates)[1]
    assert "Answered alone, against" not in page_markdown(evaluation_page(plain, decide(task(None), plain)))


def shipped(simple: Kind, prompt: Kind) -> str | None:
    """What is shipped in place of a fine-tuned model that fails its gates."""
    parity = PARITY | {"same_greedy_share": 0.0, "passed": False}
    linear = answered("simple_linear", simple)
    result = decide_finalists(task(), judged((60, 70), prompt, simple=linear, parity=parity))
    return winner_of(result, decide(task(), result)).kind


def test_the_simplest_finalist_that_none_surely_beats_in_coverage_is_shipped() -> None:
    assert shipped((190, 200), (190, 200)) == "simple", "of equal ones the simpler"
    assert shipped((100, 215), (190, 200)) == "prompt", "though it is less often right"
    assert shipped((190, 200), (100, 215)) == "simple"
    assert shipped((0, 215), (0, 200)) is None, "nothing is shipped that answers nothing by itself"


def test_a_part_must_show_the_gain_by_itself() -> None:
    files = {f"e{i:04d}": "raw/a.jsonl" if 80 <= i < 140 else "raw/b.jsonl" for i in range(N)}
    parts = task(parts=["raw/a.jsonl"])
    (first, *_) = judged((190, 200), (90, 200), spec=parts, files=files).parts
    assert first.decision.shown and first.decision.gains[0].rival_alone == pytest.approx(10 / 60)
    (first, *_) = judged((190, 200), (140, 200), spec=parts, files=files).parts
    assert not first.decision.shown, "all rows of this file are answered by both"


def test_the_level_is_shared_by_the_thresholds_and_rows_of_a_source_count_once() -> None:
    """McNemar: of k rows that only one model answers, all are its with a chance of 2 * 0.5^k."""

    def shown(won: int, thresholds: int, **more: Any) -> bool | None:
        before, after = [False] * 100, [i < won for i in range(100)]
        return coverage_gain("rival", before, after, thresholds=thresholds, level=0.05, **more).shown

    assert [shown(won, 1) for won in (5, 6)] == [False, True]
    assert [shown(won, 20) for won in (9, 10)] == [False, True]
    assert not shown(10, 20, clusters=[i // 10 for i in range(100)]), "ten rows of one source"
    lost = coverage_gain("rival", [True] * 50 + [False] * 50, [False] * 100, thresholds=20, level=0.05)
    assert lost.interval[1] < 0 and lost.gain == -0.5


@pytest.mark.parametrize("world", ["equal", "second worse", "second surer"])
def test_wins_without_a_gain_are_rare(world: str) -> None:
    """At a level of 2.5%: of 200 worlds 12 or more would be seen by chance once in 200 times."""
    _, useless, broken = simulated(WORLDS[world], (300, 400), 0.1, 200)["corrected"]
    assert useless < 12 and broken < 12

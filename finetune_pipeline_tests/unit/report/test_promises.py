"""Report sections on probabilities: the promise of every model that may be shipped, and calibration before and after."""

import math
from typing import Any

import pytest

from finetune_pipeline.evaluation.calibration import Calibration
from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.evaluation.probabilities import ON_VALIDATION
from finetune_pipeline.evaluation.promises import released
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.report.promises import reliability_plot
from finetune_pipeline.report.verdict import verdict_sentences
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row, spec
from finetune_pipeline_tests.unit.report.parsed import Parsed


def _answers(model: str, n: int, unsure: float, p: float = 0.99) -> list[dict[str, Any]]:
    """Answers with this probability, all right; a last share of 0.6, every second of them right."""
    rows = []
    for i in range(n):
        of, gold = (0.6 if i >= n * (1 - unsure) else p), LABELS[i % 3]
        text = gold if of == p or i % 2 else LABELS[(i + 1) % 3]
        scores = [math.log(of if label == text else (1 - of) / 2) for label in LABELS]
        rows.append(row(i, gold, text, model, label_scores=scores))
    return rows


def promised_at(max_error: float) -> EvaluationResult:
    """A tuned model that is unsure of a fifth of its answers, and a linear model that is unsure of three in ten."""
    test = [*_answers("base", 300, 0.9), *_answers("candidate", 300, 0.2), *_answers("simple_linear", 300, 0.3)]
    validation = [*_answers("base", 90, 0.9), *_answers("simple_linear", 90, 0.3)]
    task = spec(automation={"max_error": max_error}, robustness={"rows": 0})
    return evaluation(
        spec=task, predictions=[*test, *_answers(ON_VALIDATION, 90, 0.2)], validation=validation, simple={}
    )


@pytest.fixture(scope="module")
def promised() -> EvaluationResult:
    return promised_at(0.02)


def test_every_model_that_may_be_shipped_says_which_share_it_answers_alone(promised: EvaluationResult) -> None:
    coverage = {name: model.coverage for name, model in promised.models.items() if model.coverage is not None}
    assert coverage == pytest.approx({"candidate": 0.8, "simple_linear": 0.7, "base": 0.0})
    assert promised.probabilities["candidate"].automation is not None
    gates = decide(spec(automation={"max_error": 0.02}), promised)
    page = page_markdown(evaluation_page(promised, gates))
    said = "answers 80.0% (75.1% to 84.1%) by itself, at most 2.0% wrong (0 of 240 seen, surely at most 1.2%); passes on 60 rows"
    assert said in page.replace("Answers", "answers"), page
    assert "| Answered alone |" in page and "Answered alone: without a person, surely at most 2.0% wrong." in page
    assert "could not be shown for any share of the answers" in page, "the prompt promises nothing, and it is said why"


def test_the_verdict_says_what_the_shipped_model_answers_alone(promised: EvaluationResult) -> None:
    gates = decide(spec(automation={"max_error": 0.02}), promised)
    passed = [gate.model_copy(update={"status": "passed"}) for gate in gates]
    assert " It answers 80.0% (75.1% to 84.1%) by itself, at most 2.0% wrong" in verdict_sentences(promised, passed)[1]
    refused = [gate.model_copy(update={"status": "failed"}) for gate in gates]
    nothing = promised.model_copy(update={"finalists": []})
    assert "by itself" not in verdict_sentences(nothing, refused)[1], "what is not shipped promises nothing"


def test_what_cannot_be_promised_fails_the_gate_with_the_error_that_could_be() -> None:
    judged = promised_at(0.005)
    gate = next(gate for gate in decide(spec(automation={"max_error": 0.005}), judged) if gate.name == "automation")
    assert gate.status == "failed" and "at most 2.0% wrong could have been shown for 80.0%" in gate.message
    assert "598 answered rows" in gate.what_to_do


def test_calibration_is_shown_before_and_after_with_a_plot(promised: EvaluationResult) -> None:
    page = page_html(evaluation_page(promised, decide(spec(automation={"max_error": 0.02}), promised)))
    assert '<h2 id="calibration">' in page and "Share of right answers by their probability" in page
    plot = reliability_plot(promised.probabilities["candidate"])
    assert plot is not None and "after" in plot.document
    assert "probability of the answer, %" in plot.document


def test_too_few_rows_to_calibrate_are_not_called_good_probabilities(promised: EvaluationResult) -> None:
    measured = promised.probabilities["candidate"]
    few = measured.model_copy(update={"calibration": Calibration(rows=32)})
    without = promised.model_copy(update={"probabilities": {"base": few}})
    words = Parsed(page_html(evaluation_page(without, decide(spec(), without)))).words
    assert "none: fewer than 50 rows" in words and "none needed" not in words
    assert "The fine-tuned model's are calibrated where automation.max_error is set" in words
    many = measured.model_copy(update={"calibration": Calibration(rows=80)})
    enough = promised.model_copy(update={"probabilities": {"candidate": many}})
    words = Parsed(page_html(evaluation_page(enough, decide(spec(), enough)))).words
    assert "none needed" in words and "are calibrated where" not in words


def test_a_release_without_a_promise_on_fields_gives_no_answer_the_probability_of_a_field(
    promised: EvaluationResult,
) -> None:
    measured = promised.probabilities["base"]
    assert measured.automation is not None and measured.automation.threshold is None
    kept = released(measured)
    assert kept is not None and kept.promise is None and kept.calibration == measured.calibration
    of_fields = measured.model_copy(update={"automation": measured.automation.model_copy(update={"unit": "field"})})
    assert released(of_fields) is None

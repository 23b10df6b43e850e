"""A champion whose kind changes: why, and what that costs and saves a month."""

from typing import Any

import pytest

from finetune_pipeline.evaluation.decisions import Winner
from finetune_pipeline.evaluation.gates import decide, decide_finalists
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.report.kinds import change_of_kind, costs_more
from finetune_pipeline.report.next_steps import next_steps
from finetune_pipeline.report.verdict import caveats
from finetune_pipeline_tests.unit.evaluation.fake_run import COST, VERSIONS, changed, evaluation, usual
from finetune_pipeline_tests.unit.evaluation.rows import answers, spec

MONTH = {"tuned": 438.0, "prompt": 876.0, "simple": 0.0}


def beside(kind: str | None, **month: float) -> EvaluationResult:
    name = "linear" if kind == "simple" else None
    return evaluation(champion_kind=kind, champion_name=name, cost=COST | {"month": month})


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("tuned", "simple", "saves $438 a month ($438 before, $0 now)"),
        ("classifier", "prompt", "costs $438 more a month ($438 before, $876 now)"),
        ("simple", "tuned", "costs $438 more a month ($0 before, $438 now)"),
        ("tuned", "classifier", "costs nothing more a month"),
    ],
)
def test_a_change_of_kind_is_said_with_its_cost(before: str, after: Any, says: str) -> None:
    sentences = change_of_kind(beside(before, **MONTH), Winner(kind=after, name="linear", title="the winner"))
    assert sentences[0].startswith("The champion changes from a ") and "the winner is surely better" in sentences[0]
    assert says in sentences[1]


def test_nothing_is_said_without_a_change_and_no_cost_is_made_up() -> None:
    assert change_of_kind(beside("simple", **MONTH), Winner(kind="simple")) == []
    assert change_of_kind(beside(None, **MONTH), Winner(kind="simple")) == []
    assert change_of_kind(beside("tuned", **MONTH), Winner()) == []
    unknown = change_of_kind(beside("tuned"), Winner(kind="simple", title="TF-IDF"))
    assert "a fine-tuned model and a simple model" in unknown[1] and "advise.calls_per_month" in unknown[1]
    needs_the_base = Winner(kind="simple", name="hidden", title="hidden states")
    assert "What a simple model costs a month is unknown" in change_of_kind(beside("tuned", **MONTH), needs_the_base)[1]
    promoted = changed(beside("tuned", **MONTH), {"promoted": {"model_version": 1, "serves": True}})
    assert change_of_kind(promoted, Winner(kind="simple")) == []


def test_the_headline_says_what_the_fine_tuned_model_costs_more() -> None:
    for kind, months, words in (
        ("simple", MONTH, " and costs $438 a month more to serve"),
        ("prompt", MONTH, ""),
        ("prompt", {"tuned": 900.0, "prompt": 300.0}, " and costs 3 times as much to serve"),
        ("prompt", {"tuned": 400.0, "prompt": 300.0}, " and costs $100 a month more to serve"),
        ("simple", {}, ""),
    ):
        assert costs_more(beside("tuned", **months), Winner(kind=kind, name="linear")) == words  # type: ignore[arg-type]
    assert costs_more(evaluation(cost=None), Winner(kind="simple")) == ""


@pytest.mark.parametrize(
    ("kind", "milliseconds", "simple", "words"),
    [
        ("simple", {"candidate": 32.0, "base": 40.0}, 0.08, " and takes 400 times as long to answer"),
        ("prompt", {"candidate": 96.0, "base": 32.0}, 0.08, " and takes 3 times as long to answer"),
        ("prompt", {"candidate": 32.0, "base": 96.0}, 0.08, ""),
        ("simple", {"base": 40.0}, 0.08, ""),  # the candidate's answers came from the cache
        ("simple", {"candidate": 32.0}, None, ""),
    ],
)
def test_without_prices_the_headline_says_how_much_longer_the_fine_tuned_model_takes(
    kind: Any, milliseconds: dict[str, float], simple: float | None, words: str
) -> None:
    linear = {"fit_seconds": 1.0, "p50": simple, "p95": 0.1, "megabytes": 0.5}
    cost = COST | {"milliseconds": milliseconds, "simple": {"linear": linear} if simple else {}}
    assert costs_more(evaluation(cost=cost), Winner(kind=kind, name="linear")) == words
    priced = evaluation(cost=cost | {"month": MONTH})
    assert "times as long" not in costs_more(priced, Winner(kind=kind, name="linear")), "dollars are said instead"


def test_the_report_compares_the_winner_with_the_champion_it_replaces() -> None:
    base = [row | {"label_scores": []} for row in answers(100)]
    champion = answers(120, model="champion")
    simple = {
        name: {row["example_id"]: row["text"] for row in answers(n)} for name, n in (("commonest", 80), ("linear", 160))
    }
    result = evaluation(
        predictions=[*base, *answers(100, model="candidate"), *champion],
        simple=simple,
        versions=VERSIONS | {"champion": "3"},
        champion_kind="tuned",
        cost=COST | {"month": MONTH},
    )
    result = decide_finalists(spec(), result)
    said = " ".join(caveats(result, decide(spec(), result)))
    assert "The champion changes from a fine-tuned model to a simple model: TF-IDF and logistic regression" in said
    assert "saves $438 a month" in said and "Against the champion in service: +20.0 points" in said
    assert "changes from" not in " ".join(caveats(usual(), decide(spec(), usual())))


def test_a_tie_may_be_taken_from_a_simple_model_but_not_from_a_prompt() -> None:
    for linear, prompt, hint in ((160, 100, True), (100, 160, False)):
        simple = {
            name: {row["example_id"]: row["text"] for row in answers(n)}
            for name, n in (("commonest", 80), ("linear", linear))
        }
        base = [row | {"label_scores": []} for row in answers(prompt)]
        result = decide_finalists(
            spec(), evaluation(predictions=[*base, *answers(100, model="candidate")], simple=simple)
        )
        steps = next_steps(result, decide(spec(), result))
        assert steps[0].startswith("Serve it")
        assert any("gates.simple: not_worse" in step for step in steps) is hint

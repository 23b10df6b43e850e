"""The advice before training: planted tasks of each kind get the decision they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from finetune_pipeline.baseline.advice import (
    AS_GOOD,
    CLOSES_MOST,
    _must_reach,
    _retrieval_is_enough,
    advise,
    measured_gains,
    tokens_of,
)
from finetune_pipeline.baseline.learnable import Learnable
from finetune_pipeline.baseline.worth import good_enough
from finetune_pipeline.evaluation.rivals import score_baselines, strongest_rival
from finetune_pipeline.planning.power import power_plan
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import DEFAULT_METRICS
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, json_spec, row, spec

N = 200


def answers(right: range, *, form: bool = True, n: int = N) -> list[dict[str, Any]]:
    """Rows that are right where `right` says so; the others hold another label, or none at all. The likelihoods know
    nothing: all labels are equally likely."""
    made = []
    for i in range(n):
        gold, other = LABELS[i % 3], LABELS[(i + 1) % 3] if form else "I think it is fine"
        made.append(row(i, gold, gold if i in right else other, label_scores=[-1.0, -1.0, -1.0]))
    return made


SHOWN = Learnable("shown", [], 700, 100, "The answers can be told from the inputs.")


def advice_for(
    prompts: dict[str, list[dict[str, Any]]],
    *,
    linear: float = 0.4,
    test: int = 400,
    of: TaskSpec | None = None,
    signal: Learnable = SHOWN,
) -> dict[str, Any]:
    """The advice for these answers, beside a linear model that is right on that share of 500 rows, among them those of the
    prompts, and a commonest answer that is right on a third."""
    task = of or spec()
    gold = [LABELS[i % 3] for i in range(500)]
    simple = {
        "simple_commonest": [row(i, g, LABELS[0], label_scores=[]) for i, g in enumerate(gold)],
        "simple_linear": [
            row(i, g, g if i % 100 < round(100 * linear) else LABELS[(i + 1) % 3], label_scores=[])
            for i, g in enumerate(gold)
        ],
    }
    rows = prompts | simple
    facts = score_baselines(task, rows) | {
        "prompt_details": {
            name: {"mean_prompt_tokens": 400.0 if name != "zero_shot" else 90.0, "mean_new_tokens": 4.0}
            for name in prompts
        }
    }
    rival = strongest_rival(task, rows)
    power = power_plan(task, test, rival)
    counts = {"train": 700, "validation": N, "test": test}
    return advise(task, facts, power, rows, counts, rival, signal)


def prompts(right: int, nearest: int | None = None, **how: Any) -> dict[str, list[dict[str, Any]]]:
    made = {"zero_shot": answers(range(10), form=False), "8_shot": answers(range(right), **how)}
    return made | ({} if nearest is None else {"3_nearest": answers(range(nearest), **how)})


def test_an_easy_task_needs_no_language_model() -> None:
    advice = advice_for(prompts(30, 100), linear=0.99)
    assert advice["decision"] == "simple" and advice["fine_tune"] is False
    assert "surely at or above 90.0%" in advice["reasons"][0]
    assert (
        "TF-IDF and logistic regression" in advice["sentence"]
        and "right on 99.0% of 500 validation rows" in advice["sentence"]
    )


def test_a_simple_model_that_leads_is_used_where_no_result_promises_more() -> None:
    advice = advice_for(prompts(100), linear=0.8)
    assert advice["decision"] == "simple" and "leads the base model at its best, by +30" in advice["sentence"]
    assert advice_for(prompts(150), linear=0.8)["decision"] == "simple", "it leads, if not surely"
    assert advice_for(prompts(170), linear=0.8)["decision"] == "fine_tune", "the base model leads"
    assert advice_for(prompts(40), linear=0.45)["decision"] == "fine_tune", "it is wrong on most rows"
    assert advice_for(prompts(40), linear=0.5)["decision"] == "simple", "it is right on half"


def test_a_measured_gain_over_a_simple_model_as_good_is_a_reason_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [{"kind": "labels", "simple": 0.75, "tuned": 0.9, "interval": [0.05, 0.2]}]
    monkeypatch.setattr("finetune_pipeline.baseline.advice.measured_gains", lambda: results)
    assert advice_for(prompts(100), linear=0.8)["decision"] == "fine_tune"
    results[0]["simple"] = 0.69
    assert advice_for(prompts(100), linear=0.8)["decision"] == "simple", "the simple model was worse there"
    results[0] |= {"simple": 0.75, "interval": [-0.01, 0.2]}
    assert advice_for(prompts(100), linear=0.8)["decision"] == "simple", "a gain that is not sure"
    results[0]["interval"] = [0.0, 0.2]
    assert advice_for(prompts(100), linear=0.8)["decision"] == "simple", "a gain of nothing is none"
    results[0] |= {"simple": 0.8 - AS_GOOD, "interval": [0.05, 0.2]}
    assert advice_for(prompts(100), linear=0.8)["decision"] == "fine_tune", "just as good counts"
    results[0] |= {"simple": 0.75, "kind": "json"}
    assert advice_for(prompts(100), linear=0.8)["decision"] == "simple", "answers of another kind"


def test_the_shipped_results_are_complete() -> None:
    assert measured_gains()
    for result in measured_gains():
        assert result["kind"] in DEFAULT_METRICS and 0 <= result["simple"] <= 1 and 0 <= result["tuned"] <= 1
        assert result["interval"][0] <= result["tuned"] - result["simple"] <= result["interval"][1]


def test_a_hard_task_is_worth_it_and_says_what_must_be_reached() -> None:
    advice = advice_for(prompts(40, 60), linear=0.4)
    assert advice["decision"] == "fine_tune" and advice["sentence"].startswith(
        "Yes: fine-tune. Nothing simpler does the task"
    )
    assert "TF-IDF and logistic regression, reaches 40.0%" in advice["sentence"]
    assert "60.0 points of accuracy are left to be gained over it" in advice["sentence"]
    assert 0.44 < advice["must_reach"] < 0.56
    assert _must_reach({"before": 0.9, "detectable_gain": 0.3}) == 1.0, "no score is above all rows right"
    assert any(f"has to reach about {100 * advice['must_reach']:.1f}%" in reason for reason in advice["reasons"])


def test_what_no_simple_model_can_tell_is_not_called_learnable() -> None:
    advice = advice_for(prompts(40), linear=0.34)
    assert any("which is not surely more than always the commonest answer" in reason for reason in advice["reasons"])
    assert not any("something to be learned" in reason for reason in advice["reasons"])
    shuffled = Learnable("not_shown", [], 700, 200, "The answers cannot be told from the inputs: 16% by …")
    advice = advice_for(prompts(40), linear=0.34, signal=shuffled)
    assert (advice["decision"], advice["fine_tune"]) == ("no_signal", False)
    assert advice["reasons"][0] == shuffled.sentence and advice["reasons"].count(shuffled.sentence) == 1
    few = Learnable("too_few_rows", [], 40, 200, "40 training rows cannot show it; it takes 200.")
    unsure = advice_for(prompts(40), linear=0.34, signal=few)
    assert (unsure["decision"], unsure["fine_tune"], unsure["reasons"][0]) == ("pilot", False, few.sentence)
    assert advice_for(prompts(195), signal=few)["decision"] == "prompt", "what is known already stands"


@pytest.mark.parametrize("linear", [0.3, 0.99])
def test_what_the_base_does_already_is_prompted(linear: float) -> None:
    advice = advice_for(prompts(195), linear=linear)
    assert advice["decision"] == "prompt" and "8-shot is right on 97.5%" in advice["sentence"]
    assert advice_for(prompts(180))["decision"] == "fine_tune", "90% of 200 rows is not surely 90%"


def test_enough_is_what_leaves_no_room_for_the_wanted_gain() -> None:
    modest = spec(gates={"wanted_gain": 0.2})
    assert advice_for(prompts(175), of=modest)["decision"] == "prompt"
    assert "surely at or above 80.0%" in advice_for(prompts(30), linear=0.86, of=modest)["sentence"]
    for lower, decision in ((0.9, "prompt"), (0.899, None)):
        facts = {"best": "8_shot", "prompts": {"8_shot": {"accuracy": 0.95, "n": 9, "interval": [lower, 1.0]}}}
        assert [kind for kind, _, _ in good_enough(facts, 0.9)] == ([decision] if decision else [])


def test_a_base_that_knows_and_only_does_not_keep_to_the_form_is_restricted() -> None:
    knows = [
        r | {"label_scores": [-0.1 if x == r["gold"] else -3.0 for x in LABELS]} for r in answers(range(0), form=False)
    ]
    advice = advice_for({"zero_shot": knows})
    assert advice["decision"] == "prompt" and "Restrict the answers to the allowed forms" in advice["sentence"]


def test_retrieval_that_closes_the_gap_is_built_first() -> None:
    advice = advice_for(prompts(60, 150), linear=0.4)
    assert advice["decision"] == "retrieve"
    assert "adds +45.0 points" in advice["sentence"] and advice["retrieval"]["closes"] == pytest.approx(0.45 / 0.6)
    assert advice_for(prompts(60, 195), linear=0.4)["sentence"].startswith(
        "No: show the model the nearest examples. Prompting is"
    )


def test_retrieval_that_helps_little_or_by_chance_or_less_than_learning_is_not_the_answer() -> None:
    assert advice_for(prompts(60, 100))["decision"] == "fine_tune", "a third of the gap"
    assert advice_for(prompts(60, 150), linear=0.89)["decision"] == "simple", "the rows teach more than they tell"
    assert advice_for(prompts(60, 150, form=False))["decision"] == "fine_tune", "half of the answers are in no form"
    few = {name: of[:12] for name, of in {"zero_shot": answers(range(8)), "3_nearest": answers(range(10))}.items()}
    assert advice_for(few)["decision"] == "fine_tune", "twelve rows prove no help"


def test_where_retrieval_is_just_enough() -> None:
    retrieval = {
        **{"prompt": "3_nearest", "over": "zero_shot", "value": 0.8, "gain": 0.4, "interval": [0.001, 0.5]},
        **{"closes": CLOSES_MOST, "valid_share": spec().gates.min_valid_share},
    }

    def enough(simple: list[float] | None = None, **change: Any) -> bool:
        facts: dict[str, Any] = {"prompts": {"3_nearest": {"interval": [0.7, 0.85]}}}
        if simple:
            facts["simple"] = {"simple_linear": {"interval": simple}}
        return _retrieval_is_enough(spec(), facts, {**retrieval, **change}) is not None

    assert enough() and enough([0.85, 0.95])
    assert not enough([0.851, 0.95]), "a simple model that learns is surely better"
    assert not enough(interval=[0.0, 0.5]) and not enough(closes=CLOSES_MOST - 0.001) and not enough(closes=None)
    assert not enough(valid_share=spec().gates.min_valid_share - 0.001)
    reasons_once = advice_for(prompts(60, 150), linear=0.4)["reasons"]
    assert len([r for r in reasons_once if "adds +45.0 points" in r]) == 1
    assert any("adds" in r for r in advice_for(prompts(40, 60), linear=0.4)["reasons"])


def test_tokens_are_told_where_both_prompts_were_measured() -> None:
    measured = {"mean_prompt_tokens": 300.0, "mean_new_tokens": 4.0}
    for details in ({}, {"8_shot": measured}, {"zero_shot": measured}):
        assert tokens_of({"best": "8_shot", "prompt_details": details}) is None
    assert tokens_of({"best": "8_shot", "prompt_details": {"8_shot": measured, "zero_shot": measured}})


def test_a_base_at_the_ceiling_leaves_no_gap_to_close() -> None:
    advice = advice_for({"zero_shot": answers(range(180)), "3_nearest": answers(range(190))})
    assert advice["retrieval"]["closes"] is None


def test_failures_are_told_apart() -> None:
    eight = answers(range(50), form=False)[:100] + answers(range(50))[100:]
    advice = advice_for({"zero_shot": answers(range(0), form=False), "8_shot": eight, "3_nearest": answers(range(120))})
    found = advice["failures"]
    assert found["prompt"] == "8_shot" and found["kinds"] == {"format": 50, "label_pair": 100}
    counts = ("n", "right", "form", "knowledge", "judgement", "unnamed")
    assert [found[name] for name in counts] == [200, 50, 50, 20, 80, 0]
    assert any(
        reason.startswith("Of 150 wrong answers of the best prompt without retrieval (8-shot), 50 are of form or style")
        and "20 come right once the nearest examples are shown" in reason
        for reason in advice["reasons"]
    )
    without = advice_for({"zero_shot": answers(range(0), form=False), "8_shot": eight})["reasons"]
    assert not any("come right once" in reason for reason in without)


def test_what_each_model_reaches_is_told_beside_the_commonest_answer() -> None:
    unsure, sure = advice_for(prompts(100), linear=0.35)["reasons"], advice_for(prompts(100), linear=0.8)["reasons"]
    aside = "not surely more than always the commonest answer"
    assert [r.startswith("TF-IDF") for r in unsure if aside in r] == [True]
    assert not any(aside in r for r in sure)


def test_only_a_prompt_of_the_spec_is_to_become_the_system_prompt() -> None:
    own = advice_for({"zero_shot": answers(range(10)), "prompt_short": answers(range(100))})["reasons"]
    assert sum("Make that prompt the system_prompt" in r for r in own) == 1
    assert not any("Make that prompt" in r for r in advice_for(prompts(100))["reasons"])


def test_a_test_that_can_show_nothing_asks_for_data_first() -> None:
    assert advice_for(prompts(30), test=3)["decision"] == "collect"
    blocking = spec(gates={"enough_test_rows": "block"})
    advice = advice_for(prompts(30), test=50, of=blocking)
    assert advice["decision"] == "collect" and "collect" in advice["sentence"]
    assert advice_for(prompts(30), test=50)["decision"] == "fine_tune"


def test_extraction_is_judged_by_the_same_rules() -> None:
    def rows(right: int) -> list[dict[str, Any]]:
        gold, wrong = '{"city": "Rome", "guests": 2}', '{"city": "Rome", "guests": 3}'
        return [row(i, gold, gold if i < right else wrong, label_scores=[]) for i in range(N)]

    def extraction(zero: int, nearest: int) -> dict[str, Any]:
        task, asked = json_spec(), {"zero_shot": rows(zero), "3_nearest": rows(nearest)}
        facts, rival = score_baselines(task, asked), strongest_rival(task, asked)
        return advise(task, facts, power_plan(task, 400, rival), asked, {"train": 700}, rival, SHOWN)

    assert extraction(5, 20)["decision"] == "fine_tune"
    assert extraction(5, 150)["decision"] == "retrieve"
    assert extraction(195, 190)["decision"] == "prompt"
    assert extraction(5, 20)["failures"]["kinds"] == {"wrong_value": 195}


def _reasons(advice: dict[str, Any], word: str) -> Sequence[str]:
    return [reason for reason in advice["reasons"] if word in reason]


def test_calls_and_privacy_are_told_where_the_spec_says_them() -> None:
    plain = advice_for(prompts(40))
    assert _reasons(plain, "reads 400 tokens and writes 4; a fine-tuned model needs no examples and reads 90")
    assert not _reasons(plain, "a month") and not _reasons(plain, "must not leave")
    settings = {"calls_per_month": 100_000, "dollars_per_million_tokens": 0.5, "private": True}
    advice = advice_for(prompts(40), of=spec(advise=settings))
    assert _reasons(advice, "At 100,000 calls a month that is 31.0 million tokens less, 15.50 of 20.20 dollars.")
    assert _reasons(advice, "must not leave your machines (advise.private)")

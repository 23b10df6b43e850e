"""Rivals: which answers of the base decide, which rival is the strongest, and which rows two models share."""

from functools import partial

import pytest

from finetune_pipeline.evaluation.predictions import same_rows
from finetune_pipeline.evaluation.rivals import (
    base_at_its_best,
    score_baselines,
    simple_rows,
    strongest_rival,
)
from finetune_pipeline_tests.unit.evaluation.rows import answers as some_answers
from finetune_pipeline_tests.unit.evaluation.rows import json_spec, row, rows, spec

answers = partial(some_answers, n=40, label_scores=[])


def test_the_strongest_rival_is_the_one_with_the_highest_score_whatever_its_name_or_place() -> None:
    rows = {"zero_shot": answers(10), "8_shot": answers(30), "simple_commonest": answers(13)}
    rival = strongest_rival(spec(), rows)
    assert (rival.title, rival.value) == ("the base model, 8-shot", 0.75)
    assert [r["example_id"] for r in rival.rows] == sorted(r["example_id"] for r in rows["8_shot"])
    assert strongest_rival(spec(), {**rows, "simple_linear": answers(31)}).title == "TF-IDF and logistic regression"
    assert strongest_rival(spec(), {**rows, "simple_linear": answers(29)}).title == "the base model, 8-shot"


def test_two_models_are_compared_on_the_rows_both_answered_in_one_order() -> None:
    first, second = answers(5, n=6), answers(3, n=6)
    a, b = same_rows(first[1:], list(reversed(second[:5])))
    assert [r["example_id"] for r in a] == [r["example_id"] for r in b] == [r["example_id"] for r in first[1:5]]
    assert a == first[1:5] and b == second[1:5]
    assert list(simple_rows({"simple_linear": answers(3), "base": answers(1)})) == ["linear"]


def test_scores_of_prompts():
    zero = [row(i, "bug", "bug" if i < 2 else "It is a bug", label_scores=[-0.1, -1.0, -1.0]) for i in range(10)]
    eight = rows([("bug", "bug")] * 7 + [("bug", "other")] * 3)
    facts = score_baselines(spec(), {"zero_shot": zero, "8_shot": eight})
    assert (facts.best, facts.best_mode) == ("zero_shot", "restricted"), "wrong only in form, and the best answers"
    assert facts.n == 10
    first = facts.prompts["zero_shot"]
    assert (first.accuracy, first.valid_share, first.restricted.accuracy) == (0.2, 0.2, 1.0)
    assert facts.prompts["8_shot"].macro_f1 == pytest.approx(14 / 17)
    with pytest.raises(ValueError, match="other examples than zero_shot: 8_shot"):
        score_baselines(spec(), {"zero_shot": zero, "8_shot": eight[:5]})
    with pytest.raises(ValueError, match="no baseline predictions"):
        score_baselines(spec(), {"zero_shot": []})


def test_baselines_are_not_surer_than_the_sources_of_validation_allow():
    rows = {"zero_shot": answers(100, n=100), "simple_linear": answers(100, n=100)}
    documents = {r["example_id"]: f"document {i // 25}" for i, r in enumerate(rows["zero_shot"])}
    alone, shared = (score_baselines(spec(), rows, sources) for sources in (None, documents))
    for kind, name in (("prompts", "zero_shot"), ("simple", "linear")):
        assert getattr(alone, kind)[name].interval[0] > 0.95 and getattr(shared, kind)[name].interval[0] < 0.5, (
            "four documents"
        )


def test_a_prompt_with_too_few_answers_in_form_is_not_the_best_by_itself():
    """Exactly 80% in form is enough; below, free answers that score higher do not count, but restricted ones do."""
    scored = [row(i, "bug", "bug" if i < 8 else "It is", label_scores=[-0.1, -1.0, -1.0]) for i in range(10)]
    assert base_at_its_best({"base": scored}, spec().output).mode == "free"
    assert base_at_its_best({"base": scored[1:]}, spec().output).mode == "restricted"
    half = rows([("bug", "bug")] * 5 + [("bug", "other")] * 5)
    for right, best in ((4, ("zero_shot", "free")), (6, ("8_shot", "restricted"))):
        likeliest = [[-0.1, -1.0, -1.0]] * right + [[-1.0, -0.1, -1.0]] * (10 - right)
        loose = [row(i, "bug", "bug" if i < 7 else "I think", label_scores=likeliest[i]) for i in range(10)]
        facts = score_baselines(spec(), {"zero_shot": half, "8_shot": loose})
        assert (facts.best, facts.best_mode) == best, "7 of 10 in form is no rival by itself"
    assert score_baselines(spec(), {"zero_shot": half, "8_shot": half}).best == "zero_shot", "a tie"
    best = base_at_its_best({"base": answers(20)}, spec().output)
    assert best.mode == "free" and list(best.answers) == ["free"], "labels without likelihoods are not restricted"


def test_where_no_prompt_keeps_the_form_the_best_restricted_answers_are_the_ones_to_beat():
    spoken = {}
    for name, right_count in (("zero_shot", 4), ("8_shot", 9)):
        scores = [[-0.1, -3.0, -3.0]] * right_count + [[-3.0, -0.1, -3.0]] * (10 - right_count)
        texts = ["bug"] * 7 + ["I think it is a bug"] * 3
        spoken[name] = [row(i, "bug", texts[i], label_scores=scores[i]) for i in range(10)]
    facts = score_baselines(spec(), spoken)
    assert (facts.best, facts.best_mode) == ("8_shot", "restricted"), "7 of 10 in form is no rival by itself"


def test_restricted_json_answers_and_simple_models_stand_beside_the_prompts():
    gold = '{"city": "Rome", "guests": 2}'
    free = [row(i, gold, "Rome, two guests", label_scores=[]) for i in range(10)]
    under_schema = [row(i, gold, gold if i < 6 else gold.replace("2", "3"), label_scores=[]) for i in range(10)]
    simple = [row(i, gold, gold if i < 3 else "{}", label_scores=[]) for i in range(20)]
    rows = {"zero_shot": free, "zero_shot_restricted": under_schema, "simple_nearest": simple}
    facts = score_baselines(json_spec(), rows)
    assert list(facts.prompts) == ["zero_shot"] and facts.best_mode == "restricted"
    assert facts.prompts["zero_shot"].restricted.accuracy == 0.6
    assert facts.simple["nearest"].correct == 3 and facts.simple["nearest"].n == 20

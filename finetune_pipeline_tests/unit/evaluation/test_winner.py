"""Which of the evaluated models is shipped: the fine-tuned one, a simple model, a prompt, or none."""

import pytest

from finetune_pipeline.evaluation.decisions import Winner
from finetune_pipeline.evaluation.gates import decide, decide_finalists
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.evaluation.statistics.proportions import tango_interval, wilson_interval
from finetune_pipeline.evaluation.winner import decision_on, gates_of, winner_of
from finetune_pipeline.report.stored import Report
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    NOT_COMPARED,
    OPENINGS,
    VERSIONS,
    changed,
    evaluation,
    refusal,
    usual,
)
from finetune_pipeline_tests.unit.evaluation.rows import answers, rows, spec

ROWS = 200
GOLD = {row["example_id"]: row["gold"] for row in answers(ROWS, ROWS)}
TUNED, SIMPLE, PROMPT, NOTHING = ("tuned", "candidate"), ("simple", "linear"), ("prompt", "8_shot"), (None, None)


def judged(task: TaskSpec | None = None, *, tuned: int = 120, linear: int = 90, prompt: int = 90, **changes) -> Winner:
    """The winner where these models have so many of 200 rows right, the first ones; the commonest answer has 80."""
    task = task or spec()
    result = evaluated(task, tuned, linear, prompt, **changes)
    return winner_of(decide_finalists(task, result), decide(task, result))


def evaluated(task: TaskSpec, tuned: int, linear: int, prompt: int, **changes) -> EvaluationResult:
    free = [row | {"label_scores": []} for row in answers(prompt, ROWS)]
    simple = {name: in_form(right) for name, right in (("commonest", 80), ("nearest", 82), ("linear", linear))}
    predictions = [*free, *answers(tuned, ROWS, "candidate"), *changes.pop("more", [])]
    return evaluation(spec=task, predictions=predictions, simple=simple, **changes)


def in_form(right: int) -> dict[str, str]:
    return {row["example_id"]: row["text"] for row in answers(right, ROWS)}


def test_the_fine_tuned_model_is_shipped_if_it_passes_every_gate():
    gates = decide(spec(), usual())
    assert (winner_of(usual(), gates).kind, winner_of(usual(), gates).name) == TUNED
    classifier = changed(usual(), {"task.method": "classifier"})
    assert winner_of(classifier, gates).kind == "classifier"
    for refused in ([*gates, refusal()], []):
        assert winner_of(usual(), refused).kind is None, "no finalist was judged"
    assert "beats_baseline" in winner_of(usual(), [*gates, refusal()]).why
    assert decision_on(usual(), winner_of(usual(), gates)) == "promote"
    assert decision_on(changed(usual(), {"promoted": {"model_version": 1, "serves": True}}), Winner()) == "known"


@pytest.mark.parametrize(
    ("tuned", "linear", "prompt", "winner"),
    [
        (180, 100, 100, TUNED),
        (150, 150, 100, SIMPLE),  # a tie with TF-IDF
        (150, 148, 150, SIMPLE),  # a tie of all: the simplest
        (150, 100, 150, PROMPT),  # surely better than TF-IDF, a tie with the prompt
        (100, 100, 150, PROMPT),
        (100, 150, 100, SIMPLE),
        (80, 80, 80, NOTHING),  # all as useless as the commonest answer
        (83, 82, 83, NOTHING),  # better, but not surely
        (83, 82, 95, PROMPT),  # TF-IDF is not surely better than the commonest answer, and the prompt is
    ],
)
def test_the_simplest_model_that_none_surely_beats_is_shipped(tuned, linear, prompt, winner):
    given = judged(tuned=tuned, linear=linear, prompt=prompt)
    assert (given.kind, given.name) == winner, given.why
    assert given.mode == ("free" if winner == PROMPT else None)


@pytest.mark.parametrize(
    ("linear", "prompt", "winner"),
    [(190, 190, SIMPLE), (150, 190, PROMPT), (190, 150, SIMPLE), (82, 83, NOTHING)],
)
def test_where_nothing_was_trained_the_finalists_compete_alone(linear, prompt, winner):
    task = spec()
    result = evaluated(task, linear, linear, prompt, untrained="TF-IDF is enough.")
    result, gates = decide_finalists(task, result), decide(task, result)
    assert {gate.status for gate in gates} == {"not_asked"}
    given = winner_of(result, gates)
    assert (given.kind, given.name) == winner and given.why.startswith("Nothing was trained; ") is (winner != SIMPLE)
    assert "fine-tuned" not in given.why
    assert not any("fine-tuned" in title for finalist in result.finalists for title in finalist.beaten_by)
    report = Report.of(result, gates)
    if winner == NOTHING:
        assert report.verdict.decision == "refuse" and report.verdict.headline.startswith("Ship nothing. TF-IDF")
        assert gates_of(given, result, gates) == result.finalists[0].gates
    else:
        assert report.verdict.headline.startswith(f"Ship {given.title}: training was not worth it. Wrong in")
    said = " ".join([report.verdict.headline, report.verdict.answer, report.verdict.sentence, *report.verdict.caveats])
    assert "fine-tuned" not in said and "Before training, on validation: TF-IDF is enough." in said
    assert any("gates.worth_training: warn" in step for step in report.next_steps)
    known = changed(result, {"promoted": {"model_version": 1, "serves": True}})
    assert Report.of(known, gates).verdict.passed is (winner != NOTHING), "whether it would be shipped again"


def test_a_tie_goes_to_the_fine_tuned_model_where_the_spec_says_so():
    for simple, winner in (("better", SIMPLE), ("not_worse", TUNED)):
        task = spec(gates={"simple": simple, "simple_margin": 0.1})
        assert judged(task, tuned=150, linear=150, prompt=100).kind == winner[0]


def test_a_fine_tuned_model_that_is_surely_better_but_refused_leaves_nothing_to_ship():
    result = evaluated(spec(), tuned=180, linear=100, prompt=100)
    winner = winner_of(decide_finalists(spec(), result), decide(spec(), changed(result, {"parity": NOT_COMPARED})))
    assert winner.kind is None
    assert "does not pass merge_parity" in winner.why and "is surely worse than the fine-tuned model" in winner.why


def test_min_score_is_asked_of_every_kind():
    low = wilson_interval(150, ROWS)[0]
    for least, winner in ((low - 0.03, SIMPLE), (low, NOTHING)):
        given = judged(spec(gates={"min_score": least}), tuned=150, linear=150, prompt=100)
        assert given.kind == winner[0], "the level of TF-IDF is shared with the prompt, so its bound is lower"
        assert ("min_score" in given.why) is (winner == NOTHING)


def test_what_a_finalist_must_show_is_decided_at_a_shared_level():
    result = evaluated(spec(), tuned=100, linear=100, prompt=100)
    (gain,) = result.finalists[0].commonest.gains
    assert gain.interval == pytest.approx(tango_interval(0, 20, ROWS, 0.975)), "two finalists share 5%"
    validated = score_baselines(spec(), {"8_shot": rows([("bug", "bug")] * 40)}).to_json()
    alone = evaluated(spec(), tuned=100, linear=100, prompt=100, baseline=validated)
    assert [f.kind for f in alone.finalists] == ["prompt"], "no simple model was compared on validation"
    assert alone.finalists[0].commonest.gains[0].interval == pytest.approx(tango_interval(0, 20, ROWS, 0.95))


def test_the_finalists_are_the_best_on_validation_not_on_the_test():
    near = {"simple_nearest": rows([("bug", "bug")] * 39 + [("bug", "other")])}
    prompts = {"zero_shot": rows([("bug", "bug")] * 39 + [("bug", "other")]), "8_shot": rows([("bug", "bug")] * 40)}
    baseline = score_baselines(spec(), {**prompts, **near, "simple_linear": rows([("bug", "other")] * 40)}).to_json()
    finalists = evaluated(spec(), tuned=100, linear=190, prompt=100, baseline=baseline).finalists
    assert [(f.kind, f.name) for f in finalists] == [("simple", "nearest"), ("prompt", "8_shot")]


def test_a_prompt_answers_in_the_way_that_is_better_on_validation():
    chatty = [row | {"text": f"I say {row['text']}"} for row in rows([("bug", "bug")] * 40)]
    baseline = score_baselines(spec(), {"8_shot": chatty}).to_json()
    base = answers([True] * 150 + [False] * 50)
    spoken = [row | {"text": f"I say {row['text']}"} for row in base]
    predictions = [*spoken, *answers(150, ROWS, "candidate")]
    simple = {"commonest": in_form(80)}
    result = evaluation(predictions=predictions, simple=simple, baseline=baseline)
    winner = winner_of(decide_finalists(spec(), result), decide(spec(), result))
    assert (winner.kind, winner.name, winner.mode) == ("prompt", "8_shot", "restricted")
    assert winner.title.endswith("answer restricted to the allowed forms")


def test_an_api_model_is_never_shipped_and_still_counts_as_a_rival():
    baseline = score_baselines(
        spec(), {"api_8_shot": rows([("bug", "bug")] * 40), "simple_linear": rows([("bug", "bug")])}
    ).to_json()
    given = judged(tuned=100, linear=100, prompt=150, baseline=baseline)
    assert given.kind is None and "surely worse than the prompted model behind an API" in given.why


def test_a_winner_of_another_kind_must_beat_the_champion_and_keep_its_right_rows():
    champions = {"equal": range(150), "worse": range(100), "other rows": range(40, 150)}
    winners = {}
    for name, right in champions.items():
        more = answers([i in right for i in range(ROWS)], ROWS, "champion")
        given = judged(tuned=100, linear=150, prompt=100, more=more, versions=VERSIONS | {"champion": "3"})
        winners[name] = given.kind
    assert winners == {"equal": None, "worse": "simple", "other rows": "simple"}
    lost = answers([i >= 60 for i in range(ROWS)], ROWS, "champion")
    given = judged(tuned=100, linear=170, prompt=100, more=lost, versions=VERSIONS | {"champion": "3"})
    assert given.kind is None and "few_regressions" in given.why


def test_listed_examples_and_the_ledger_bind_every_kind():
    listed = next(i for i, row in enumerate(answers(150, ROWS)) if i == 149)
    for example, kind in ((f"e{listed:04d}", "simple"), (f"e{listed + 1:04d}", None)):
        task = spec(gates={"never_break": [example]})
        assert judged(task, tuned=100, linear=150, prompt=100, never_break=[example]).kind == kind
    assert judged(tuned=100, linear=150, prompt=100, openings=[]).kind is None, "no opening is on record"
    looks = [OPENINGS[0] | {"candidate": f"c{9 - i}"} for i in range(9)]
    for right, kinds in ((88, ("simple", None)), (150, ("simple", "simple"))):
        given = [judged(tuned=80, linear=right, prompt=80, openings=o).kind for o in (OPENINGS, looks)]
        assert tuple(given) == kinds, "a ninth judgement needs a larger gain over the commonest answer"


def test_gates_on_training_are_not_asked_of_other_kinds_and_say_why():
    result = decide_finalists(spec(), evaluated(spec(), tuned=100, linear=150, prompt=100))
    asked = {gate.name for gate in result.finalists[0].gates if gate.status != "not_asked"}
    assert asked == {"beats_commonest", "format_compliance", "sealed_test_openings"}
    assert all(gate.message for gate in result.finalists[0].gates)
    rated = decide_finalists(spec(gates={"min_rated": 1}), result)
    (review,) = [gate for gate in rated.finalists[0].gates if gate.name == "human_review"]
    assert review.status == "failed", "nobody judged the answers of a simple model"


def test_the_form_of_a_simple_model_that_answers_labels_needs_no_proof():
    few = {name: dict(list(in_form(right).items())[:40]) for name, right in (("commonest", 10), ("linear", 40))}
    predictions = [row for model in ("base", "candidate") for row in answers(15, ROWS, model)[:40]]
    finalists = decide_finalists(spec(), evaluation(predictions=predictions, simple=few)).finalists
    form = {f.kind: next(g for g in f.gates if g.name == "format_compliance").status for f in finalists}
    assert form["simple"] == "passed" and form["prompt"] == "failed"


def test_the_answers_of_a_finalist_must_be_in_form():
    broken = dict(list(in_form(150).items())[:150]) | {i: f"{g}?" for i, g in list(GOLD.items())[150:]}
    predictions = [*answers(100, ROWS), *answers(100, ROWS, "candidate")]
    result = evaluation(predictions=predictions, simple={"commonest": in_form(80), "linear": broken})
    winner = winner_of(decide_finalists(spec(), result), decide(spec(), result))
    assert winner.kind is None
    assert "TF-IDF and logistic regression does not pass format_compliance" in winner.why

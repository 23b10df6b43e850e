"""The ladder: no false winner, an honest pilot, limits that are kept, and the answer that follows."""

import json
import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.baseline.ladder import (
    Answered,
    Ladder,
    Rung,
    Terms,
    cross_fitted,
    fold_of,
    rung_answers,
    score_rungs,
)
from finetune_pipeline.baseline.ladder_decision import conclusive, ladder, leads, no_pilot_needed
from finetune_pipeline.baseline.learning_curve import extrapolate, rows_for
from finetune_pipeline.baseline.reasons import pair_reasons
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.planning.serving_costs import Call
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.ladder_page import cost_plot, frontier, ladder_lines, ladder_page
from finetune_pipeline.report.page import page_html
from finetune_pipeline.spec.evaluation import AutomationSpec
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, make_spec
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation
from finetune_pipeline_tests.unit.evaluation.rows import answers as some_answers
from finetune_pipeline_tests.unit.evaluation.rows import register_mirrored, spec

NO_TERMS = Terms({}, {})


answers = partial(some_answers, label_scores=[])


def luck(share: float, n: int, seed: int) -> list[bool]:
    draw = random.Random(seed)
    return [draw.random() < share for _ in range(n)]


def rung(name: str, share: float, kind: Any = "prompt", n: int = 300, seed: int = 0) -> Answered:
    return Answered(name, kind, f"The {name}", answers(luck(share, n, seed)), Call(100, 5))


LINEAR, RETRIEVAL = rung("linear", 0.6, "simple", seed=1), rung("retrieval", 0.85, "retrieve", seed=3)


def limited(**advise: float) -> TaskSpec:
    task = spec()
    return task.model_copy(update={"advise": task.advise.model_copy(update=advise)})


def test_thirty_equal_prompts_have_no_sure_winner() -> None:
    """The best of thirty equally good prompts looks far better than it is; chosen on one half and scored on the other, it
    is not. Over many trials the first prompt is surely beaten no more often than the confidence allows."""
    task, trials, naive, fair, optimism = spec(), 60, 0, 0, []
    metric = METRICS[task.metric]
    for trial in range(trials):
        prompts = {f"p{i}": answers(luck(0.6, 120, 1000 * trial + i)) for i in range(30)}
        best = max(prompts, key=lambda name: metric.value(prompts[name], task.output) or 0)
        naive += metric.gain(prompts["p0"], prompts[best], task.output, 0.95).surely_above()
        _, chosen = cross_fitted(task, prompts)
        fair += metric.gain(prompts["p0"], chosen, task.output, 0.95).surely_above()
        optimism.append((metric.value(chosen, task.output) or 0) - 0.6)
    assert naive > trials * 0.15, "the simulation shows the curse"
    assert fair <= trials * 0.05
    assert abs(np.mean(optimism)) < 0.01


def test_cross_fitting_answers_every_row_once_by_a_prompt_chosen_without_it() -> None:
    good = answers([True] * 200)
    first = [dict(r, text="first" if fold_of(r["example_id"]) == 0 else r["text"]) for r in good]
    second = [dict(r, text="second" if fold_of(r["example_id"]) == 1 else r["text"]) for r in good]
    names, rows = cross_fitted(spec(), {"fails in fold 0": first, "fails in fold 1": second})
    assert names == ["fails in fold 0", "fails in fold 1"], "each is best where it was not scored"
    assert [r["example_id"] for r in rows] == [r["example_id"] for r in good]
    assert METRICS["accuracy"].value(rows, spec().output) == 0.0
    twos = {r["example_id"]: f"document {i // 2}" for i, r in enumerate(good)}
    by_document = [dict(r, text="first" if fold_of(twos[r["example_id"]]) == 0 else r["text"]) for r in good]
    assert cross_fitted(spec(), {"good": good, "fails in fold 0": by_document}, twos)[0] == ["good", "good"]
    names, _ = cross_fitted(spec(), {"fails in fold 0": by_document, "same": good}, twos)
    assert names == ["fails in fold 0", "same"], "rows of one source are in one fold"


def test_the_best_prompt_is_compared_as_chosen_and_simple_models_on_the_same_rows() -> None:
    shares = {"zero_shot": 0.5, "8_shot": 0.7, "3_nearest": 0.8, "api_zero_shot": 0.9}
    rows = {name: answers(luck(share, 120, seed)) for seed, (name, share) in enumerate(shares.items())}
    rows["simple_linear"] = answers(luck(0.6, 200, 5))
    climbed = rung_answers(spec(), rows, {"8_shot": Call(200, 3)})
    assert [answered.name for answered in climbed] == ["linear", "prompt", "retrieve", "api"]
    assert {len(answered.rows) for answered in climbed} == {120}, (
        "a simple model answered more rows than the prompts were asked"
    )
    assert climbed[1].call == Call(200, 3)


def test_a_rung_stands_until_a_later_one_surely_beats_it() -> None:
    scored = score_rungs(spec(), [LINEAR, rung("prompt", 0.62, seed=2), RETRIEVAL], NO_TERMS)
    assert scored.stands.name == "retrieval"
    assert scored.rungs[2].over == "The linear", "a prompt that is not surely better is not what the next one must beat"
    assert score_rungs(spec(), [LINEAR, rung("prompt", 0.62, seed=2)], NO_TERMS).stands.name == "linear"
    lead, tie = (ladder(spec(), [LINEAR, rung("tuned", share, "tuned", seed=3)], NO_TERMS) for share in (0.9, 0.62))
    assert (lead.decision, lead.stands) == ("fine_tune", "tuned")
    assert (tie.decision, tie.stands) == ("simple", "linear") and "not surely ahead" in tie.sentence
    unlearnable = ladder(spec(), [LINEAR, rung("tuned", 0.9, "tuned", seed=3)], NO_TERMS, learnable=False)
    assert unlearnable.decision == "fine_tune", "what was trained and surely leads has shown that it can be learnt"


def test_training_has_to_beat_the_best_rung_and_not_the_one_that_stands() -> None:
    """With few rows the commonest answer may stand: a linear model 13 points above it is not surely better."""
    rungs = [rung("commonest", 0.7, "simple", n=60, seed=1), rung("linear", 0.85, "simple", n=60, seed=2)]
    tuned = rung("tuned", 0.9, "tuned", n=60, seed=3)
    scored = score_rungs(spec(), [*rungs, tuned], NO_TERMS)
    assert (scored.stands.name, scored.rival.name) == ("commonest", "linear")
    assert scored.rungs[2].over == "The linear"
    assert METRICS["accuracy"].gain(rungs[0].rows, tuned.rows, spec().output, 0.95).surely_above(), "over the commonest"
    trained = {0.25: rung("pilot", 0.88, n=60, seed=4).rows, 0.5: tuned.rows}
    result = ladder(spec(), rungs, NO_TERMS, pilot_rows=trained)
    assert result.decision != "fine_tune" and "The linear reaches" in result.sentence, result.sentence
    assert "not surely more than the commonest" in result.sentence
    dear = Terms({"linear": 9.0}, {})
    assert score_rungs(limited(max_cost_per_1k=1.0), rungs, dear).rival.name == "commonest", "it is out of the question"


def test_limits_exclude_a_rung_and_say_what_it_would_have_changed() -> None:
    rungs = [LINEAR, RETRIEVAL]
    terms = Terms({"linear": 0.0, "retrieval": 3.0}, {"linear": (0.1, 0.2), "retrieval": (300.0, 900.0)})
    dear, slow = limited(max_cost_per_1k=1.0), limited(max_latency_ms=500.0)
    assert score_rungs(spec(), rungs, terms).stands.name == "retrieval"
    for task, why in ((dear, "max_cost_per_1k"), (slow, "max_latency_ms")):
        assert score_rungs(task, rungs, terms).stands.name == "linear"
        result = ladder(task, rungs, terms)
        assert why in next(rung.excluded for rung in result.rungs if rung.name == "retrieval")
        assert any(why in flip and "would lead" in flip for flip in result.flips)
    ladders = [ladder(task, rungs, terms, pilot_rows=curve({0.25: 0.65, 0.5: 0.75})) for task in (spec(), dear)]
    gains = [result.expected.gain for result in ladders if result.expected]
    assert [result.stands for result in ladders] == ["retrieval", "linear"] and ladders[1].decision == "fine_tune"
    assert gains[0] < 0 and gains[1] > 0.1, "held against the best rung that is allowed"
    none = ladder(limited(max_latency_ms=0.1), rungs, terms, pilot_rows=curve({0.25: 0.3, 0.5: 0.3}))
    assert (none.decision, none.sentence) == ("undecided", "Not sure yet. Every rung is out of the question.")
    excellent = [rung("prompt", 0.99)]
    assert "significantly exceeds baseline.ceiling" in no_pilot_needed(spec(), excellent)
    assert no_pilot_needed(spec(), [rung("prompt", 0.6)]) == ""
    assert no_pilot_needed(limited(max_latency_ms=10.0), excellent) == "", "its latency is not known yet"


def curve(shares: Mapping[float, float], n: int = 300) -> dict[float, list[dict[str, Any]]]:
    """Rows of trainings whose scores are these; one that was right stays right with more rows."""
    order = random.Random(0).sample(range(n), n)
    return {share: answers([order[i] < value * n for i in range(n)]) for share, value in shares.items()}


def test_rows_of_a_few_sources_make_nothing_sure() -> None:
    """Right in three of four documents is luck, however many rows were cut from each."""
    correct = [i % 4 != 0 for i in range(200)]
    rows = {True: answers(correct), False: answers([not is_correct for is_correct in correct])}
    sources = {row["example_id"]: str(i % 4) for i, row in enumerate(rows[True])}
    rungs = [Answered("linear", "simple", "The linear", rows[False]), Answered("prompt", "prompt", "It", rows[True])]
    assert score_rungs(spec(), rungs, NO_TERMS).stands.name == "prompt"
    assert score_rungs(spec(), rungs, NO_TERMS, sources).stands.name == "linear"
    assert leads(spec(), rungs, rows[False], rows[True]) and not leads(spec(), rungs, rows[False], rows[True], sources)
    always = [Answered("prompt", "prompt", "It", answers([True] * 200))]
    assert no_pilot_needed(spec(), always) and not no_pilot_needed(spec(), always, sources)
    curve_ = {0.25: rows[False], 0.5: rows[True]}
    alone, shared = (extrapolate(spec(), curve_, rows[False], c) for c in (None, list(sources.values())))
    assert alone and shared and shared.gain_interval[0] < alone.gain_interval[0]
    assert extrapolate(spec(), curve_, rows[False], ["one"] * 200) is None


@pytest.mark.parametrize(
    ("shares", "truth"),
    [
        ({0.125: 0.5, 0.25: 0.6, 0.5: 0.7}, 0.75),
        ({0.125: 0.8, 0.25: 0.85, 0.5: 0.87}, 0.88),
        ({0.125: 0.4, 0.25: 0.4, 0.5: 0.4}, 0.4),
        ({0.125: 0.1, 0.25: 0.3, 0.5: 0.6}, 0.85),
        ({0.25: 0.55, 0.5: 0.5}, 0.5),
    ],
)
def test_the_extrapolation_holds_what_curves_of_usual_shapes_reach(shares: dict[float, float], truth: float) -> None:
    rival = answers(luck(0.5, 300, 9))
    extrapolation = extrapolate(spec(), curve(shares), rival)
    assert extrapolation is not None
    assert extrapolation.interval[0] <= truth <= extrapolation.interval[1]
    assert extrapolation.value >= max(shares.values()) - 0.06, "no doubling takes away"
    before = METRICS["accuracy"].value(rival, spec().output) or 0
    assert extrapolation.gain == pytest.approx(extrapolation.value - before, abs=1e-9)
    assert extrapolate(spec(), dict(list(curve(shares).items())[:1]), rival) is None, "one point is no curve"


def test_no_gain_is_promised_beyond_all_right() -> None:
    rival = answers(luck(0.97, 300, 9))
    extrapolation = extrapolate(spec(), curve({0.125: 0.7, 0.25: 0.85, 0.5: 0.96}), rival)
    room = 1 - (METRICS["accuracy"].value(rival, spec().output) or 0)
    assert extrapolation is not None and extrapolation.interval[1] == 1.0
    low, high = extrapolation.gain_interval
    assert low < 0.02 and low <= extrapolation.gain <= high
    assert high <= room + 0.03, "the rows the rival was measured on are all that is uncertain there"


def test_rows_for_a_gain_grow_with_it_and_end_where_the_curve_is_flat() -> None:
    assert rows_for(0.05, 0.1, 1000) == pytest.approx(750, abs=60)
    assert rows_for(0.12, 0.1, 1000) > rows_for(0.05, 0.1, 1000)
    assert rows_for(0.05, 0.0, 1000) is None and rows_for(0.6, 0.01, 1000) is None


def answer(
    low: float, pilot: Mapping[float, float], *, learnable: bool = True, teacher_row: float | None = None
) -> Ladder:
    """The ladder over a prompt of this share of right answers and a pilot of these scores."""
    order = random.Random(0).sample(range(300), 300)
    rows = answers([order[i] < low * 300 for i in range(300)])
    terms = Terms({"prompt": 0.9}, {}, training=3.0, tuned_dollars=0.1, teacher_row=teacher_row)
    rungs = [Answered("prompt", "prompt", "The prompt", rows, Call(900, 5))]
    return ladder(spec(), rungs, terms, learnable=learnable, pilot_rows=curve(pilot), train_rows=800)


def test_each_shape_of_evidence_gets_its_answer() -> None:
    promising = answer(0.5, {0.125: 0.6, 0.25: 0.7, 0.5: 0.8})
    assert promising.decision == "fine_tune" and Ladder.of(json.loads(json.dumps(promising.to_json()))) == promising
    with pytest.raises(ValueError, match="stands"):
        Ladder.of({**promising.to_json(), "stands": None})
    assert answer(0.97, {}).decision == "prompt"
    assert answer(0.8, {0.125: 0.3, 0.25: 0.31, 0.5: 0.3}).decision == "prompt"
    assert answer(0.1, {0.125: 0.1, 0.25: 0.1, 0.5: 0.1}).decision == "larger_model"
    assert answer(0.6, {}).decision == answer(0.6, {0.5: 0.6}).decision == "undecided"
    assert "without a pilot" in answer(0.6, {}).sentence and "from this pilot" in answer(0.6, {0.5: 0.6}).sentence
    assert answer(0.6, {}, learnable=False).decision == "no_signal"


def test_a_pilot_ends_where_its_curve_says_enough() -> None:
    rungs, slow = [rung("prompt", 0.6)], limited(max_latency_ms=10.0)
    for values, why in (((0.85,), "already beats"), ((0.3, 0.3), "would not reach"), ((0.55,), ""), ((0.5, 0.55), "")):
        points = curve(dict(zip((0.125, 0.25), values, strict=False)))
        reason = conclusive(spec(), rungs, rungs[0].rows, points)
        assert why in reason and bool(why) is bool(reason), (values, reason)
        assert conclusive(slow, rungs, rungs[0].rows, points) == "", "the rival may turn out to be too slow"


def test_an_answer_says_what_would_change_it() -> None:
    undecided = answer(0.8, {0.125: 0.5, 0.25: 0.6, 0.5: 0.66})
    assert any("more training rows" in flip or "too flat" in flip for flip in undecided.flips), undecided.flips
    assert any("from 3,750 calls on" in flip for flip in undecided.flips), "3.00 / (0.90 - 0.10) * 1,000 calls"
    assert any("of 100" in flip and flip.startswith("Rows of ") for flip in undecided.flips), (
        "the label with most errors"
    )
    assert any("added nothing" in flip for flip in answer(0.8, {0.125: 0.3, 0.25: 0.3, 0.5: 0.3}).flips)
    assert not any("teacher" in flip for flip in undecided.flips)
    bought = answer(0.75, {0.125: 0.5, 0.25: 0.6, 0.5: 0.7}, teacher_row=0.01).flips
    (more,) = [flip for flip in bought if "more training rows" in flip]
    rows = int(more.split()[1].replace(",", ""))
    assert any(f"for about ${rows / 100:.2f}" in f and f"teacher.rows by {rows:,}" in f for f in bought), bought
    assert any("Buy no more" in f for f in answer(0.8, {0.125: 0.3, 0.25: 0.3, 0.5: 0.3}, teacher_row=0.01).flips)
    sure = answer(0.95, {0.25: 0.85, 0.5: 0.995})
    assert sure.decision == "prompt" and sure.expected and sure.expected.gain_interval[0] > 0
    assert not any("ore rows" in flip for flip in sure.flips), "the lead needs no more rows"
    yes = answer(0.5, {0.25: 0.7, 0.5: 0.8})
    assert any("Cheaper calls alone pay from 3,750 calls on" in flip for flip in yes.flips)
    assert any("ceiling at 44.4% or less, the prompt is enough" in flip for flip in yes.flips), yes.flips


def test_pages_show_the_frontier_and_a_report_shows_the_ladder_first() -> None:
    rungs = [LINEAR, rung("prompt", 0.4, seed=2), RETRIEVAL]
    climbed = ladder(spec(), rungs, Terms({"linear": 0.0, "prompt": 0.2, "retrieval": 1.0}, {}))
    assert [r.name for r in frontier(climbed)] == ["linear", "retrieval"], "not what is dearer and no better"
    assert cost_plot(climbed) is not None
    assert cost_plot(ladder(spec(), rungs, NO_TERMS)) is None, "no cost is known"
    html = page_html(ladder_page("<tickets>", "Sort tickets.", climbed))
    assert "&lt;tickets&gt;" in html and "<tickets>" not in html
    assert any(line.startswith("→ The retrieval") for line in ladder_lines("tickets", climbed))
    climbed, result = answer(0.5, {0.25: 0.7, 0.5: 0.8}), evaluation()
    assert "Trained on all rows, extrapolated" in page_html(ladder_page("tickets", "", climbed))
    first = evaluation_page(result, [], ladder=climbed).shown[0]
    assert first.id == "ladder" and climbed.sentence in getattr(first.blocks[0], "text", "")
    assert all(section.id != "ladder" for section in evaluation_page(result, []).shown)


def test_a_metric_of_errors_gives_the_same_ladder_as_its_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    register_mirrored(monkeypatch)
    poor = [rung("linear", 0.2, "simple", seed=1), rung("prompt", 0.25, seed=2)]
    pilot = {share: answers(luck(0.2, 300, 7)) for share in (0.125, 0.25, 0.5)}
    dear = Terms({"linear": 0.0, "prompt": 1.0, "retrieval": 9.0}, {})
    for rungs, trained, decision in ((poor, pilot, "larger_model"), ([LINEAR, poor[1], RETRIEVAL], {}, "undecided")):
        ladders = []
        for metric in ("right", "wrong"):
            task = limited(max_cost_per_1k=2.0).model_copy(update={"gates": spec(gates={"metric": metric}).gates})
            ladders.append(ladder(task, rungs, dear, pilot_rows=trained))
        by_right, by_wrong = ladders
        assert by_right.decision == by_wrong.decision == decision
        assert by_right.stands == by_wrong.stands and len(by_right.flips) == len(by_wrong.flips)
        assert [r.name for r in frontier(by_right)] == [r.name for r in frontier(by_wrong)]


def test_a_pair_is_priced_where_an_error_is_promised_and_both_have_a_price() -> None:
    def rung(kind: Any, dollars: float | None, value: float) -> Rung:
        return Rung(name=kind, kind=kind, title=f"The {kind} rung", value=value, interval=None, dollars=dollars)

    promising = make_spec(LABELS, {}).model_copy(update={"automation": AutomationSpec(max_error=0.05)})
    rungs = [rung("simple", 0.1, 0.8), rung("prompt", 3.0, 0.7), rung("tuned", None, 0.95), rung("api", 2.0, 0.9)]
    (sentence,) = pair_reasons(promising, rungs)
    assert "the simple rung answers what it is sure of and the api rung the rest" in sentence
    assert "1,000 calls cost $0.50, by the API alone $2.00" in sentence and "less than 95.0% are passed on" in sentence
    (no,) = pair_reasons(promising, [rung("prompt", 3.0, 0.8), rung("api", 2.0, 0.9)])
    assert no.startswith("A pair does not pay: the prompt rung")
    assert pair_reasons(promising, rungs[:3]) == [] == pair_reasons(make_spec(LABELS, {}), rungs)

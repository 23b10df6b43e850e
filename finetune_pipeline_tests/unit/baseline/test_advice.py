"""The advice before training: planted tasks of each kind get the decision they should."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from finetune_pipeline.baseline.decision import (
    GAINS,
    MIN_RESULTS,
    SIMPLE_TOLERANCE,
    MeasuredGains,
    _retrieval_helps,
    advise,
    measured_gains,
)
from finetune_pipeline.baseline.good_enough import CLOSES_MOST
from finetune_pipeline.baseline.input_evidence import Learnable
from finetune_pipeline.baseline.reasons import Retrieval, failures_of, tokens_of
from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.rivals import rivals_of, score_baselines, strongest_rival
from finetune_pipeline.planning.gate_needs import obstacles
from finetune_pipeline.planning.power import power_plan
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import DEFAULT_METRICS
from finetune_pipeline_tests.unit.evaluation.baselines import baseline_of, tokens
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, json_spec, register_mirrored, row, spec, text_spec
from finetune_pipeline_tests.unit.evaluation.rows import answers as some_answers

N = 200


def answers(right: int, *, form: bool = True) -> list[dict[str, Any]]:
    """The first `right` rows are right; the others hold another label, or none at all. All labels are equally likely."""
    return some_answers(right, N, wrong=None if form else "I think it is fine", label_scores=[-1.0] * 3)


SHOWN = Learnable("shown", [], 700, 100, "The inputs predict the answers.")


def _example(of: dict[str, Any]) -> Example:
    """The example that a prediction row is about."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": of["gold"]}]
    return Example(id=of["example_id"], messages=messages, label=of["gold"])


def advice_for(
    prompts: dict[str, list[dict[str, Any]]],
    *,
    linear: float = 0.4,
    commonest: float | None = None,
    test: int = 400,
    of: TaskSpec | None = None,
    signal: Learnable = SHOWN,
    validation: int = 500,
) -> dict[str, Any]:
    """The advice for these answers, beside a linear model that is right on that share of the validation rows, among them those of
    the prompts, and a commonest answer that is right on a third, or on the share `commonest`."""
    task = of or spec()
    gold = [LABELS[i % 3] for i in range(validation)]
    if commonest is not None:
        gold = [LABELS[0] if i % 100 < round(100 * commonest) else LABELS[1 + i % 2] for i in range(validation)]
        prompts = {
            name: [
                a | {"gold": g, "text": g if a["text"] == a["gold"] else "no label"}
                for a, g in zip(rows, gold, strict=False)
            ]
            for name, rows in prompts.items()
        }
    simple = {
        "simple_commonest": [row(i, g, LABELS[0], label_scores=[]) for i, g in enumerate(gold)],
        "simple_linear": [
            row(i, g, g if i % 100 < round(100 * linear) else LABELS[(LABELS.index(g) + 1) % 3], label_scores=[])
            for i, g in enumerate(gold)
        ],
    }
    rows = prompts | simple
    details = {name: tokens(400.0 if name != "zero_shot" else 90.0) for name in prompts}
    facts = baseline_of(score_baselines(task, rows), details)
    rival = strongest_rival(task, rows)
    hindering = obstacles(task, test, [_example(r) for r in simple["simple_linear"]], rivals_of(task, rows))
    power = power_plan(task, test, rival, obstacles=hindering)
    counts = {"train": 700, "validation": N, "test": test}
    return advise(task, facts, power, rows, counts, rival, signal)


def prompts(right: int, nearest: int | None = None, **options: Any) -> dict[str, list[dict[str, Any]]]:
    rows = {"zero_shot": answers(10, form=False), "8_shot": answers(right, **options)}
    return rows | ({} if nearest is None else {"3_nearest": answers(nearest, **options)})


def _reasons(advice: dict[str, Any], word: str) -> Sequence[str]:
    return [reason for reason in advice.reasons if word in reason]


NO_ROWS_IN_FORM = {"zero_shot": answers(0, form=False)}
KNOWS = [r | {"label_scores": [-0.1 if x == r["gold"] else -3.0 for x in LABELS]} for r in NO_ROWS_IN_FORM["zero_shot"]]
FEW = {"zero_shot": answers(8)[:12], "3_nearest": answers(10)[:12]}
WRITTEN = spec(gates={"wanted_gain": 0.1}, baseline={"ceiling": 0.95})
PROMPTS_OF_90 = {f"prompt_{i}": answers(180) for i in range(7)}
MODEST, BLOCKING = spec(gates={"wanted_gain": 0.2}), spec(gates={"enough_test_rows": "block"})
TOO_FEW = Learnable("too_few_rows", [], 40, 200, "40 training rows cannot show it; it takes 200.")
SHUFFLED = Learnable("not_shown", [], 700, 200, "The inputs do not predict the answers: 16% by …")
DECISIONS: list[tuple[Any, dict[str, Any], str, str]] = [
    # prompts, what else there is, the decision, what the sentence says
    (prompts(30, 100), {"linear": 0.99}, "simple", "TF-IDF and logistic regression"),
    (prompts(30, 100), {"linear": 0.99}, "simple", "right on 99.0% of 500 validation rows"),
    (prompts(100), {"linear": 0.92}, "simple", "leads the base model with its best prompt, by +42"),
    (
        prompts(100),
        {"linear": 0.92},
        "simple",
        "None of 5 results measured with this base model on answers of this kind",
    ),
    (prompts(100), {"linear": 0.91}, "pilot", "1 of 7 results"),  # SST-2, where it was right on 81.7%
    (prompts(150), {"linear": 0.8}, "pilot", "+5.0 points (-2.0 to +12.1). It is not surely better than the base"),
    (prompts(130), {"linear": 0.8}, "pilot", "leads the base model with its best prompt, by +15.0 points (+7"),
    (prompts(66), {"linear": 0.5}, "pilot", "right on 50.0%"),
    (prompts(90), {"linear": 0.6, "commonest": 0.6}, "fine_tune", ""),  # no better than the commonest answer
    (
        prompts(40),
        {"linear": 0.63, "commonest": 0.6, "validation": 100},
        "pilot",
        "It is not surely better than the base model and always the commonest answer.",
    ),
    (prompts(80), {"linear": 0.5, "commonest": 0.6}, "fine_tune", ""),  # which leads, and has learned nothing
    (prompts(170), {"linear": 0.8}, "fine_tune", ""),  # the base model leads
    (prompts(160), {"linear": 0.8}, "fine_tune", ""),  # nobody leads
    (prompts(40), {"linear": 0.45}, "fine_tune", ""),  # it is wrong on most rows
    (prompts(40), {"linear": 0.5}, "pilot", "1 of 9 results"),  # it is right on half
    (prompts(40, 60), {}, "fine_tune", "Yes: fine-tune. Nothing simpler does the task"),
    (prompts(40, 60), {}, "fine_tune", "TF-IDF and logistic regression, reaches 40.0%"),
    (prompts(40, 60), {}, "fine_tune", "reaches 40.0%; 60.0 points of accuracy remain to be gained over it"),
    (prompts(40), {"linear": 0.34, "signal": SHUFFLED}, "no_signal", ""),
    (prompts(40), {"linear": 0.34, "signal": TOO_FEW}, "pilot", ""),
    (prompts(195), {"signal": TOO_FEW}, "prompt", ""),  # what is known already stands
    (prompts(195), {"linear": 0.3}, "prompt", "8-shot is right on 97.5%"),
    (prompts(195), {"linear": 0.99}, "prompt", "8-shot is right on 97.5%"),
    (prompts(180), {}, "fine_tune", ""),  # 90% of 200 rows is not surely 90%
    (prompts(175), {"of": MODEST}, "prompt", ""),
    (prompts(30), {"of": MODEST, "linear": 0.86}, "simple", "surely at or above 80.0%"),
    ({"zero_shot": KNOWS}, {}, "prompt", "Restrict the answers to the allowed forms"),
    (prompts(60, 150), {}, "pilot", "adds +45.0 points"),
    (prompts(60, 195), {}, "retrieve", "No: show the model the nearest examples. Prompting is"),
    (prompts(60, 100), {}, "fine_tune", ""),  # a third of the gap
    (prompts(60, 150), {"linear": 0.89}, "pilot", "leads the base model"),  # the rows teach more than they tell
    (prompts(60, 150, form=False), {}, "fine_tune", ""),  # half of the answers are in no form
    (FEW, {}, "fine_tune", ""),  # twelve rows prove no help
    (prompts(30), {"test": 3}, "collect", ""),
    ({"zero_shot": answers(47)[:49]}, {"linear": 0.3}, "collect", "is impossible, but 49 rows do not show surely"),
    (prompts(188), {"linear": 0.3, "of": WRITTEN}, "collect", "a gain of +10.0 points (gates.wanted_gain)"),
    (
        PROMPTS_OF_90 | prompts(189),
        {"linear": 0.3, "of": WRITTEN},
        "collect",
        "8-shot reaches 94.5% in accuracy on validation",
    ),
    (prompts(30), {"test": 72}, "collect", "format_compliance would refuse every candidate: it takes 73 test rows"),
    (prompts(30), {"test": 72}, "collect", "A run trains all the same, unless gates.enough_test_rows is block."),
    (prompts(30), {"test": 72, "of": BLOCKING}, "collect", "A run stops there (gates.enough_test_rows)."),
    (prompts(30), {"test": 73}, "fine_tune", ""),
    (prompts(30), {"test": 80, "of": BLOCKING}, "collect", "collect"),
]


def test_each_kind_of_task_gets_its_decision() -> None:
    for number, (rows, more, decision, sentence) in enumerate(DECISIONS):
        advice = advice_for(rows, **more)
        assert advice.decision == decision and sentence in advice.sentence, (number, more, advice.sentence)
        assert advice.fine_tune is (decision == "fine_tune")


def test_a_metric_of_errors_gives_the_same_advice_as_its_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    register_mirrored(monkeypatch)
    for rows, linear, decision in (
        (prompts(100), 0.92, "simple"),
        (prompts(40, 60), 0.3, "fine_tune"),
        (prompts(60, 150), 0.4, "pilot"),
        (prompts(199), 0.3, "prompt"),
    ):
        by_right, by_wrong = (advice_for(rows, linear=linear, of=spec(gates={"metric": m})) for m in ("right", "wrong"))
        assert by_right.decision == by_wrong.decision == decision
        assert by_right.failures.prompt == by_wrong.failures.prompt == "8_shot"
        assert (by_right.must_reach is None) is (by_wrong.must_reach is None) is (decision == "prompt")
        if by_right.must_reach is not None:
            assert by_wrong.must_reach == pytest.approx(1 - by_right.must_reach)
        for name in ("gain", "closes") if by_right.retrieval else ():
            assert getattr(by_wrong.retrieval, name) == pytest.approx(getattr(by_right.retrieval, name))
        if decision == "pilot":
            assert by_right.retrieval.closes == pytest.approx(0.45 / 0.7), "of the way to no error"
    assert max([0.3, None, 0.1], key=METRICS["wrong"].rank) == 0.1, "no value is no lead"


def test_a_sure_lead_says_no_only_with_results_of_the_same_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"task": "a", "kind": "labels", "rows": 500, "rival": "linear", "simple": 0.75, "tuned": 0.7}
    result |= {"interval": [-0.1, 0.1]}
    ahead = {"tuned": 0.9, "interval": [0.05, 0.2]}
    for changes, decision, why in (
        ([{}] * MIN_RESULTS, "simple", "training never surpassed such a model"),
        ([{}] * (MIN_RESULTS - 1), "pilot", "too few results"),
        ([{}, {}, {"simple": 0.8 - SIMPLE_TOLERANCE}], "simple", "just as good counts"),
        ([{}, {}, {"simple": 0.69}], "pilot", "the simple model was worse there"),
        ([{}, {}, {"kind": "json"}], "pilot", "answers of another kind"),
        ([{}, {}, ahead], "pilot", "training surpassed such a model once"),
        ([ahead, ahead, ahead], "fine_tune", "training always surpassed such a model"),
        ([{}, {}, {}, ahead | {"simple": 0.69}], "simple", "it surpassed a worse one"),
        ([{}, {}, {"interval": [0.0, 0.2]}], "simple", "a gain of nothing is none"),
    ):
        results = [result | change for change in changes]
        measured = msgspec.convert({"source": "", "base_model": spec().base_model, "results": results}, MeasuredGains)
        monkeypatch.setattr("finetune_pipeline.baseline.decision._measured_gains", lambda measured=measured: measured)
        assert advice_for(prompts(100), linear=0.8).decision == decision, why
        of_other_model = advice_for(prompts(100), linear=0.8, of=spec(base_model="other/model"))
        assert of_other_model.decision == "pilot" and "What training adds to that is unknown" in of_other_model.sentence


def test_the_shipped_results_are_those_of_their_source() -> None:
    """Recomputed from the table: the best simple model, LoRA, and Newcombe's interval of independent shares."""
    gains = msgspec.yaml.decode(GAINS.read_bytes(), type=MeasuredGains)
    assert len(measured_gains(spec())) >= MIN_RESULTS and measured_gains(json_spec())
    text = (Path(__file__).parents[3] / gains.source).read_text("utf-8")
    tables = {block.partition(":")[0]: block for block in text.split("\n\n") if " test rows; " in block}
    assert tables.keys() == {result.task for result in gains.results}
    for result in gains.results:
        kind = next(kind for kind, metric in DEFAULT_METRICS.items() if metric in tables[result.task].splitlines()[0])
        found = re.findall(r"^  ([a-z_]+) +([\d.]+)  \(([\d.]+) to ([\d.]+)\)", tables[result.task], re.MULTILINE)
        scores = {model: [float(value) / 100 for value in values] for model, *values in found}
        tuned, low, high = scores.pop("lora")
        scores.pop("classifier", None)
        rival = max(scores, key=lambda model: scores[model][0])
        simple, simple_low, simple_high = scores[rival]
        below, above = math.hypot(tuned - low, simple_high - simple), math.hypot(high - tuned, simple - simple_low)
        gain = tuned - simple
        assert (result.kind, result.rival, result.simple, result.tuned) == pytest.approx((kind, rival, simple, tuned))
        assert result.interval == pytest.approx((gain - below, gain + above), abs=0.001)


def test_what_must_be_reached_is_said() -> None:
    advice = advice_for(prompts(40, 60))
    assert 0.44 < advice.must_reach < 0.56
    assert _reasons(advice, f"has to reach about {100 * advice.must_reach:.1f}%")
    assert "surely at or above 90.0%" in advice_for(prompts(30, 100), linear=0.99).reasons[0]


def test_what_no_simple_model_can_tell_is_not_called_learnable() -> None:
    advice, aside = advice_for(prompts(40), linear=0.34), "not significantly above always giving the most common answer"
    assert _reasons(advice, aside) and not _reasons(advice, "something to be learned")
    assert [r[:6] for r in _reasons(advice_for(prompts(100), linear=0.35), aside)] == ["TF-IDF"]
    assert not _reasons(advice_for(prompts(100), linear=0.8), aside)
    for signal in (SHUFFLED, TOO_FEW):
        result = advice_for(prompts(40), linear=0.34, signal=signal).reasons
        assert result[0] == signal.sentence and result.count(signal.sentence) == 1


def test_where_retrieval_is_just_worth_a_pilot() -> None:
    valid = spec().gates.min_valid_share
    retrieval = {"prompt": "3_nearest", "over": "zero_shot", "value": 0.8, "gain": 0.4, "interval": [0.001, 0.5]}
    retrieval |= {"closes": CLOSES_MOST, "valid_share": valid}
    scored = score_baselines(spec(), {"3_nearest": answers(150), "simple_linear": answers(150)})

    def enough(simple: list[float] | None = None, **change: Any) -> bool:
        shown = replace(scored.prompts["3_nearest"], interval=(0.7, 0.85))
        models = {"linear": replace(scored.simple["linear"], interval=(simple[0], simple[1]))} if simple else {}
        facts = replace(scored, prompts={"3_nearest": shown}, simple=models)
        return _retrieval_helps(spec(), facts, Retrieval.of({**retrieval, **change})) is not None

    assert enough() and enough([0.85, 0.95])
    assert not enough([0.851, 0.95]), "a simple model that learns is surely better"
    assert not enough(interval=[0.0, 0.5]) and not enough(closes=CLOSES_MOST - 0.001) and not enough(closes=None)
    assert not enough(valid_share=valid - 0.001)
    advice = advice_for(prompts(60, 150))
    assert len(_reasons(advice, "adds +45.0 points")) == 1
    assert advice.retrieval.closes == pytest.approx(0.45 / 0.6)
    assert _reasons(advice_for(prompts(40, 60), linear=0.4), "adds")
    no_gap = advice_for({"zero_shot": answers(180), "3_nearest": answers(190)})
    assert no_gap.retrieval.closes is None, "a base at the ceiling leaves none"


def test_tokens_are_told_where_both_prompts_were_measured() -> None:
    scores, measured = score_baselines(spec(), {"8_shot": answers(9)}), tokens(300.0)
    for details in ({}, {"8_shot": measured}, {"zero_shot": measured}):
        assert tokens_of(baseline_of(scores, details)) is None
    assert tokens_of(baseline_of(scores, {"8_shot": measured, "zero_shot": measured}))


def test_failures_are_told_apart() -> None:
    eight = answers(50, form=False)[:100] + answers(50)[100:]
    advice = advice_for({**NO_ROWS_IN_FORM, "8_shot": eight, "3_nearest": answers(120)})
    failures = advice.failures
    assert failures.prompt == "8_shot" and failures.kinds == {"format": 50, "label_pair": 100}
    counts = ("n", "right", "form", "knowledge", "judgement", "unnamed")
    assert [getattr(failures, name) for name in counts] == [200, 50, 50, 20, 80, 0]
    (result,) = _reasons(advice, "20 come right once the nearest examples are shown")
    start = "Of 150 wrong answers of the best prompt without retrieval (8-shot), 50 are of form or style"
    assert result.startswith(start)
    assert not _reasons(advice_for({**NO_ROWS_IN_FORM, "8_shot": eight}), "come right once")


def test_only_a_prompt_of_the_spec_is_to_become_the_system_prompt() -> None:
    advice = advice_for({"zero_shot": answers(10), "prompt_short": answers(100)})
    assert len(_reasons(advice, "Make that prompt the system_prompt")) == 1
    assert not _reasons(advice_for(prompts(100)), "Make that prompt")


def test_extraction_is_judged_by_the_same_rules() -> None:
    def rows(right: int) -> list[dict[str, Any]]:
        gold, wrong = '{"city": "Rome", "guests": 2}', '{"city": "Rome", "guests": 3}'
        return [row(i, gold, gold if i < right else wrong, label_scores=[]) for i in range(N)]

    def extraction(zero: int, nearest: int) -> dict[str, Any]:
        task, asked = json_spec(), {"zero_shot": rows(zero), "3_nearest": rows(nearest)}
        facts, rival = baseline_of(score_baselines(task, asked)), strongest_rival(task, asked)
        return advise(task, facts, power_plan(task, 400, rival), asked, {"train": 700}, rival, SHOWN)

    assert extraction(5, 20).decision == "fine_tune"
    assert extraction(5, 150).decision == "pilot"
    assert extraction(195, 190).decision == "prompt"
    assert extraction(5, 20).failures.kinds == {"wrong_value": 195}


def test_a_text_that_only_differs_in_words_is_counted_as_unnamed() -> None:
    task, rows = (
        text_spec(),
        {"zero_shot": [row(i, "The parcel comes.", "It will be there.", label_scores=[]) for i in range(3)]},
    )
    assert failures_of(task, score_baselines(task, rows), rows).unnamed == 3


def test_calls_and_privacy_are_told_where_the_spec_says_them() -> None:
    default_advice = advice_for(prompts(100))
    assert _reasons(default_advice, "reads 400 tokens and writes 4; a fine-tuned model needs no examples and reads 90")
    assert not _reasons(default_advice, "a month") and not _reasons(default_advice, "must not leave")
    settings = {"calls_per_month": 100_000, "dollars_per_million_tokens": 0.5, "private": True}
    advice = advice_for(prompts(100), of=spec(advise=settings))
    assert _reasons(advice, "At 100,000 calls a month that is 31.0 million tokens less, 15.50 of 20.20 dollars.")
    assert _reasons(advice, "must not leave your machines (advise.private)")
    assert not _reasons(advice_for({"zero_shot": answers(150)}, of=spec(advise=settings)), "a month"), (
        "nothing is saved"
    )

"""Answers that can be told from inputs are shown to be so, by whatever tells them; random ones, and too few, are not."""

import dataclasses
import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
from msgspec.structs import replace

from finetune_pipeline.baseline.input_evidence import (
    Evidence,
    Learnable,
    decide,
    label_evidence,
    learnable,
    validation_evidence,
)
from finetune_pipeline.baseline.simple_score import kept_score, learnable_by_score, simple_score
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.noise import NoisePart
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.statistics.power import paired_power
from finetune_pipeline.planning.power import expected_disagreement
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.data.quality.makers import FILLER, LABELS, make, make_spec, name_pairs, requests
from finetune_pipeline_tests.unit.evaluation.rows import row, spec

NOT_ASKED = NoisePart(passed=True, message="", applies=False)
PRODUCTS = "loaf bagel scone tart brownie roll".split()
SURELY_BETTER = Evidence("base", "the prompted base model", 0.6, "always answering parcel", 0.3, 0.3, (0.2, 0.4), 1e-6)


def shuffled(rows: list[Example], seed: int = 0) -> list[Example]:
    answers = [e.messages[-1] for e in rows]
    random.Random(seed).shuffle(answers)
    return [
        replace(e, messages=[*e.messages[:-1], answer], label=answer["content"] if e.label else None)
        for e, answer in zip(rows, answers, strict=True)
    ]


def of(result: Learnable, name: str) -> Evidence:
    return next(e for e in result.evidence if e.name == name)


def orders(count: int) -> list[Example]:
    draw, rows = random.Random(1), []
    for i in range(count):
        product, quantity = draw.choice(PRODUCTS), draw.randint(2, 99)
        before, after = (" ".join(draw.choices(FILLER, k=5)) for _ in range(2))
        text = f"{before} {quantity} of the {product} {after}"
        rows.append(make(text, json.dumps({"product": product, "quantity": quantity}), i + 1))
    return rows


JSON_SPEC = TaskSpec.model_validate(
    make_spec().model_dump() | {"output": {"kind": "json", "json_schema": {"type": "object"}}}
)


def test_labels_that_words_tell_are_shown() -> None:
    result = learnable(make_spec(LABELS), requests(200))
    assert result.status == "shown" and of(result, "linear").score > 0.9
    assert result.sentence.startswith("The inputs predict the answers: ")
    assert "right by" in result.sentence and "25.0% by always answering" in result.sentence
    assert json.loads(json.dumps(asdict(result)))["evidence"][0]["reference_score"] == pytest.approx(0.25)


def test_word_order_alone_is_enough() -> None:
    result = learnable(make_spec(["yes", "no"]), name_pairs(800))
    assert result.status == "shown"
    assert of(result, "order").gain > 0.2 and of(result, "linear").gain < 0.1
    assert learnable(make_spec(["yes", "no"]), shuffled(name_pairs(800))).status == "not_shown"


def test_few_rows_and_a_rare_label_are_told_how_many_rows_it_takes() -> None:
    result = learnable(make_spec(LABELS), shuffled(requests(60)))
    assert result.status == "too_few_rows" and result.rows == 60 and result.rows_needed is not None
    assert f"takes {result.rows_needed:,}" in result.sentence and "60 training rows cannot show" in result.sentence
    # a gain of 10 points over a label that a quarter of the rows have, in three comparisons, with a chance of 80%
    design = {"gain": 0.1, "discordant_share": expected_disagreement(0.25, 0.1), "alpha": 0.05 / 3}
    assert 0.77 < paired_power(result.rows_needed, **design) < 0.83
    assert learnable(make_spec(LABELS), requests(5)).status == "too_few_rows"
    rows = [
        make(e.user_text, name := "parcel" if i % 25 else "invoice", i, label=name) for i, e in enumerate(requests(600))
    ]
    result = learnable(make_spec(["parcel", "invoice"]), shuffled(rows))
    assert result.status == "too_few_rows" and result.rows_needed is not None and result.rows_needed > 1000


def test_repeats_of_a_row_with_its_label_prove_nothing() -> None:
    """Every row three times, nearly alike, with one random label: a model that has seen one knows the other two."""
    rows = [
        make(f"{e.user_text} {'abc'[n]}", str(e.label), 10 * i + n, label=e.label)
        for i, e in enumerate(shuffled(requests(300)))
        for n in range(3)
    ]
    of_groups = [replace(e, group=f"c{i // 3}") for i, e in enumerate(rows)]
    for train, expected in ((of_groups, False), (rows, True)):
        assert (learnable(make_spec(LABELS), train).status == "shown") is expected, "it looks learnable"


def test_the_same_answer_everywhere_is_nothing_to_learn() -> None:
    result = learnable(make_spec(LABELS), [make(f"question {i}", "parcel", i, label="parcel") for i in range(300)])
    assert result.status == "not_shown" and "the same answer, parcel" in result.sentence
    with pytest.raises(ValueError, match="no training rows"):
        learnable(make_spec(LABELS), [])


def test_written_answers_are_judged_by_their_words_and_json_by_its_fields() -> None:
    draw = random.Random(0)
    codes = ["".join(draw.choices("bcdfghjklmnpqrstvwxz", k=10)) for _ in range(400)]
    rows = [make(f"{' '.join(draw.choices(FILLER, k=6))} {c}", f"the code is {c}", i) for i, c in enumerate(codes)]
    result = learnable(make_spec(), rows)
    assert result.status == "shown" and of(result, "copy").interval[0] > 0.1
    assert "overlap of the input with the right answer" in result.sentence
    assert learnable(make_spec(), rows[:7]).evidence == [] and learnable(make_spec(), rows[:8]).evidence != []
    lost = learnable(make_spec(), shuffled(rows))
    assert lost.status == "not_shown" and "do not predict the answers" in lost.sentence
    result = learnable(JSON_SPEC, orders(300))
    assert result.status == "shown" and of(result, "nearest").interval[0] > 0 and of(result, "copy").interval[0] > 0
    assert learnable(JSON_SPEC, shuffled(orders(1000))).status == "not_shown"


def test_calls_of_tools_are_answers() -> None:
    def calling(i: int, city: str) -> Example:
        call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": json.dumps({"in": city})}}
        e = make(f"will it rain in {city} {i}", "", i)
        return replace(e, messages=[*e.messages[:-1], {"role": "assistant", "content": "", "tool_calls": [call]}])

    cities = ["Reykjavik", "Ljubljana", "Wellington", "Montevideo", "Ouagadougou", "Vladivostok"]
    assert learnable(make_spec(), [calling(i, cities[i % 6]) for i in range(200)]).status == "shown"
    same = learnable(make_spec(), [calling(i, "Oslo") for i in range(20)])
    assert same.status == "not_shown" and "the same answer" in same.sentence


def test_shuffled_labels_are_not_shown_unless_a_prompted_model_surely_tells_them() -> None:
    rows, spec = shuffled(requests(600)), make_spec(LABELS)
    simple = learnable(spec, rows)
    assert simple.status == "not_shown" and simple.rows_needed is not None and simple.rows_needed <= 600
    assert all(e.interval[0] <= 0 for e in simple.evidence)
    assert simple.sentence.startswith("The inputs do not predict the answers: ")
    assert all(word in simple.sentence for word in ("by always answering", "join", "shuffled"))
    result = learnable(spec, rows, [SURELY_BETTER])
    assert result.status == "shown" and "60.0% right by the prompted base model" in result.sentence
    worse = dataclasses.replace(SURELY_BETTER, score=0.1, gain=-0.2, interval=(-0.3, -0.1))
    assert decide([*simple.evidence, worse], 600, simple.rows_needed, 0.05).status == "not_shown"
    # p = .04 alone would do, but not as the best of four comparisons
    assert learnable(spec, rows, [dataclasses.replace(SURELY_BETTER, p=0.04)]).status == "not_shown"


def evidence(gain: float, p: float) -> Evidence:
    return Evidence("linear", "TF-IDF", 0.5 + gain, "always answering parcel", 0.5, gain, (gain - 0.1, gain + 0.1), p)


def test_a_gain_is_shown_up_to_its_level_and_only_upwards_by_enough_rows() -> None:
    for comparisons, rows, status in (
        ([evidence(0.1, 0.05)], 100, "shown"),
        ([evidence(0.1, 0.0501)], 100, "not_shown"),
        ([evidence(-0.1, 1e-9)], 100, "not_shown"),
        ([evidence(0.0, 1e-9)], 100, "not_shown"),
        ([evidence(0.1, 0.026), evidence(0.1, 0.5)], 100, "not_shown"),  # half of the level for the better one (Holm)
        ([evidence(0.0, 1.0)], 80, "not_shown"),
        ([evidence(0.0, 1.0)], 79, "too_few_rows"),
        ([], 100, "too_few_rows"),  # nothing could be compared
    ):
        assert decide(comparisons, rows, 80, 0.05).status == status, (comparisons, rows)
    best = decide([evidence(0.2, 0.9), evidence(0.1, 0.001)], 100, 80, 0.05)
    assert best.status == "shown" and "60.0% right by TF-IDF" in best.sentence, "the one that is sure is named"
    few = decide([evidence(0.0, 1.0)], 79, 80, 0.05)
    assert "takes 80." in few.sentence and "So far: 50.0% right" in few.sentence
    unknown = decide([evidence(0.0, 1.0)], 79, None, 0.05)
    assert unknown.status == "too_few_rows" and "takes" not in unknown.sentence


def test_rows_of_one_source_with_one_answer_count_as_fewer() -> None:
    """Groups of four rows with the same label: the gain takes more rows than where every row stands for itself."""
    rows = sorted(requests(240), key=lambda e: str(e.label))
    alone = label_evidence(make_spec(LABELS), rows)[2]
    grouped = label_evidence(make_spec(LABELS), [replace(e, group=f"group {i // 4}") for i, e in enumerate(rows)])[2]
    assert alone is not None and grouped is not None and grouped > 2 * alone


def test_prompted_and_simple_models_are_compared_with_the_commonest_answer_on_the_same_rows() -> None:
    def predictions(right: int, model: str) -> list[dict[str, object]]:
        rows = [row(i, "bug" if i % 2 else "billing", "", model) for i in range(80)]
        return [{**r, "text": r["gold"] if i < right else "other"} for i, r in enumerate(rows)]

    rows = {"8_shot": predictions(60, "8_shot"), "simple_commonest": predictions(40, "simple_commonest")}
    (evidence,) = validation_evidence(spec(), "8_shot", rows)
    assert (evidence.score, evidence.reference_score) == (0.75, 0.5)
    assert evidence.gain == 0.25 and evidence.interval[0] > 0.1 and evidence.p < 0.001 and evidence.measure == "right"
    two = {r["example_id"]: str(i // 40) for i, r in enumerate(rows["8_shot"])}
    assert validation_evidence(spec(), "8_shot", rows, two)[0].p > 0.4, "two documents show nothing"
    assert validation_evidence(spec(), "8_shot", {"8_shot": rows["8_shot"]}) == []
    # training rows judge the linear model; one that reads hidden states is judged where it answered
    rows |= {f"simple_{name}": predictions(70, name) for name in ("linear", "hidden")}
    _, hidden = validation_evidence(spec(), "8_shot", rows)
    assert (hidden.name, hidden.score, hidden.reference_score) == ("hidden", 0.875, 0.5)


def test_a_score_of_rows_of_few_sources_shows_nothing_by_itself() -> None:
    task, noise = make_spec(LABELS), NoisePart(passed=True, message="", accuracy=0.6)
    separate, shared = requests(200), [replace(e, group=f"customer {i % 8}") for i, e in enumerate(requests(200))]
    alone, clumped = (simple_score(task, rows, noise) for rows in (separate, shared))
    assert alone is not None and clumped is not None and (alone.worth, clumped.worth, clumped.rows) == (200, 8, 200)
    assert learnable_by_score(task, alone) is not None and learnable_by_score(task, clumped) is None
    assert clumped.interval[0] < alone.interval[0] - 0.1


def test_an_answer_of_calls_alone_is_scored_by_its_calls() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"city": "Rome"}'}}]
    task, rows = make_spec(), [make(f"weather in Rome, request {i}", "", i) for i in range(200)]
    rows = [replace(e, messages=[*e.prompt_messages, {**e.messages[-1], "tool_calls": calls}]) for e in rows]
    score = simple_score(task, rows, NOT_ASKED)
    assert score is not None and score.value == 1.0, "every row had the score 0: its text is empty"


def test_the_score_without_labels_is_that_of_the_best_model_that_the_baseline_would_fit() -> None:
    """Each answer fills a template with the number in its text, so the nearest answer is wrong without it."""
    task = make_spec()
    rows = [make(f"where is my order {1000 + 7 * i}", f"Order {1000 + 7 * i} is on its way.", i) for i in range(200)]
    score = simple_score(task, rows, NOT_ASKED)
    assert score is not None and score.title == SIMPLE_MODELS["slots"].title
    assert score.value == 1.0 and (score.reference or 0.0) < 1.0
    assert 20 <= score.rows < 100, "a quarter of the rows, which no model was fitted on"


def test_a_score_is_kept_for_the_same_rows_and_settings_alone(tmp_path: Path) -> None:
    task = make_spec()
    rows = [make(f"where is my order {1000 + 7 * i}", f"Order {1000 + 7 * i} is on its way.", i) for i in range(200)]
    file = tmp_path / "simple.json"
    measured = kept_score(file, "v1", task, rows, NOT_ASKED)
    assert measured is not None and measured == simple_score(task, rows, NOT_ASKED)
    assert kept_score(file, "v1", task, [], NOT_ASKED) == measured, "nothing is fitted again"
    surer = task.model_copy(update={"gates": task.gates.model_copy(update={"confidence": 0.99})})
    wider = kept_score(file, "v1", surer, rows, NOT_ASKED)
    assert wider is not None and wider.interval[0] < measured.interval[0]
    assert kept_score(file, "v2", task, rows[:100], NOT_ASKED) == simple_score(task, rows[:100], NOT_ASKED)
    file.write_text('{"key": "')
    assert kept_score(file, "v1", task, rows, NOT_ASKED) == measured, "a damaged file is measured again"

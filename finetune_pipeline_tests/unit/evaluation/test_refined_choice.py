"""Which of supervised and refined model goes on: a sure gain is needed, sure losses are named, and noise passes at most at the
level."""

import random
from typing import Any

import pytest
from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.ability.drop import Loss
from finetune_pipeline.evaluation.refined_choice import changed_answers, choose, confirmed, decided, new_phrases
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training.facts import Compared

LABELS = {"kind": "labels", "labels": ["a", "b"]}


def spec(output: dict[str, Any] = LABELS, **gates: Any) -> TaskSpec:
    fields = {"name": "t", "description": "d", "system_prompt": "a or b", "output": output, "gates": gates}
    return TaskSpec.model_validate(fields)


def answers(texts: list[str], gold: list[str]) -> list[dict[str, Any]]:
    return [
        {"example_id": f"e{i:04}", "model": "m", "gold": right, "text": text, "status": "ok", "label_scores": None}
        for i, (text, right) in enumerate(zip(texts, gold, strict=True))
    ]


def by_label(right: list[bool]) -> list[dict[str, Any]]:
    return answers(["a" if ok else "b" for ok in right], ["a"] * len(right))


def test_a_sure_gain_goes_on_and_a_tie_keeps_the_supervised_model() -> None:
    before = [i % 2 == 0 for i in range(200)]
    better = [ok or i % 10 == 1 for i, ok in enumerate(before)]
    choice = choose(spec(), by_label(before), by_label(better))
    assert choice.refined and choice.reasons == [] and (choice.rows, choice.changed) == (200, 20)
    assert choice.gain.mean == pytest.approx(0.1) and choice.exact_p == pytest.approx(2 * 0.5**20)
    assert "+10.0 points" in choice.sentence and "goes on" in choice.sentence
    tie = choose(spec(), by_label(before), by_label(before))
    assert not tie.refined and tie.reasons == ["no sure gain"] and tie.changed == 0
    worse = choose(spec(), by_label(better), by_label(before))
    assert worse.reasons == ["no sure gain"] and "-10.0 points" in worse.sentence


def test_the_exact_test_decides_where_few_answers_differ() -> None:
    before, after = [True] * 95 + [False] * 5, [True] * 100
    choice = choose(spec(), by_label(before), by_label(after))
    assert choice.exact_p == pytest.approx(0.0625) and choice.reasons == ["no sure gain"], (
        "five of five is no sure gain"
    )
    before = [True] * 94 + [False] * 6
    assert choose(spec(), by_label(before), by_label(after)).refined


def test_rows_of_one_source_count_as_one() -> None:
    before = [i % 2 == 0 for i in range(200)]
    better = [ok or i in (1, 3, 5, 7, 9, 11, 13, 15, 17, 19) for i, ok in enumerate(before)]
    assert choose(spec(), by_label(before), by_label(better)).refined
    sources = {f"e{i:04}": "one dialogue" if i < 20 else f"row {i}" for i in range(200)}
    assert not choose(spec(), by_label(before), by_label(better), sources).refined


TEXT = {"kind": "text"}


def test_answers_longer_than_their_references_are_refused_by_name() -> None:
    gold = [f"the parcel number {i} arrives on monday" for i in range(80)]
    before = answers([f"the parcel {i}" for i in range(80)], gold)
    right, padded = answers(gold, gold), answers([f"{text} and have a really great day" for text in gold], gold)
    assert choose(spec(TEXT, metric="rouge1"), before, right).refined, "as long as the references is no loss"
    choice = choose(spec(TEXT, metric="rouge1"), before, padded)
    assert choice.gain.surely_above and choice.longer is not None and choice.longer.surely_above
    assert choice.reasons == ["length", "phrases"] and "exceed the length" in choice.sentence


def test_a_flattering_phrase_is_refused_by_name_but_not_one_that_the_references_write() -> None:
    gold = [f"the parcel number {i} arrives on monday at noon, please wait at the door" for i in range(80)]
    before = answers([f"the parcel {i}" for i in range(80)], gold)
    praised = answers([f"great question! the parcel number {i} arrives on monday at noon" for i in range(80)], gold)
    choice = choose(spec(TEXT, metric="rouge1"), before, praised)
    assert choice.gain.surely_above and choice.longer is not None and not choice.longer.surely_above
    assert (choice.reasons, choice.phrases) == (["phrases"], ["great question"])
    assert "it has learnt to write 'great question', which the references do not" in choice.sentence
    own = [text.replace("the parcel", "great question! the parcel") for text in gold]
    learnt = choose(spec(TEXT, metric="rouge1"), answers([f"parcel {i}" for i in range(80)], own), answers(own, own))
    assert learnt.refined and learnt.phrases == [], "people write it, too"
    one_source = {f"e{i:04}": f"dialogue {i // 20}" for i in range(80)}
    assert choose(spec(TEXT, metric="rouge1"), before, praised, one_source).phrases == [], "four sources show nothing"


def test_other_words_by_chance_are_no_new_phrase() -> None:
    dice, alarms = random.Random(0), 0
    words = "parcel order invoice monday noon door driver street number letter office friday".split()
    for _ in range(100):
        texts = [[" ".join(dice.sample(words, 6)) for _ in range(120)] for _ in range(3)]
        alarms += bool(new_phrases(*texts, range(120), 0.05))
    assert alarms <= 5


def test_lost_form_and_ability_are_refused_by_name() -> None:
    output = {"kind": "text", "max_chars": 40}
    gold = [f"parcel {i} arrives" for i in range(80)]
    before = answers(["no"] * 80, gold)
    broken = answers([text if i % 3 else f"{text} {'x' * 40}" for i, text in enumerate(gold)], gold)
    assert "form" in choose(spec(output, metric="rouge1"), before, broken).reasons
    labels = by_label([False] * 20 + [True] * 20), by_label([True] * 40)
    lost = Loss(n=100, drop=0.1, interval=(0.04, 0.16))
    assert choose(spec(), *labels, ability=lost).reasons == ["general ability"]
    assert choose(spec(), *labels, ability=Loss(n=100, drop=0.01, interval=(-0.03, 0.05))).refined


def test_noise_goes_on_at_most_at_the_level() -> None:
    """Thumbs that are noise change some answers, for better or worse alike: 1,000 worlds of several sizes."""
    dice, worlds, passed = random.Random(0), 1000, 0
    for world in range(worlds):
        rows, changed = [40, 100, 250][world % 3], [0.05, 0.2, 0.5][world % 9 // 3]
        before = [dice.random() < 0.7 for _ in range(rows)]
        after = [dice.random() < 0.7 if dice.random() < changed else ok for ok in before]
        passed += choose(spec(), by_label(before), by_label(after)).refined
    assert 0 < passed <= 35, "2.5% is the level of one side; 35 is its 98% quantile"


def test_noise_that_passed_validation_is_confirmed_by_the_sealed_test_at_most_at_the_level() -> None:
    """Refined models that are no better but went on: being ahead on the test would confirm half of them."""
    dice, worlds, chosen = random.Random(0), 1000, choose(spec(), by_label([False] * 9), by_label([True] * 9))
    confirmed_worlds = ahead = 0
    for world in range(worlds):
        rows, changed = [40, 100, 250][world % 3], [0.05, 0.2, 0.5][world % 9 // 3]
        before = [dice.random() < 0.7 for _ in range(rows)]
        after = [dice.random() < 0.7 if dice.random() < changed else ok for ok in before]
        answers = {"supervised": by_label(before), "candidate": by_label(after)}
        judged = confirmed(spec(), answers, chosen, None, level=0.05)
        assert judged is not None and judged.split == "test"
        confirmed_worlds += judged.refined
        ahead += judged.gain.mean > 0
    assert 0 < confirmed_worlds <= 35 and ahead > 300, "2.5% is the level of one side; 35 is its 98% quantile"
    stricter = by_label([True] * 80 + [False] * 20), by_label([True] * 88 + [False] * 12)
    for level, passes in ((0.05, True), (0.05 / 6, True), (0.05 / 10, False)):  # 2 · 0.5**8 is 0.0078
        rows_of = dict(zip(("supervised", "candidate"), stricter, strict=True))
        judged = confirmed(spec(), rows_of, chosen, None, level)
        assert judged is not None and judged.refined is passes, level
    assert confirmed(spec(), {"candidate": stricter[1]}, chosen, None, 0.05) is None


def test_the_answers_of_this_machine_are_compared_where_the_candidate_answers_at_an_endpoint() -> None:
    worse, better = by_label([True] * 50 + [False] * 50), by_label([True] * 70 + [False] * 30)
    chosen = choose(spec(), worse, better)
    answers = {"supervised": worse, "refined": better, "candidate": worse}
    judged = confirmed(spec(), answers, chosen, None, 0.05)
    assert judged is not None and judged.refined and judged.gain.mean == pytest.approx(0.2)


def test_changed_answers_are_listed_with_their_reference() -> None:
    before, after = answers(["a", "b", "a"], ["a", "a", "b"]), answers(["a", "a", "b"], ["a", "a", "b"])
    turns = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "a"}]
    examples = {f"e000{i}": Example(f"e000{i}", turns, group="one chat") for i in range(3)}
    shared = {"source": examples["e0001"].made_from, "request": "which?"}
    assert changed_answers(before, after, examples) == [
        shared | {"id": "e0001", "reference": "a", "supervised": "b", "refined": "a"},
        shared | {"id": "e0002", "reference": "b", "supervised": "a", "refined": "b"},
    ]


def test_people_decide_about_text_where_no_metric_does_but_not_over_other_losses() -> None:
    gold = [f"the parcel number {i} arrives on monday" for i in range(80)]
    before, after = answers(gold, gold), answers([f"parcel number {i}: it arrives on monday" for i in range(80)], gold)
    measured = choose(spec(TEXT, metric="rouge1"), before, after)
    assert measured.reasons == ["no sure gain", "phrases"] and "--what refined" in measured.sentence
    sure = Compared(rated=40, refined=30, supervised=4, evidence=900.0, needed=40.0)
    choice = decided(measured, sure)
    assert choice.refined and "its answer is better in 30, the supervised model's in 4" in choice.sentence
    assert choice.phrases and f"It writes {', '.join(map(repr, choice.phrases))} more often" in choice.sentence
    unsure = decided(measured, Compared(rated=6, refined=6, supervised=0, evidence=9.0, needed=40.0))
    assert (
        not unsure.refined
        and "nor for those who compared answers" in unsure.sentence
        and "of 6 rows" in unsure.sentence
    )
    padded = answers([f"{text} and have a really great day" for text in gold], gold)
    held = decided(choose(spec(TEXT, metric="rouge1"), before, padded), sure)
    assert held.reasons == ["length"] and not held.refined and "--what" not in held.sentence
    assert decided(choice, None) == measured, "without people as measured"


def test_a_judge_decides_where_people_are_unsure_but_excuses_no_new_phrase() -> None:
    gold = [f"the parcel number {i} arrives on monday" for i in range(80)]
    before = answers(gold, gold)
    after = answers([text if i % 2 else f"parcel {i} arrives on monday" for i, text in enumerate(gold)], gold)
    measured = choose(spec(TEXT, metric="rouge1"), before, after)
    assert measured.reasons == ["no sure gain"]
    people = Compared(rated=36, refined=20, supervised=9, evidence=12.0, needed=80.0)
    judge = Compared(rated=150, judged=114, refined=100, supervised=30, evidence=5000.0, needed=80.0)
    choice = decided(measured, people, judge)
    assert choice.refined and "of 36 rows that people compared" in choice.sentence
    assert "of 150 rows that people and, 114 of them, the judge model compared" in choice.sentence
    assert not decided(measured, people, replace(judge, evidence=79.0)).refined
    phrase = answers([f"great question! {text}" for text in gold], gold)
    held = decided(choose(spec(TEXT, metric="rouge1"), before, phrase), people, judge)
    assert "phrases" in held.reasons and not held.refined, "the judge may like what people do not"

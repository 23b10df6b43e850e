"""What perturbed rows cost: planted faults are named, ten clean runs raise no alarm, and every kind of task is judged."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from finetune_pipeline.evaluation.gates_besides_task import robust_rows
from finetune_pipeline.evaluation.perturbations import KINDS, set_name
from finetune_pipeline.evaluation.predictions import of_the_test
from finetune_pipeline.evaluation.robustness import robust, robustness
from finetune_pipeline.reports.other_rows import robustness_sentences, robustness_table
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, json_spec, paired, row, spec, text_spec


def answered(plain: list[dict[str, Any]], kind: str, wrong: int, n: int = 24) -> list[dict[str, Any]]:
    """The first n rows again, perturbed, of which `wrong` that were right go wrong."""
    made = []
    for one in plain[:n]:
        text = one["text"]
        if wrong and text == one["gold"]:
            text, wrong = "something else", wrong - 1
        model = set_name(one["model"], kind)
        made.append({**one, "model": model, "text": text, "label_scores": []})
    return made


def predicted(candidate: list[dict[str, Any]], **wrong: int) -> list[dict[str, Any]]:
    return [*candidate, *(row for kind in KINDS for row in answered(candidate, kind, wrong.get(kind, 0)))]


def test_each_score_stands_beside_that_of_the_same_rows() -> None:
    base, candidate = paired(both=15, only_base=2, only_candidate=5, neither=20)
    told = robustness(spec(), [*base, *predicted(candidate, typos=3), *answered(base, "typos", 0)])
    assert told is not None and told["asked"] == 24 and told["confidence"] == pytest.approx(1 - 0.05 / 4)
    typos = told["kinds"]["typos"]["candidate"]
    assert (typos["n"], typos["plain"], typos["perturbed"]) == (24, pytest.approx(20 / 24), pytest.approx(17 / 24))
    assert (typos["lost"], typos["gained"], typos["drop"]) == (3, 0, pytest.approx(3 / 24))
    assert typos["interval"][0] < 3 / 24 < typos["interval"][1] < 0.5
    assert told["kinds"]["typos"]["base"]["drop"] == 0 and "base" not in told["kinds"]["case"]
    assert robustness(spec(robustness={"rows": 0}), candidate) is None
    names = ("candidate", "zero_shot", "candidate:typos", "base:production")
    assert [of_the_test(name) for name in names] == [True, True, False, False]


def test_a_planted_weakness_is_named_and_a_clean_model_passes() -> None:
    _, candidate = paired(both=40, only_base=0, only_candidate=0, neither=0)
    clean = robustness(spec(), predicted(candidate, typos=1))
    passed, worst, sentence = robust(spec(), clean)
    assert passed and worst == pytest.approx(1 / 24) and "typing errors -4.2" in sentence
    planted = robustness(spec(), predicted(candidate, case=12))
    assert not robust(spec(), planted)[0]
    warned, blocked = robust_rows(spec(), {"robustness": planted}), robust_rows(BLOCK, {"robustness": planted})
    assert warned.passed and warned.warns and "This is too much" in warned.message and warned.what_to_do
    assert (
        not blocked.passed
        and blocked.measured == pytest.approx(0.5)
        and "perturbation that costs most" in blocked.what_to_do
    )
    assert not blocked.warns
    assert robust_rows(BLOCK, {"robustness": clean}).passed and not robust_rows(spec(), {"robustness": clean}).warns
    assert not robust_rows(BLOCK, {}).passed and not robust_rows(BLOCK, {"robustness": {"kinds": {}}}).passed
    assert robust_rows(spec(robustness={"rows": 0, "action": "block"}), {}).passed


BLOCK = spec(robustness={"action": "block"})


def test_a_large_but_unsure_drop_raises_no_alarm() -> None:
    _, candidate = paired(both=8, only_base=0, only_candidate=0, neither=0)
    told = robustness(
        spec(), [*candidate, *(r for kind in KINDS for r in answered(candidate, kind, kind == "typos", 8))]
    )
    assert told is not None and told["kinds"]["typos"]["candidate"]["drop"] == pytest.approx(1 / 8)
    assert robust(spec(), told)[0]


def test_models_that_lose_nothing_in_truth_raise_few_alarms() -> None:
    """A model right on 80% whatever the writing: each perturbation flips answers both ways."""
    dice, alarms = random.Random(5), 0
    for _ in range(150):
        candidate = [row(i, LABELS[0], LABELS[0] if dice.random() < 0.8 else LABELS[1], "candidate") for i in range(24)]
        other = [
            {**r, "model": set_name("candidate", kind), "text": LABELS[0] if dice.random() < 0.8 else LABELS[1]}
            for kind in KINDS
            for r in candidate
        ]
        alarms += not robust(spec(), robustness(spec(), [*candidate, *other]))[0]
    assert alarms / 150 <= 0.06


@pytest.mark.parametrize(
    ("of", "gold", "bad"),
    [
        (json_spec(), json.dumps({"city": "Rome", "guests": 2}), json.dumps({"city": "Oslo", "guests": 2})),
        (json_spec(gates={"metric": "micro_f1"}), json.dumps({"city": "Rome", "guests": 2}), "{}"),
        (text_spec(), "the parcel arrives on monday", "no idea at all"),
        (spec(gates={"metric": "macro_f1"}), "bug", "billing"),
    ],
    ids=["json", "fields", "text", "macro-F1"],
)
def test_every_kind_of_task_is_judged_in_its_own_metric(of: TaskSpec, gold: str, bad: str) -> None:
    candidate = [row(i, gold, gold, "candidate", label_scores=[]) for i in range(30)]
    told = robustness(of, [*candidate, *(r for k in KINDS for r in answered(candidate, k, 0))])
    assert robust(of, told)[:2] == (True, 0.0)
    broken = [{**r, "text": bad} for r in answered(candidate, "context", 0)]
    told = robustness(of, [*candidate, *broken, *(r for k in KINDS[:2] for r in answered(candidate, k, 0))])
    assert told is not None and told["metric"] == of.metric and told["kinds"]["no_system"]["candidate"] == {"n": 0}
    passed, worst, sentence = robust(of, told)
    assert not passed and worst is not None and worst > 0.2 and "words around it -" in sentence


def test_answers_that_failed_are_wrong_and_counted() -> None:
    _, candidate = paired(both=30, only_base=0, only_candidate=0, neither=0)
    failed = [{**r, "status": "error", "text": "", "error": "too long"} for r in answered(candidate, "context", 0)]
    told = robustness(spec(), [*candidate, *failed])
    assert told is not None and told["kinds"]["context"]["candidate"]["failed"] == 24
    assert told["kinds"]["context"]["candidate"]["perturbed"] == 0


def test_the_pages_show_plain_beside_perturbed() -> None:
    base, candidate = paired(both=100, only_base=5, only_candidate=60, neither=35)
    told = evaluation(predictions=[*base, *predicted(candidate, typos=4)])["robustness"]
    table = robustness_table(told)
    assert table is not None and table.rows[0][:5] == ["Typing errors", "Fine-tuned", "24", "100%", "83.3%"]
    assert table.rows[0][5].startswith("-16.7 (") and table.rows[1][5].startswith("0.0 (")
    sentences = " ".join(robustness_sentences(told))
    assert "24 test rows, drawn at random, were asked again" in sentences
    assert (
        "Typing errors cost the fine-tuned model most: 16.7 points of accuracy, 4 right answers lost and 0 won"
        in sentences
    )
    assert robustness_sentences(None) == [] and robustness_table(None) is None

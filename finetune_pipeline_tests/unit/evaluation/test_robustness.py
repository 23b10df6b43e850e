"""What perturbed rows cost: planted losses block, warn or inform as they should, and clean models raise no alarm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_pipeline.data.perturbations import BLOCKING, KINDS, set_name
from finetune_pipeline.evaluation.predictions import of_the_test
from finetune_pipeline.evaluation.result_parts import PerturbedRows, RobustnessVerdict
from finetune_pipeline.evaluation.robustness import robustness, robustness_verdict
from finetune_pipeline.spec.evaluation import ENOUGH_ROWS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.rows import json_spec, paired, row, spec, text_spec

FEW = ENOUGH_ROWS - 1


def answered(plain: list[dict[str, Any]], kind: str, wrong: int, n: int = ENOUGH_ROWS) -> list[dict[str, Any]]:
    """The first n rows again, perturbed, of which `wrong` that were right go wrong."""
    perturbed = []
    for plain_row in plain[:n]:
        text = plain_row["text"]
        if wrong and text == plain_row["gold"]:
            text, wrong = "something else", wrong - 1
        perturbed.append({**plain_row, "model": set_name(plain_row["model"], kind), "text": text, "label_scores": []})
    return perturbed


def predicted(candidate: list[dict[str, Any]], n: int = ENOUGH_ROWS, **wrong: int) -> list[dict[str, Any]]:
    return [*candidate, *(row for kind in KINDS for row in answered(candidate, kind, wrong.get(kind, 0), n))]


def judged(n: int = ENOUGH_ROWS, settings: dict[str, Any] | None = None, **wrong: int) -> RobustnessVerdict:
    """The verdict on a candidate that has all of 80 plain rows right and loses so many of each kind."""
    _, candidate = paired(both=80, only_base=0, only_candidate=0, neither=0)
    task = spec(robustness=settings or {})
    return robustness_verdict(task.robustness, robustness(task, predicted(candidate, n, **wrong)))


def test_each_score_stands_beside_that_of_the_same_rows() -> None:
    base, candidate = paired(both=45, only_base=2, only_candidate=15, neither=20)
    measured = robustness(spec(), [*base, *predicted(candidate, typos=3), *answered(base, "typos", 9)])
    assert measured is not None and measured.asked == ENOUGH_ROWS
    assert measured.confidence == pytest.approx(1 - 0.05 / 3), "shared by the kinds that can block"
    typos = measured.kinds["typos"]
    assert (typos.n, typos.plain, typos.perturbed) == (60, pytest.approx(58 / 60), pytest.approx(55 / 60))
    assert (typos.lost, typos.gained, typos.drop) == (3, 0, pytest.approx(3 / 60))
    assert typos.interval and typos.interval[0] < 3 / 60 < typos.interval[1] < 0.3
    assert robustness(spec(robustness={"rows": 0}), candidate) is None
    names = ("candidate", "zero_shot", "candidate:typos", "base:production")
    assert [of_the_test(name) for name in names] == [True, True, False, False]


@pytest.mark.parametrize("kind", BLOCKING)
def test_a_sure_loss_on_enough_rows_fails(kind: str) -> None:
    verdict = judged(**{kind: 12})
    assert (verdict.status, verdict.passed) == ("failed", False)
    assert (verdict.worst, verdict.largest_drop) == (kind, pytest.approx(12 / 60))
    assert "surely a loss: this holds the candidate back" in verdict.sentence
    assert verdict.sentence.count("surely a loss: this") == 1


def test_a_clean_model_passes() -> None:
    _, candidate = paired(both=80, only_base=0, only_candidate=0, neither=0)
    measured = robustness(spec(), predicted(candidate, typos=1))
    assert measured is not None
    verdict, (low, high) = measured.verdict, measured.kinds["typos"].interval or (0.0, 0.0)
    assert (verdict.status, verdict.passed, verdict.worst) == ("passed", True, "typos")
    assert verdict.largest_drop == pytest.approx(1 / 60)
    assert f"typing errors -1.7 ({-100 * high:+.1f} to {-100 * low:+.1f}, 60 rows)" in verdict.sentence
    assert verdict.sentence.count("informs only") == 1 and "system prompt 0.0" in verdict.sentence
    assert verdict.sentence.endswith(
        "None that can block costs more than 10.0 points (robustness.max_drop) and is surely a loss."
    )


@pytest.mark.parametrize(
    ("n", "settings", "wrong", "status", "worst", "says"),
    [
        (ENOUGH_ROWS, {}, {"typos": 12, "case": 20}, "failed", "case", "holds the candidate back"),
        (FEW, {}, {"courtesy": 12}, "warned", "courtesy", "measured on 59 rows and blocking takes 60"),
        (
            ENOUGH_ROWS,
            {"action": "warn"},
            {"courtesy": 12},
            "warned",
            "courtesy",
            "holds nothing back (robustness.action",
        ),
        (ENOUGH_ROWS, {"max_drop": 0.2}, {"case": 12}, "passed", "case", "None that can block costs more than 20.0"),
        (ENOUGH_ROWS, {"max_drop": 0.2}, {"case": 13}, "failed", "case", "holds the candidate back"),
        (
            ENOUGH_ROWS,
            {},
            {"no_system": 60},
            "passed",
            "typos",
            "without the system prompt -100.0 (",
        ),  # it only informs
    ],
)
def test_what_a_sure_loss_means(n: int, settings: Any, wrong: Any, status: str, worst: str, says: str) -> None:
    verdict = judged(n, settings, **wrong)
    assert (verdict.status, verdict.passed, verdict.worst) == (status, status != "failed", worst)
    assert says in verdict.sentence


@pytest.mark.parametrize(("low", "status"), [(0.0, "passed"), (0.001, "failed")])
def test_a_loss_is_sure_when_its_interval_lies_above_nothing(low: float, status: str) -> None:
    _, candidate = paired(both=80, only_base=0, only_candidate=0, neither=0)
    measured = robustness(spec(), predicted(candidate, typos=12))
    assert measured is not None and measured.kinds["typos"].failed == 0
    typos = measured.kinds["typos"].model_copy(update={"interval": (low, 0.3)})
    changed = measured.model_copy(update={"kinds": {**measured.kinds, "typos": typos}})
    assert robustness_verdict(spec().robustness, changed).status == status


@pytest.mark.parametrize("action", ["warn", "block"])
@pytest.mark.parametrize(
    "change",
    [
        None,
        {"courtesy": None},
        {"case": {"n": None}},
        {"typos": {"n": 60, "drop": None, "interval": None}},
        {"typos": {"n": 60, "drop": float("nan")}},
        dict.fromkeys(KINDS),
    ],
    ids=["nothing", "a kind is missing", "not counted", "no drop", "no number", "no kinds"],
)
def test_what_was_asked_and_not_measured_fails(action: str, change: dict[str, Any] | None) -> None:
    _, candidate = paired(both=80, only_base=0, only_candidate=0, neither=0)
    task = spec(robustness={"action": action})
    measured = robustness(task, predicted(candidate))
    assert measured is not None and measured.verdict.status == "passed"
    stored = measured.model_dump(mode="json")
    stored["kinds"] = {kind: of for kind, of in {**stored["kinds"], **(change or {})}.items() if of is not None}
    unread = None if change is None else PerturbedRows.model_validate(stored)
    verdict = robustness_verdict(task.robustness, unread)
    assert verdict.status == "failed" and "not measured" in verdict.sentence


def test_rows_that_no_perturbation_can_change_leave_robustness_unknown() -> None:
    _, candidate = paired(both=80, only_base=0, only_candidate=0, neither=0)
    verdict = robustness_verdict(spec().robustness, robustness(spec(), candidate))
    assert verdict.status == "warned" and "robustness is unknown" in verdict.sentence
    bare = [*candidate, *answered(candidate, "no_system", 0)]
    assert robustness_verdict(spec().robustness, robustness(spec(), bare)).status == "warned", "it only informs"
    partly = [*candidate, *answered(candidate, "courtesy", 0)]
    measured = robustness(spec(), partly)
    assert measured is not None and measured.verdict.status == "passed"
    assert {kind: of.n for kind, of in measured.kinds.items()} == {
        "typos": 0,
        "case": 0,
        "courtesy": 60,
        "no_system": 0,
    }


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
    candidate = [row(i, gold, gold, "candidate", label_scores=[]) for i in range(ENOUGH_ROWS)]
    clean = robustness_verdict(of.robustness, robustness(of, predicted(candidate)))
    assert (clean.status, clean.largest_drop) == ("passed", 0.0)
    broken = [{**r, "text": bad} for r in answered(candidate, "courtesy", 0)]
    measured = robustness(of, [*candidate, *broken, *(r for k in KINDS[:2] for r in answered(candidate, k, 0))])
    assert measured is not None and measured.metric == of.metric and measured.kinds["no_system"].n == 0
    verdict = robustness_verdict(of.robustness, measured)
    assert verdict.status == "failed" and (verdict.largest_drop or 0) > 0.2
    assert "greeting and thanks -" in verdict.sentence

"""What perturbed rows cost: planted losses block, warn or inform as they should, and clean models raise no alarm."""

import json
from typing import Any

import pytest

from finetune_pipeline.data.perturbations import BLOCKING, KINDS, set_name
from finetune_pipeline.evaluation.predictions import is_test_set
from finetune_pipeline.evaluation.result_parts import PerturbedRows, Robustness
from finetune_pipeline.evaluation.robustness import robustness, robustness_verdict
from finetune_pipeline.spec.evaluation import ENOUGH_ROWS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.rows import json_spec, paired, row, spec, text_spec

_, CANDIDATE = paired(both=80, only_base=0, only_candidate=0, neither=0)


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


def measured(n: int = ENOUGH_ROWS, settings: dict[str, Any] | None = None, **wrong: int) -> Robustness:
    """A candidate that has all of 80 plain rows right and loses so many of each kind."""
    facts = robustness(spec(robustness=settings or {}), predicted(CANDIDATE, n, **wrong))
    assert facts is not None
    return facts


def test_each_score_stands_beside_that_of_the_same_rows() -> None:
    base, candidate = paired(both=45, only_base=2, only_candidate=15, neither=20)
    facts = robustness(spec(), [*base, *predicted(candidate, typos=3), *answered(base, "typos", 9)])
    assert facts is not None and facts.asked == ENOUGH_ROWS
    assert facts.confidence == pytest.approx(1 - 0.05 / 3), "shared by the kinds that can block"
    typos = facts.kinds["typos"]
    assert (typos.n, typos.plain, typos.perturbed) == (60, pytest.approx(58 / 60), pytest.approx(55 / 60))
    assert (typos.lost, typos.gained, typos.drop, typos.failed) == (3, 0, pytest.approx(3 / 60), 0)
    assert typos.interval and typos.interval[0] < 3 / 60 < typos.interval[1] < 0.3
    assert robustness(spec(robustness={"rows": 0}), candidate) is None
    names = ("candidate", "zero_shot", "candidate:typos", "base:production")
    assert [is_test_set(name) for name in names] == [True, True, False, False]


@pytest.mark.parametrize("kind", BLOCKING)
def test_a_sure_loss_on_enough_rows_fails(kind: str) -> None:
    verdict = measured(**{kind: 12}).verdict
    assert (verdict.status, verdict.worst) == ("failed", kind)
    assert verdict.largest_drop == pytest.approx(12 / 60)
    assert verdict.sentence.count("surely a loss: this blocks the candidate") == 1


@pytest.mark.parametrize(
    ("n", "settings", "wrong", "status", "worst", "says"),
    [
        (60, {}, {"typos": 1}, "passed", "typos", "typing errors -1.7 (-11.5 to +7.2, 60 rows); "),
        (60, {}, {"typos": 12, "case": 20}, "failed", "case", "blocks the candidate"),
        (59, {}, {"courtesy": 12}, "warned", "courtesy", "measured on 59 rows and blocking takes 60"),
        (60, {"action": "warn"}, {"courtesy": 12}, "warned", "courtesy", "does not block (robustness.action"),
        (60, {"max_drop": 0.2}, {"case": 12}, "passed", "case", "None that can block costs more than 20.0"),
        (60, {"max_drop": 0.2}, {"case": 13}, "failed", "case", "blocks the candidate"),
        (60, {}, {"no_system": 60}, "passed", "typos", "without the system prompt -100.0 ("),  # it only informs
    ],
)
def test_what_a_sure_loss_means(n: int, settings: Any, wrong: Any, status: str, worst: str, says: str) -> None:
    verdict = measured(n, settings, **wrong).verdict
    assert (verdict.status, verdict.worst) == (status, worst)
    assert says in verdict.sentence
    assert verdict.sentence.count(", informs only") == len(KINDS) - len(BLOCKING)


def test_a_loss_is_sure_when_its_interval_lies_above_nothing() -> None:
    facts = measured(typos=12)
    for low, status in ((0.0, "passed"), (0.001, "failed")):
        typos = facts.kinds["typos"].model_copy(update={"interval": (low, 0.3)})
        changed = facts.model_copy(update={"kinds": {**facts.kinds, "typos": typos}})
        assert robustness_verdict(spec().robustness, changed).status == status


@pytest.mark.parametrize("action", ["warn", "block"])
def test_what_was_asked_and_not_measured_fails(action: str) -> None:
    stored = measured(settings={"action": action}).model_dump(mode="json")
    faults: list[dict[str, Any] | None] = [{"courtesy": None}, {"case": {"n": None}}, dict.fromkeys(KINDS), None]
    faults += [{"typos": {"n": 60, "drop": drop, "interval": None}} for drop in (None, float("nan"))]
    for fault in faults:
        kinds = {kind: figures for kind, figures in {**stored["kinds"], **(fault or {})}.items() if figures is not None}
        unread = None if fault is None else PerturbedRows.model_validate({**stored, "kinds": kinds})
        verdict = robustness_verdict(spec(robustness={"action": action}).robustness, unread)
        assert verdict.status == "failed" and "not measured" in verdict.sentence, fault


def test_failed_answers_are_no_evidence() -> None:
    """An endpoint that was down for a while is no loss of robustness; if it was down all the time, nothing is known."""
    down = {"status": "error", "error": "refused: 500", "text": ""}
    rows = predicted(CANDIDATE, case=1)
    typos = [i for i, r in enumerate(rows) if r["model"] == "candidate:typos"]
    for failed, status, says in (
        (20, "passed", "40 rows, 20 more without an answer"),
        (60, "failed", "not measured: typing"),
    ):
        facts = robustness(spec(), [r | down if i in typos[:failed] else r for i, r in enumerate(rows)])
        assert facts is not None and facts.verdict.status == status and says in facts.verdict.sentence
        assert (facts.kinds["typos"].n, facts.kinds["typos"].failed) == (60 - failed, failed)
    lost = predicted(CANDIDATE, typos=59)
    facts = robustness(spec(), [r | down if i == typos[-1] else r for i, r in enumerate(lost)])
    assert facts is not None and facts.verdict.status == "failed", "a single failed answer hides no loss"


def test_rows_that_no_perturbation_can_change_leave_robustness_unknown() -> None:
    for kinds, status in (((), "warned"), (("no_system",), "warned"), (("courtesy",), "passed")):
        facts = robustness(spec(), [*CANDIDATE, *(r for kind in kinds for r in answered(CANDIDATE, kind, 0))])
        assert facts is not None and facts.verdict.status == status, kinds
        assert ("robustness is unknown" in facts.verdict.sentence) is (status == "warned")
        assert {kind: figures.n for kind, figures in facts.kinds.items()} == {
            kind: 60 * (kind in kinds) for kind in KINDS
        }


ROME = {"city": "Rome", "guests": 2}


@pytest.mark.parametrize(
    ("of", "golds", "bad"),
    [
        (json_spec(), [json.dumps(ROME)], json.dumps(ROME | {"city": "Oslo"})),
        (json_spec(gates={"metric": "micro_f1"}), [json.dumps(ROME)], "{}"),
        (text_spec(), ["the parcel arrives on monday"], "no idea at all"),
        (spec(gates={"metric": "macro_f1"}), spec().labels, spec().labels[0]),
    ],
    ids=["json", "fields", "text", "macro-F1"],
)
def test_every_kind_of_task_is_judged_in_its_own_metric(of: TaskSpec, golds: list[str], bad: str) -> None:
    answers = [golds[i % len(golds)] for i in range(ENOUGH_ROWS)]
    candidate = [row(i, gold, gold, "candidate", label_scores=[]) for i, gold in enumerate(answers)]
    rows = predicted(candidate)
    clean = robustness(of, rows)
    assert clean is not None and (clean.verdict.status, clean.verdict.largest_drop) == ("passed", 0.0)
    broken = robustness(of, [r | {"text": bad} if r["model"] == "candidate:courtesy" else r for r in rows])
    assert broken is not None and broken.metric == of.metric and broken.verdict.status == "failed"
    assert (broken.verdict.largest_drop or 0) > 0.2 and "greeting and thanks -" in broken.verdict.sentence

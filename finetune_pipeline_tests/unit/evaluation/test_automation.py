"""Which answers need no person: the threshold, its proof on the sealed test, and the gate."""

import json
import math
from typing import Any

import numpy as np
import pytest
import scipy

from benchmarks.automation_simulation import WORLDS, simulated
from finetune_pipeline.evaluation.automation import (
    allowed_mistakes,
    candidates,
    certify,
    first_of,
    rows_needed,
    upper_bound,
)
from finetune_pipeline.evaluation.calibration import Calibration
from finetune_pipeline.evaluation.gates import GATES
from finetune_pipeline.evaluation.gates.automation import promise_of
from finetune_pipeline.evaluation.probabilities import Answers, answers_of
from finetune_pipeline.evaluation.result_parts import Automation, Probabilities
from finetune_pipeline.spec.outputs import LabelsOutput

OUTPUT = LabelsOutput(labels=["a", "b"])


def answers(*parts: tuple[int, float, float]) -> Answers:
    """Parts of so many rows with a probability, of which a share, spread evenly, is right."""
    probabilities = np.concatenate([np.full(n, p) for n, p, _ in parts])
    right = np.concatenate([np.arange(n) >= round(n * (1 - share)) for n, _, share in parts])
    return Answers(probabilities, right)


def row(name: str, probability: float, gold: str = "a", text: str = "a", status: str = "ok") -> dict[str, Any]:
    scores = [math.log(probability), math.log(1 - probability)]
    return {"example_id": name, "gold": gold, "text": text, "status": status, "label_scores": scores}


def test_the_mistakes_that_a_test_allows_are_those_of_the_binomial_law() -> None:
    assert rows_needed(0.02, 0.05) == 149 and allowed_mistakes(149, 0.02, 0.05) == 0
    assert allowed_mistakes(148, 0.02, 0.05) == -1, "not even without a mistake"
    for n in (150, 236, 300, 999):
        for error in (0.02, 0.1):
            fine = [k for k in range(n) if scipy.stats.binom.cdf(k, n, error) <= 0.05]
            assert allowed_mistakes(n, error, 0.05) == max(fine)
    assert upper_bound(0, 149, 0.05) == pytest.approx(1 - 0.05 ** (1 / 149))
    assert upper_bound(1, 147, 0.05) == pytest.approx(scipy.stats.binomtest(1, 147).proportion_ci(0.9).high)
    assert upper_bound(5, 5, 0.05) == 1


def test_it_goes_on_to_looser_thresholds_up_to_the_first_that_cannot_be_shown() -> None:
    """400 sure rows without a mistake, 100 less sure ones of which a twentieth is wrong, 100 unsure ones that are half wrong."""
    law = ((400, 0.99, 1.0), (100, 0.9, 0.95), (100, 0.6, 0.5))
    validation, test = answers(*((n // 2, p, share) for n, p, share in law)), answers(*law)
    result = certify(validation, test, 0.03, 0.05)
    assert (result.threshold, result.answered, result.mistakes) == (0.9, 500, 5)
    assert (result.passed_on, result.mistakes_passed_on, result.all_mistakes) == (100, 50, 55)
    assert [t.threshold for t in result.tested] == [0.99, 0.9, 0.6]
    p = scipy.stats.binom.cdf([0, 5, 55], [400, 500, 600], 0.03)
    assert [t.p for t in result.tested] == pytest.approx(p) and p[2] > 0.05 >= p[1]
    strict = certify(validation, test, 0.001, 0.05)
    assert (strict.threshold, strict.coverage, strict.upper_bound) == (None, 0, None), "600 rows are too few"
    assert strict.needed == 2995 and strict.tested[0].answered == 400
    assert strict.mistakes_passed_on == 0, "nothing is promised, so nothing is passed on"


def test_validation_chooses_where_to_begin_and_cannot_make_a_promise() -> None:
    """Where it was too kind, the sealed rows refuse."""
    kind, cruel = answers((200, 0.9, 1.0)), answers((400, 0.9, 0.9))
    assert certify(kind, cruel, 0.05, 0.05).threshold is None
    assert certify(kind, answers((400, 0.9, 1.0)), 0.05, 0.05).threshold == 0.9
    mixed = answers((100, 0.99, 1.0), (100, 0.7, 0.8))
    thresholds = candidates(mixed)
    assert thresholds == sorted(thresholds, reverse=True) and {0.99, 0.7} == set(thresholds)
    assert thresholds[first_of(thresholds, mixed, 600, 0.05, 0.05)] == 0.99
    assert thresholds[first_of(thresholds, mixed, 600, 0.2, 0.05)] == 0.99, "the surest test comes first"
    assert certify(mixed, mixed, 0.2, 0.05).threshold == 0.7, "and the looser threshold after it, at the same level"


def test_what_has_no_probability_of_its_own_is_passed_on() -> None:
    rows = [
        row("1", 0.9),
        row("2", 0.9, gold="b"),
        row("3", 0.2, text="a"),  # it writes another label than its likeliest
        row("4", 0.9, status="truncated"),
        row("5", 0.9, status="error") | {"label_scores": []},
        row("6", 0.9) | {"label_scores": [math.nan, 0.0]},
    ]
    judged = answers_of(rows, OUTPUT)
    assert judged.probabilities.tolist() == pytest.approx([0.9, 0.9, 0, 0, 0, 0])
    assert judged.right.tolist()[:2] == [True, False] and judged.at_least(0.5) == (2, 1)
    assert answers_of([], OUTPUT).at_least(0.5) == (0, 0)
    assert certify(answers_of([], OUTPUT), judged, 0.1, 0.05).tested == []


def test_rows_of_one_source_are_one_piece_of_evidence() -> None:
    rows = [row(str(i), 0.9) for i in range(400)]
    alone, together = {str(i): str(i) for i in range(400)}, {str(i): str(i // 100) for i in range(400)}
    validation = answers_of(rows[:100], OUTPUT)
    assert certify(validation, answers_of(rows, OUTPUT, alone), 0.05, 0.05).answered == 400
    assert certify(validation, answers_of(rows, OUTPUT, together), 0.05, 0.05).threshold is None


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_promises_are_rarely_broken(world: Any) -> None:
    """At most one in twenty; among 40 worlds seven or more would be seen by chance once in 300 times."""
    made, broken, share, possible = simulated(world, 0.1, 40, seed=3)
    assert broken <= 6 and share <= possible + 0.1
    assert made >= 30 or world.name in ("shifted", "useless", "tiny")


def gate(promise: Automation | None, max_error: float | None = 0.05) -> Any:
    from finetune_pipeline_tests.unit.evaluation.fake_run import spec, usual

    measured = {"candidate": Probabilities(calibration=Calibration(), automation=promise)} if promise else {}
    judged = usual().model_copy(update={"probabilities": measured})
    return GATES["automation"](spec(automation={"max_error": max_error}), judged)


def test_the_gate_says_what_is_promised_or_why_nothing_is() -> None:
    validation = answers((200, 0.9, 1.0))
    kept = certify(validation, answers((400, 0.9, 1.0), (100, 0.6, 0.5)), 0.05, 0.05)
    passed = gate(kept)
    assert passed.status == "passed" and passed.measured == kept.upper_bound
    assert passed.message == f"{promise_of(kept)}."
    assert passed.message.startswith("Answers 80.0% (76.3% to 83.3%) by itself, at most 5.0% wrong (0 of 400 seen")
    assert passed.message.endswith("passes on 100 rows, among them 50 of 50 mistakes.")
    broken = gate(certify(validation, answers((400, 0.9, 0.9)), 0.05, 0.05))
    assert broken.status == "failed" and "40 of 400 answers were wrong" in broken.message
    few = gate(certify(validation, answers((40, 0.9, 1.0)), 0.05, 0.05))
    assert few.status == "failed" and "59 answered rows" in few.what_to_do
    assert gate(certify(answers_of([], OUTPUT), validation, 0.05, 0.05)).status == "failed"
    assert gate(None).status == "failed", "what was not measured does not pass"
    assert gate(None, None).status == "not_asked"


def test_a_promise_survives_its_file() -> None:
    result = certify(answers((200, 0.9, 1.0)), answers((400, 0.9, 1.0)), 0.05, 0.05)
    assert Automation.model_validate(json.loads(result.model_dump_json())) == result

"""Probabilities of answers: of tokens, fields and labels, their reliability, and the promise for every kind of model."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.calibration import fit_calibration
from finetune_pipeline.evaluation.gates.automation import promise_of
from finetune_pipeline.evaluation.probabilities import (
    Answers,
    answers_of,
    field_table,
    fields_of,
    probability_of,
    reliability,
)
from finetune_pipeline.evaluation.promises import probabilities_of
from finetune_pipeline.evaluation.simple_answers import rows_of
from finetune_pipeline.evaluation.simple_models import fit_simple_models
from finetune_pipeline.evaluation.token_probabilities import FORM, answer_probability, field_probabilities
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.spec.outputs import LabelsOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, json_spec, row, spec

OUTPUT = LabelsOutput(labels=LABELS)


class Pieces:
    """A tokenizer whose tokens are these texts; the last one ends an answer."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = [*pieces, ""]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def answer(self, *probabilities: float, status: str = "ok") -> Answer:
        ids = list(range(len(self.pieces)))
        return Answer(self.decode(ids), status, new_ids=ids, log_probabilities=[math.log(p) for p in probabilities])


def test_a_fields_probability_is_that_of_the_tokens_of_its_value() -> None:
    """The comma belongs to the token of the value before it; the key `guests` and the end are form."""
    tokenizer = Pieces('{"city":', ' "Ro', 'me",', ' "guests', '": ', "2", '0, "of": {"x": [1', ",2]}", "}")
    answer = tokenizer.answer(0.99, 0.8, 0.5, 0.9, 1.0, 0.7, 0.6, 1.0, 1.0, 0.95)
    assert json.loads(answer.text) == {"city": "Rome", "guests": 20, "of": {"x": [1, 2]}}
    shares = field_probabilities(answer, tokenizer)
    assert shares == pytest.approx({FORM: 0.99 * 0.9 * 0.95, "city": 0.8 * 0.5, "guests": 0.7 * 0.6, "of.x": 1.0})
    assert answer_probability(answer) == pytest.approx(math.prod(shares.values()))


def test_answers_that_are_no_json_or_unfinished_have_no_fields() -> None:
    broken = Pieces('{"city": "Rome"')
    assert field_probabilities(broken.answer(0.9, 0.9), broken) == {}
    assert answer_probability(broken.answer(0.9, 0.9)) == pytest.approx(0.81), "which is of use for text"
    assert answer_probability(broken.answer(0.9, 0.9, status="truncated")) is None
    assert answer_probability(Answer("from an endpoint")) is None


def test_a_label_is_sure_only_if_it_is_the_likeliest_and_free_text_never() -> None:
    scores = [math.log(0.7), math.log(0.2), -math.inf]
    assert probability_of(row(1, "bug", "bug", label_scores=scores), OUTPUT) == pytest.approx(0.7 / 0.9)
    assert probability_of(row(1, "bug", "billing", label_scores=scores), OUTPUT) == 0
    assert probability_of(row(1, "bug", "bug", label_scores=[]), OUTPUT) == 0
    assert probability_of(row(1, "bug", "bug", probability=0.4), TextOutput()) == 0.4
    assert probability_of(row(1, "bug", "bug", probability=0.4, status="truncated"), TextOutput()) == 0


def extraction(i: int, right: bool, city: float, guests: float | None = 0.99, **changes: Any) -> dict[str, Any]:
    """An answer that is right or wrong about the city. guests None: it leaves them out."""
    gold, answer = {"city": "Rome", "guests": 2}, {"city": "Rome" if right else "Bonn", "guests": 2}
    shares = {FORM: 0.9, "city": city, "guests": guests}
    if guests is None:
        del answer["guests"], shares["guests"]
    fields = [{"field": name, "probability": share} for name, share in shares.items()]
    texts = {"gold": json.dumps(gold), "text": json.dumps(answer)}
    probability = math.prod(share for share in shares.values() if share)
    return row(i, "", "", label_scores=[], probability=probability, field_probabilities=fields, **changes) | texts


def test_of_each_row_one_field_counts_and_a_field_that_is_left_out_has_the_probability_of_the_form() -> None:
    output = json_spec().output
    rows = [extraction(i, i % 4 > 0, 0.7, None if i % 2 else 0.99) for i in range(2000)]
    fields = fields_of(rows, output)  # type: ignore[arg-type]
    assert fields == ["city", "guests"]
    drawn = answers_of(rows, output, unit="field", fields=fields)
    assert len(drawn.right) == 2000 and set(drawn.parts) == {"city", "guests"}
    assert np.mean([part == "city" for part in drawn.parts]) == pytest.approx(0.5, abs=0.03)
    cities = np.array(drawn.parts) == "city"
    assert set(drawn.probabilities[cities]) == {0.7} and drawn.right[cities].mean() == pytest.approx(0.75, abs=0.03)
    assert set(drawn.probabilities[~cities].round(3)) == {0.9, 0.99}
    assert drawn.right[~cities].mean() == pytest.approx(0.5, abs=0.04), "guests are left out of every second answer"
    whole = answers_of(rows, output)
    assert whole.right.mean() == 0.25 and set(whole.parts) == {""}
    assert field_table(rows[1]) == {FORM: 0.9, "city": 0.7}


def test_an_answer_that_is_put_together_from_fields_has_the_product_of_their_probabilities() -> None:
    """A field that is left out has its own; one that is copied has none, nor has the whole."""
    made = Answer('{"city": "Rome"}', field_shares={"city": 0.8, "guests": 0.5})
    assert answer_probability(made) == pytest.approx(0.4) and field_probabilities(made, None) == made.field_shares
    copied = Answer('{"city": "Rome"}', field_shares={"city": 0.8, "guests": 0.0})
    assert answer_probability(copied) is None and field_probabilities(copied, None)["city"] == 0.8


def orders(n: int, seed: int) -> list[tuple[str, str]]:
    """Orders of which one in ten does not say what is ordered."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        fruit, number = rng.choice(["apples", "pears", "plums"]), rng.randrange(2, 500)
        shown = fruit if rng.random() < 0.9 else "fruit"
        rows.append((f"please send {number} {shown}", json.dumps({"fruit": fruit, "number": number})))
    return rows


@pytest.mark.parametrize(("unit", "coverage"), [("answer", 0.9), ("field", 0.95)])
def test_a_simple_model_of_json_keeps_a_promise(unit: str, coverage: float) -> None:
    train = orders(300, 1)
    task = json_spec(automation={"max_error": 0.03, "unit": unit})
    model = fit_simple_models(*map(list, zip(*train, strict=True)), task.output)["tagger"]

    def answers(seed: int) -> list[dict[str, Any]]:
        rows = orders(300, seed)
        examples = [Example(f"{seed}-{i}", [{"role": "user", "content": text}]) for i, (text, _) in enumerate(rows)]
        return rows_of(model, "simple_tagger", examples, lambda e: rows[int(e.id.split("-")[1])][1], [])

    measured = probabilities_of(task, answers(2), answers(3), 0.05)
    assert measured is not None and measured.automation is not None and measured.after is not None
    assert measured.automation.coverage == pytest.approx(coverage, abs=0.06) and measured.automation.mistakes <= 4
    assert measured.after.ece is not None and measured.after.ece < 0.05
    whole = measured.automation.whole_coverage
    assert whole is None if unit == "answer" else whole == pytest.approx(0.9, abs=0.06), (
        "one row in ten has an unsure field"
    )
    assert ("rows pass on no field" in promise_of(measured.automation)) == (unit == "field")


def test_the_calibration_error_is_the_distance_of_probability_and_share() -> None:
    sure = Answers(
        np.array([0.95] * 100 + [0.55] * 100 + [0.0] * 50), np.array([True] * 75 + [False] * 25 + [True, False] * 75)
    )
    measured = reliability(sure)
    assert measured is not None and measured.n == 200, "answers without a probability are left out"
    assert measured.ece == pytest.approx((0.2 + 0.05) / 2)
    assert measured.interval is not None and measured.interval[0] < 0.125 < measured.interval[1]
    assert [(b.low, b.n, b.accuracy) for b in measured.reliability] == [(0.5, 100, 0.5), (0.9, 100, 0.75)]
    assert reliability(Answers(np.zeros(3), np.ones(3, bool))) is None


def overconfident(n: int, seed: int) -> list[dict[str, Any]]:
    """Answers of a model that gives 0.999 to what is right in 95 of 100, and 0.9 to what is right in 60 of 100."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        p = 0.999 if rng.random() < 0.7 else 0.9
        right = rng.random() < (0.95 if p > 0.99 else 0.6)
        scores = [math.log(p), math.log((1 - p) / 2), math.log((1 - p) / 2)]
        rows.append(row(i, "bug" if right else "other", "bug", label_scores=scores))
    return rows


def test_probabilities_are_calibrated_on_validation_and_the_promise_is_of_calibrated_ones() -> None:
    validation, test = overconfident(600, 1), overconfident(600, 2)
    measured = probabilities_of(spec(automation={"max_error": 0.1}), validation, test, 0.05)
    assert measured is not None and measured.before is not None and measured.after is not None
    assert measured.before.ece is not None and measured.before.ece > 0.1
    assert measured.after.ece is not None and measured.after.ece < 0.05
    asked = answers_of(validation, OUTPUT)
    assert (
        measured.calibration
        == fit_calibration(asked.probabilities, asked.right)
        != fit_calibration(asked.probabilities[:9], asked.right[:9])
    )
    promise = measured.automation
    assert promise is not None and promise.coverage == pytest.approx(0.7, abs=0.05)
    assert promise.threshold == pytest.approx(0.95, abs=0.02), "0.999 as the model says"
    assert set(measured.parts) == {"bug"}
    assert probabilities_of(spec(), [row(1, "bug", "bug", label_scores=[])], test, 0.05) is None


def test_where_the_promise_cannot_be_shown_another_error_and_the_rows_for_it_are_named() -> None:
    measured = probabilities_of(
        spec(automation={"max_error": 0.06}), overconfident(600, 1), overconfident(200, 2), 0.05
    )
    promise = measured.automation if measured else None
    assert promise is not None and promise.threshold is None and promise.attainable is not None
    assert promise.attainable.max_error == 0.1 and promise.attainable.coverage == pytest.approx(0.7, abs=0.1)
    assert promise.rows_for_it is not None and promise.rows_for_it > 1000
    larger = probabilities_of(spec(automation={"max_error": 0.06}), overconfident(600, 1), overconfident(8000, 3), 0.05)
    assert larger is not None and larger.automation is not None and larger.automation.threshold is not None
    impossible = probabilities_of(
        spec(automation={"max_error": 0.03}), overconfident(600, 1), overconfident(200, 2), 0.05
    )
    assert impossible is not None and impossible.automation is not None and impossible.automation.rows_for_it is None

"""The fine-tuned model beside an API model: which answers are compared, what both cost, and what is not guessed."""

import datetime
from typing import Any

import pytest

from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.report.versus import Versus, versus, versus_lines
from finetune_pipeline_tests.unit.evaluation.fake_run import COST, TRAINING, evaluation, perturbed_answers, usual
from finetune_pipeline_tests.unit.evaluation.rows import paired, rows, spec

TODAY = datetime.date(2026, 11, 27)
HOSTED = {
    "model": "ft:1", "trainer": "openai", "base_model": "gpt-4o-mini-2024-07-18", "base_url": "https://api.example.com/v1",
}  # fmt: skip


def compared(model: str = "gpt-6.1-terra", calls: int | None = None, **changes: Any) -> Versus:
    """200 rows: the candidate has 165 right, the local base 105, and the API model 140 of those of the candidate."""
    base, candidate = paired(both=100, only_base=5, only_candidate=60, neither=35)
    api = [{**row, "model": "api", "label_scores": []} for row in candidate]
    for row in [row for row in api if row["text"] == row["gold"]][:25]:
        row["text"] = "nothing"
    weak, strong = rows([("bug", "bug")] * 20 + [("bug", "other")] * 20), rows([("bug", "bug")] * 40)
    task = spec(baseline={"endpoint": {"url": "https://api.example.com/v1", "model": model}})
    result = evaluation(
        spec=task,
        predictions=[*base, *candidate, *api, *perturbed_answers(candidate)],
        baseline=score_baselines(task, {"8_shot": strong, "api_zero_shot": weak, "api_8_shot": strong}).to_json(),
        cost=COST | {"tokens": COST["tokens"] | {"api": {"prompt": 900.0, "answer": 2.0}}},
        **changes,
    )
    comparison = versus(task, result, load_prices(), calls, TODAY)
    assert isinstance(comparison, Versus)
    return comparison


def test_both_answered_the_same_sealed_rows() -> None:
    comparison = compared()
    assert comparison.rows == 200 and comparison.tuned.value == 160 / 200 and comparison.api.value == 135 / 200
    assert comparison.gain == pytest.approx(25 / 200) and comparison.gain_interval and comparison.gain_interval[0] > 0
    assert comparison.conclusion == "The fine-tuned model is significantly better."
    assert comparison.api.name == "gpt-6.1-terra, 8-shot", "of the API model's prompts the best"


def test_prices_are_those_of_the_list() -> None:
    comparison = compared(calls=2_000_000)
    (per_thousand,) = comparison.api.thousand.values()
    assert per_thousand == pytest.approx((900 * 1 + 2 * 5) / 1000)
    assert list(comparison.api.month.values()) == [pytest.approx(2000 * per_thousand)]
    assert comparison.tuned.month["rented A10G, 24 GB"] == 730, "always on, whatever it answers"
    cheaper = "rented A10G, 24 GB is cheaper than OpenAI, gpt-6.1-terra from"
    assert any(line.startswith(cheaper) for line in comparison.break_even) and comparison.warnings == []


def test_a_hosted_model_has_the_price_of_its_base() -> None:
    comparison = compared(calls=1000, training=TRAINING | {"endpoint": HOSTED})
    assert comparison.tuned.thousand == {"OpenAI, gpt-4o-mini, fine-tuned": pytest.approx((200 * 0.3 + 1 * 1.2) / 1000)}
    assert comparison.break_even == [] and comparison.tuned.name == "Fine-tuned (gpt-4o-mini-2024-07-18 by openai)"
    assert comparison.warnings == ["OpenAI, gpt-4o-mini, fine-tuned: offered until 2027-01-13 only"]
    other = compared(calls=1000, training=TRAINING | {"endpoint": {**HOSTED, "base_model": "gpt-4.1-large"}})
    assert other.tuned.thousand == {}, "gpt-4.1 is another model"


def test_a_price_or_a_model_that_lacks_is_named_and_not_guessed() -> None:
    comparison = compared(model="unheard-of")
    assert comparison.api.thousand == {} and comparison.api.month == {} and comparison.break_even == []
    assert comparison.warnings == ["prices.yaml has no price for unheard-of: add a line with unit: million_served"]
    assert "to confirm: prices.yaml has no price for unheard-of" in "\n".join(versus_lines(comparison))
    message = versus(spec(), usual(), load_prices(), None, TODAY)
    assert isinstance(message, str) and "set baseline.endpoint" in message

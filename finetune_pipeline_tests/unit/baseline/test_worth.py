"""Whether training is worth it, from the prompted baseline alone."""

from finetune_pipeline.baseline.worth import worth_training
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline_tests.unit.evaluation.rows import row, spec


def _scores(share: float, n: int = 200) -> dict:
    interval = list(wilson_interval(share * n, n))
    primary = {"name": "accuracy", "value": share, "interval": interval}
    return {"n": n, "accuracy": share, "interval": interval, "primary": primary}


def _facts(correct: int, restricted: float | None = None, **simple: float) -> dict:
    """A best prompt that is right on `correct` of 200 rows; shares of restricted answers and of simple models."""
    best = _scores(correct / 200) | {"restricted": None if restricted is None else _scores(restricted)}
    prompts = {"zero_shot": {"accuracy": 0.1, "interval": [0.05, 0.2]}, "8_shot": best}
    return {"best": "8_shot", "prompts": prompts, "simple": {name: _scores(share) for name, share in simple.items()}}


def test_a_prompt_surely_above_the_ceiling_is_enough_and_not_by_luck() -> None:
    weak, strong = worth_training(spec(), _facts(80)), worth_training(spec(), _facts(192))
    assert weak["passed"] is True and "restrict" not in weak["reason"]
    assert "8-shot, is right on 40.0% of 200 validation rows (33.5% to 46.9%)" in weak["reason"]
    assert strong["passed"] is False
    assert strong["reason"].startswith("Prompting is enough: 8-shot is right on 96.0%")
    assert worth_training(spec(), _facts(184))["passed"] is True, "92% of 200 rows is not surely 90%"
    low = _facts(184)["prompts"]["8_shot"]["interval"][0]
    for ceiling in (0.8, low):
        assert worth_training(spec(baseline={"ceiling": ceiling}), _facts(184))["passed"] is False, "at it is enough"


def test_restricted_answers_that_close_most_of_the_gap_are_named() -> None:
    verdict = worth_training(spec(), _facts(32, restricted=0.78))
    assert verdict["passed"] is True and "78.0% right (8-shot), which closes 83.8% of the gap" in verdict["reason"]
    for correct, restricted, ceiling, closes, why in (
        (100, None, 0.9, "", "no answer is restricted"),
        (100, 0.4, 0.9, "", "worse when restricted"),
        (100, 0.75, 1.0, "closes 50.0%", "half of the gap is enough"),
        (100, 0.93, 0.9, "closes 100%", "more than the gap is all of it"),
        (180, 0.93, 0.9, "", "at the ceiling there is no gap"),
    ):
        reason = worth_training(spec(baseline={"ceiling": ceiling}), _facts(correct, restricted=restricted))["reason"]
        assert closes in reason and ("restricting the answers first" in reason) is bool(closes), why


def test_a_simple_model_surely_above_the_ceiling_is_enough() -> None:
    verdict = worth_training(spec(), _facts(60, commonest=0.3, nearest=0.97))
    assert verdict["passed"] is False and verdict["enough"] == "nearest"
    assert "A language model is not needed" in verdict["reason"] and "right on 97.0%" in verdict["reason"]
    assert worth_training(spec(), _facts(60, nearest=0.92))["passed"] is True


def test_a_commonest_answer_that_is_mostly_right_is_not_enough_where_macro_f1_decides() -> None:
    task = spec(gates={"metric": "macro_f1"})
    gold = ["bug" if i % 40 == 0 else "billing" for i in range(400)]
    rows = {
        "zero_shot": [row(i, g, "nothing", label_scores=[]) for i, g in enumerate(gold)],
        "simple_commonest": [row(i, g, "billing", label_scores=[]) for i, g in enumerate(gold)],
        "simple_linear": [row(i, g, g, label_scores=[]) for i, g in enumerate(gold)],
    }
    verdict = worth_training(task, score_baselines(task, rows))
    assert (verdict["passed"], verdict["enough"]) == (False, "linear"), "all right is enough in any metric"
    del rows["simple_linear"]
    verdict = worth_training(task, score_baselines(task, rows))
    assert verdict["passed"], verdict["reason"]

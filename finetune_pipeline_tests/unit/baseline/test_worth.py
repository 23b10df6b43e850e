"""Whether training is worth it, from the prompted baseline and the simple models alone."""

from typing import Any

from finetune_pipeline.baseline.good_enough import Worth, good_enough, worth_training
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, answers, row, spec

Rows = dict[str, list[dict[str, Any]]]


def _rows(correct: int, restricted: float | None = None, **simple: float) -> Rows:
    """A prompt that is right on a tenth of 200 rows, and one that is right on `correct` of them; shares of its restricted answers
    and of simple models."""
    best = answers(correct, label_scores=[])
    if restricted is not None:
        chosen = answers(round(200 * restricted))
        best = [a | {"label_scores": b["label_scores"]} for a, b in zip(best, chosen, strict=True)]
    rows = {"zero_shot": answers(20, label_scores=[]), "8_shot": best}
    return rows | {f"simple_{name}": answers(round(200 * share), label_scores=[]) for name, share in simple.items()}


def _worth(rows: Rows, task: TaskSpec | None = None) -> Worth:
    task = task or spec()
    return worth_training(task, score_baselines(task, rows), rows)


def test_a_prompt_surely_above_the_ceiling_is_enough_and_not_by_luck() -> None:
    weak, strong = _worth(_rows(80)), _worth(_rows(192))
    assert weak.passed is True and "restrict" not in weak.reason
    assert "8-shot, is right on 40.0% of 200 validation rows (33.5% to 46.9%)" in weak.reason
    assert strong.passed is False
    assert strong.reason.startswith("Prompting is enough: 8-shot is right on 96.0%")
    assert _worth(_rows(184)).passed is True, "92% of 200 rows is not surely 90%"
    for ceiling in (0.8, wilson_interval(184, 200)[0]):
        assert _worth(_rows(184), spec(baseline={"ceiling": ceiling})).passed is False, "at it is enough"
    just_above = wilson_interval(184, 200)[0] + 1e-9
    assert _worth(_rows(184), spec(baseline={"ceiling": just_above})).passed is True


def test_the_best_of_many_is_enough_only_if_it_is_so_among_them_all() -> None:
    """Of nine alternatives that are all right on about 90% of the rows, one is above it by an ordinary interval."""
    rows = {f"prompt_{i}": answers(180, label_scores=[]) for i in range(7)} | _rows(189, linear=0.9)
    task = spec()
    assert score_baselines(task, rows).prompts["8_shot"].interval[0] > 0.9
    assert _worth(rows).passed is True
    assert _worth(_rows(189, linear=0.4)).passed is False, "alone it is enough"
    many = {f"prompt_{i}": answers(189, label_scores=[]) for i in range(7)} | _rows(189, linear=0.945)
    assert [name for _, name, _ in good_enough(task, score_baselines(task, many), many, 0.9)] == ["prompt_0", "linear"]


def test_restricted_answers_that_close_most_of_the_gap_are_named() -> None:
    verdict = _worth(_rows(32, restricted=0.78))
    assert verdict.passed is True and "78.0% right (8-shot), which closes 83.8% of the gap" in verdict.reason
    for correct, restricted, ceiling, closes, why in (
        (100, None, 0.9, "", "no answer is restricted"),
        (100, 0.4, 0.9, "", "worse when restricted"),
        (100, 0.75, 1.0, "closes 50.0%", "half of the gap is enough"),
        (100, 0.93, 0.9, "closes 100%", "more than the gap is all of it"),
        (180, 0.93, 0.9, "", "at the ceiling there is no gap"),
    ):
        reason = _worth(_rows(correct, restricted=restricted), spec(baseline={"ceiling": ceiling})).reason
        assert closes in reason and ("restricting the answers first" in reason) is bool(closes), why


def test_a_simple_model_surely_above_the_ceiling_is_enough() -> None:
    verdict = _worth(_rows(60, commonest=0.3, nearest=0.97))
    assert verdict.passed is False and verdict.enough == "nearest"
    assert "Fine-tuning is not needed" in verdict.reason and "right on 97.0%" in verdict.reason
    assert _worth(_rows(60, nearest=0.92)).passed is True


def test_the_sealed_test_decides_without_training_unless_only_an_api_model_is_enough() -> None:
    assert _worth(_rows(60, nearest=0.97)).skips_training(spec()) is True
    assert _worth(_rows(60, nearest=0.97)).skips_training(spec(gates={"worth_training": "warn"})) is False
    assert _worth(_rows(60, nearest=0.92)).skips_training(spec()) is False, "training may pay"
    api = {"api_zero_shot": answers(196, label_scores=[]), "zero_shot": answers(20, label_scores=[])}
    worth = _worth(api)
    assert (worth.passed, worth.enough, worth.skips_training(spec())) == (False, "api_zero_shot", False)
    blind = _worth(_rows(60, commonest=0.97))
    assert (blind.enough, blind.skips_training(spec())) == ("commonest", False), "no gate would let it through"
    rated = spec(gates={"min_rated": 50})
    assert _worth(_rows(60, nearest=0.97), rated).skips_training(rated) is False, (
        "people rate no answers of a simple model"
    )


def test_answers_of_few_sources_are_not_surely_enough() -> None:
    task, rows = spec(), _rows(200)
    facts = score_baselines(task, rows)
    sources = {f"e{i:04d}": str(i % 4) for i in range(200)}
    assert worth_training(task, facts, rows).passed is False
    assert worth_training(task, facts, rows, sources).passed is True


def test_a_commonest_answer_that_is_mostly_right_is_not_enough_where_macro_f1_decides() -> None:
    task = spec(gates={"metric": "macro_f1"})
    gold = [LABELS[0] if i % 40 == 0 else LABELS[1 + i % 2] for i in range(400)]
    rows = {
        "zero_shot": [row(i, g, "nothing", label_scores=[]) for i, g in enumerate(gold)],
        "simple_commonest": [
            row(i, g, LABELS[1] if g == LABELS[0] else g, label_scores=[]) for i, g in enumerate(gold)
        ],
        "simple_linear": [row(i, g, g, label_scores=[]) for i, g in enumerate(gold)],
    }
    verdict = _worth(rows, task)
    assert (verdict.passed, verdict.enough) == (False, "linear"), "all right is enough in any metric"
    del rows["simple_linear"]
    assert _worth(rows, task).passed, "97.5% right, and never on one of three labels"

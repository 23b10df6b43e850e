from typing import Any

import pytest
from msgspec.structs import asdict

from finetune_pipeline.evaluation.ability.drop import Ability, Category, ability_drop
from finetune_pipeline.evaluation.gates.general_ability import general_ability
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact, tango_interval
from finetune_pipeline_tests.unit.evaluation.rows import spec


def choice(n: int, correct: bool, error: str = "") -> dict[str, Any]:
    item = {"id": f"i{n}", "source": "suite", "category": "odd" if n % 2 else "even", "error": error}
    return item | {"right": None if error else correct, "bits_per_byte": None}


def text(n: int, bits: float) -> dict[str, Any]:
    return choice(n, True) | {"category": "text", "right": None, "bits_per_byte": bits}


def test_the_drop_is_paired_and_has_tangos_interval() -> None:
    before = [choice(i, i < 60) for i in range(100)]
    after = [choice(i, 12 <= i < 64) for i in range(100)]
    drop = ability_drop(before, after)
    assert (drop.lost, drop.gained, drop.drop) == (12, 4, pytest.approx(0.08))
    assert drop.interval == pytest.approx(tango_interval(4, 12, 100))
    assert drop.interval[0] < 0.08 < drop.interval[1] and drop.mcnemar_p == mcnemar_exact(4, 12)
    assert (drop.before.accuracy, drop.after.accuracy) == (0.6, 0.52)
    assert drop.lost_items == [f"i{n}" for n in range(12)] and drop.text is None


def test_an_item_that_failed_on_one_side_counts_on_neither_and_other_items_cannot_be_compared() -> None:
    before = [choice(i, True) for i in range(10)]
    after = [choice(i, True, error="too long" if i == 3 else "") for i in range(10)]
    drop = ability_drop(before, after)
    assert (drop.failed, drop.n, drop.drop) == (["i3"], 9, 0)
    for different in ([before[0], before[2]], [before[0], before[0]], before[1::-1], before[:1]):
        with pytest.raises(ValueError, match="same items"):
            ability_drop(before[:2], different)
    nothing = ability_drop([choice(0, True), text(1, 1.0)], [choice(0, True, error="NaN"), text(1, 2.0)])
    assert (nothing.n, nothing.failed, nothing.text.rise, nothing.drop) == (0, ["i0"], 1.0, None)


def test_a_category_of_questions_and_texts_is_told_apart() -> None:
    before = [choice(0, True), choice(2, False), text(4, 1.0) | {"category": "even"}]
    after = [choice(0, False), choice(2, False), text(4, 1.5) | {"category": "even"}]
    lost = {"drop": 0.5, "lost": 1, "gained": 0, "mcnemar_p": 1.0, "interval": tango_interval(0, 1, 2)}
    even = Category(n=2, unit="accuracy", before=0.5, after=0.0, **lost)
    bits = Category(n=1, unit="bits_per_byte", before=1.0, after=1.5, drop=0.5)
    assert ability_drop(before, after).categories == {"even": even, "even (text)": bits}


def test_benchmarks_are_looked_at_one_by_one_with_intervals_that_hold_together() -> None:
    benchmark_rows = [choice(i, True) | {"source": "some.jsonl", "category": f"c{i % 3}"} for i in range(90)]
    before = [*(choice(i + 100, True) for i in range(100)), *benchmark_rows]
    after = [*before[:100], *(r | {"right": r["category"] != "c1"} for r in benchmark_rows)]
    drop = ability_drop(before, after)
    assert set(drop.benchmarks) == {"c0", "c1", "c2"}, "the suite is none of them"
    assert drop.benchmarks["c1"].drop == 1.0
    assert drop.benchmarks["c1"].interval == pytest.approx(tango_interval(0, 30, 30, 1 - 0.05 / 3))
    assert drop.benchmarks["c0"].interval[0] < 0
    assert drop.categories["c1"].interval == pytest.approx(tango_interval(0, 30, 30))


@pytest.mark.parametrize(("factor", "passed"), [(1.6, False), (1.1, True), (0.5, True)])
def test_plain_text_that_costs_more_bits_after_training_is_refused_and_less_is_not(factor: float, passed: bool) -> None:
    questions = [choice(i, True) for i in range(200)]
    bits = [1.0 + i / 100 for i in range(24)]
    before = [*questions, *(text(1000 + i, cost) for i, cost in enumerate(bits))]
    after = [*questions, *(text(1000 + i, cost * factor) for i, cost in enumerate(bits))]
    drop = ability_drop(before, after)
    rise = (factor - 1) * sum(bits) / len(bits)
    assert drop.text.rise == pytest.approx(rise)
    low, high = drop.text.interval
    assert low < rise < high and (low > 0) is (factor > 1) and (high < 0) is (factor < 1)
    gate = general_ability(spec(), Ability(items=len(before), **asdict(drop)))
    assert gate.passed is passed

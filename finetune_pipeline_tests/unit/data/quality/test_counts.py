"""Enough rows, enough of each label, and none too many."""

from __future__ import annotations

from finetune_pipeline.data.quality.counts import class_balance, origins, size_rules
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, make_spec

EVEN = dict.fromkeys(LABELS, 150)


def test_enough_passes() -> None:
    told = size_rules(EVEN, make_spec(LABELS))
    assert told["passed"] and told["blocking"] and told["rows"] == 600 and not told["findings"]


def test_too_few_rows_and_too_few_of_a_label_stop() -> None:
    told = size_rules({**EVEN, "parcel": 20, "invoice": 0}, make_spec(LABELS))
    assert not told["passed"] and told["blocking"]
    assert [f["rule"] for f in told["findings"]] == ["quality.too_few", "quality.too_few_of_a_label"]
    assert "320 examples, 500 asked for" in told["message"] and "invoice: 0, parcel: 20" in told["message"]
    assert told["few"] == {"parcel": 20, "invoice": 0}


def test_very_many_is_advice_and_passes() -> None:
    told = size_rules({None: 10_001}, make_spec())
    assert told["passed"] and [f["severity"] for f in told["findings"]] == ["note"]


def test_balance_and_imbalance() -> None:
    assert class_balance(EVEN, make_spec(LABELS))["passed"]
    told = class_balance({**EVEN, "parcel": 2000}, make_spec(LABELS))
    assert not told["passed"] and told["ratio"] == round(2000 / 150, 3)
    assert class_balance({**EVEN, "parcel": 2000}, make_spec(LABELS, max_imbalance=20))["passed"]


def test_a_label_without_a_row_is_named() -> None:
    told = class_balance({**EVEN, "parcel": 0}, make_spec(LABELS))
    assert told["absent"] == ["parcel"] and not told["passed"] and "parcel" in told["message"]


def test_origins_have_shares() -> None:
    told = origins({"human": 90, "synthetic": 10}, {"a": 3, "b": 7})
    assert told["message"] == "human 90.0%, synthetic 10.0%"
    assert list(told["generators"]) == ["b", "a"]

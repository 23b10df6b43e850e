"""A kind of edge case that a split lacks is told; proportion passes; the statistics equal scipy's."""

from __future__ import annotations

import random

import numpy as np
import pytest
from finetune_pipeline.data.quality.edges import edge_cases, edge_kinds, holm, two_sided
from finetune_pipeline.data.quality.surprise import surprise
from scipy.stats import fisher_exact

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.linear_model import out_of_fold
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, dealt, make, requests


def rows_with_numbers() -> list[Example]:
    rnd = random.Random(3)
    words = "the train leaves the station early and comes back late in the night with all of us".split()
    rows = []
    for i in range(400):
        text = " ".join(rnd.choices(words, k=14))
        if i % 10 == 0:
            text = " ".join(str(rnd.randint(100, 99_999)) for _ in range(14))
        rows.append(make(f"{text}", f"Fine {i}.", i + 1))
    return rows


def test_proportion_passes() -> None:
    rows = requests(600)
    told = edge_cases(rows, dealt(rows), {}, LABELS, out_of_fold(rows, {}))
    assert told["passed"] and not told["findings"]
    names = {k["name"] for k in told["kinds"]}
    assert {"short_prompt", "long_prompt", "hard", "label:parcel"} <= names
    for kind in told["kinds"]:
        assert sum(c["count"] for c in kind["splits"].values()) == kind["rows"]
        assert sum(c["expected"] for c in kind["splits"].values()) == pytest.approx(kind["rows"], abs=0.2)


def test_a_kind_missing_from_test_is_told() -> None:
    rows = rows_with_numbers()
    split = dealt(rows)
    for i, e in enumerate(rows):
        if i % 10 == 0 and split[e.id] == "test":
            split[e.id] = "train"
    told = edge_cases(rows, split, {})
    kind = next(k for k in told["kinds"] if k["name"] == "numbers")
    assert not kind["passed"] and kind["splits"]["test"]["count"] == 0
    found = next(f for f in told["findings"] if f["rule"] == "quality.edge_cases.numbers")
    assert found["place"] == "splits: test" and "none in test" in found["message"]
    assert not told["passed"]


def test_too_many_of_a_kind_in_a_split_is_told() -> None:
    rows = rows_with_numbers()
    split = {e.id: ("test" if i % 10 == 0 and i % 20 else "train") if i % 5 == 0 else ("test", "train", "train")[i % 3]
             for i, e in enumerate(rows)}  # fmt: skip
    split |= {e.id: "test" for i, e in enumerate(rows) if i % 10 == 0}
    kind = next(k for k in edge_cases(rows, split, {})["kinds"] if k["name"] == "numbers")
    assert not kind["passed"] and kind["splits"]["train"]["count"] == 0 and kind["splits"]["test"]["p"] < 0.001


def test_clusters_are_the_units() -> None:
    """Forty rows of one cluster can only lie in one split: that is no finding."""
    rows = rows_with_numbers()
    split = dealt(rows)
    clusters = {e.id: "numbers" for i, e in enumerate(rows) if i % 10 == 0}
    split |= dict.fromkeys(clusters, "train")
    kind = next(k for k in edge_cases(rows, split, clusters)["kinds"] if k["name"] == "numbers")
    assert kind["splits"]["test"]["count"] == 0 and kind["passed"]


def test_kinds_are_found_where_they_are() -> None:
    rows = rows_with_numbers()
    several = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rows[7].messages[1:1] = several
    rows[9].messages[-2]["content"] = "Когда уходит последний поезд из города?"
    kinds = {k.name: np.flatnonzero(k.member).tolist() for k in edge_kinds(rows, {}, [])}
    assert kinds["multi_turn"] == [7]
    assert kinds["other_script"] == [9]
    assert set(kinds["numbers"]) <= set(range(0, 400, 10)) and len(kinds["numbers"]) >= 20
    assert set(kinds["long_prompt"]) & set(range(0, 400, 10))


def test_rare_labels() -> None:
    rows = [e for i, e in enumerate(requests(400)) if e.label != "holiday" or i % 40 == 3]
    kinds = {k.name: int(k.member.sum()) for k in edge_kinds(rows, {}, LABELS)}
    assert kinds["rare_labels"] == kinds["label:holiday"] == 10


@pytest.mark.parametrize("count", [0, 3, 7, 12])
def test_p_equals_fishers_exact_test(count: int) -> None:
    members, drawn, total = 12, 60, 200
    table = [[count, members - count], [drawn - count, total - drawn - members + count]]
    assert two_sided(count, members, drawn, total) == pytest.approx(fisher_exact(table).pvalue, rel=1e-6)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_surprise_is_high_for_what_the_rest_does_not_have() -> None:
    texts = ["the cat sat on the mat today"] * 30 + ["colourless green ideas sleep furiously"]
    bits = surprise(texts, [str(i) for i in range(31)])
    assert bits[-1] > 2 * bits[:-1].max()
    assert np.isnan(surprise(["two words"], ["a"])[0])
    # a cluster does not explain itself
    same = surprise(["the cat sat on the mat today"] * 30, ["one"] * 30)
    assert same.min() > bits[:-1].max()


def test_without_splits_nothing_is_asked() -> None:
    told = edge_cases(requests(20), {}, {}, LABELS)
    assert told["passed"] and told["applies"] is False

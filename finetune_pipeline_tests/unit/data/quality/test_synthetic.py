"""Review of synthetic rows: who is sampled, when training waits, and that the plans are those of the textbooks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scipy.stats import binom, binomtest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.report import write_review_sample
from finetune_pipeline.data.quality.synthetic import (
    acceptance_number,
    chance_of_acceptance,
    exact_interval,
    fair_sample,
    review_sample,
    sample_size,
    smallest_sample,
    synthetic_rows,
    to_review_lines,
)
from finetune_pipeline.data.review import read_decisions
from finetune_pipeline.spec.data import SyntheticSpec
from finetune_pipeline_tests.unit.data.quality.makers import make, make_spec

SPEC = SyntheticSpec()
DOCS = Path(__file__).parents[4] / "docs" / "data_checks.md"


def synthetic(count: int, generator: str | None = "big", start: int = 0) -> list[Example]:
    return [
        make(f"{generator} asks {i}", "an answer", i + 1, origin="synthetic", generator=generator)
        for i in range(start, start + count)
    ]


HUMAN = [make(f"person asks {i}", "an answer", 5000 + i) for i in range(100)]


@pytest.mark.parametrize(
    ("n", "p", "risk"), [(29, 0.1, 0.05), (28, 0.1, 0.05), (200, 0.1, 0.05), (89, 0.08, 0.01), (1, 0.99, 0.05)]
)
def test_the_acceptance_number_is_the_largest_within_the_risk(n: int, p: float, risk: float) -> None:
    within = [c for c in range(n) if binom.cdf(c, n, p) <= risk]
    assert acceptance_number(n, p, risk) == max(within, default=-1)


def test_the_smallest_sample_is_the_first_that_can_accept() -> None:
    assert smallest_sample(0.1, 0.05) == 29 and 0.9**29 <= 0.05 < 0.9**28
    assert smallest_sample(0.0, 0.05) is None and smallest_sample(1.0, 0.05) == 1


def test_the_fair_sample_keeps_both_errors_within_the_risk_and_one_row_less_does_not() -> None:
    assert fair_sample(0.02, 0.1, 0.05) == (89, 4)
    assert binom.cdf(4, 89, 0.1) <= 0.05 and binom.sf(4, 89, 0.02) <= 0.05
    assert not any(binom.cdf(c, 88, 0.1) <= 0.05 and binom.sf(c, 88, 0.02) <= 0.05 for c in range(88))
    assert fair_sample(0.1, 0.1, 0.05) is None


@pytest.mark.parametrize(("bad", "n"), [(0, 29), (3, 40), (40, 40)])
def test_the_interval_is_clopper_pearsons(bad: int, n: int) -> None:
    interval = binomtest(bad, n).proportion_ci(0.95, "exact")
    assert exact_interval(bad, n) == pytest.approx([interval.low, interval.high], abs=1e-6)
    assert exact_interval(0, 0) == [0.0, 1.0]


def test_the_size_of_the_sample() -> None:
    assert [sample_size(n, SPEC) for n in (0, 10, 29, 200, 300, 1001, 3000)] == [0, 10, 29, 29, 30, 101, 300]
    assert sample_size(1000, SyntheticSpec(review_share=0.0)) == 0


def test_generators_have_their_share() -> None:
    rows = HUMAN + synthetic(800, "big") + synthetic(195, "small") + synthetic(5, None)
    sample = review_sample(rows, {}, SPEC)
    counts = {g: sum(e.generator == g for e in sample) for g in ("big", "small", None)}
    assert counts == {"big": 80, "small": 19, None: 1} and all(e.origin == "synthetic" for e in sample)


def test_one_row_of_a_cluster_until_the_clusters_run_out() -> None:
    rows = synthetic(400)
    clusters = {e.id: f"c{i % 50}" for i, e in enumerate(rows)}
    sample = review_sample(rows, clusters, SPEC)
    assert len(sample) == 40 and len({clusters[e.id] for e in sample}) == 40
    half = review_sample(rows, clusters, SyntheticSpec(review_share=0.3))
    times = [sum(clusters[e.id] == c for e in half) for c in set(clusters.values())]
    assert len(half) == 120 and set(times) == {2, 3}


def test_the_sample_is_stable() -> None:
    rows = synthetic(1000)
    before = {e.id for e in review_sample(rows, {}, SPEC)}
    assert before == {e.id for e in review_sample(rows[::-1], {}, SPEC)}
    after = {e.id for e in review_sample(rows + synthetic(50, start=1000), {}, SPEC)}
    assert len(after) == 105 and len(before - after) <= 5


def test_without_synthetic_rows_nothing_waits() -> None:
    told = synthetic_rows(HUMAN, {}, {}, make_spec())
    assert told["passed"] and told["verdict"] == "none" and told["plan"] is None


def test_training_waits_until_every_row_of_the_sample_is_decided() -> None:
    rows = HUMAN + synthetic(900)
    sample = review_sample(rows, {}, SPEC)
    decisions = {e.id: "keep" for e in sample[1:]}
    told = synthetic_rows(rows, {}, decisions, make_spec())
    assert told["verdict"] == "waiting" and not told["passed"] and told["blocking"]
    assert told["waiting"] == [{"place": sample[0].place, "id": sample[0].id}]
    assert told["findings"][0]["severity"] == "error" and told["share"] == 0.9
    decisions[sample[0].id] = "keep"
    told = synthetic_rows(rows, {}, decisions, make_spec())
    assert told["verdict"] == "accepted" and told["passed"] and told["rejected"] == 0


@pytest.mark.parametrize(("bad", "verdict"), [(4, "accepted"), (5, "rejected")])
def test_the_plan_decides_at_its_number(bad: int, verdict: str) -> None:
    rows = synthetic(900)
    sample = review_sample(rows, {}, SPEC)  # 90 rows
    rejecting = ("drop", "relabel")
    decisions = {e.id: rejecting[i % 2] if i < bad else "keep" for i, e in enumerate(sample)}
    told = synthetic_rows(rows, {}, decisions, make_spec())
    assert told["plan"]["c"] == 4 and told["verdict"] == verdict and told["passed"] == (verdict == "accepted")
    assert told["rejected"] == bad
    assert told["plan"]["consumer_risk"] == pytest.approx(binom.cdf(4, 90, 0.1), abs=1e-6)
    assert told["plan"]["producer_risk"] == pytest.approx(binom.sf(4, 90, 0.02), abs=1e-6)
    low, high = told["rejected_interval"]
    assert low < bad / 90 < high
    assert told["generators"][0] | {"interval": 0} == {
        "generator": "big", "rows": 900, "sample": 90, "decided": 90, "rejected": bad, "interval": 0}  # fmt: skip


def test_a_set_reviewed_throughout_is_accepted_whatever_was_found() -> None:
    rows = synthetic(60)
    decisions = {e.id: "drop" if i % 3 == 0 else "keep" for i, e in enumerate(rows)}
    told = synthetic_rows(rows, {}, decisions, make_spec())
    assert told["verdict"] == "accepted" and told["rejected"] > 0


def test_review_can_be_switched_off_and_says_so() -> None:
    told = synthetic_rows(synthetic(60), {}, {}, make_spec(synthetic={"review_share": 0}))
    assert told["passed"] and told["verdict"] == "off" and "review_share is 0" in told["message"]


def test_lines_filled_in_are_decisions(tmp_path: Path) -> None:
    rows = synthetic(300)
    lines = to_review_lines(review_sample(rows, {}, SPEC))
    first = json.loads(lines[0])
    assert first["decision"] == "" and {"id", "text", "answer", "generator", "reviewer"} <= set(first)
    filled = [json.loads(line) | {"decision": "keep", "reviewer": "ann"} for line in lines]
    (tmp_path / "filled.jsonl").write_text("".join(json.dumps(f) + "\n" for f in filled))
    decisions, found, _ = read_decisions(tmp_path, make_spec())
    assert not found and {d.id for d in decisions} == {f["id"] for f in filled}
    told = synthetic_rows(rows, {}, {d.id: d.decision for d in decisions}, make_spec())
    assert told["verdict"] == "accepted"


def test_the_file_holds_only_what_still_waits(tmp_path: Path) -> None:
    rows = HUMAN + synthetic(300)
    sample = review_sample(rows, {}, SPEC)
    path = tmp_path / "to_review.jsonl"
    assert write_review_sample(path, rows, {}, {sample[0].id: "keep"}, SPEC) == 29
    assert sample[0].id not in path.read_text("utf-8")


def test_the_operating_curve_in_the_docs_is_the_computed_one() -> None:
    head, *rows = re.findall(r"^\|(?:[^|\n]+\|){7}$", DOCS.read_text("utf-8"), re.MULTILINE)
    rates = [float(x) / 100 for x in re.findall(r"([\d.]+)% bad", head)]
    assert len(rates) == 5
    lines = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row[2].isdigit()]
    assert len(lines) >= 6
    for n, c, *shown in lines:
        assert acceptance_number(int(n), SPEC.intolerable_rejected, SPEC.risk) == int(c)
        assert shown == [f"{chance_of_acceptance(int(n), int(c), rate):.1%}" for rate in rates]

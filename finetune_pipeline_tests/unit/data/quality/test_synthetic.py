"""Review of synthetic rows: who is sampled, when training waits, and that the plans are those of the textbooks."""

import re
from pathlib import Path

import pytest
from scipy.stats import binom

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.parts import Place
from finetune_pipeline.data.quality.synthetic import Generator, acceptance_number, review_sample, synthetic_rows
from finetune_pipeline.spec.data import SyntheticSpec
from finetune_pipeline_tests.unit.data.quality.makers import make, make_spec

SPEC = SyntheticSpec()
DOCS = Path(__file__).parents[4] / "docs" / "data.md"


def synthetic(count: int, generator: str | None = "big") -> list[Example]:
    said = {"origin": "synthetic", "generator": generator}
    return [make(f"{generator} asks {i}", "an answer", i + 1, **said) for i in range(count)]


HUMAN = [make(f"person asks {i}", "an answer", 5000 + i) for i in range(100)]


def test_generators_have_their_share() -> None:
    rows = HUMAN + synthetic(800, "big") + synthetic(195, "small") + synthetic(5, None)
    sample = review_sample(rows, {}, SPEC)
    counts = {g: sum(e.generator == g for e in sample) for g in ("big", "small", None)}
    assert counts == {"big": 80, "small": 19, None: 1} and all(e.origin == "synthetic" for e in sample)


def test_training_waits_until_every_row_of_the_sample_is_decided() -> None:
    rows = HUMAN + synthetic(900)
    sample = review_sample(rows, {}, SPEC)
    decisions = {e.id: "keep" for e in sample[1:]}
    report = synthetic_rows(rows, {}, decisions, make_spec())
    assert report.verdict == "waiting" and not report.passed and report.blocking
    assert report.waiting == [Place(place=sample[0].place, id=sample[0].id)]
    assert report.findings[0].severity == "error"
    decisions[sample[0].id] = "keep"
    report = synthetic_rows(rows, {}, decisions, make_spec())
    assert report.verdict == "accepted" and report.passed and report.rejected == 0
    report = synthetic_rows(rows, {}, {e.id: "drop" for e in rows}, make_spec())  # every row was seen
    assert report.verdict == "accepted" and report.rejected == report.sample


@pytest.mark.parametrize(("bad", "verdict"), [(4, "accepted"), (5, "rejected")])
def test_the_plan_decides_at_its_number(bad: int, verdict: str) -> None:
    rows = synthetic(900)
    sample = review_sample(rows, {}, SPEC)  # 90 rows
    rejecting = ("drop", "relabel")
    decisions = {e.id: rejecting[i % 2] if i < bad else "keep" for i, e in enumerate(sample)}
    report = synthetic_rows(rows, {}, decisions, make_spec())
    assert report.allowed == 4 and report.verdict == verdict and report.passed == (verdict == "accepted")
    assert report.rejected == bad
    assert report.generators == [Generator(generator="big", rows=900, sample=90, decided=90, rejected=bad)]


def test_the_operating_curve_in_the_docs_is_the_computed_one() -> None:
    head, *rows = re.findall(r"^\|(?:[^|\n]+\|){7}$", DOCS.read_text("utf-8"), re.MULTILINE)
    rates = [float(x) / 100 for x in re.findall(r"([\d.]+)% bad", head)]
    assert len(rates) == 5
    lines = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row[2].isdigit()]
    assert len(lines) >= 6
    for n, c, *shown in lines:
        assert acceptance_number(int(n), SPEC.intolerable_rejected, SPEC.risk) == int(c)
        assert shown == [f"{binom.cdf(int(c), int(n), rate):.1%}" for rate in rates]

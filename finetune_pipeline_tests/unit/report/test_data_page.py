"""The data page: complete, well formed, safe against hostile texts, and saying what the report says."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from finetune_pipeline.data.quality.report import QualityReport, data_quality
from finetune_pipeline.data.quality.synthetic import review_sample
from finetune_pipeline.planning.tokens import TokenCounter, token_counts
from finetune_pipeline.report.data_page import data_page
from finetune_pipeline.report.page import page_html
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, make, make_spec, random_splits, requests
from finetune_pipeline_tests.unit.report.parsed import HOSTILE, Parsed

STAGES = {
    "validated_examples": {"rows_in": 640, "kept": 610, "quarantined": 30, "by_rule": {"data.bad_json": 30}},
    "clean_examples": {"rows_in": 610, "kept": 600, "exact_duplicates": 10, "near_duplicates": 0, "quarantined": 0},
    "splits": {"rows_in": 600, "counts": {"train": 420, "validation": 60, "test": 120}},
}


def page_of(*arguments: Any) -> Parsed:
    """The page of a report, as a browser reads it."""
    return Parsed(page_html(data_page(*arguments)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def faulty(base: Path) -> QualityReport:
    """A label task with hostile texts, wrong labels and unreviewed synthetic rows."""
    rows = requests(600)
    wrong = {i: LABELS[(LABELS.index(str(rows[i].label)) + 1) % 4] for i in range(0, 600, 15)}
    rows = [
        replace(e, label=wrong.get(i, e.label), origin="synthetic" if i % 2 else "human", generator=HOSTILE if i % 2 else None,
                source={"file": f"raw/{HOSTILE}.jsonl", "line": i})
        for i, e in enumerate(rows)
    ]  # fmt: skip
    rows.append(make(f"{HOSTILE} password login", HOSTILE, 601, label="parcel"))
    spec, counter = make_spec(LABELS), TokenCounter(base)
    decisions = {e.id: "drop" for e in review_sample(rows, {}, spec.data.synthetic)[:2]}
    return data_quality(
        rows,
        random_splits(rows),
        {},
        decisions,
        spec,
        lambda train, of, others: token_counts(train, counter, spec, of, others),
    )


def test_it_says_what_stops_and_what_to_look_at_and_loads_nothing(faulty: QualityReport) -> None:
    page = page_of(faulty, HOSTILE, HOSTILE, STAGES, LABELS)
    page.assert_inert()
    words = page.words
    assert HOSTILE in page.text
    assert "Training is stopped." in words and "stops" in words and "It is stopped by: synthetic rows" in words
    for text in ("640", "610", "data.bad_json", "of the labels are wrong", "have no decision yet"):
        assert text in words, text
    assert faulty.noise.suspects[0].id in words


def test_a_clean_report_says_so(base: Path) -> None:
    rows, spec, counter = requests(600), make_spec(LABELS), TokenCounter(base)
    report = data_quality(
        rows,
        random_splits(rows),
        {},
        {},
        spec,
        lambda train, of, others: token_counts(train, counter, spec, of, others),
    )
    words = page_of(report, "post", "d").words
    assert "No check failed." in words and "stopped" not in words and "not asked" in words

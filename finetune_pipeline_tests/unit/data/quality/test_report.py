"""The whole report: complete, plain JSON, deterministic, and with a verdict that follows from its parts."""

import json

from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.parts import TokensPart
from finetune_pipeline.data.quality.report import PARTS, QualityReport, class_balance, data_quality
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, make_spec, random_splits, requests

ROWS = requests(600)


def counted(train: list[Example], of: int, others: list[Example]) -> TokensPart:
    return TokensPart(passed=True, message=f"{len(train)} of {of} rows")


def test_a_clean_set_passes_throughout() -> None:
    report = data_quality(ROWS, random_splits(ROWS), {}, {}, make_spec(LABELS), counted)
    assert {name: part.passed for name, part in report.parts.items()} == dict.fromkeys(PARTS, True)
    assert report.passed and not report.blocked_by and not report.findings and report.rows == 600
    assert QualityReport.of(json.loads(json.dumps(report.to_json()))) == report
    assert report == data_quality(iter(ROWS), random_splits(ROWS), {}, {}, make_spec(LABELS), counted)
    unsplit = data_quality(ROWS, {}, {}, {}, make_spec(LABELS), counted)
    assert unsplit.tokens.message == "600 of 420 rows", "not all rows will be training rows"


def test_what_stops_and_what_does_not() -> None:
    rows = [replace(e, origin="synthetic") if i < 50 else e for i, e in enumerate(ROWS)]
    report = data_quality(rows, random_splits(rows), {}, {}, make_spec(LABELS, max_imbalance=1))
    assert report.blocked_by == ["synthetic"] and not report.passed
    assert [f.rule for f in report.findings] == ["quality.synthetic_unreviewed"]


def test_a_dropped_row_counts_as_rejected_although_it_is_gone() -> None:
    before = [replace(e, origin="synthetic") if i < 20 else e for i, e in enumerate(ROWS)]
    decisions = {e.id: "drop" if i < 3 else "keep" for i, e in enumerate(before[:20])}
    after = before[3:]
    report = data_quality(after, random_splits(after), {}, decisions, make_spec(LABELS), synthetic=before[:20])
    assert report.synthetic.rows == 20 and report.synthetic.rejected == 3
    assert report.synthetic.verdict == "accepted" and report.rows == 597
    assert report.origins == {"human": 580, "synthetic": 17}


def test_imbalance_and_labels_without_a_row_are_named() -> None:
    even = {(label, ""): 150 for label in LABELS}
    assert class_balance(even, make_spec(LABELS)).passed
    assert class_balance({**even, ("parcel", ""): 2000}, make_spec(LABELS, max_imbalance=20)).passed
    for rows, said in ((2000, "2,000"), (0, "no example of parcel")):
        report = class_balance({**even, ("parcel", ""): rows}, make_spec(LABELS))
        assert not report.passed and said in report.message
    in_training = random_splits(ROWS) | {e.id: "train" for e in ROWS if e.label == "parcel"}
    unseen = data_quality(ROWS, in_training, {}, {}, make_spec(LABELS)).balance
    assert [f.rule for f in unseen.findings] == ["quality.label_not_evaluated"]
    assert not unseen.passed and "validation or test has no row of parcel" in unseen.message

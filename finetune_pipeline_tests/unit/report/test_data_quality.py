"""Synthetic rows stop the pipeline until people have looked at a sample; what they decide is in the next artifacts."""

import json
import random
from pathlib import Path
from typing import Any

from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.quality.parts import QualityFacts
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.split.splitting import ids_and_splits, split
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.pipeline import CHECKS
from finetune_pipeline.report.data_quality import TO_REVIEW, write_quality
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.data.rows import LABELS, make_spec, read_lines, write_raw

WORDS = "export import sync login invoice report calendar crew tablet route photo signature map offline update".split()


def lines(count: int, **more: Any) -> list[dict[str, Any]]:
    rng = random.Random(count)
    return [{"text": " ".join(rng.choices(WORDS, k=12)), "label": LABELS[i % 3], **more} for i in range(count)]


def quality(folder: Path, spec: TaskSpec, name: str) -> tuple[QualityFacts, Path]:
    """Facts of the report on the rows of `folder`, with the decisions in its reviews."""
    at = folder / name
    validate(folder / "raw", spec, at / "validated")
    clean(at / "validated", spec, at / "clean", key=b"key")
    apply_reviews(at / "clean", folder / "reviews", spec, at / "reviewed")
    split(at / "reviewed", at / "clean", spec, folder / "ledger", at / "splits")
    stages = {"reviewed": at / "reviewed", "clean": at / "clean", "splits": at / "splits"}
    facts = write_quality(spec, **stages, counter=None, stages={}, out=at / "quality")
    return facts, at


def reviewed(facts: QualityFacts, spec: TaskSpec) -> bool:
    """The blocking check's answer."""
    check = next(c for _, c in CHECKS if c.name == "synthetic_rows_reviewed")
    assert check.blocks(spec)
    return check.ask(Artifact("t", "data_quality", "v", Path(), facts.to_json(), {}), spec).passed


def test_synthetic_rows_wait_for_people_and_their_decisions_go_on(tmp_path: Path) -> None:
    spec = make_spec(min_examples=10, min_per_label=3)
    write_raw(tmp_path / "raw", [*lines(120), *lines(90, origin="synthetic", generator="a-model")])
    facts, at = quality(tmp_path, spec, "before")
    assert not reviewed(facts, spec) and "synthetic" in facts.blocked_by and facts.to_review == 29
    waiting = read_lines(at / "quality" / TO_REVIEW)
    assert len(waiting) == 29 and {row["generator"] for row in waiting} == {"a-model"}
    assert waiting[0]["decision"] == "" and {"id", "text", "answer", "reviewer"} <= set(waiting[0])
    decided = [{**row, "decision": "keep", "reviewer": "ann"} for row in waiting]
    (tmp_path / "reviews").mkdir()
    file = tmp_path / "reviews/ann.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in decided[:-1]))
    assert not reviewed(quality(tmp_path, spec, "nearly")[0], spec)
    file.write_text("".join(json.dumps(row) + "\n" for row in decided))
    facts, at = quality(tmp_path, spec, "after")
    assert reviewed(facts, spec) and facts.to_review == 0
    assert {d["id"] for d in read_lines(at / "reviewed/decisions.jsonl")} == {row["id"] for row in waiting}


def test_what_was_scrubbed_is_shown_masked_and_not_of_the_sealed_test(tmp_path: Path) -> None:
    spec = make_spec(min_examples=10, min_per_label=3)
    raw = lines(120)
    for i, row in enumerate(raw):
        row["text"] += f" mail jane{i:03}@example.com" if i % 8 else f" write to jane{i:03}@example.com"
    raw[1]["text"] += ", password: Tr0ub4dor&3"
    write_raw(tmp_path / "raw", raw)
    _, at = quality(tmp_path, spec, "once")
    scrubbed = json.loads((at / "quality/quality.json").read_text())["scrubbed"]
    assert [s["kind"] for s in scrubbed].count("email") == 3 and len({s["before"].split()[-2] for s in scrubbed}) >= 2
    assert all(s["after"] in (at / "quality/report.html").read_text() for s in scrubbed)
    assert any("ja•••••@•••••••.•om" in s["before"] and "[EMAIL_1]" in s["after"] for s in scrubbed)
    ids, codes = ids_and_splits(at / "splits")
    assert not {s["id"] for s in scrubbed} & {f"{i:016x}" for i in ids[codes == 2].tolist()}
    written = (at / "quality/report.html").read_text() + (at / "clean/scrubbed_samples.jsonl").read_text()
    assert "[SECRET_1]" in written and "example.com" not in written and "Tr0ub4dor" not in written


def test_the_sealed_test_is_not_quoted(tmp_path: Path) -> None:
    spec = make_spec(min_examples=10, min_per_label=3)
    rng = random.Random(1)
    raw = lines(150)
    for row in raw:
        row["text"] += " " + {LABELS[0]: "broken", LABELS[1]: "wish", LABELS[2]: "down"}[row["label"]] * 2
    for row in rng.sample(raw, 15):
        row["label"] = rng.choice([label for label in LABELS if label != row["label"]])
    write_raw(tmp_path / "raw", raw)
    _, at = quality(tmp_path, spec, "once")
    ids, codes = ids_and_splits(at / "splits")
    sealed = {f"{i:016x}" for i in ids[codes == 2].tolist()}
    suspects = json.loads((at / "quality/quality.json").read_text())["noise"]["suspects"]
    assert {s["id"] for s in suspects} & sealed
    texts = {e.id: e.user_text for e in read_examples(at / "reviewed")}
    page = (at / "quality/report.html").read_text() + json.dumps(suspects)
    assert not any(texts[i] in page for i in sealed)

"""Whatever comes in: no stage crashes, and every row is kept, quarantined, or the repeat of another."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import examples_of, read_examples
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.split.ledger import SPLITS, record_assignments
from finetune_pipeline.data.split.splitting import assignments_in, split
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline_tests.unit.data.rows import LABELS, TEXT_OUTPUT, make_spec, read_lines

WORDS = ["export", "café", "日本", "row 5", "row 6", "not", "a@b.example", "on", "off", "", "\x07", "{{x}}", "<b>"]
text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
row = st.fixed_dictionaries(
    {"text": text, "label": st.sampled_from([*LABELS, "none of them"])},
    optional={
        "group": st.sampled_from(["g1", "g2"]),
        "origin": st.sampled_from(["human", "synthetic", "production"]),
        "time": st.sampled_from(["2026-01-01T00:00:00Z", "soon"]),
    },
)
line = st.one_of(
    row.map(lambda r: json.dumps(r).encode()), st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" "))
)


def stage(folder: Path, content: bytes, spec: Any, name: str = "raw/a.jsonl") -> dict[str, dict[str, Any]]:
    """Facts of every step of the data stage on one raw file; the same bytes, the same facts, in a fresh folder."""
    path = folder / "raw/files" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    facts = {"validated": validate(folder / "raw", spec, folder / "validated")}
    facts["clean"] = clean(folder / "validated", spec, folder / "clean", key=b"key")
    facts["reviewed"] = apply_reviews(folder / "clean", folder / "reviews", spec, folder / "reviewed")
    if facts["reviewed"]["kept"]:
        try:
            facts["splits"] = split(folder / "reviewed", folder / "clean", spec, folder / "ledger", folder / "out")
        except ValueError as error:  # nothing but training rows: there is nothing to test the leakage check with
            assert "no validation or test rows" in str(error)
        else:
            record_assignments(assignments_in(folder / "out"), folder / "ledger")
    return facts


@pytest.mark.parametrize("output", [None, TEXT_OUTPUT], ids=["labels", "text"])
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(lines=st.lists(line, max_size=14))
@example(lines=[b'{"text": "aa", "label": "bug_report"}'] * 3)
def test_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, output: dict[str, Any] | None, lines: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("stage")
    facts = stage(folder, b"\n".join(lines), make_spec(output, min_chars=1))
    v, c, r = facts["validated"], facts["clean"], facts["reviewed"]
    quarantined = read_lines(folder / "validated/quarantine.jsonl")
    assert v["rows_in"] == v["kept"] + v["quarantined"] == v["kept"] + len(quarantined)
    assert c["rows_in"] == v["kept"] == c["kept"] + c["quarantined"] + c["exact_duplicates"] + c["near_duplicates"]
    assert c["quarantined"] == len(read_lines(folder / "clean/quarantine.jsonl"))
    repeats = read_lines(folder / "clean/duplicates.jsonl")
    assert c["exact_duplicates"] + c["near_duplicates"] == len(repeats)
    kept = read_examples(folder / "clean")
    assert {d["kept_id"] for d in repeats} <= {e.id for e in kept} and r["kept"] == len(kept)
    if "splits" in facts:
        placed = Counter(e.id for name in SPLITS for e in read_examples(examples_of(folder / "out", name)))
        assert max(placed.values()) == 1 and set(placed) <= {e.id for e in kept}
        assert len(kept) == len(placed) + facts["splits"]["quarantined"]
        assert facts["splits"]["leaks"] == {"exact": 0, "near": 0, "group": 0}
    shutil.rmtree(folder)

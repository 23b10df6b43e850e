from __future__ import annotations

import json
from pathlib import Path

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline_tests.unit.data.raw_rows import row_rules
from finetune_pipeline_tests.unit.data.rows import chat, make_spec, read_lines, write_raw

SPEC = make_spec(max_chars=400, scrub_region="ES")


def test_all_problems_of_a_row_come_at_once() -> None:
    row = chat("<|x|> \x02 " + "y" * 400, "bug", "no", origin="x", tags=3)
    of_texts = ["control_characters", "template_residue", "too_long", "unknown_label"]
    assert row_rules(row) == [*of_texts, "unknown_origin", "wrong_system_prompt", "wrong_type"]
    line = b'{"text": "\xff", "label": "bug_report", "label": NaN}'
    assert row_rules(line) == ["duplicate_key", "invalid_utf8", "non_finite_number", "too_short", "wrong_type"]


def test_what_a_finding_quotes_is_scrubbed_as_the_task_asks(tmp_path: Path) -> None:
    labels = ["612 34 56 78", "ann@example.com", "bob@example.com"]
    raw = write_raw(tmp_path / "raw", [{"text": "It is down", "label": label} for label in labels])
    facts = validate(raw, SPEC, tmp_path / "out")
    assert facts["labels_unknown"] == {"'[PHONE_1]'": 1, "'[EMAIL_1]'": 2}
    shown = [finding["message"].partition(" is ")[0] for finding in read_lines(tmp_path / "out/findings.jsonl")]
    assert shown == ["'[PHONE_1]'", "'[EMAIL_1]'", "'[EMAIL_1]'"]


def test_stage_accounts_for_every_line(tmp_path: Path) -> None:
    marked = b"\xef\xbb\xbf" + json.dumps(chat()).encode()
    lines = [marked, b"", b"   ", {"text": "aa"}, b"{", chat(user="a &lt; b", extra=1), b"x" * 100]
    raw = write_raw(tmp_path / "raw", lines)
    write_raw(raw, [{"text": "It is down, mail jane@example.com, 612 34 56 78", "label": "P0"}], "production.jsonl")
    facts = validate(raw, SPEC, tmp_path / "out")
    assert [facts[name] for name in ("rows_in", "kept", "quarantined", "quarantined_share")] == [6, 2, 4, 0.666667]
    rules = {"bad_json": 2, "byte_order_mark": 1, "html_entity": 1, "missing_field": 1, "unknown_label": 1}
    assert facts["by_rule"] == {f"data.{rule}": n for rule, n in rules.items()}
    assert (facts["ignored_keys"], facts["labels_lost"], facts["labels_unknown"]) == ({"extra": 1}, {}, {"'P0'": 1})
    assert facts["labels"] == {"bug_report": 2, "feature_request": 0, "P0_incident": 0}
    assert [(f["file"], f["rows_in"], f["kept"]) for f in facts["files"]] == [
        ("production.jsonl", 1, 0),
        ("raw/a.jsonl", 5, 2),
    ]
    rows = read_lines(tmp_path / "out/quarantine.jsonl")
    assert [(r["file"], r["line"]) for r in rows] == [("production.jsonl", 1)] + [("raw/a.jsonl", n) for n in (4, 5, 7)]
    assert rows[0]["raw"] == '{"text": "It is down, mail [EMAIL_1], [PHONE_1]", "label": "P0"}'
    assert rows[1]["findings"][0]["rule"] == "data.missing_field"
    assert [e.source["line"] for e in read_examples(tmp_path / "out")] == [1, 6]
    assert len(read_lines(tmp_path / "out/findings.jsonl")) == 6

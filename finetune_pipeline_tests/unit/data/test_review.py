import json
from collections import Counter
from pathlib import Path
from typing import Any

from finetune_pipeline.data.dedup.row_table import load_rows
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.review import apply_reviews, reviews_digest
from finetune_pipeline_tests.unit.data.rows import TEXT_OUTPUT, example, make_spec, read_lines, write_clean

ASKED = (("No sound", "bug_report"), ("Add dark mode", "feature_request"), ("All down", "P0_incident"))
ROWS = [example(text, label, line) for line, (text, label) in enumerate(ASKED, 1)]
A, B, C = (e.id for e in ROWS)


def decide(folder: Path, files: dict[str, list[Any]], spec: Any = None) -> dict[str, Any]:
    write_clean(folder / "clean", ROWS, spec or make_spec())
    for name, lines in files.items():
        path = folder / "reviews" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return apply_reviews(folder / "clean", folder / "reviews", spec or make_spec(), folder / "out")


def row(row_id: str, decision: str, **more: Any) -> dict[str, Any]:
    return {"id": row_id, "decision": decision, "reviewer": "ann", **more}


def test_keep_drop_and_relabel(tmp_path: Path) -> None:
    facts = decide(
        tmp_path, {"a.jsonl": [row(A, "keep"), row(B, "drop"), "", row(B, ""), row(C, "relabel", label=" bug_report ")]}
    )
    kept = read_examples(tmp_path / "out")
    assert [e.id for e in kept] == [A, C]
    assert (kept[1].label, kept[1].answer, kept[1].tags) == ("bug_report", "bug_report", ["relabelled"])
    assert kept[0] == ROWS[0] and kept[1].messages[:-1] == ROWS[2].messages[:-1]
    counts = {"kept": 2, "dropped": 1, "relabelled": 1, "confirmed": 1, "decisions": 3, "overruled": 0, "by_rule": {}}
    assert counts.items() <= facts.to_json().items()
    assert facts.labels == {"bug_report": 2, "feature_request": 0, "P0_incident": 0}
    assert [d["decision"] for d in read_lines(tmp_path / "out/decisions.jsonl")] == ["keep", "drop", "relabel"]


def test_the_last_word_counts_by_time_then_file_then_line(tmp_path: Path) -> None:
    first = [row(A, "drop", time="2025-01-02T00:00:00Z"), row(B, "keep"), row(C, "drop")]
    first.append(row(C, "keep", time="2025-01-01"))
    second = [row(A, "keep", time="2025-01-02T01:00:00+02:00"), row(B, "drop"), row(C, "drop")]
    facts = decide(tmp_path, {"b.jsonl": second, "a.jsonl": first})
    assert [e.id for e in read_examples(tmp_path / "out")] == [C]
    assert facts.overruled == 4


FAULTS: list[tuple[Any, str, str]] = [
    (row("nobody", "drop"), "review_unknown_id", "'nobody'"),
    (row(A, "relabel", label="bug"), "review_unknown_label", "'bug'"),
    (row(A, "relabel"), "review_bad_field", "label"),
    (row(A, "delete"), "review_bad_decision", "'delete'"),
    ({"id": A, "decision": "drop"}, "review_bad_field", "reviewer"),
    (row(A, "drop", time="yesterday"), "review_bad_field", "time"),
    ({**row(A, "drop"), "decision": ["drop"]}, "review_bad_field", "decision"),
    ('{"id": ', "review_unreadable", "column"),
    ("[]", "review_unreadable", "object"),
    ('{"id": "a", "id": "b", "decision": "drop", "reviewer": "ann"}', "review_unreadable", "twice"),
]


def test_faulty_decisions_change_nothing_and_are_counted(tmp_path: Path) -> None:
    others = {"team/b.csv": ["id,decision"], ".a.lock": [], "outputs/a.csv": []}
    facts = decide(tmp_path, {"a.jsonl": [line for line, _, _ in FAULTS], **others})
    assert read_examples(tmp_path / "out") == ROWS
    rules = Counter([*(rule for _, rule, _ in FAULTS), "review_not_read"])
    assert facts.by_rule == {f"data.{rule}": n for rule, n in rules.items()}
    found = {f["place"]: f for f in read_lines(tmp_path / "out/findings.jsonl")}
    assert found["reviews/team/b.csv"]["rule"] == "data.review_not_read"
    for number, (_, rule, said) in enumerate(FAULTS, 1):
        finding = found[f"reviews/a.jsonl:{number}"]
        assert finding["rule"] == f"data.{rule}" and said in finding["message"]


def test_a_text_task_takes_any_new_answer_and_the_digest_follows_the_decisions(tmp_path: Path) -> None:
    none = reviews_digest(tmp_path / "reviews")
    facts = decide(tmp_path, {})
    assert read_examples(tmp_path / "out") == ROWS
    assert (facts.rows_in, facts.kept, facts.decisions, facts.by_rule) == (3, 3, 0, {})
    assert load_rows(tmp_path / "out").tobytes() == load_rows(tmp_path / "clean").tobytes()
    decide(tmp_path, {"a.jsonl": [row(A, "relabel", label="Write to ann@example.com.")]}, make_spec(output=TEXT_OUTPUT))
    first = read_examples(tmp_path / "out")[0]
    assert first.answer == "Write to [EMAIL_1]." and first.label is None
    assert reviews_digest(tmp_path / "reviews") != none

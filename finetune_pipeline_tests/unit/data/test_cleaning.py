from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.dedup.text_similarity import similarity
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.scrub import fingerprint
from finetune_pipeline_tests.unit.data.rows import TEXT_OUTPUT, example, make_spec, read_lines, write_validated

LONG = "The export to CSV stops at row 500 and shows a spinner for ever, since the update of last Tuesday evening"
NEAR = "The export to CSV stops at row 500 and shows a spinner for ever, since the update of last Tuesday evenign"


def run(folder: Path, examples: list[Example], **data: Any) -> tuple[dict[str, Any], list[Example]]:
    output = data.pop("output", None)
    write_validated(folder / "in", examples)
    facts = clean(folder / "in", make_spec(output=output, **data), folder / "out", key=b"key")
    assert facts["rows_in"] == sum(facts[n] for n in ("kept", "quarantined", "exact_duplicates", "near_duplicates"))
    kept = read_examples(folder / "out")
    assert len(kept) == facts["kept"]
    return facts, kept


def clusters(out: Path) -> dict[str, str]:
    """Cluster by id of every valid row."""
    rows = np.load(out / "rows.npy")
    return {f"{r['id']:016x}": f"{r['cluster']:016x}" for r in rows}


def test_different_rows_all_stay(tmp_path: Path) -> None:
    asked = {"Error 41 in the log": "bug_report", "Error 42 in the log": "P0_incident"}
    asked |= {"Please add dark mode": "feature_request", "C++ SDK": "bug_report", "C# SDK": "feature_request"}
    rows = [example(text, label, line) for line, (text, label) in enumerate(asked.items(), 1)]
    facts, kept = run(tmp_path, rows)
    assert kept == rows
    assert facts["contradictions"] == facts["quarantined"] == 0 and facts["by_rule"] == {}
    assert facts["labels"] == {"bug_report": 2, "feature_request": 2, "P0_incident": 1}
    assert clusters(tmp_path / "out") == {e.id: e.id for e in rows}


def test_exact_and_near_duplicates_are_told_apart(tmp_path: Path) -> None:
    texts = (NEAR, LONG + "!", LONG + "!", LONG.upper().replace(" ", "  ") + "!", "Something else entirely")
    rows = [example(text, line=line) for line, text in enumerate(texts, 1)]
    facts, kept = run(tmp_path, rows)
    assert (facts["exact_duplicates"], facts["near_duplicates"]) == (2, 1)
    dropped = {r["source"]["line"]: r for r in read_lines(tmp_path / "out/duplicates.jsonl")}
    assert [e.source["line"] for e in kept] == [4, 5]  # the longest stays
    assert {n: r["kind"] for n, r in dropped.items()} == {1: "near", 2: "exact", 3: "exact"}
    assert dropped[1]["kept_id"] == kept[0].id and dropped[1]["kept_source"]["line"] == 4
    assert dropped[1]["similarity"] == round(similarity(NEAR, LONG), 4) and 0.8 <= dropped[1]["similarity"] < 1
    assert {clusters(tmp_path / "out")[e.id] for e in rows[:4]} == {min(e.id for e in rows[:4])}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_people_come_before_production_before_synthetic(tmp_path: Path, order: list[int]) -> None:
    rows = [example(LONG, line=1), example(LONG + " again", line=2, origin="production")]
    rows.append(example(LONG + " again, I think", line=3, origin="synthetic"))
    assert [e.origin for e in run(tmp_path, [rows[i] for i in order])[1]] == ["human"]
    assert [e.origin for e in run(tmp_path, [rows[i] for i in order if i])[1]] == ["production"]


@pytest.mark.parametrize("other", [LONG, LONG.lower(), NEAR])
def test_contradictions_are_quarantined_with_the_partners_place(tmp_path: Path, other: str) -> None:
    rows = [example(LONG, line=1), example("Fine and different", line=2), example(other, "P0_incident", line=3)]
    rows.append(example(LONG, line=4))
    facts, kept = run(tmp_path, rows)
    assert [e.source["line"] for e in kept] == [2]
    assert (facts["quarantined"], facts["contradictions"], facts["by_rule"]) == (3, 3, {"data.contradiction": 3})
    quarantine = {r["line"]: r["findings"][0] for r in read_lines(tmp_path / "out/quarantine.jsonl")}
    assert "raw/a.jsonl:3" in quarantine[1]["message"] and "'P0_incident'" in quarantine[1]["message"]
    assert "raw/a.jsonl:1" in quarantine[3]["message"] and quarantine[3]["place"] == "raw/a.jsonl:3"


def test_free_answers_may_differ(tmp_path: Path) -> None:
    said = [("Name a colour", "Red, like a ripe tomato"), ("name a colour ", "Blue, like the sea")]
    said += [("Name a colour", "red, like a ripe tomato"), (LONG, "Take the new exporter: 41 rows")]
    said += [(NEAR, "Take the new exporter: 42 rows"), (NEAR, "Take the new exporter: 41 rows!")]
    rows = [example(text, answer, line) for line, (text, answer) in enumerate(said, 1)]
    facts, kept = run(tmp_path, rows, output=TEXT_OUTPUT, contradictions="warn")
    lines = [e.source["line"] for e in kept]
    assert len(lines) == 4 and 2 in lines and 5 in lines and len({1, 3} & set(lines)) == len({4, 6} & set(lines)) == 1
    assert (facts["exact_duplicates"], facts["near_duplicates"], facts["quarantined"]) == (1, 1, 0)
    names = [clusters(tmp_path / "out")[e.id] for e in kept]
    assert names[0] == names[1] != names[2] == names[3]
    report = read_lines(tmp_path / "out/findings.jsonl")
    assert [f["severity"] for f in report[:2]] == ["warning", "warning"]
    first = next(line for line in lines if line in (1, 3))
    assert "raw/a.jsonl:2" in next(f["message"] for f in report if f["place"] == f"raw/a.jsonl:{first}")


SIMILAR_PROMPTS = [
    ("please turn all the lights in the living room on", "please turn all the lights in the living room off"),
    ("how many people live in the state of Alaska today", "how many people live in the state of Alabama today"),
    ("the late news said there were five dead in the fire", "the late news said there were six dead in the fire"),
    ("I would like to buy 10 kg of the green beans", "I would like to buy 10 mg of the green beans"),
    ("where do I send the contract that you asked for", "where do I send the contact that you asked for"),
    ("open the door of the garage for me", "open the door of the old garage for me"),
]


@pytest.mark.parametrize("output", [None, TEXT_OUTPUT])
def test_similar_prompts_with_their_own_right_answers_all_stay(tmp_path: Path, output: dict[str, Any] | None) -> None:
    assert all(similarity(a, b) > 0.6 for a, b in SIMILAR_PROMPTS)
    common = [f"{word} {n}" for word in ("the contract", "the contact") for n in ("in red", "in blue", "in green")]
    firsts = [example(a, "bug_report", line) for line, (a, _) in enumerate(SIMILAR_PROMPTS)]
    seconds = [example(b, "P0_incident", 50 + line) for line, (_, b) in enumerate(SIMILAR_PROMPTS)]
    rows = [*firsts, *seconds, *(example(text, "bug_report", 100 + line) for line, text in enumerate(common))]
    _, kept = run(tmp_path, rows, output=output, near_duplicate_threshold=0.6)
    findings = (tmp_path / "out/findings.jsonl").read_text()
    assert [e.source["line"] for e in kept] == [e.source["line"] for e in rows], findings
    names = clusters(tmp_path / "out")
    assert all(names[a.id] == names[b.id] for a, b in zip(firsts, seconds, strict=True)), "in one split all the same"


def test_an_answer_that_names_something_else_is_another_answer(tmp_path: Path) -> None:
    asked, answer = "in which state is the town of {} that my uncle wrote about", "The town lies in {}, far from here."
    towns = [("Nome", "Alaska"), ("nome", "Alaska"), ("Rome", "Alabama")]
    rows = [example(asked.format(town), answer.format(state), n) for n, (town, state) in enumerate(towns, 1)]
    _, kept = run(tmp_path, rows, output=TEXT_OUTPUT, near_duplicate_threshold=0.5)
    assert sorted(e.answer for e in kept) == [answer.format(state) for state in ("Alabama", "Alaska")]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("top-up my card", "top up my card"),
        ("send an e-mail", "send an email"),
        ("log in", "Login!"),
        ("five dead", "5 dead"),
        ("what's up", "what is up"),
        ("can you lower the volume", "please lower the volume"),
    ],
)
@pytest.mark.parametrize("output", [None, TEXT_OUTPUT])
def test_one_prompt_written_in_two_ways(tmp_path: Path, a: str, b: str, output: dict[str, Any] | None) -> None:
    facts, kept = run(tmp_path / "other", [example(a, line=1), example(b, "P0_incident", 2)], output=output)
    assert facts["contradictions"] == 2 and not kept
    facts, kept = run(tmp_path / "same", [example(a, line=1), example(b, line=2)], output=output)
    assert len(kept) == 1 and facts["near_duplicates"] == 1


def test_rows_of_one_label_that_name_different_things_all_stay(tmp_path: Path) -> None:
    orders = (
        "an order from the city of Ghent",
        "an order from the city of Munich",
        "a new order from the city of Ghent",
    )
    rows = [example(f"is it possible to place {order}", line=n) for n, order in enumerate(orders, 1)]
    facts, kept = run(tmp_path, rows, near_duplicate_threshold=0.6)
    assert [e.source["line"] for e in kept] == [2, 3] and facts["near_duplicates"] == 1


def test_scrubbed_text_is_what_goes_on_and_ids_stay(tmp_path: Path) -> None:
    texts = ["Mail me: jane@example.com or jane@example.com", "Call +1 555 010 2030", "Nothing to hide"]
    texts.append("Mail me: joe@example.org or joe@example.org")
    rows = [example(text, line=line) for line, text in enumerate(texts, 1)]
    facts, kept = run(tmp_path, rows)
    assert sorted(e.user_text for e in kept) == ["Call [PHONE_1]", "Mail me: [EMAIL_1] or [EMAIL_1]", "Nothing to hide"]
    assert {e.id for e in kept} < {e.id for e in rows}
    assert facts["exact_duplicates"] == 1  # they differed in the address only
    assert {k: n for k, n in facts["scrubbed"].items() if n} == {"email": 4, "phone": 1} and facts["scrubbed_rows"] == 3
    assert read_lines(tmp_path / "out/scrubbed.jsonl")[0] == {
        "id": rows[0].id,
        "source": {"file": "raw/a.jsonl", "line": 1},
        "kind": "email",
        "count": 2,
        "fingerprints": [fingerprint(b"key", "email", "jane@example.com")],
    }
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert b"example.com" not in written and b"2030" not in written


def test_national_numbers_of_the_region_and_what_invisible_characters_hide(tmp_path: Path) -> None:
    hidden = (LONG.replace("spinner", "spin\u200bner"), "Mail jane\u200b@example.com")
    rows = [example(text, line=line) for line, text in enumerate(("Avisad a Lucía 612 34 56 78", LONG, *hidden), 1)]
    facts, kept = run(tmp_path, rows, scrub_region="ES")
    assert sorted(e.user_text for e in kept)[0] == "Avisad a Lucía [PHONE_1]"
    assert "Mail [EMAIL_1]" in [e.user_text for e in kept] and facts["exact_duplicates"] == 1
    assert "612 34" in run(tmp_path / "untold", rows)[1][0].user_text


def test_rows_with_personal_data_can_be_dropped_or_only_named(tmp_path: Path) -> None:
    rows = [example("Mail me: jane@example.com", line=1), example("Nothing to hide", line=2)]
    facts, kept = run(tmp_path / "drop", rows, scrub="drop")
    assert [e.source["line"] for e in kept] == [2] and facts["by_rule"] == {"data.personal_data": 1}
    quarantine = (tmp_path / "drop/out/quarantine.jsonl").read_text()
    assert "[EMAIL_1]" in quarantine and "jane" not in quarantine
    facts, kept = run(tmp_path / "warn", rows, scrub="warn")
    assert kept == rows and facts["by_rule"] == {"data.personal_data": 1} and facts["quarantined"] == 0
    assert facts["scrubbed"]["email"] == 1

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from msgspec.structs import replace

from finetune_pipeline.data.dedup.cleaning import Cleaned, clean
from finetune_pipeline.data.dedup.near_duplicates import sketch
from finetune_pipeline.data.dedup.row_table import ROW, RowTable, load_rows
from finetune_pipeline.data.dedup.text_similarity import loose_form, similarity
from finetune_pipeline.data.dedup.tokens import token_sets, token_space
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.scrub import fingerprint
from finetune_pipeline_tests.unit.data.rows import (
    TEXT_OUTPUT,
    example,
    make_spec,
    random_text,
    read_lines,
    write_validated,
)

LONG = "The export to CSV stops at row 500 and shows a spinner for ever, since the update of last Tuesday evening"
NEAR = "The export to CSV stops at row 500 and shows a spinner for ever, since the update of last Tuesday evenign"


def run(folder: Path, examples: list[Example], **data: Any) -> tuple[Cleaned, list[Example]]:
    output = data.pop("output", None)
    write_validated(folder / "in", examples)
    facts = clean(folder / "in", make_spec(output=output, **data), folder / "out", key=b"key")
    assert facts.rows_in == sum(
        getattr(facts, n) for n in ("kept", "quarantined", "exact_duplicates", "near_duplicates")
    )
    kept = read_examples(folder / "out")
    assert len(kept) == facts.kept
    return facts, kept


def clusters(out: Path) -> dict[str, str]:
    """Cluster by id of every valid row."""
    rows = load_rows(out)
    return {f"{r['id']:016x}": f"{r['cluster']:016x}" for r in rows}


def test_exact_and_near_duplicates_are_told_apart(tmp_path: Path) -> None:
    texts = (NEAR, LONG + "!", LONG + "!", LONG.upper().replace(" ", "  ") + "!", "Something else entirely")
    rows = [example(text, line=line) for line, text in enumerate(texts, 1)]
    facts, kept = run(tmp_path, rows)
    assert (facts.exact_duplicates, facts.near_duplicates) == (2, 1)
    dropped = {r["source"]["line"]: r for r in read_lines(tmp_path / "out/duplicates.jsonl")}
    assert [e.source["line"] for e in kept] == [4, 5]  # the longest stays
    assert {n: r["kind"] for n, r in dropped.items()} == {1: "near", 2: "exact", 3: "exact"}
    assert dropped[1]["kept_id"] == kept[0].id and dropped[1]["kept_source"]["line"] == 4
    assert dropped[1]["similarity"] == round(similarity(NEAR, LONG), 4) and 0.8 <= dropped[1]["similarity"] < 1
    assert {clusters(tmp_path / "out")[e.id] for e in rows[:4]} == {min(e.id for e in rows[:4])}


def test_people_come_before_production_before_synthetic(tmp_path: Path) -> None:
    rows = [example(LONG, line=1), example(LONG + " again", line=2, origin="production")]
    rows.append(example(LONG + " again, I think", line=3, origin="synthetic"))
    for some, kept in ((rows, "human"), (rows[::-1], "human"), (rows[1:], "production"), (rows[:0:-1], "production")):
        assert [e.origin for e in run(tmp_path, some)[1]] == [kept]


@pytest.mark.parametrize("other", [LONG, LONG.lower(), LONG.replace(",", " –") + "!"])
def test_contradictions_are_quarantined_with_the_partners_place(tmp_path: Path, other: str) -> None:
    rows = [example(LONG, line=1), example("Fine and different", line=2), example(other, "P0_incident", line=3)]
    rows.append(example(LONG, line=4))
    facts, kept = run(tmp_path, rows)
    assert [e.source["line"] for e in kept] == [2]
    assert (facts.quarantined, facts.contradictions, facts.by_rule) == (3, 3, {"data.contradiction": 3})
    quarantine = {r["line"]: r["findings"][0] for r in read_lines(tmp_path / "out/quarantine.jsonl")}
    assert "raw/a.jsonl:3" in quarantine[1]["message"] and "'P0_incident'" in quarantine[1]["message"]
    assert "raw/a.jsonl:1" in quarantine[3]["message"] and quarantine[3]["place"] == "raw/a.jsonl:3"


def test_a_synthetic_row_that_contradicts_a_person_goes_alone(tmp_path: Path) -> None:
    wrong = example(LONG.lower(), "P0_incident", line=2)
    rows = [example(LONG, line=1), replace(wrong, origin="synthetic"), example("Fine and different", line=3)]
    facts, kept = run(tmp_path, rows)
    assert [e.source["line"] for e in kept] == [1, 3] and facts.contradictions == 1
    people = [*rows, example(LONG, "feature_request", line=4)]  # people who disagree decide nothing
    assert [e.source["line"] for e in run(tmp_path, people)[1]] == [3]


def test_free_answers_may_differ(tmp_path: Path) -> None:
    said = [("Name a colour", "Red, like a ripe tomato"), ("name a colour ", "Blue, like the sea")]
    said += [("Name a colour", "red, like a ripe tomato"), (LONG, "Take the new exporter: 41 rows")]
    said += [(NEAR, "Take the new exporter: 42 rows"), (NEAR, "Take the new exporter: 41 rows!")]
    rows = [example(text, answer, line) for line, (text, answer) in enumerate(said, 1)]
    facts, kept = run(tmp_path, rows, output=TEXT_OUTPUT, contradictions="warn")
    lines = [e.source["line"] for e in kept]
    assert len(lines) == 4 and 2 in lines and 5 in lines and len({1, 3} & set(lines)) == len({4, 6} & set(lines)) == 1
    assert (facts.exact_duplicates, facts.near_duplicates, facts.quarantined) == (1, 1, 0)
    names = [clusters(tmp_path / "out")[e.id] for e in kept]
    assert names[0] == names[1] != names[2] == names[3]
    report = read_lines(tmp_path / "out/findings.jsonl")
    assert [f["severity"] for f in report[:2]] == ["warning", "warning"]
    first = next(line for line in lines if line in (1, 3))
    assert "raw/a.jsonl:2" in next(f["message"] for f in report if f["place"] == f"raw/a.jsonl:{first}")


JSON_OUTPUT = {"kind": "json", "json_schema": {"type": "object"}, "unordered": ["tags"]}
NUMBER_OUTPUT = {"kind": "text", "extract": r"#### (\S+)"}
SAME_ANSWERS = [
    (JSON_OUTPUT, '{"size": 1, "name": "Bo", "tags": ["a", "b"]}', '{ "name":"Bo",\n"tags": ["b","a"], "size": 1.0}'),
    (JSON_OUTPUT, '{"a": {"x": 1, "y": null}}', '{"a": {"y": null, "x": 1}}'),
    (NUMBER_OUTPUT, "Ten hundreds make it.\n#### 1,000", "Multiply 250 by four\n#### $1000.00"),
    (TEXT_OUTPUT, '{"name": "f", "arguments": {"a": 1, "b": 2}}', '{"arguments": {"b":2, "a":1}, "name": "f"}'),
]
OTHER_ANSWERS = [
    (JSON_OUTPUT, '{"size": 1, "name": "Bo"}', '{"name": "Bo", "size": 2}'),
    (JSON_OUTPUT, '{"a": ["x", "y"]}', '{"a": ["y", "x"]}'),
    (JSON_OUTPUT, '{"items": ["x"], "name": "the long name"}', '{"items": ["x", "y"], "name": "the long name"}'),
    (NUMBER_OUTPUT, "Ten hundreds make it.\n#### 1,000", "Ten hundreds make it.\n#### 1,001"),
    (NUMBER_OUTPUT, f"Count.\n#### {'7' * 30}", f"Count.\n#### {'7' * 29}8"),
    (TEXT_OUTPUT, '{"name": "f", "arguments": {"a": 1, "b": 2}}', '{"arguments": {"b":2, "a":2}, "name": "f"}'),
]


@pytest.mark.parametrize("output, first, second", SAME_ANSWERS)
def test_answers_that_the_metric_takes_for_the_same_are_no_contradictions(
    tmp_path: Path, output: dict[str, Any], first: str, second: str
) -> None:
    rows = [example(f"{LONG} {random_text(i // 2)}", (first, second)[i % 2], i + 1) for i in range(20)]
    facts, kept = run(tmp_path, rows, output=output)
    assert facts.contradictions == 0
    if output == JSON_OUTPUT:
        assert facts.exact_duplicates == 10, "an equal value is the same row"
    if output == NUMBER_OUTPUT:
        assert len(kept) == 20, "two ways to one number are two rows"


@pytest.mark.parametrize("output, first, second", OTHER_ANSWERS)
def test_answers_that_the_metric_tells_apart_contradict(
    tmp_path: Path, output: dict[str, Any], first: str, second: str
) -> None:
    facts, kept = run(tmp_path, [example(LONG, first, 1), example(LONG, second, 2)], output=output)
    assert (facts.contradictions, kept) == (2, [])


def test_calls_with_other_ids_and_key_order_are_the_same_call(tmp_path: Path) -> None:
    def calling(arguments: str, call_id: str, line: int) -> Example:
        call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}
        row = example(LONG, "", line)
        return replace(row, messages=[*row.messages[:-1], {"role": "assistant", "content": "", "tool_calls": [call]}])

    same = [calling('{"a": 1, "b": 2}', "c1", 1), calling('{"b":2,"a":1}', "c2", 2)]
    facts, _ = run(tmp_path / "same", same, output=TEXT_OUTPUT)
    assert (facts.contradictions, facts.exact_duplicates) == (0, 1)
    facts, _ = run(tmp_path / "other", [same[0], calling('{"a": 1, "b": 3}', "c1", 2)], output=TEXT_OUTPUT)
    assert facts.contradictions == 2


ONE_QUESTION = """
The export fails | the export fails! ; Ｔhe export  fails | The export fails ; send it by e-mail | send it by e mail
¿Dónde está mi pedido? | dónde está mi pedido ; 我要取消订单。 | 我要取消订单 ; मेरा ऑर्डर कहाँ है? | मेरा ऑर्डर कहाँ है।
"""
NEAR_PROMPTS = """
The export fails | The exprot fails ; Please cancel my plan | please cancel my plan, thanks ; Add a row | Add rows
It is broken | It is broken again ; where is my contract | where is my contact ; five of ninety dead | 5 of 90 dead
der Zug ist da | der Zug ist dort ; open src/main.py in the editor | open src/main.rs in the editor
"""
OTHER_FACTS = """
five dead in the fire | six dead in the fire ; it is 5 degrees | it is -5 degrees ; a discount of 5% | a discount of 5$
if x == 3 the loop ends | if x != 3 the loop ends ; I can log in to the portal | I can't log in to the portal
a list like [a, b] is returned | a list like (a, b) is returned ; der Zug ist nicht da | der Zug ist da
我喜欢你 | 我不喜欢你 ; the SDK for C++ | the SDK for C# ; Error 41 in the log | Error 42 in the log ; 10kg of it | 10mg of it
rename foo_bar to the name | rename foo bar to the name ; set abcdefg1x now | set abcdefh1x now ; 1.5 of it | 15 of it
I dont see it | I see it ; it works without any doubt | it works, any doubt
"""


def pairs(lines: str, first: str, second: str) -> tuple[list[Example], list[Example]]:
    """Both sides of every pair with these answers, before a text that no other pair has."""
    sides = zip(*(pair.split(" | ") for pair in re.split(" ; |\n", lines.strip())), strict=True)
    return tuple(
        [example(f"{text}, {random_text(i, 8)}", answer, side * 50 + i) for i, text in enumerate(texts, 1)]
        for side, (texts, answer) in enumerate(zip(sides, (first, second), strict=True))
    )


STAYS_OF_EACH_PAIR = [(ONE_QUESTION, 0, 1), (NEAR_PROMPTS, 2, 1), (OTHER_FACTS, 2, 2)]


@pytest.mark.parametrize("output", [None, TEXT_OUTPUT], ids=["labels", "text"])
@pytest.mark.parametrize("lines, other_answer, same_answer", STAYS_OF_EACH_PAIR, ids=["equal", "near", "other facts"])
def test_what_stays_of_two_similar_prompts(
    tmp_path: Path, output: dict[str, Any] | None, lines: str, other_answer: int, same_answer: int
) -> None:
    """Equal normal forms are one question. Near prompts with equal facts are repeats where their answers are equal."""
    firsts, seconds = pairs(lines, "bug_report", "P0_incident")
    _, kept = run(tmp_path / "other", [*firsts, *seconds], output=output, near_duplicate_threshold=0.6)
    counts = Counter(e.source["line"] % 50 for e in kept)
    assert {counts[i] for i in range(1, len(firsts) + 1)} == {other_answer}
    names = clusters(tmp_path / "other/out")
    assert all(names[a.id] == names[b.id] for a, b in zip(firsts, seconds, strict=True)), "in one split all the same"
    firsts, seconds = pairs(lines, "bug_report", "bug_report")
    facts, kept = run(tmp_path / "same", [*firsts, *seconds], output=output, near_duplicate_threshold=0.6)
    counts = Counter(e.source["line"] % 50 for e in kept)
    assert {counts[i] for i in range(1, len(firsts) + 1)} == {same_answer} and facts.contradictions == 0


def test_free_answers_to_one_question_agree_if_one_only_has_more_words(tmp_path: Path) -> None:
    answer = "You can return it within 30 days at any of our shops in Ghent, with the receipt of your order"
    others = {f"{answer}, please": 1, answer.replace("Ghent", "Munich"): 0, answer.replace("30", "14"): 0}
    others[answer.replace("can", "cannot")] = 0
    for number, (other, stays) in enumerate(others.items()):
        rows = [example(LONG, answer, 1), example(LONG.upper(), other, 2)]
        facts, kept = run(tmp_path / str(number), rows, output=TEXT_OUTPUT)
        assert (len(kept), facts.contradictions) == (stays, 0 if stays else 2), other


@pytest.mark.parametrize("output", [None, TEXT_OUTPUT])
def test_in_a_large_cluster_copies_and_contradictions_of_every_row_are_found(
    tmp_path: Path, output: dict[str, Any] | None
) -> None:
    asked = [f"Please send me the yearly report of our branch office {n} by mail" for n in range(120)]
    rows = [example(text, line=line) for line, text in enumerate(asked)]
    rows += [example(text, line=200 + line) for line, text in enumerate(asked[:100])]
    rows += [example(text.lower() + "!", line=400 + line) for line, text in enumerate(asked[:100])]
    rows += [example(f"{text}.", "P0_incident", line=600 + line) for line, text in enumerate(asked[100:])]
    facts, kept = run(tmp_path, rows, output=output, near_duplicate_threshold=0.6)
    assert len(set(clusters(tmp_path / "out").values())) == 1
    assert {e.user_text.lower().strip("!") for e in kept} == {text.lower() for text in asked[:100]} and len(kept) == 100
    assert (facts.contradictions, facts.exact_duplicates, facts.near_duplicates) == (40, 0, 200)


def test_one_reply_to_two_questions_is_no_contradiction_and_no_copy(tmp_path: Path) -> None:
    def answered(question: str, answer: str, line: int) -> Example:
        row = example("yes please", answer, line)
        turns = [row.messages[0], {"role": "user", "content": "hello"}, {"role": "assistant", "content": question}]
        return replace(row, id=f"{line:016x}", messages=[*turns, *row.messages[1:]])

    asked = [("Shall we fix it?", "bug_report"), ("Shall we build it?", "feature_request"), ("Both?", "bug_report")]
    rows = [answered(*turn, line) for line, turn in enumerate([*asked, asked[0]], 1)]
    facts, kept = run(tmp_path, rows)
    assert ([e.source["line"] for e in kept], facts.exact_duplicates) == ([1, 2, 3], 1)


def test_scrubbed_text_is_what_goes_on_and_ids_stay(tmp_path: Path) -> None:
    texts = ["Mail me: jane@example.com or jane@example.com", "Avisad a Lucía 612 34 56 78", "Nothing to hide"]
    texts += ["Mail me: joe@example.org or joe\u200b@example.org", LONG, LONG.replace("spinner", "spin\u200bner")]
    rows = [example(text, line=line) for line, text in enumerate(texts, 1)]
    facts, kept = run(tmp_path, rows, scrub_region="ES")
    said = ["Avisad a Lucía [PHONE_1]", "Mail me: [EMAIL_1] or [EMAIL_1]", "Nothing to hide", LONG]
    assert sorted(e.user_text.replace("\u200b", "") for e in kept) == sorted(said)
    assert {e.id for e in kept} < {e.id for e in rows}
    assert facts.exact_duplicates == 2  # they differed in the address, or in what nobody sees
    assert {k: n for k, n in facts.scrubbed.items() if n} == {"email": 4, "phone": 1} and facts.scrubbed_rows == 3
    first = {"id": rows[0].id, "source": rows[0].source, "kind": "email", "count": 2}
    first["fingerprints"] = [fingerprint(b"key", "email", "jane@example.com")]
    assert read_lines(tmp_path / "out/scrubbed.jsonl")[0] == first
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert b"example.com" not in written and b"612 34" not in written
    assert "612 34" in " ".join(e.user_text for e in run(tmp_path / "untold", rows)[1])


def test_rows_with_personal_data_can_be_dropped_or_only_named(tmp_path: Path) -> None:
    rows = [example("Mail me: jane@example.com", line=1), example("Nothing to hide", line=2)]
    facts, kept = run(tmp_path / "drop", rows, scrub="drop")
    assert [e.source["line"] for e in kept] == [2] and facts.by_rule == {"data.personal_data": 1}
    quarantine = (tmp_path / "drop/out/quarantine.jsonl").read_text()
    assert "[EMAIL_1]" in quarantine and "jane" not in quarantine
    facts, kept = run(tmp_path / "warn", rows, scrub="warn")
    assert kept == rows and facts.by_rule == {"data.personal_data": 1} and facts.quarantined == 0
    assert facts.scrubbed["email"] == 1


def test_the_table_knows_the_scrubbed_prompts_without_boilerplate(tmp_path: Path) -> None:
    footer = "You receive this message since you wrote to our service desk last week."
    texts = [f"Write to customer{i}@example.org: {random_text(i, 9)}\n{footer}" for i in range(60)]
    run(tmp_path, [example(text, line=i) for i, text in enumerate(texts)])
    table = RowTable(load_rows(tmp_path / "out"), tmp_path / "out/rows.jsonl")
    forms = [loose_form(f"Write to [EMAIL]: {random_text(i, 9)}") for i in range(60)]
    order = np.array([3, 7, 59])
    assert table.forms(np.arange(60)) == forms and table.forms(order) == [forms[i] for i in order]
    assert (table.sketches == sketch(forms, make_spec().data.near_duplicate_threshold)).all()
    assert (table.token_sets(order) != token_sets([forms[i] for i in order], token_space(60))).nnz == 0
    assert [e.id for e in table.fetch(order)] == [f"{row:016x}" for row in table.rows["id"][order].tolist()]


def test_prompts_of_more_than_two_gigabytes_are_looked_up(tmp_path: Path) -> None:
    """Arrow cannot join so many texts, and cleaning broke off."""
    chunk = pa.array(["x" * (1 << 27), "a b", "c d"])  # the same memory 17 times
    prompts = pa.table({"form": pa.chunked_array([chunk] * 17)})
    table = RowTable(np.zeros(len(prompts), ROW), tmp_path / "rows.jsonl", prompts)
    assert table.forms(np.array([50, 1, 5])) == ["c d", "a b", "c d"]


@pytest.mark.parametrize("scrub", ["replace", "warn"])
def test_a_footer_with_an_address_is_boilerplate(tmp_path: Path, scrub: str) -> None:
    """It is found where it is removed: in scrubbed texts, whatever the number of its placeholder there."""
    texts = [random_text(i) for i in range(60)]
    contents = [f"Write to customer{i}@example.org: {text}" if i % 2 else text for i, text in enumerate(texts)]
    footer = "Sent from our support portal. Questions? Write to service@example.com or call +49 30 901820."
    rows = [example(f"{content}\n{footer}", line=i) for i, content in enumerate(contents)]
    copies = [example(content, line=100 + i) for i, content in enumerate(contents[:10])]
    assert run(tmp_path, [*rows, *copies], scrub=scrub)[0].clusters == 60
    cluster = clusters(tmp_path / "out")
    assert all(cluster[copy.id] == cluster[row.id] for copy, row in zip(copies, rows, strict=False))


def test_a_footer_of_a_script_without_blanks_is_boilerplate(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    contents = ["".join(map(chr, dice.integers(0x4E00, 0x5400, 14))) for _ in range(60)]
    rows = [example(f"{content}。本邮件由客服系统自动发送请勿直接回复", line=i) for i, content in enumerate(contents)]
    copies = [example(content, line=100 + i) for i, content in enumerate(contents[:10])]
    assert run(tmp_path, [*rows, *copies])[0].clusters == 60
    cluster = clusters(tmp_path / "out")
    assert all(cluster[copy.id] == cluster[row.id] for copy, row in zip(copies, rows, strict=False))

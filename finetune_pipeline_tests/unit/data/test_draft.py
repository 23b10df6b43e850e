"""Drafts of tasks from raw files of kinds that nobody announced: every kind is made here, a few hundred invented rows each."""

import datetime as dt
import io
import json
import random
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_pipeline.data.draft.conversations import roles_of
from finetune_pipeline.data.draft.draft import Draft, draft
from finetune_pipeline.data.draft.files import (
    GivenFile,
    given_files,
    left_out,
    name_problems,
    place_files,
    task_name,
    task_yaml,
)
from finetune_pipeline.data.draft.reading import spec_of
from finetune_pipeline.data.fields import compile_expression, mapping_of
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec.loading import parse_spec
from finetune_pipeline_tests.unit.data.raw_rows import kept_example, row_rules, table, validate_file, workbook
from finetune_pipeline_tests.unit.data.rows import make_spec
from finetune_pipeline_tests.unit.data.test_stage_properties import BOUNDED, JSON, KEY

THINGS = {
    "billing": "invoice payment refund charge receipt",
    "delivery": "parcel courier address late tracking",
    "account": "password login email profile security",
}
SAYS = "hello please thanks today again still never maybe since monday really about with from could would".split()
Pairs = list[tuple[str, str]]


def pairs(n: int = 240, labels: dict[str, str] = THINGS) -> Pairs:
    """(text, label): texts that hold words of their label."""
    rng = random.Random(7)
    rows = []
    for i in range(n):
        label = list(labels)[i % len(labels)]
        words = [*rng.sample(SAYS, 5), *rng.sample(labels[label].split(), 2), f"no {rng.randint(100, 99999)}"]
        rng.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def parquet(columns: dict[str, list[Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


ENCODERS = {".jsonl": lines, ".json": json.dumps, ".csv": table, ".xlsx": workbook, ".parquet": parquet}


def of(folder: Path, name: str, content: Any) -> tuple[str, Path]:
    """A raw file of these rows, in the form that its suffix says; a text or bytes are written as they are."""
    path = folder / name
    if not isinstance(content, str | bytes):
        content = ENCODERS[path.suffix](content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"raw/{name}", path


def drafted(*files: tuple[str, Path], **options: Any) -> Draft:
    task, problems = draft(files, **options)
    assert task is not None, "\n".join(map(str, problems))
    return task


def placed(files: Sequence[GivenFile], folder: Path) -> list[str]:
    names: list[str] = []
    place_files(files, folder, {}, names)
    return names


PAIRS = pairs()
ROWS = [(i, text, label) for i, (text, label) in enumerate(PAIRS)]
HEADED = [["text", "label"], *PAIRS]
ITEMS = [{"doc": {"content": t}, "gold": {"category": y}} for t, y in PAIRS]
COUNTRIES = ("DE", "FR", "IT")
WIDE = [
    [i, f"2026-03-{1 + i % 28:02d}", "web mail".split()[i % 8 > 3], COUNTRIES[i // 80], t, y, i * 37 % 91]
    for i, t, y in ROWS
]
NOTED = [[i, t, y, i % 7] for i, t, y in ROWS]
PATTERNS = [
    {"tag": tag, "patterns": [f"{say} {word}" for say in some.split(", ") for word in SAYS], "responses": ["ok"]}
    for tag, some in {
        "greet": "hi there, good day to you, hello my friend",
        "leave": "bye now, see you, so long",
    }.items()
]
RATED = [{"review": t, "stars": 1 + i % 5, "helpful": i // 3 % 3, "user": f"u{i % 90}"} for i, t, _ in ROWS]
MANY = pairs(1500, {f"intent_{i}": f"w{i} v{i} u{i}" for i in range(150)})
GERMAN = table([["Nachricht", "Kategorie"], *PAIRS], ";").replace("please", "bitte schön")
FILES: dict[str, tuple[str, Any]] = {
    "semicolon": ("a.csv", GERMAN.encode("cp1252")),
    "headerless": ("a.csv", [*PAIRS]),
    "headerless, label first": ("a.tsv", table([[y, t] for t, y in PAIRS], "\t")),
    "wide": ("a.csv", [["id", "datum", "kanal", "land", "eingang", "warteschlange", "dauer"], *WIDE]),
    "several lines": ("a.csv", [["body", "queue"], *([f"{t}\n\nregards,\nme", y] for t, y in PAIRS)]),
    "subject": ("a.csv", [["subject", "body", "queue"], *([t[:14], t, y] for t, y in PAIRS)]),
    "workbook": ("a.xlsx", {"Readme": [["made by hand"]], "Data": [["Message", "Topic"], *PAIRS]}),
    "numbers": ("a.parquet", {"sentence": [t for t, _ in PAIRS], "label": [i % 3 for i in range(240)]}),
    "many numbers": ("a.csv", [["text", "label"], *([t, str(i % 30)] for i, t, _ in ROWS)]),
    "many columns": (
        "a.csv",
        [[*(f"f{i}" for i in range(210)), "text", "label"], *([*[7] * 210, t, y] for t, y in PAIRS)],
    ),
    "booleans": ("a.jsonl", [{"message": t, "is_spam": y == "billing"} for t, y in PAIRS]),
    "ratings": ("a.jsonl", RATED),
    "nested": ("a.json", {"meta": {"v": 1}, "data": {"items": ITEMS}}),
    "by id": ("a.json", json.dumps({f"k{i}": {"text": t, "label": y} for i, t, y in ROWS}, indent=1)),
    "by label": ("a.json", {k: [t for t, y in PAIRS if y == k] for k in THINGS}),
    "lists": ("a.json", {"train": PAIRS, "val": pairs(9)}),
    "patterns": ("a.json", {"intents": PATTERNS}),
    "examples of intents": (
        "a.json",
        {"x": 1, "intents": [{"intent": k, "examples": [{"text": t} for t, y in PAIRS if y == k]} for k in THINGS]},
    ),
    "few answers": ("a.jsonl", [{"prompt": t, "completion": f" {y}"} for t, y in PAIRS]),
    "many labels": ("a.csv", [["utterance", "intent"], *MANY]),
    "questions as names": ("a.csv", [["What did they say to us?", "Why?"], *PAIRS]),
    "lists of one": ("a.jsonl", [{"data": {"text": t}, "label": [y], "seen": []} for t, y in PAIRS]),
    "guesses": (
        "a.jsonl",
        [{"text": t, "label.suggestion": SAYS[len(t) % 2], "label.responses": [y]} for t, y in PAIRS],
    ),
    "one value for all": ("a.jsonl", [{"text": t, "intent": y, "entities": []} for t, y in PAIRS]),
    "tags": ("a.csv", [["text", "tags"], *PAIRS]),
    "accents in names": ("a.csv", [["Lösung", "catégorie"], *PAIRS]),
    "quotes behind a backslash": ("a.csv", "text,label\n" + "".join(f'"a \\"{t}\\", ok",{y}\n' for t, y in PAIRS)),
    "no blanks": ("a.jsonl", [{"文本": "".join(chr(0x4E00 + ord(c)) for c in t), "标签": y} for t, y in PAIRS]),
    "title": ("a.xlsx", {"Data": [["Tickets of 2026"], [], ["Message", "Topic"], *PAIRS]}),
    "notes above": ("a.xlsx", {"Data": [["Tickets"], ["made", "2026"], ["id", "body", "queue", "n"], *NOTED]}),
    "joined files": ("a.csv", [*HEADED[:121], *HEADED[:1], *HEADED[121:]]),
    "title above commas": ("a.csv", "Tickets,\n" + table([["Message", "Topic"], *PAIRS])),
    "delimiter for Excel": ("a.csv", "sep=;\n" + table([["Message", "Topic"], *PAIRS], ";")),
    "sheets of months": (
        "a.xlsx",
        {"Notes": [["x"]], **{f"M{i}": [["Message", "Topic"], *PAIRS[i::3]] for i in range(3)}},
    ),
    "sheets in another order": (
        "a.xlsx",
        {"A": [["Message", "Topic"], *PAIRS[:90]], "B": [["Topic", "Message"], *([y, t] for t, y in PAIRS[90:])]},
    ),
    "labels of several people": (
        "a.csv",
        [["text", "label_1", "label_2", "final_label"], *([t, "a", "ab"[i % 2], y] for i, t, y in ROWS)],
    ),
    "two marks that may part columns": (
        "a.txt",
        table([["Ticket text", "Queue"], *([f"Hi, {t}; ok", y] for t, y in PAIRS)], "\t"),
    ),
    "workbook of another name": ("a.dat", workbook({"Data": [["Message", "Topic"], *PAIRS]})),
}
LABELS = {"numbers": "012", "ratings": "12345", "booleans": ["false", "true"], "patterns": ["greet", "leave"]}
LABELS["many numbers"] = [str(i) for i in range(30)]
LABELS["many labels"] = [f"intent_{i}" for i in range(150)]


@pytest.mark.parametrize("kind", FILES)
def test_the_text_and_the_labels_of_any_table_are_found(kind: str, tmp_path: Path) -> None:
    draft = drafted(of(tmp_path, *FILES[kind]))
    assert sorted(draft.answers.labels) == sorted(LABELS.get(kind, THINGS)), draft.choice
    assert draft.answers.rows == {"lists": 249, "many labels": 1500, "patterns": 6 * len(SAYS)}.get(kind, 240)
    # the copy's suffix follows from it, where the file's own says nothing
    assert "unknown" not in draft.reading.containers.values()
    spec = parse_spec(task_yaml("some_task", draft, "a file"))
    assert spec.labels == draft.answers.labels and spec.data.fields == draft.spec.data.fields


ESSAYS = [
    {"question": f"Why {t}?", "answer": f"Because {t} and {word}, {i} times."}
    for (i, t, _), word in zip(ROWS, cycle(SAYS), strict=False)
]
OBJECTS = [{"report": t, "facts": {"code": f"{y}-{i}", "number": i}} for i, t, y in ROWS]


@pytest.mark.parametrize(
    ("content", "description"),
    [
        ([["subject", "body", "queue"], *([t[:14], t, y] for t, y in PAIRS)], "Predict queue from subject and body."),
        (OBJECTS, "Predict facts from report."),
        (ESSAYS, "Write answer, given question."),
        ([{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": f"To {y}: {t}"}]} for t, y in PAIRS],
         "Answer as the conversations do."),
    ],
    ids=["labels", "json", "text", "chat"],
)  # fmt: skip
def test_the_description_of_a_draft_says_what_the_model_does(content: Any, description: str, tmp_path: Path) -> None:
    task = drafted(of(tmp_path, "a.csv" if isinstance(content[0], list) else "a.jsonl", content))
    assert parse_spec(task_yaml("some_task", task, "a file")).description == description


def test_the_fields_of_a_draft(tmp_path: Path) -> None:
    """All of what the user says; none where rows have a known format; a mapping where its keys mean something else."""
    draft = drafted(of(tmp_path, *FILES["subject"]))
    assert draft.data["fields"]["text"] == r'join(`"\n\n"`, [subject, body][?@])'
    row = {"subject": "Invoice", "body": "Where is it?", "queue": "billing"}
    assert kept_example(row, draft.spec).user_text == "Invoice\n\nWhere is it?"  # it had a backslash and an n
    assert drafted(of(tmp_path, *FILES["wide"])).choice.unused == ["id", "datum", "kanal", "land", "dauer"]
    segments = [{"data": [{"text": "play "}, {"text": word, "entity": "song"}]} for word in SAYS]
    document = json.dumps({"Play": segments, "Stop": [{"data": [{"text": f"stop {word} now"}]} for word in SAYS]})
    draft = drafted(of(tmp_path, "s.json", document))
    assert draft.data["fields"] == {"text": "join('', data[].text)", "label": "$key"}
    asked = [{"instruction": f"do {t}", "input": t, "output": f"done with {t}", "category": y} for t, y in PAIRS]
    draft = drafted(of(tmp_path, "a.jsonl", asked))
    assert draft.data == {} and draft.answers.kind == "text"
    few = [row | {"instruction": f"do {i % 3}", "input": row["input"] if i % 4 else ""} for i, row in enumerate(asked)]
    draft = drafted(of(tmp_path, "few.jsonl", few))
    assert draft.data == {} and draft.answers.rows == 240 and draft.choice.unused == ["category"]
    assert drafted(of(tmp_path, "b.csv", HEADED)).data == {}
    survey = [["Date", "Q1", "Q2"], *[["Start Date", "What is it?", ""]] * 2]
    survey += [[f"2026-01-{1 + i % 9:02d}", t, "ab"[i % 2]] for i, t, _ in ROWS]
    assert drafted(of(tmp_path, "s.csv", survey)).choice.answer == "Q2"  # it was the date
    grouped = [{"dialog_id": f"d{i // 8}", "text": t, "label": y} for i, t, y in ROWS]
    assert drafted(of(tmp_path, "g.jsonl", grouped)).data == {"fields": {"group": "dialog_id"}}
    odd = [{"text": t, "label": y, "origin": "web", "tags": 3} for t, y in PAIRS]
    odd += [odd[0] | {"label": "Billing"}, odd[1] | {"label": "odd"}]
    draft = drafted(of(tmp_path, "c.jsonl", odd))
    assert draft.data == {"fields": {"text": "text", "label": "label"}}
    assert draft.answers.other_spellings == {"Billing": ("billing", 1)} and "Billing" not in draft.answers.labels
    assert draft.answers.counts["odd"] == 1


def test_a_worse_answer_and_what_holds_the_text_are_no_answers(tmp_path: Path) -> None:
    both = [{"chosen": f"Human: {t} Assistant: yes {y}", "rejected": f"no, {t} at all"} for t, y in PAIRS]
    task, problems = draft([of(tmp_path, "a.jsonl", both)])
    assert task is None and problems[-1].rule == "draft.no_columns"
    within = [{"doc": {"body": t, "lang": "en"}, "meta": {"labels": [y, y]}} for t, y in PAIRS]
    task = drafted(of(tmp_path, "b.jsonl", within))
    assert task.data["fields"] == {"prompt": "doc.body", "completion": "to_string(meta)"}
    both = [[{"context": t, "more": [t[:9]]}, {"context": t[::-1], "more": []}] for t, _ in PAIRS]
    parts = [{"title": y, "parts": both[i]} for i, _, y in ROWS]
    assert "parts" not in drafted(of(tmp_path, "c.jsonl", parts)).choice.answers


def test_several_questions_with_one_answer_are_several_rows_and_pieces_of_a_text_are_one(tmp_path: Path) -> None:
    grouped = [PAIRS[i : i + 1 + i // 4 % 4] for i in range(0, 200, 4)]
    asked = [
        {
            "sentences": [{"text": f"{t.capitalize()}?", "n": n} for n, (t, _) in enumerate(some)],
            "sql": [f"SELECT {i}"] * (1 + i % 2),
        }
        for i, some in enumerate(grouped)
    ]
    made = drafted(of(tmp_path, "asked.json", asked))
    assert made.data["fields"]["each"] == "sentences" and made.answers.rows == sum(map(len, grouped))
    intents = [{"says": [{"text": t} for t, _ in some], "intent": some[0][1]} for some in grouped]
    made = drafted(of(tmp_path, "intents.json", intents))
    assert made.data["fields"] == {"each": "says", "text": "text", "label": "intent"}
    made = drafted(of(tmp_path, "intents.jsonl", [*intents, 5]))  # a row that is no object: it was a traceback
    assert made.data["fields"]["each"] == "says"
    pieces = [
        {"data": [{"text": f"{t} "}, {"text": "now", "slot": "time"}, {"text": "!"}], "intent": y} for t, y in PAIRS
    ]
    made = drafted(of(tmp_path, "pieces.json", pieces))
    assert made.data["fields"]["text"] == "join('', data[].text)" and made.answers.rows == len(PAIRS)


@pytest.mark.parametrize("labels", [lambda i: i % 100, lambda i: f"label {i % 230}"])
def test_the_context_of_a_text_is_no_answer_to_it(tmp_path: Path, labels: Callable[[int], Any]) -> None:
    rows = [{"text": t, "context": f"{t} {t} {i}", "labels": labels(i)} for i, (t, _) in enumerate(PAIRS)]
    assert drafted(of(tmp_path, "a.jsonl", rows)).choice.answer == "labels"
    same = [{**row, "labels": [0.5, 0.5]} for row in rows]
    task, (fault,) = draft([of(tmp_path, "b.jsonl", same)])
    assert task is None and fault.rule == "draft.no_columns" and "labels (1 values" in fault.message
    assert drafted(of(tmp_path, "c.jsonl", same), answer="context").choice.answer == "context"


@pytest.mark.parametrize("name", ["slots", "entities", "output"])
def test_an_empty_list_is_an_answer(tmp_path: Path, name: str) -> None:
    rows = [{"text": t, name: [{"city": y}] if i % 3 else []} for i, (t, y) in enumerate(PAIRS)]
    made = drafted(of(tmp_path, "a.jsonl", rows))
    assert (made.choice.answer, made.answers.kind, made.answers.rows) == (name, "json", len(rows))
    assert "[]" in made.answers.values and made.schema and made.schema["type"] == "array"


def test_a_group_is_taken_with_a_word_on_how_to_switch_it_off(tmp_path: Path) -> None:
    rows = [{"customer_id": f"c{i % 60}", "text": t, "label": y} for i, (t, y) in enumerate(PAIRS)]
    made = drafted(of(tmp_path, "a.jsonl", rows))
    assert made.data["fields"] == {"group": "customer_id"}
    assert [n for n in made.notes if "customer_id" in n and "remove `group` from data.fields" in n]
    assert drafted(of(tmp_path, "b.jsonl", [{**row, "customer_id": str(i)} for i, row in enumerate(rows)])).notes == []


def test_a_few_bad_documents_of_a_folder_cost_only_themselves(tmp_path: Path) -> None:
    bad = {
        3: '{"text": "cut o', 70: '{\n "text": "cut off", \n "la', 90: "null", 130: '{"title": "x", "pages": 3}',
        150: '{"text": "a",, "label": "b"}',
    }  # fmt: skip

    def folder(bad: dict[int, str | bytes], name: str) -> list[tuple[str, Path]]:
        (tmp_path / name).mkdir()
        rows = [json.dumps({"text": t, "label": y}, indent=1) for t, y in PAIRS]
        return [of(tmp_path / name, f"d{i:03}.json", bad.get(i, row)) for i, row in enumerate(rows)]

    made = drafted(*(files := folder(bad, "few")))
    assert (made.answers.kind, made.answers.rows) == ("labels", len(PAIRS) - len(bad))
    assert any("of 240 files hold a row that cannot be read" in note and "d003.json" in note for note in made.notes)
    assert any("unlike the others" in note and "d130.json" in note for note in made.notes)
    results = [validate_file(path, made.spec) for _, path in files]
    assert sum(r.kept for r in results) == len(PAIRS) - len(bad) and sum(len(r.quarantine) for r in results) == len(bad)
    assert not [f for r in results for f in r.unread if f.severity == "error"], "no document hides another row"
    task, problems = draft(folder(dict.fromkeys(range(60), '{"text": "cut'), "many"))
    assert task is None and len([p for p in problems if p.rule == "draft.unreadable"]) == 60


def test_two_columns_of_texts_are_a_request_and_its_answer(tmp_path: Path) -> None:
    rows = [[f"Was ist {t}?", f"Das ist {y}, nämlich {t[::-1]}"] for t, y in PAIRS]
    draft = drafted(of(tmp_path, "a.csv", table([["Frage", "Auskunft"], *rows], ";")))
    assert draft.answers.kind == "text" and draft.data["fields"] == {"prompt": "Frage", "completion": "Auskunft"}
    marked = [{"question": t, "answer": f"because\n#### {i}"} for i, t, _ in ROWS]
    assert drafted(of(tmp_path, "b.jsonl", marked)).output["extract"].startswith("####")


@pytest.mark.parametrize("written", [lambda value: value, json.dumps, str], ids=["plain", "JSON", "Python"])
def test_answers_in_json_get_a_schema(tmp_path: Path, written: Callable[[Any], Any]) -> None:
    values: list[Any] = [{"item": f"thing é {i}", "size": "SML"[i % 3], "count": i} for i in range(240)]
    values[3]["note"] = None
    rows = [{"message": t, "extraction": written(values[i])} for i, t, _ in ROWS]
    draft = drafted(of(tmp_path, "a.jsonl", rows))
    assert draft.answers.kind == "json" and draft.schema is not None
    assert [json.loads(answer) for answer in draft.answers.values] == values
    assert written is json.dumps or not any("\\u" in answer for answer in draft.answers.values)
    assert draft.schema["required"] == ["item", "size", "count"]
    assert draft.schema["properties"]["size"] == {"enum": ["S", "M", "L"]}
    assert "size: # describe (one of" in draft.system_prompt
    named = [{"mail": t, "extracted": written({"topic": y, "words": i})} for i, t, y in ROWS]
    assert drafted(of(tmp_path, "b.jsonl", named)).choice.answer == "extracted"


def test_several_answers_are_one_json_object_with_a_schema(tmp_path: Path) -> None:
    """An expression was needed for it, and `--answer a,b` found no column."""
    rows = [[t, y, ["low", "high", ""][i % 3], i, "x"] for i, t, y in ROWS]
    file = of(tmp_path, "a.csv", [["text", "queue", "first priority", "number", "more"], *rows])
    made = drafted(file, answer=["queue", "first priority", "number"])
    assert made.answers.kind == "json" and made.schema is not None and made.choice.unused == ["more"]
    properties = made.schema["properties"]
    assert sorted(properties["queue"]["enum"]) == sorted(THINGS) and made.schema["additionalProperties"] is False
    assert properties["first priority"] == {"enum": ["low", "high", None]}
    assert made.schema["required"] == ["queue", "first priority", "number"]
    answers = [json.loads(row["messages"][-1]["content"]) for row in validate_file(file[1], made.spec).rows]
    assert answers[:3] == [
        {"queue": y, "first priority": p, "number": i}
        for (i, _, y), p in zip(ROWS[:3], ("low", "high", None), strict=True)
    ]
    assert "queue: # describe (one of" in made.system_prompt
    nested = [{"q": {"ask": t}, "out": {"code": i, "ok": i % 2 > 0}, "input": t[::-1]} for i, t, _ in ROWS]
    made = drafted(of(tmp_path, "b.jsonl", nested), text="q.ask", answer=("out.code", "ok"))
    assert [json.loads(answer) for answer in made.answers.values[:2]] == [
        {"code": 0, "ok": False},
        {"code": 1, "ok": True},
    ]
    assert drafted(file, answer="queue, number").answers.values[:1] == [f'{{"queue":"{ROWS[0][2]}","number":0}}']
    task, problems = draft([file], answer=("queue", "urgency"))
    assert task is None and "there is no column 'urgency'" in problems[-1].message
    assert "cannot be both" in draft([file], text="queue", answer=("queue", "more"))[1][-1].message


def test_cells_of_several_answers_keep_their_types(tmp_path: Path) -> None:
    """JSON in a cell became a text with quotes in it, and numbers and dates an enum of those seen, which forbids all others."""
    items = [[], [{"sku": "a", "qty": 2}], [{"sku": "b", "qty": 1}, {"sku": "c", "qty": 3}]]
    rows = [
        [
            t,
            json.dumps(items[i % 3]),
            ["", "3", "12", "-1.5"][i % 4],
            f"2026-12-0{1 + i % 9}",
            f"{i % 8 + 1}.50",
            f"00{i % 6}",
        ]
        for i, t, _ in ROWS
    ]
    header = ["text", "order.items", "order.count", "day", "price", "code"]
    file = of(tmp_path, "a.csv", [header, *rows])
    made = drafted(file, answer=["order.items", "order.count", "day", "price", "code"])
    answers = [json.loads(row["messages"][-1]["content"]) for row in validate_file(file[1], made.spec).rows]
    assert [answer["order.items"] for answer in answers[:3]] == items
    assert [answer["order.count"] for answer in answers[:4]] == [None, 3, 12, -1.5]
    assert answers[1] | {"order.items": 0} == {
        "order.items": 0, "order.count": 3, "day": "2026-12-02", "price": 2.5, "code": "001",
    }  # fmt: skip
    assert made.schema is not None
    kinds = {key: part.get("type", part.get("enum")) for key, part in made.schema["properties"].items()}
    assert kinds["order.items"] == "array" and kinds["order.count"] == ["null", "number"] and kinds["day"] == "string"
    later = of(tmp_path, "b.csv", [header, *rows, ["about a dozen", "none", "a dozen", "soon", "", ""]])
    validated = validate_file(later[1], made.spec)
    assert len(validated.rows) == len(ROWS) and "'a dozen'" in str(validated.quarantine), "no text becomes null"


@pytest.mark.parametrize(
    ("name", "cells", "values"),
    [
        ("urgent", ["TRUE", "FALSE", ""], [True, False, None]),
        ("urgent", ["Falsch", "Wahr"], [False, True]),
        ("urgent", ["true", "maybe"], ["true", "maybe"]),
        ("amount", ["12.50", "0.00", "-7.25"], [12.5, 0.0, -7.25]),
        ("amount", ["12.50", "seven"], ["12.50", "seven"]),
        ("build", ["1.9", "1.10"], ["1.9", "1.10"]),
        ("version", ["1.9", "2.0"], ["1.9", "2.0"]),
        ("code", ["007", "112"], ["007", "112"]),
        ("phone", ["5550112", "5550113"], ["5550112", "5550113"]),
    ],
)
def test_cells_that_all_hold_a_truth_value_or_an_amount_are_read_as_such(
    tmp_path: Path, name: str, cells: list[str], values: list[Any]
) -> None:
    """TRUE and 12.50 became text. Versions, codes and telephone numbers are text."""
    rows = [[t, y, cells[i % len(cells)]] for i, t, y in ROWS]
    file = of(tmp_path, "a.csv", [["text", "queue", name], *rows])
    made = drafted(file, answer=["queue", name])
    answers = [json.loads(row["messages"][-1]["content"])[name] for row in validate_file(file[1], made.spec).rows]
    assert answers[: len(values)] == values and list(map(type, answers[: len(values)])) == list(map(type, values))
    assert made.schema is not None
    part, types = made.schema["properties"][name], {type(value) for value in values} - {type(None)}
    if types == {str}:
        assert part == {"enum": values}
    else:
        kind = {bool: "boolean", float: "number"}[types.pop()]
        assert part == {"type": ["boolean", "null"] if None in values else kind}
        later = of(tmp_path, "b.csv", [["text", "queue", name], *rows, ["about a dozen", "delivery", "perhaps"]])
        validated = validate_file(later[1], made.spec)
        assert len(validated.rows) == len(ROWS) and "'perhaps'" in str(validated.quarantine), "no text becomes null"


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (["12,50", "1.234,00", "9,99"], "'12,50' and the like stay text, as written; to have numbers, write them"),
        (["€ 9,99", "€ 1.234,00", "n/a"], "'€ 9,99' and the like stay text, as written"),
        (["1,234.50 USD", "12.00 USD"], "stay text, as written"),
        (["12,50", "12.50"], "'12,50' and the like stay text"),
        (
            ["1.234", "15.200", "999"],
            "'1.234' and the like stay text, as written, since the point may separate thousands",
        ),
        (["0049301234", "+49301234"], ""),
        (["01234", "10115"], ""),
        (["1.9", "1.10"], ""),
        (["0.125", "1.234"], None),
        (["1234.500", "1.234"], None),
    ],
)
def test_no_cell_becomes_a_wrong_number(tmp_path: Path, cells: list[str], says: str | None) -> None:
    """1.234, a thousand in German, became 1.234, and nothing said why 12,50 was no number. Its schema allowed only amounts seen."""
    rows = [[t, y, f" {cells[i % len(cells)]} "] for i, t, y in ROWS]
    file = of(tmp_path, "a.tsv", "".join("\t".join(row) + "\n" for row in [["text", "queue", "sum"], *rows]))
    made = drafted(file, answer=["queue", "sum"])
    answers = [json.loads(row["messages"][-1]["content"])["sum"] for row in validate_file(file[1], made.spec).rows]
    notes = [note for note in made.notes if note.startswith("sum: ")]
    assert len(answers) == len(ROWS) and made.schema is not None
    if says is None:  # one of them shows that its point is a decimal one
        assert answers[:2] == [float(cell) for cell in cells] and notes == []
        return
    assert [answer.strip() for answer in answers[: len(cells)]] == cells
    assert [says in note for note in notes] == ([True] if says else []), notes
    assert made.schema["properties"]["sum"].keys() == ({"type"} if says else {"enum"})
    if "thousands" in says:  # as it advises
        file[1].write_text(file[1].read_text().replace(" 999 ", " 999.000 "))
        data = {**made.data, "fields": {**made.data["fields"], "completion": "to_string({sum: to_number(sum)})"}}
        assert validate_file(file[1], spec_of(data)).rows[0]["messages"][-1]["content"] == '{"sum":1.234}'


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "xlsx", "parquet"])
def test_words_for_no_value_between_numbers_are_null_and_codes_stay_as_they_are(tmp_path: Path, suffix: str) -> None:
    """A few n/a made text of all amounts."""
    blank = ("n/a", "N/A", "-", "unknown", "")
    rows = [
        {
            "text": t,
            "queue": y,
            "sum": blank[i // 8 % 5] if i % 8 == 0 else f"{i}.50",
            "paid": "unknown" if i % 9 == 0 else ("TRUE", "FALSE")[i % 2],
            "phone": f"0049{i:04d}" if i % 2 else f"+49{i:04d}",
            "order": f"{i:06d}",
        }
        for i, t, y in ROWS
    ]
    if suffix == "jsonl":  # numbers of JSON beside words
        rows = [{**row, "sum": float(row["sum"]) if row["sum"][-2:] == "50" else row["sum"]} for row in rows]
    table_rows = [[*rows[0]], *([*row.values()] for row in rows)]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    content = {
        "jsonl": lines(rows),
        "csv": table_rows,
        "xlsx": workbook({"a": table_rows}) if suffix == "xlsx" else b"",
    }
    file = (
        ("raw/a.parquet", tmp_path / "a.parquet")
        if suffix == "parquet"
        else of(tmp_path, f"a.{suffix}", content[suffix])
    )
    made = drafted(file, answer=["queue", "sum", "paid", "phone", "order"])
    answers = [json.loads(row["messages"][-1]["content"]) for row in validate_file(file[1], made.spec).rows]
    expected = [
        {"sum": None if i % 8 == 0 else i + 0.5, "paid": None if i % 9 == 0 else i % 2 == 0}
        | {"phone": rows[i]["phone"], "order": f"{i:06d}", "queue": y}
        for i, _, y in ROWS
    ]
    assert answers == expected and made.schema is not None and made.answers.missing == {}
    kinds = {key: part.get("type") for key, part in made.schema["properties"].items()}
    assert kinds["sum"] == ["null", "number"] and kinds["paid"] == ["boolean", "null"]
    assert kinds["phone"] == kinds["order"] == "string"
    assert made.notes[0].startswith("sum: 'n/a' × 6, 'N/A' × 6, '-' × 6, 'unknown' × 6 become null, like empty cells")
    assert "all others are true or false" in made.notes[1]


def test_a_rare_code_among_thousands_of_rows_keeps_the_column_text(tmp_path: Path) -> None:
    """Only every second row was looked at: 0999 stayed text between numbers."""
    rows = [[f"{t} {i}", y, "0999" if i == 10_001 else str(1000 + i)] for i, (t, y) in zip(range(12_000), cycle(PAIRS))]
    made = drafted(of(tmp_path, "a.csv", [["text", "queue", "order"], *rows]), answer=["queue", "order"])
    assert made.schema is not None and made.schema["properties"]["order"] == {"type": "string"}


def test_numbers_are_read_as_json_writes_them() -> None:
    numbers = {text: compile_expression("to_number(n)")[0]({"n": text}, "", None) for text in ("12", "1.50", "2e3")}
    assert numbers == {"12": 12, "1.50": 1.5, "2e3": 2000.0}
    assert compile_expression("to_number(n)")[0]({"n": " 12.50 "}, "", None) == 12.5
    for text in ("007", "1_000", "nan", "1e999", "+1", ""):
        assert compile_expression("to_number(n)")[0]({"n": text}, "", None) is None, text


def test_columns_are_found_in_whichever_case_each_file_spells_them(tmp_path: Path) -> None:
    """Two exports with `text` and `Text` were refused."""
    files = [
        of(tmp_path, "a.csv", [["text", "label", "more"], *([t, y, i] for i, t, y in ROWS[:60])]),
        of(tmp_path, "b.csv", [["Text", "LABEL", "more"], *([t, y, i] for i, t, y in ROWS[60:])]),
    ]
    made, problems = draft(files)
    assert made is not None and problems == [] and made.choice.unused == ["more"]
    rows = [row for _, path in files for row in validate_file(path, made.spec).rows]
    assert [row["messages"][-1]["content"] for row in rows] == [y for _, _, y in ROWS]
    assert any("Text is written text in some rows" in note for note in made.notes)
    both = of(tmp_path, "c.csv", [["text", "Text", "label"], *([t, t[::-1], y] for _, t, y in ROWS)])
    made, _ = draft([both], text="Text")
    assert made is not None and made.data["fields"]["text"] == "Text", "two columns of one file stay two"
    mapping = mapping_of(spec_of({"fields": {"text": "text", "label": "label"}}))
    assert mapping is not None
    assert mapping.apply({"Text": "a", "TEXT": "b", "Label": "x"}, "", None, "p")[0].row == {"label": "x"}


def test_a_column_whose_name_holds_a_dot_is_a_column(tmp_path: Path) -> None:
    """It was missing from the columns that are not used."""
    rows = [[t, y, i, t[::-1]] for i, t, y in ROWS]
    made = drafted(of(tmp_path, "a.csv", [["doc.text", "doc.queue", "no.", "rev.text"], *rows]), text="doc.text")
    assert made.choice.answer == '"doc.queue"' and made.choice.unused == ['"no."', '"rev.text"']


def scored_rows(n: int = 400) -> list[dict[str, Any]]:
    """Tickets whose queue two words give away, half of the urgencies one word, and priority nothing."""
    rng, rows = random.Random(7), []
    for i in range(n):
        queue, urgency = rng.choice(list(THINGS)), rng.choice(["now", "later"])
        said = urgency if rng.random() < 0.7 else ""
        text = f"w{rng.randrange(90)} {queue} w{rng.randrange(90)} {said} w{rng.randrange(90)} {queue} n{i}"
        rows.append({"text": text, "priority": rng.choice("123"), "urgency": urgency, "queue": queue})
    return rows


def test_the_column_that_the_text_predicts_best_is_the_answer_and_all_are_scored(tmp_path: Path) -> None:
    rows = scored_rows()
    made = drafted(of(tmp_path, "a.jsonl", rows))
    assert made.choice.answer == "queue" and sorted(made.answers.labels) == sorted(THINGS)
    scores = {score.path: score for score in made.choice.scores}
    assert list(scores) == ["queue", "urgency", "priority"]
    assert [score.is_learnable for score in scores.values()] == [True, True, False]
    assert scores["queue"].accuracy > 0.95 and 0.7 < scores["urgency"].accuracy < 0.95
    assert abs(scores["priority"].commonest - 1 / 3) < 0.15


@pytest.mark.parametrize(("name", "answer"), [("label", "label"), ("priority", "queue")])
def test_a_column_named_label_is_the_answer_if_the_text_predicts_it(tmp_path: Path, name: str, answer: str) -> None:
    rows = [
        {"text": row["text"], "queue": row["queue"], name: row["urgency" if name == "label" else name]}
        for row in scored_rows()
    ]
    assert drafted(of(tmp_path, "a.jsonl", rows)).choice.answer == answer
    random_labels = [{**row, "label": row["priority"]} for row in rows] if name == "priority" else rows
    assert drafted(of(tmp_path, "b.jsonl", random_labels)).choice.answer == answer


CHATS = [
    [("q", f"my {t}"), ("a", f"try {y} {i}"), ("q", f"and {t[::-1]}"), ("a", f"then {y}")] for i, t, y in ROWS[:60]
]


def turns(who: str, said: str, names: dict[str, str]) -> list[list[dict[str, str]]]:
    """The chats with these keys of a turn and names of the speakers."""
    return [[{who: names[speaker], said: text} for speaker, text in chat] for chat in CHATS]


def test_the_answer_beside_a_request_is_the_column_that_most_rows_fill(tmp_path: Path) -> None:
    """The line to write named the corrections, which few rows have: all others would have been quarantined."""
    own = turns("role", "content", {"q": "user", "a": "assistant"})
    asked = [{"request": {"messages": chat[:1]}, "response": {"choices": [{"message": chat[1]}]}} for chat in own]
    asked = [{**row, "correction": f"it is {i}" if i % 5 == 0 else None} for i, row in enumerate(asked)]
    task, problems = draft([of(tmp_path, "a.jsonl", asked)])
    assert task is None and "content: response.choices[0].message.content" in problems[-1].fix
    data = yaml.safe_load(problems[-1].fix.partition("with `")[2].rstrip("`"))["data"]
    made = validate_file(tmp_path / "a.jsonl", make_spec(output={"kind": "text"}, **data))
    assert [row["messages"][-1]["content"] for row in made.rows] == [chat[1]["content"] for chat in own]


def test_conversations_in_any_form_are_read(tmp_path: Path) -> None:
    logs = turns("who", "msg", {"q": "Customer", "a": "Agent"})
    draft = drafted(of(tmp_path, "a.json", [{"chat": i, "log": log} for i, log in enumerate(logs)]))
    assert draft.data["fields"]["messages"] == "log[].{role: who, content: msg}" and draft.data["inject"] is True
    assert draft.data["roles"] == {"Customer": "user", "Agent": "assistant"} and draft.answers.rows == 60
    for sides in ({"q": "USER", "a": "SYSTEM"}, {"q": "customer", "a": "anna"}):
        dialogues = [{"chat": i, "log": log} for i, log in enumerate(turns("speaker", "utterance", sides))]
        draft = drafted(of(tmp_path, "s.json", dialogues))
        assert draft.data["roles"][sides["a"]] == "assistant" and draft.answers.rows == 60, sides
    assert roles_of(["customer", "anna", "bob"]) == {"customer": "user", "anna": "assistant", "bob": "assistant"}
    assert roles_of(["kim", "anna", "bob"]) == {"kim": "user", "anna": "assistant", "bob": "user"}
    inside = {"exported": "2026", "conversations": [{"id": i, "transcript": log} for i, log in enumerate(logs)]}
    draft = drafted(of(tmp_path, "e.json", inside))
    assert draft.data["fields"]["rows"] == "conversations" and draft.answers.rows == 60
    shares = [{"conversations": chat} for chat in turns("from", "value", {"q": "human", "a": "gpt"})]
    assert drafted(of(tmp_path, "b.json", shares)).data == {"inject": True}
    own = turns("role", "content", {"q": "user", "a": "assistant"})
    kind = [{"messages": [{"role": "system", "content": "Be kind."}, *chat]} for chat in own]
    draft = drafted(of(tmp_path, "c.jsonl", kind))
    assert (draft.system_prompt, draft.answers.kind) == ("Be kind.", "text")
    differing = [{"messages": [{"role": "system", "content": f"Be {i}."}, *chat]} for i, chat in enumerate(own)]
    draft = drafted(of(tmp_path, "d.jsonl", differing))
    assert draft.data["fields"] == {"messages": "messages[?role != 'system']"} and draft.answers.rows == 60
    singles = [{"prompt": t, "completion": f"try {y}"} for _, t, y in ROWS[:9]]
    draft = drafted(of(tmp_path, "l.jsonl", [{"messages": chat} for chat in own]), of(tmp_path, "m.jsonl", singles))
    assert draft.data == {"inject": True} and draft.answers.rows == 69 and not draft.notes
    column = [["messages"], *([json.dumps(chat, indent=1)] for chat in own)]
    assert drafted(of(tmp_path, "n.csv", column)).answers.rows == 60
    beside = [{"messages": chat, "system": "Be kind.", "tools": [], "score": 1} for chat in own]
    draft = drafted(of(tmp_path, "g.jsonl", beside))
    assert (draft.system_prompt, draft.choice.unused) == ("Be kind.", ["score"])
    compared = [{"input": {"messages": c[:3]}, "preferred_output": c[3:], "non_preferred_output": c[1:2]} for c in own]
    draft = drafted(of(tmp_path, "h.jsonl", compared))
    assert sorted(draft.answers.values) == sorted({c[3]["content"] for c in own})


def test_texts_that_hold_json_are_read_as_declared(tmp_path: Path) -> None:
    """Exports of tracing services: whole chats in the cells of a table. They were learnt as JSON."""
    own = turns("role", "content", {"q": "user", "a": "assistant"})
    traced = [[json.dumps({"messages": c[:3]}), json.dumps({"output": c[3]["content"]})] for c in own]
    file = of(tmp_path, "a.csv", [["input", "output"], *traced])
    task, problems = draft([file])
    assert task is None and "input holds JSON as text" in problems[-1].message
    assert "`from_json(input).KEY` in data.fields" in problems[-1].fix
    messages = "[from_json(input).messages, [{role: 'assistant', content: from_json(output).output}]][]"
    spec = make_spec({"kind": "text"}, fields={"messages": messages}, inject=True)
    result = validate_file(file[1], spec)
    assert [row["messages"][1:] for row in result.rows] == own
    implicit = make_spec(
        {"kind": "text"}, fields={"prompt": "input.messages[0].content", "completion": "output.output"}
    )
    fault = validate_file(file[1], implicit).findings[0]
    assert fault["rule"] == "data.missing_field" and "write from_json(input) in its place" in fault["fix"]
    odd = make_spec({"kind": "text"}, fields={"prompt": '"the input".text', "completion": "output"})
    fault = validate_file(of(tmp_path, "o.jsonl", [{"the input": '{"text": "a"}', "output": "b"}])[1], odd).findings[0]
    assert 'write from_json("the input") in its place' in fault["fix"]
    events = [[json.dumps({"code": f"{y[:2]}{i % 7}", "n": i}), y] for i, _, y in ROWS]
    file = of(tmp_path, "d.csv", [["event", "label"], *events])
    assert draft([file])[0] is None and drafted(file, text="event").answers.kind == "labels"
    lists = [["text", "labels"], *([t, str([y])] for t, y in PAIRS)]  # as pandas writes them
    assert [*map(json.loads, drafted(of(tmp_path, "e.csv", lists)).answers.values)] == [[y] for y in THINGS]


def test_calls_alone_are_answers_and_results_of_functions_are_no_users(tmp_path: Path) -> None:
    """The first were refused; of the second the calls were lost, and what the functions gave was said by the user."""
    asked = [{"role": "user", "content": t} for t, _ in PAIRS]
    calls = [{"name": "route", "arguments": json.dumps({"to": y})} for _, y in PAIRS]
    answers = [{"role": "assistant", "tool_calls": [{"type": "function", "function": call}]} for call in calls]
    alone = [{"messages": [*pair]} for pair in zip(asked, answers, strict=True)]
    draft = drafted(of(tmp_path, "a.jsonl", alone))
    assert (draft.answers.kind, draft.answers.rows) == ("text", 240)
    assert 'route({"to": "billing"})' in draft.answers.values
    old: list[Any] = [{"role": "assistant", "content": None, "function_call": calls[0]}]
    old.append({"role": "function", "name": "route", "content": "ok"})
    said = [{"messages": [q, *old, {"role": "assistant", "content": f"Done {i}"}]} for i, q in enumerate(asked)]
    draft = drafted(of(tmp_path, "b.jsonl", said))
    assert draft.data == {"inject": True}


def test_rows_that_an_annotator_rejected_are_no_examples(tmp_path: Path) -> None:
    decided = [{"text": t, "label": y, "answer": ("accept", "reject", "ignore")[i % 10 // 8]} for i, t, y in ROWS]
    file = of(tmp_path, "a.jsonl", decided)
    draft = drafted(file)
    assert (sorted(draft.answers.labels), draft.answers.rows) == (sorted(THINGS), 192)
    assert row_rules(decided[8], draft.spec) == ["rejected_row"]
    judged = drafted(of(tmp_path, "b.jsonl", [row | {"label": 1} for row in decided]))
    assert judged.data["fields"]["label"] == "answer" and judged.answers.rows == 240
    good = [{"prompt": t, "completion": f"{y} {i}", "label": i % 3 > 0} for i, t, y in ROWS]
    draft = drafted(of(tmp_path, "d.jsonl", lines(good)))  # data for KTO
    assert set(draft.answers.values) == {row["completion"] for row in good if row["label"]}
    assert row_rules(good[0], draft.spec) == ["rejected_row"]
    questions = [{"question": t, "answer": "ignore" if i % 2 else f"It is {i}"} for i, t, _ in ROWS]
    assert drafted(of(tmp_path, "c.jsonl", questions)).answers.rows == 240


def test_what_cannot_be_told_is_said_with_the_columns(tmp_path: Path) -> None:
    moments = [["id", "when"], *([str(i), f"2026-01-{1 + i % 28:02d}"] for i in range(90))]
    task, problems = draft([of(tmp_path, "a.csv", moments)])
    assert task is None and "id (90 values" in problems[-1].message and "--answer" in problems[-1].fix
    when = [dt.datetime(2026, 1, 1) + dt.timedelta(minutes=i) for i in range(240)]
    task, problems = draft([of(tmp_path, "a.parquet", {"text": [t for t, _ in PAIRS], "when": when})])
    assert task is None and "when (240 values" in problems[-1].message
    odd = [{"a b": t, "c-d": y, "other": "xy"[i % 2]} for i, t, y in ROWS]
    file = of(tmp_path, "c.jsonl", odd)
    assert drafted(file, text="a b", answer="other").data["fields"] == {"text": '"a b"', "label": "other"}
    tokens = [{"text": f"<|im_end|> {t}", "label": y} for t, y in PAIRS]
    task, (fault, empty) = draft([of(tmp_path, "t.jsonl", [*tokens[:30], {**tokens[0], "text": ""}])])
    assert task is None and fault.rule == "data.template_residue" and fault.place == "raw/t.jsonl:1"
    assert fault.message.endswith("; 30 of 31 rows looked at have this fault")
    assert empty.message.endswith("; 1 of 31 rows looked at have this fault")
    task, problems = draft([file], answer="nothing")
    assert task is None and "no column 'nothing'" in problems[-1].message
    task, problems = draft([of(tmp_path, "d.csv", "text,label\nschön,x\n".encode("cp1252"))], encoding="cp125")
    assert task is None and "'cp125' is not a known text encoding" in problems[-1].message


TRIPLES = [f"{a} sails to{i}" for i, a in enumerate(("Ann", "Bob", "Cy", "Di"))]


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        ("draft.headers_differ", {"a.csv": HEADED, "b.csv": [*PAIRS]}),
        ("draft.rows_differ", {f"{key}.json": json.dumps({"info": 1, key: ITEMS}) for key in ("items", "entries")}),
        ("draft.answers", {"a.csv": [["text", "label"], *([t, ("same", "Same ")[len(t) % 2]] for t, _ in PAIRS)]}),
        ("draft.no_rows", {"a.jsonl": ""}),
        ("data.csv_dialect", {"a.csv": [["text", "label", "label"], *([t, y, y] for t, y in PAIRS)]}),
        ("data.csv_dialect", {"a.csv": "".join(f"{t}\n" for t, _ in PAIRS)}),
        ("draft.other_text", {"a.txt": "".join(f"[12.03.24, 10:{i % 60:02d}] Anna: {t}\n" for i, t, _ in ROWS)}),
        ("draft.unreadable", {"a.jsonl": "null\n" * 9}),
        (
            "draft.unreadable",
            {"a.csv": b"text,label\n" + b"".join(b"a \xe9,x\nb \xc3\xa9,y\n" for _ in range(9)) + b"\xe9,z\n"},
        ),
        ("draft.word_tags", {"a.jsonl": [{"tokens": t.split(), "ner_tags": [0, 1, 0]} for t in TRIPLES]}),
        ("draft.word_tags", {"a.jsonl": [{"id": 1, "words": t.split(), "t": ["O", "B-X", "O"]} for t in TRIPLES]}),
        ("draft.map", {"b.json": dict(PAIRS)}),
        ("draft.files_differ", {"a.csv": HEADED, "b.jsonl": [{"message": t, "topic": y} for t, y in PAIRS[:60]]}),
        ("draft.columns", {"b.json": {"text": ["a b", "c d"], "label": ["x", "y"]}}),
    ],
)
def test_what_keeps_files_from_being_a_task_is_named(tmp_path: Path, rule: str, files: dict[str, Any]) -> None:
    options = {"answer": "label"} if rule == "draft.answers" else {}
    task, problems = draft([of(tmp_path, name, content) for name, content in files.items()], **options)
    assert task is None and rule in {finding.rule for finding in problems}
    assert all(finding.fix for finding in problems)


def test_labels_that_are_one_number_are_one_label(tmp_path: Path) -> None:
    """A column with `1` and `1.0` had ten labels for five stars, and its labels were estimated to be wrong."""
    rows = [[t, f"{i % 5}.0" if i % 7 else f"{i % 5}"] for i, t, _ in ROWS]
    answers = drafted(of(tmp_path, "a.csv", [["text", "stars"], *rows])).answers
    assert answers.labels == ["0.0", "1.0", "2.0", "3.0", "4.0"] and answers.other_spellings["3"] == ("3.0", 7)
    tens = [[t, ("1", "10", "100", "101")[i % 4]] for i, t, _ in ROWS]
    assert drafted(of(tmp_path, "b.csv", [["text", "stars"], *tens])).answers.other_spellings == {}


def test_labels_that_look_like_no_answer_are_named_with_how_to_leave_them_out(tmp_path: Path) -> None:
    """`?` and `N/A` became labels without a word."""
    blank = ("N/A", "?", "null")
    rows = [[t, blank[i // 6 % 3] if i % 6 == 0 else y] for i, t, y in ROWS]
    file = of(tmp_path, "a.csv", [["text", "label"], *rows])
    made = drafted(file)
    counts = {label: sum(y == label for _, y in rows) for label in blank}
    assert made.answers.missing == counts and set(blank) < set(made.answers.labels)
    (note,) = [note for note in made.notes if "look like no answer" in note]
    assert all(f"'{label}' × {n}" in note for label, n in counts.items()) and "output.labels" in note and "20%" in note
    text = task_yaml("a", made, "a.csv")
    assert f"- N/A  # {counts['N/A']} rows; no answer?" in text and text.count("no answer?") == 3
    spec = yaml.safe_load(text) | {"name": "a"}
    spec["output"]["labels"] = [label for label in spec["output"]["labels"] if label not in blank]
    validated = validate_file(file[1], parse_spec(yaml.safe_dump(spec)))
    assert len(validated.rows) == len(ROWS) - sum(counts.values())
    assert {row["findings"][0]["rule"] for row in validated.quarantine} == {"data.unknown_label"}, (
        "left out, and counted"
    )
    sizes = [[t, y, ("large", "n/a")[i % 2]] for i, t, y in ROWS]
    several = drafted(of(tmp_path, "c.csv", [["text", "queue", "size"], *sizes]), answer=["queue", "size"])
    assert several.answers.missing == {"size: n/a": len(ROWS) // 2}
    assert any(f"'size: n/a' × {len(ROWS) // 2}" in note and "makes the field null" in note for note in several.notes)
    known = drafted(of(tmp_path, "b.csv", [["text", "label"], *([t, y] for _, t, y in ROWS)]))
    assert known.answers.missing == {} and "no answer" not in f"{known.notes}{task_yaml('b', known, 'b.csv')}"


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    """A zipped table was left out without a word."""
    for name in ("a.csv", "b.jsonl.gz", "c.csv.zip", "notes.txt", ".DS_Store", "~$a.xlsx", "dataset_info.json"):
        (tmp_path / name).write_text("x")
    assert left_out([tmp_path])[0].startswith("not read: c.csv.zip, notes.txt; raw files of a folder end in .jsonl,")
    assert left_out([tmp_path / "a.csv"]) == []


def test_rejected_answers_are_said_to_be_left_out(tmp_path: Path) -> None:
    """Nobody was told of the stage that learns from them."""
    rows = [{"prompt": t, "chosen": f"yes, {t[::-1]}", "rejected": "no"} for t, _ in PAIRS]
    makers = [
        lambda r: r,
        lambda r: {
            "input": {"messages": [{"role": "user", "content": r["prompt"]}]},
            "preferred_output": [{"role": "assistant", "content": r["chosen"]}],
            "non_preferred_output": [{"role": "assistant", "content": r["rejected"]}],
        },
    ]
    for key, make in zip(("rejected", "non_preferred_output"), makers, strict=True):
        made = drafted(of(tmp_path, "a.jsonl", [make(row) for row in rows]))
        assert made.answers.values[0] == rows[0]["chosen"] and made.notes[0].startswith(f"{key}: no example, but")
        assert "preferences/" in made.notes[0]
    assert (
        drafted(of(tmp_path, "b.jsonl", [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows])).notes == []
    )


def test_no_file_takes_the_name_of_another(tmp_path: Path) -> None:
    """The second one was left out without a word."""
    for folder in ("de/train", "en/train"):
        (tmp_path / folder).mkdir(parents=True)
        of(tmp_path / folder, "a.1.csv", folder)
        of(tmp_path / folder, "dataset_info.json", '{"features": {}}')  # Hugging Face's description: no rows
    first, second = given_files([tmp_path])
    assert (first.name, second.name) == ("raw/train_a.1.csv", "raw/2_train_a.1.csv")
    assert given_files([first.path, first.path.parent / ".." / "train" / "a.1.csv"])[0].name == "raw/a.1.csv"
    given = [first._replace(name=name) for name in ("raw/a.csv", "raw/a", "raw/b")]
    names: list[str] = []
    place_files(given, tmp_path / "task", dict.fromkeys(("raw/a", "raw/b"), "csv"), names)
    assert names == ["raw/a.csv", "raw/2_a.csv", "raw/b.csv"]


def test_nothing_is_overwritten_and_all_problems_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = of(tmp_path / "in", "a.csv", "text,label\n")[1]
    with pytest.raises(FindingsError) as error:
        (tmp_path / "in" / "c.csv").symlink_to("gone.csv")
        given_files([tmp_path / "in" / "b.csv", tmp_path / "nowhere", tmp_path / "in" / "c.csv"])
    assert "c.csv: it is neither a file nor a folder" in str(error.value)
    assert "did you mean" in str(error.value) and "nowhere" in str(error.value)
    with pytest.raises(FindingsError, match=r"c\.csv: it is neither"):  # of a folder too
        given_files([tmp_path / "in"])
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.csv").symlink_to(file)
    (tmp_path / "in" / "c.csv").unlink()
    for link in ("linked/itself", "in/folder"):
        (tmp_path / link).symlink_to(tmp_path / "linked")
    assert [f.path.parent.name for f in given_files([tmp_path / "in"])] == ["in", "folder"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FindingsError, match=r"draft\.no_files"):
        given_files([tmp_path / "empty"])
    folder = tmp_path / "data" / "mine"
    placed(given_files([file]), folder)
    assert name_problems("mine", folder, given_files([file])) == []
    (folder / "raw" / "other.csv").write_text("x")
    (folder / "raw" / "a.csv").write_text("changed")
    problems = {f.rule: f.fix for f in name_problems("Ñ 1 Código", folder, given_files([file]))}
    assert problems.keys() == {"draft.name", "draft.other_files", "draft.other_content"}
    assert problems["draft.name"].endswith("such as n_1_codigo")
    (folder / "task.yaml").write_text("name: mine\n")
    assert "there is a task 'mine' already" in name_problems("mine", folder, given_files([file]))[0].message


SOME_ROWS = st.lists(st.dictionaries(KEY, JSON, min_size=1, max_size=4), min_size=1, max_size=3)


@settings(BOUNDED, max_examples=100)
@given(SOME_ROWS, st.lists(JSON, min_size=1, max_size=4), st.integers(1, 40), st.sampled_from(["jsonl", "json", "csv"]))
@example([{"text": "a", "turns": 1}], [[{"type": ["text"]}]], 9, "jsonl")
def test_rows_of_any_shape_end_as_a_task_or_findings(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], values: list[Any], times: int, suffix: str
) -> None:
    """Rows of a few shapes, in which every second value repeats."""
    rng = random.Random(times)

    def value(before: Any) -> Any:
        return rng.choice(values) if rng.random() < 0.5 else f"{before} word {rng.randint(0, 9)}"

    some = [{key: value(before) for key, before in row.items()} for row in rows * times]
    data = json.dumps(some) if suffix == "json" else "\n".join(map(json.dumps, some))
    task, problems = draft([of(tmp_path_factory.getbasetemp(), f"a.{suffix}", data)])
    assert problems or parse_spec(task_yaml("some_task", task, "a file")).data == task.spec.data


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["Übung Straße.csv"], "ubung_strasse"),
        (["tickets.train.jsonl", "tickets.test.jsonl"], "tickets"),
        (["2026 export.csv"], "task_2026"),
    ],
)
def test_a_task_is_named_after_its_files(files: list[str], name: str) -> None:
    assert task_name([Path(file) for file in files]) == name

"""Exports of labelling tools, assistants and services, as they are in the wild: each with the examples that it must give."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.draft.draft import Draft, draft
from finetune_pipeline.data.examples import Example
from finetune_pipeline_tests.unit.data.raw_rows import kept_example, row_rules, validate_file
from finetune_pipeline_tests.unit.data.rows import make_spec
from finetune_pipeline_tests.unit.data.test_draft import CHATS, PAIRS, ROWS, THINGS, drafted, of

Pairs = set[tuple[str, str]]
LABELS = list(THINGS)


def read(folder: Path, content: Any, name: str = "a.json", **options: Any) -> tuple[Draft, Pairs]:
    """The draft of a file, and (what the user says, the answer) of every example it gives."""
    file = of(folder, name, content)
    draft = drafted(file, **options)
    path = of(folder, "converted.jsonl", draft.converted[file[0]])[1] if draft.converted else file[1]
    examples = [Example(**row) for row in validate_file(path, draft.spec).rows]
    return draft, {(example.user_text, example.answer) for example in examples}


def wrong(label: str) -> str:
    return LABELS[(LABELS.index(label) + 1) % len(LABELS)]


def pairs_of(chats: Any) -> Pairs:
    return {("\n".join(text for who, text in chat if who == "q"), chat[-1][1]) for chat in chats}


def result(control: str, key: str, *values: Any) -> list[dict[str, Any]]:
    """What a control of Label Studio holds."""
    return [{"from_name": control, "to_name": "text", "type": key, "id": f"r{v}", "value": {key: v}} for v in values]


def labelled(text: str, *annotations: tuple[list[dict[str, Any]], bool]) -> dict[str, Any]:
    """A task of Label Studio; of each annotation: its results, and whether it was skipped."""
    rows = [
        {"id": i, "completed_by": i % 2, "was_cancelled": skipped, "lead_time": len(text) / 3, "result": results}
        for i, (results, skipped) in enumerate(annotations, len(text))
    ]
    return {"id": len(text), "data": {"text": text}, "annotations": rows, "total_annotations": len(rows)}


def test_skipped_annotations_of_label_studio_are_no_answers(tmp_path: Path) -> None:
    rows = []
    for i, text, label in ROWS:
        good, bad = result("topic", "choices", [label]), result("topic", "choices", [wrong(label)])
        answered = [[(good, False)], [(bad, True), (good, False)], [(good, False), (good, False)], [(bad, True)]]
        rows.append(labelled(text, *answered[i % 4]))
    draft, pairs = read(tmp_path, rows)
    assert pairs == {pair for i, pair in enumerate(PAIRS) if i % 4 < 3}
    assert draft.data["fields"]["each"] == "annotations[?!was_cancelled]"
    assert "120 of 360 elements of annotations are marked was_cancelled" in " ".join(draft.notes)


def test_each_control_of_label_studio_is_a_column(tmp_path: Path) -> None:
    """The answer was the person who had labelled the row."""
    mood = result("mood", "choices", ["calm"])
    both = [labelled(t, (result("topic", "choices", [y]) + mood, False)) for t, y in PAIRS]
    assert read(tmp_path, both)[1] == set(PAIRS)
    written = [labelled(t, (result("reply", "text", [f"On {t[::-1]}"]), False)) for t, _ in PAIRS]
    assert read(tmp_path, written)[1] == {(t, f"On {t[::-1]}") for t, _ in PAIRS}
    spans = [{"start": 0, "end": 4, "labels": ["W"]}, {"start": 5, "end": 7, "labels": ["V"]}]
    found = [[{"from_name": "entity", "id": f"{t}{i}", "value": v} for i, v in enumerate(spans)] for t, _ in PAIRS]
    marked = [labelled(t, (found[i][: 1 + i % 2], False)) for i, t, _ in ROWS]
    draft, pairs = read(tmp_path, marked)
    assert draft.answers.kind == "json"
    assert {json.dumps(json.loads(a)) for _, a in pairs} == {json.dumps(spans[:1]), json.dumps(spans)}


def test_the_system_text_of_gemini_is_kept(tmp_path: Path) -> None:
    names = {"q": "user", "a": "model"}
    contents = [[{"role": names[who], "parts": [{"text": text}]} for who, text in chat] for chat in CHATS]
    system = {"role": "system", "parts": [{"text": "Be kind."}, {"text": " Always."}]}
    for key in ("systemInstruction", "system_instruction"):
        draft, pairs = read(tmp_path, [{key: system, "contents": turns} for turns in contents], "a.jsonl")
        assert (draft.system_prompt, pairs) == ("Be kind. Always.", pairs_of(CHATS))
    keys = ("systemInstruction", "system_instruction")
    mixed = [{keys[i % 2]: system, "contents": c} for i, c in enumerate(contents)]
    assert read(tmp_path, mixed, "a.jsonl")[0].system_prompt == "Be kind. Always."
    candidates = [[{"content": {"role": "model", "parts": [*c[3]["parts"], {"text": " Bye."}]}}] for c in contents]
    requests = [{"contents": c[:3], "systemInstruction": system} for c in contents]
    both = zip(requests, candidates, strict=True)
    batch = [{"request": request, "response": {"candidates": some}} for request, some in both]
    draft, pairs = read(tmp_path, batch, "a.jsonl")
    assert draft.system_prompt == "Be kind. Always."
    assert pairs == {(asked, f"{answer} Bye.") for asked, answer in pairs_of(CHATS)}


def node(role: str, parts: list[Any], parent: str | None, **more: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": parts}
    message = {"author": {"role": role}, "content": content, "recipient": "all", "metadata": {}, **more}
    return {"message": message, "parent": parent, "children": []}


HIDDEN = {"is_visually_hidden_from_conversation": True}


def exported(chat: Any) -> dict[str, Any]:
    """A conversation of ChatGPT's export, with an answer that was asked for again."""
    mapping: dict[str, Any] = {"root": {"message": None, "parent": None, "children": ["s"]}}
    mapping["s"] = node("system", ["You are a model"], "root", metadata=HIDDEN)
    mapping["again"] = node("assistant", ["given up"], "0")
    mapping["mine"] = node("user", [], "s", content={"content_type": "user_editable_context", "user_profile": "I"})
    for i, (who, text) in enumerate(chat):
        mapping[f"{i}"] = node({"q": "user", "a": "assistant"}[who], [text], f"{i - 1}" if i else "mine")
    return {"title": "A talk", "mapping": dict(reversed(mapping.items())), "current_node": f"{len(chat) - 1}"}


def test_the_thread_that_chatgpt_shows_is_read(tmp_path: Path) -> None:
    draft, pairs = read(tmp_path, [exported(chat) for chat in CHATS], "conversations.json")
    assert pairs == pairs_of(CHATS) and draft.data == {"inject": True} and draft.choice.unused == ["title"]
    spec = make_spec(output={"kind": "text"}, inject=True)
    row = exported(CHATS[0])
    assert [m["role"] for m in kept_example(row, spec).messages] == ["system", "user", "assistant", "user", "assistant"]
    row["mapping"]["1"] = node("tool", ["4"], "0", author={"role": "tool", "name": "python"})
    assert row_rules(row, spec) == ["unsupported_part"]
    row["mapping"]["1"] = node("assistant", ["Look:", {"content_type": "image_asset_pointer"}], "0")
    assert row_rules(row, spec) == ["unsupported_part"]
    row["mapping"]["1"]["parent"] = "3"  # in a circle
    assert row_rules(row | {"mapping": []}, spec) == ["empty_field"] and row_rules(row, spec)


def test_each_question_of_squad_is_a_row(tmp_path: Path) -> None:
    articles, expected = [], set()
    for i, text, _ in ROWS:
        answers = [{"text": text[:9].strip(), "answer_start": 0}, {"text": text[:15], "answer_start": 0}]
        questions = [{"question": f"What is {text[::-1]}?", "answers": answers[: 1 + i % 2], "is_impossible": False}]
        questions += [{"question": f"Who is {i}?", "answers": [], "is_impossible": True}] if i % 3 == 0 else []
        articles.append({"title": f"T{i}", "paragraphs": [{"context": f"About {text}", "qas": questions}]})
        expected.add((f"What is {text[::-1]}?\n\nAbout {text}", text[:9].strip()))
    draft, pairs = read(tmp_path, {"version": "v2.0", "data": articles})
    assert pairs == expected and draft.data["fields"]["rows"] == "data[].paragraphs[]"
    assert draft.notes[-1] == "80 of 320 elements of qas are marked is_impossible: data.fields.each leaves them out"
    assert read(tmp_path, articles)[1] == expected
    for article in articles:
        (paragraph,) = article["paragraphs"]
        paragraph["qas"] = [{k: v for k, v in paragraph["qas"][0].items() if k != "is_impossible"}]
    assert read(tmp_path, {"data": articles})[1] == expected
    flat = [{"context": p["context"], **p["qas"][0]} for a in articles for p in a["paragraphs"]]
    assert read(tmp_path, flat, "a.jsonl")[1] == expected
    of_hub = [row | {"answers": {"text": [a["text"] for a in row["answers"]], "answer_start": [0]}} for row in flat]
    assert read(tmp_path, of_hub, "a.jsonl")[1] == expected
    judged = [[row["question"], row["context"], str(i % 2 > 0)] for i, row in enumerate(flat)]
    _, pairs = read(tmp_path, [["question", "passage", "answer"], *judged], "a.csv")
    assert {asked for asked, _ in pairs} == {asked for asked, _ in expected}


def test_earlier_turns_of_an_instruction_come_first(tmp_path: Path) -> None:
    own = [(c, {"history": [[c[0][1], c[1][1]]]}) for c in CHATS]
    rows = [{"instruction": c[2][1], "input": "", "output": c[3][1], **history} for c, history in own]
    assert read(tmp_path, rows)[1] == pairs_of(CHATS)
    of_glm = [{"prompt": c[2][1], "response": c[3][1], **history} for c, history in own]
    assert read(tmp_path, of_glm, "a.jsonl")[1] == pairs_of(CHATS)
    task, pairs = read(tmp_path, [row | {"system": "Be kind."} for row in rows])
    assert (task.system_prompt, pairs) == ("Be kind.", pairs_of(CHATS))
    task, pairs = read(tmp_path, [row | {"system": f"Be {i}."} for i, row in enumerate(rows)])
    assert pairs == pairs_of(CHATS) and "the task's system prompt replaces them" in " ".join(task.notes)
    logged = [{"input": [{"role": "user", "content": c[2][1]}], "output": c[3][1], "system": "Be kind."} for c in CHATS]
    task, pairs = read(tmp_path, logged, "a.jsonl")
    assert (task.system_prompt, pairs) == ("Be kind.", {(c[2][1], c[3][1]) for c in CHATS})
    assert draft([of(tmp_path, "none.json", "[]")])[1][-1].rule == "draft.no_rows"
    spec = make_spec(output={"kind": "text"})
    earlier = kept_example(rows[0], spec).messages[1:3]
    assert earlier == [{"role": role, "content": CHATS[0][i][1]} for i, role in enumerate(("user", "assistant"))]
    assert row_rules({**rows[0], "history": [["alone"]]}, spec) == ["wrong_type"]
    assert row_rules({**rows[0], "history": [["a question", None]]}, spec) == ["empty_field"]
    assert row_rules({**rows[0], "history": None}, spec) == row_rules({**rows[0], "history": []}, spec) == []


def test_requests_and_answers_side_by_side_are_one_conversation(tmp_path: Path) -> None:
    moss = [{"conversation": [{"human": c[i][1], "assistant": c[i + 1][1]} for i in (0, 2)]} for c in CHATS]
    draft, pairs = read(tmp_path, moss)
    assert pairs == pairs_of(CHATS) and draft.data["inject"] is True
    turns = [[{"input": c[i][1], "output": c[i + 1][1]} for i in (0, 2)] for c in CHATS]
    tuned = [{"conversation": [{"system": "Be kind.", **first}, second]} for first, second in turns]
    draft, pairs = read(tmp_path, tuned)
    assert (draft.system_prompt, pairs) == ("Be kind.", pairs_of(CHATS))


def test_speakers_and_texts_within_a_turn_are_found(tmp_path: Path) -> None:
    """The turn before the list, too: the request was lost."""
    names = {"q": "user", "a": "admin"}
    turns = [[{"author": {"type": names[who], "id": "7"}, "body": text} for who, text in chat] for chat in CHATS]
    parts = [{"source": t[0], "conversation_parts": {"total_count": 3, "conversation_parts": t[1:]}} for t in turns]
    assert read(tmp_path, parts, "a.jsonl")[1] == pairs_of(CHATS)
    kinds = {"q": "human", "a": "ai"}
    traced = [[{"type": kinds[who], "data": {"content": text}} for who, text in chat] for chat in CHATS]
    runs = [{"inputs": {"messages": t[:3]}, "outputs": {"generations": t[3:]}} for t in traced]
    assert read(tmp_path, runs, "a.jsonl")[1] == pairs_of(CHATS)
    ids = [[{"author_id": who, "body": text} for who, text in chat] for chat in CHATS]
    tickets = [{"subject": c[0][1][:9], "description": c[0][1], "comments": t} for c, t in zip(CHATS, ids, strict=True)]
    task, problems = draft([of(tmp_path, "t.jsonl", tickets)])
    assert task is None and "speakers are ids: author_id" in problems[-1].message


def test_notes_among_colleagues_are_left_out_or_refused(tmp_path: Path) -> None:
    """They were learnt as answers."""
    names = {"q": "end-user", "a": "agent"}
    for note in ({"public": False}, {"is_private": True}, {"part_type": "note"}):
        turns = [[{"author": {"role": names[who]}, "body": text} for who, text in chat] for chat in CHATS]
        comments = [[*t[:3], {**t[3], "body": "so rude", **note}, {**t[3], "public": True}] for t in turns]
        task, pairs = read(tmp_path, {"tickets": [{"id": i, "comments": c} for i, c in enumerate(comments)]})
        assert pairs == pairs_of(CHATS) and task.notes[-1] == "left out: 60 internal notes"
    rows = [["ticket_id", "role", "message", "private"]]
    for i, chat in enumerate(CHATS):
        rows += [[str(i), {"q": "customer", "a": "agent"}[who], text, "false"] for who, text in chat]
        rows.append([str(i), "agent", "so rude", "TRUE"])
    assert read(tmp_path, rows, "a.csv")[1] == pairs_of(CHATS)
    parts = [{"description": t, "replies": [{"private": i % 2 > 0, "body": t[::-1]}]} for i, t, _ in ROWS]
    file = of(tmp_path, "a.jsonl", [{**row, "topic": ROWS[i][2]} for i, row in enumerate(parts)])
    assert drafted(file, answer="topic").answers.kind == "labels"
    repositories = [{"report": t, "entities": [{"name": f"{y}{i}", "private": True}]} for i, t, y in ROWS]
    assert drafted(of(tmp_path, "b.jsonl", repositories)).answers.kind == "json"
    none, problems = draft([file], answer="replies")
    assert none is None and problems[-1].rule == "draft.internal_notes"


def test_what_was_said_is_no_request_and_what_was_asked_no_answer(tmp_path: Path) -> None:
    """Both were the wrong way round."""
    asked = [(text, f"On {text[::-1]}") for text, _ in PAIRS]
    tree = [{"prompt": {"text": q, "replies": [{"text": a, "rank": 0}]}} for q, a in asked]
    assert read(tmp_path, tree, "a.jsonl")[1] == set(asked)
    sides = [({"messages": [[{"kwargs": {"content": q}}]]}, {"generations": [[{"text": a}]]}) for q, a in asked]
    runs = [{"inputs": request, "outputs": {**reply, "n": None}} for request, reply in sides]
    assert read(tmp_path, runs, "a.jsonl")[1] == set(asked)
    task, problems = draft([of(tmp_path, "b.jsonl", [{"usage": {"n": i}, "metadata": {}} for i in range(60)])])
    assert task is None and problems[-1].rule == "draft.no_columns"


@pytest.mark.parametrize(
    "left_out",
    [
        lambda i: {"status": "Discarded" if i % 4 == 0 else "Validated"},
        lambda i: {"label.responses.status": ["discarded" if i % 4 == 0 else "submitted"]},
        lambda i: {"AssignmentStatus": "Rejected" if i % 4 == 0 else "Approved"},
    ],
    ids=["Argilla 1", "Argilla 2", "Mechanical Turk"],
)
def test_rows_that_a_tool_marks_as_left_out_are_none(tmp_path: Path, left_out: Any) -> None:
    rows = [{"text": t, "label": y, **left_out(i)} for i, t, y in ROWS]
    assert read(tmp_path, rows, "a.jsonl")[1] == {pair for i, pair in enumerate(PAIRS) if i % 4}


def test_an_element_can_say_that_it_is_none() -> None:
    """Where only the elements have the key, validation broke off with a traceback."""
    spec = make_spec(fields={"each": "items", "text": "text", "label": "label"})
    element = {"text": "It broke again", "label": "bug_report"}
    assert row_rules({"items": [element | {"status": "done"}]}, spec) == []
    assert row_rules({"items": [element | {"status": "discarded"}]}, spec) == ["rejected_row"]


def test_a_custom_field_of_a_ticket_is_a_column(tmp_path: Path) -> None:
    """The list of all of them was the answer."""
    rows = [{"description": t, "custom_fields": [{"id": 36, "value": y}, {"id": 37, "value": None}]} for t, y in PAIRS]
    assert read(tmp_path, {"tickets": rows, "next_page": None})[1] == set(PAIRS)


def test_an_answer_of_labelbox_is_its_name(tmp_path: Path) -> None:
    answers = [{"name": "topic", "radio_answer": {"feature_id": f"f{i}", "name": y}} for i, _, y in ROWS]
    rows = [{"data_row": {"row_data": t}, "labels": [answers[i]]} for i, t, _ in ROWS]
    assert read(tmp_path, rows, "a.jsonl")[1] == set(PAIRS)

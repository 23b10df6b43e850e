"""Exports of assistants, labelling tools and services: each with the examples that it must give, or the reason to refuse it."""

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
    examples = [Example(**row) for row in validate_file(file[1], draft.spec).rows]
    return draft, {(example.user_text, example.answer) for example in examples}


def wrong(label: str) -> str:
    return LABELS[(LABELS.index(label) + 1) % len(LABELS)]


def pairs_of(chats: Any) -> Pairs:
    return {("\n".join(text for who, text in chat if who == "q"), chat[-1][1]) for chat in chats}


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
    assert draft([of(tmp_path, "none.json", "[]")])[1][-1].rule == "draft.no_rows"
    spec = make_spec(output={"kind": "text"})
    earlier = kept_example(rows[0], spec).messages[1:3]
    assert earlier == [{"role": role, "content": CHATS[0][i][1]} for i, role in enumerate(("user", "assistant"))]
    assert row_rules({**rows[0], "history": [["alone"]]}, spec) == ["wrong_type"]
    assert row_rules({**rows[0], "history": [["a question", None]]}, spec) == ["empty_field"]
    assert row_rules({**rows[0], "history": None}, spec) == row_rules({**rows[0], "history": []}, spec) == []


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


def talk(who: str, said: str, names: tuple[str, str] = ("user", "assistant")) -> list[list[dict[str, str]]]:
    return [[{who: names["qa".index(speaker)], said: text} for speaker, text in chat] for chat in CHATS]


OWN = talk("role", "content")
CALLS = [{"id": "r", "choices": [{"index": 0, "message": chat[3]}]} for chat in OWN]
CHOSEN = [[{"from_name": "topic", "id": "r1", "type": "choices", "value": {"choices": [y]}}] for _, y in PAIRS]
BODIES = talk("type", "body", ("user", "admin"))
QUESTIONS = [[{"id": f"{i}", "question": f"{t}?", "answers": [{"text": t[:9], "answer_start": 0}]}] for i, t, _ in ROWS]
UNKNOWN: dict[str, tuple[Any, str]] = {
    "Label Studio": (
        [{"id": i, "data": {"text": t}, "annotations": [{"id": i, "was_cancelled": i % 3 == 0, "result": CHOSEN[i]}], "n": 1}
         for i, t, _ in ROWS],
        "annotations",
    ),
    "Labelbox": (
        [{"data_row": {"row_data": t}, "labels": [{"name": "topic", "radio_answer": {"feature_id": "f", "name": y}}]}
         for t, y in PAIRS],
        "data_row.row_data",
    ),
    "custom fields of tickets": (
        [{"description": t, "custom_fields": [{"id": 36, "value": y}, {"id": 37, "value": None}]} for t, y in PAIRS],
        "custom_fields",
    ),
    "Intercom": (
        [{"source": {"author": {"type": "user"}, "body": c[0]["body"]},
          "conversation_parts": {"conversation_parts": [{"author": {"type": t["type"]}, "body": t["body"]} for t in c[1:]]}}
         for c in BODIES],
        "conversation_parts",
    ),
    "ids as speakers": ([{"subject": c[0]["content"], "comments": c} for c in talk("author_id", "content")], "author_id"),
    "SQuAD": ([{"title": f"T{i}", "paragraphs": [{"context": t, "qas": QUESTIONS[i]}]} for i, t, _ in ROWS], "paragraphs"),
    "Gemini": (
        [{"contents": [{"role": t["role"], "parts": [{"text": t["content"]}]} for t in c]}
         for c in talk("role", "content", ("user", "model"))],
        "role says who wrote it",
    ),
    "requests and responses": (
        [{"request": {"messages": c[:3]}, "response": answer} for c, answer in zip(OWN, CALLS, strict=True)],
        "messages: '[request.messages[], [{role: ''assistant'', content: response.choices[0].message.content}]][]'",
    ),
    "a list of turns and its answer": (
        [{"prompt": c[:3], "completion": c[3]["content"]} for c in OWN],
        "messages: '[prompt[], [{role: ''assistant'', content: completion}]][]'",
    ),
    "pairs of turns": (
        [{"conversation": [{"human": c[i][1], "assistant": c[i + 1][1]} for i in (0, 2)]} for c in CHATS],
        "content: human}, {role: ''assistant'', content: assistant}][]",
    ),
    "chains": (
        [{"inputs": {"messages": [[{"kwargs": {"content": t}}]]}, "outputs": {"generations": [[{"text": f"On {t}"}]]}}
         for t, _ in PAIRS],
        "no two columns look like a text and its answer",
    ),
    "several answers": (
        [{"instruction": t, "completions": [{"model": "x", "response": f"{a} {t}"} for a in "pq"]} for t, _ in PAIRS],
        "completions holds several answers to each instruction",
    ),
    "compared answers": (
        [{"question": t, "response_a": f"one {t}", "response_b": f"two {t}", "winner": "ab"[i % 2]} for i, t, _ in ROWS],
        "response_a and response_b are two answers to one text",
    ),
    "a turn a row": (
        [{"conversation_id": f"c{i}", "sender": {"q": "customer", "a": "agent"}[who], "message": text}
         for i, chat in enumerate(CHATS) for who, text in chat],
        "each row is one message of a conversation: sender says who wrote it",
    ),
    "transcripts": (
        [{"id": f"{i}", "chat": "\n".join(f"{who}: {text}" for who, text in chat)} for i, chat in enumerate(CHATS)],
        "no two columns look like a text and its answer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN)
def test_exports_of_unknown_form_are_refused_with_their_columns_or_the_line_to_add(tmp_path: Path, kind: str) -> None:
    content, said = UNKNOWN[kind]
    task, problems = draft([of(tmp_path, "a.json", content)])
    assert task is None and problems[-1].rule == "draft.no_columns"
    assert said in str(problems[-1]), problems[-1]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (
            "Label Studio",
            {"text": "data.text", "label": "annotations[?!was_cancelled] | [0].result[0].value.choices[0]"},
        ),
        ("Labelbox", {"text": "data_row.row_data", "label": "labels[0].radio_answer.name"}),
        ("custom fields of tickets", {"text": "description", "label": "custom_fields[?id == `36`] | [0].value"}),
    ],
)
def test_a_line_of_fields_reads_what_is_not_drafted(tmp_path: Path, kind: str, fields: dict[str, str]) -> None:
    spec = make_spec(output={"kind": "labels", "labels": LABELS}, fields=fields)
    result = validate_file(of(tmp_path, "a.json", UNKNOWN[kind][0])[1], spec)
    read_pairs = {(example.user_text, example.answer) for example in (Example(**row) for row in result.rows)}
    assert read_pairs == {pair for i, pair in enumerate(PAIRS) if kind != "Label Studio" or i % 3}


def test_notes_among_colleagues_are_refused(tmp_path: Path) -> None:
    """They were learnt as answers."""
    for note in ({"public": False}, {"is_private": True}, {"part_type": "note"}):
        turns = [[*c[:3], {**c[3], **note}, {**c[3], "public": True}] for c in talk("role", "body")]
        task, problems = draft([of(tmp_path, "a.json", [{"log": c} for c in turns])])
        assert task is None and problems[-1].rule == "draft.internal_notes"
    parts = [{"description": t, "replies": [{"private": i % 2 > 0, "body": t[::-1]}]} for i, t, _ in ROWS]
    file = of(tmp_path, "a.jsonl", [{**row, "topic": ROWS[i][2]} for i, row in enumerate(parts)])
    assert drafted(file, answer="topic").answers.kind == "labels"
    repositories = [{"report": t, "entities": [{"name": f"{y}{i}", "private": True}]} for i, t, y in ROWS]
    assert drafted(of(tmp_path, "b.jsonl", repositories)).answers.kind == "json"
    none, problems = draft([file], answer="replies")
    assert none is None and problems[-1].rule == "draft.internal_notes"

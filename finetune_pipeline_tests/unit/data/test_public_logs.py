"""Conversations, messages and logs as newcomers have them: each with the examples that it must give."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline_tests.unit.data.test_draft import CHATS, PAIRS, ROWS, drafted, of, turns
from finetune_pipeline_tests.unit.data.test_exports import pairs_of
from finetune_pipeline_tests.unit.data.test_public_sets import pairs_in, refusal

OWN = turns("role", "content", {"q": "user", "a": "assistant"})
CLOSED = "<|im_start|>{who}\n{text}<|im_end|>\n"


@pytest.mark.parametrize(
    ("key", "form", "names"),
    [
        ("chosen", "\n\n{who}: {text}", ("Human", "Assistant")),
        ("text", "### {who}: {text}", ("Human", "Assistant")),
        ("text", CLOSED, ("user", "assistant")),
        ("chat", "{who}: {text} <|endoftext|>\n\n\n", ("USER", "ASSISTANT")),
        ("transcript", "{who}: {text}\n", ("Customer", "Agent")),
        ("text", "<|start_header_id|>{who}<|end_header_id|>\n\n{text}<|eot_id|>", ("user", "assistant")),
        ("text", "<start_of_turn>{who}\n{text}<end_of_turn>\n", ("user", "model")),
        ("text", "[{who}] {text} </s>", ("INST", "/INST")),
        ("text", "### {who}:\n{text}\n\n", ("Instruction", "Response")),
    ],
)
def test_conversations_in_one_text_are_read(tmp_path: Path, key: str, form: str, names: tuple[str, str]) -> None:
    whole = ["".join(form.format(who=names["qa".index(who)], text=text) for who, text in chat) for chat in CHATS]
    rows = [{"id": i, key: text, "rejected": f"\n\nHuman: {i}\n\nAssistant: no"} for i, text in enumerate(whole)]
    assert pairs_in(tmp_path, rows) == pairs_of(CHATS)
    answering = [row | {key: row[key] + "\nAnswer: 42"} for row in rows]
    heading = names[1] == "Response"
    assert any(answer.endswith("Answer: 42") for _, answer in pairs_in(tmp_path, answering)) != heading
    quoting = [row | {key: row[key] + ("\nSystem: ready" if not row["id"] else "")} for row in rows]
    assert any(answer.endswith("System: ready") for _, answer in pairs_in(tmp_path, quoting))
    draft = drafted(of(tmp_path, "b.jsonl", [row | {key: f"A chat.\n{row[key]}"} for row in rows]))
    assert draft.notes[-1] == f"left out: {len(CHATS)} turns of neither side, or without text"
    calls = [row | {key: row[key] + "\nFUNCTION RESPONSE: {}\n"} for row in rows]
    assert "no two columns look like a text and its answer" in refusal(tmp_path, calls)


def test_earlier_turns_beside_a_request_come_first(tmp_path: Path) -> None:
    """The request and its answer were left out."""
    kinds = {"q": "human", "a": "ai"}
    earlier = [[{"type": kinds[w], "content": t} for w, t in c[:2]] for c in CHATS]
    chains = [{"input": c[2][1], "chat_history": earlier[i], "output": c[3][1]} for i, c in enumerate(CHATS)]
    assert pairs_in(tmp_path, chains) == pairs_of(CHATS)
    parts = [(c[2]["content"], c[:2] if i % 3 else [], c[3]["content"]) for i, c in enumerate(OWN)]
    first = [{"question": asked, "history": earlier, "answer": reply} for asked, earlier, reply in parts]
    both = pairs_of([chat if i % 3 else chat[2:] for i, chat in enumerate(CHATS)])
    assert pairs_in(tmp_path, first) == both
    logged = [{"model": "x", "messages": c[:3], "message": c[3], "done": True} for c in OWN]
    assert pairs_in(tmp_path, logged) == pairs_of(CHATS)


def test_attributes_of_spans_that_hold_json_are_read(tmp_path: Path) -> None:
    sides = [(json.dumps({"messages": c[:3]}), json.dumps({"choices": [{"message": c[3]}]})) for c in OWN]
    values = [{"input.value": asked, "output.value": reply} for asked, reply in sides]
    assert pairs_in(tmp_path, [{"name": "chat", "attributes": some} for some in values]) == pairs_of(CHATS)
    parts = [[{"role": t["role"], "parts": [{"type": "text", "content": t["content"]}]} for t in c] for c in OWN]
    keys = ("gen_ai.input.messages", "gen_ai.output.messages")
    spans = [{"attributes": {keys[0]: json.dumps(c[:3]), keys[1]: json.dumps(c[3:])}} for c in parts]
    assert pairs_in(tmp_path, spans) == pairs_of(CHATS)
    keyed = [{f"gen_ai.prompt.{i}.content": t["content"] for i, t in enumerate(c)} for c in OWN]
    numbered = [{"attributes": turns | {"answer": f"On {c[0]}"}} for turns, c in zip(keyed, OWN, strict=True)]
    assert 'are in numbered keys: attributes."gen_ai.prompt.0.content"' in refusal(tmp_path, numbered)


@pytest.mark.parametrize(
    "of_message",
    [
        lambda i, j, who: {"user": f"U{who}", "ts": f"17000{i}.{j}", "type": "message"},
        lambda i, j, who: {
            "type": ("Default", "Reply")[j > 0],
            "reference": {"messageId": f"{i}{j - 1}" if j else None},
        },
        lambda i, j, who: {"from": {"user": {"displayName": ("Ann", "Bob")[who == "a"]}}, "chat": f"{i}"},
        lambda i, j, who: {"ParticipantId": ("CUSTOMER", "AGENT")[who == "a"], "Id": f"{i}{j}"},
        lambda i, j, who: {"AuthorID": f"{i % 2}{who}", "Author": f"{who}{i % 2}", "Date": f"2026-01-01 10:0{j}"},
        lambda i, j, who: {"inbound": who == "q", "in_response_to_tweet_id": j or None},
    ],
    ids=["Slack", "Discord", "Teams", "Contact Lens", "channel of Discord", "tweets"],
)
def test_single_messages_are_no_examples(tmp_path: Path, of_message: Any) -> None:
    """Who wrote a message, or of what kind it is, was taken for its label."""
    rows = [{"content": t, **of_message(i, j, who)} for i, chat in enumerate(CHATS) for j, (who, t) in enumerate(chat)]
    assert "each row is one message of a conversation" in refusal(tmp_path, rows, "a.json")
    spoken = [[{"speakerId": who, "sentences": [{"text": t}]} for who, t in chat] for chat in CHATS]
    calls = [{"callId": f"{i}", "transcript": some} for i, some in enumerate(spoken)]
    assert "speakerId says who wrote it" in refusal(tmp_path, calls, "c.json")
    told = [row | {"stance": "yes" if i % 3 else "no"} for i, row in enumerate(rows)]
    assert {answer for _, answer in pairs_in(tmp_path, told, "b.json", answer="stance")} == {"yes", "no"}


def test_a_label_with_a_display_name_is_no_writer(tmp_path: Path) -> None:
    """Vertex AI's form of labels was taken for messages of several people."""
    rows = [{"classificationAnnotation": {"displayName": y}, "textContent": t} for t, y in PAIRS]
    assert pairs_in(tmp_path, rows) == set(PAIRS)


def test_what_a_customer_says_is_asked_and_what_an_agent_says_is_the_answer(tmp_path: Path) -> None:
    """The other way round, where the agent's column came first. Calls were refused, and Cohere's roles were unknown."""
    asked = {(c[0][1], c[1][1]) for c in CHATS}
    sides = [["call_id", "agent_text", "customer_text"], *([f"{i}", c[1][1], c[0][1]] for i, c in enumerate(CHATS))]
    assert pairs_in(tmp_path, sides, "a.csv") == asked
    calls = [[f"{i}", {"q": "customer", "a": "agent"}[who], t] for i, c in enumerate(CHATS) for who, t in c]
    assert pairs_in(tmp_path, [["call_id", "channel", "transcript"], *calls], "b.csv") == pairs_of(CHATS)
    tickets = [[f"{i}", {"q": "end-user", "a": "agent"}[who], t] for i, c in enumerate(CHATS) for who, t in c]
    assert pairs_in(tmp_path, [["ticket", "author_type", "comment"], *tickets], "d.csv") == pairs_of(CHATS)
    cohere = turns("role", "content", {"q": "User", "a": "Chatbot"})
    beside = {"role": "System", "content": "Be kind."}
    draft = drafted(of(tmp_path, "c.jsonl", [{"messages": [beside, *c]} for c in cohere]))
    assert (draft.system_prompt, draft.answers.rows) == ("Be kind.", 60)


def test_labels_with_what_they_mean_are_no_turns(tmp_path: Path) -> None:
    meant = [[{"name": y, "description": f"all of {y}"}] if i % 9 else [] for i, _, y in ROWS]
    issues = [{"number": i, "title": f"Bug {i}", "body": t, "labels": meant[i]} for i, t, _ in ROWS]
    expected = {(f"Bug {i}\n\n{t}", y) for i, t, y in ROWS if i % 9}
    assert pairs_in(tmp_path, issues, "a.json") == expected


def test_pieces_of_a_text_are_no_rows(tmp_path: Path) -> None:
    """Each piece was an example, and whether a person had marked it, the label."""
    rows = [{"data": [{"text": t[:8], "marked": False}, {"text": t[8:], "marked": True}], "count": 0} for t, _ in PAIRS]
    rows.insert(0, {"name": "a row of another kind"})
    assert "no two columns look like a text and its answer" in refusal(tmp_path, rows, "a.json")

"""Conversations, messages and logs as newcomers have them: each with the examples that it must give."""

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline_tests.unit.data.test_draft import CHATS, PAIRS, ROWS, drafted, of, turns
from finetune_pipeline_tests.unit.data.test_public_sets import pairs_in, refusal


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
    assert "turns whose speakers are ids: speakerId" in refusal(tmp_path, calls, "c.json")
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

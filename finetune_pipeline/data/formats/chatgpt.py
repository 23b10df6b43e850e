"""ChatGPT's data export (conversations.json): the messages are nodes of a tree, and `current_node` names the last one shown."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_pipeline.data.formats.base import RawFormat, Turns, register
from finetune_pipeline.data.formats.messages import read_messages
from finetune_pipeline.data.json_lines import JsonObject
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.spec import TaskSpec

_HIDDEN = ("user_editable_context", "model_editable_context", "thoughts", "reasoning_recap")
"""Types of content that the page does not show as a turn."""


@register
class ChatGpt(RawFormat):
    """``{"title": "…", "mapping": {"<id>": {"message": {…}, "parent": "<id>"}}, "current_node": "<id>"}``"""

    name, order = "chatgpt", 15
    documented = "`mapping`, `current_node`: ChatGPT's data export; the thread that ends at the current node"
    row_keys = ("mapping", "current_node")
    needs = (("mapping",), ("current_node",))

    def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
        nodes = row["mapping"] if isinstance(row["mapping"], dict) else {}
        messages = [*_thread(nodes, row["current_node"])][::-1]
        if tools := {tool for message in messages if (tool := _tool(message))}:
            text = f"the assistant used {', '.join(map(quoted, sorted(tools)))}, and the export does not say how"
            turns.say("unsupported_part", text, "remove the conversation, or write it as `messages` with `tool_calls`")
        else:
            read_messages({"messages": [*map(_turn, messages)]}, "messages", spec, turns, loose=False)
        return {"mapping", "current_node"}


def _thread(nodes: Mapping[str, object], name: Any) -> Iterator[dict[str, object]]:
    """Yield the messages from a node up to the root, without hidden and empty ones."""
    visited = set()
    while isinstance(name, str) and isinstance(node := nodes.get(name), dict) and name not in visited:
        visited.add(name)
        message = node.get("message")
        if isinstance(message, dict) and not _is_hidden(message) and any(_parts(message)):
            yield message
        name = node.get("parent")


def _of(message: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = message.get(key)
    return value if isinstance(value, dict) else {}


def _is_hidden(message: Mapping[str, object]) -> bool:
    hidden = _of(message, "metadata").get("is_visually_hidden_from_conversation")
    return bool(hidden) or _of(message, "content").get("content_type") in _HIDDEN


def _parts(message: Mapping[str, object]) -> list[Any]:
    content = _of(message, "content")
    parts = content.get("parts", [content.get("text")])
    return parts if isinstance(parts, list) else [parts]


def _tool(message: Mapping[str, object]) -> str | None:
    """Return the tool that a message is sent to, or comes from; None without a tool."""
    author, recipient = _of(message, "author"), message.get("recipient") or "all"
    if author.get("role") == "tool":
        return str(author.get("name") or "a tool")
    return None if recipient == "all" else str(recipient)


def _turn(message: Mapping[str, object]) -> dict[str, object]:
    parts = [{**p, "type": p.get("content_type")} if isinstance(p, dict) else p for p in _parts(message)]
    return {"role": _of(message, "author").get("role"), "content": parts}

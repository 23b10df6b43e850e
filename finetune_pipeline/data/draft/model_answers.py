"""What a model or an annotator said, in the answers of APIs and tools that wrap it: the text alone, and where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from finetune_pipeline.data.formats.messages import REASONING_PARTS, TEXT_PARTS

Said = tuple[str, Any] | None
"""(expression, text) of what was said; None where a value has another form."""

_ITEMS = frozenset((*TEXT_PARTS, *REASONING_PARTS, "message", "redacted_thinking"))


def answer_in(value: Any, path: str) -> Said:
    """What was said in the value at `path`, by the first form that reads it; None for every other value."""
    if isinstance(value, dict):
        return next((said for form in _OBJECTS if (said := form(value, path))), None)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return next((said for form in _LISTS if (said := form(value, path))), None)
    return None


def _candidates(value: Mapping[str, Any], path: str) -> Said:
    """Gemini's response."""
    candidates = value.get("candidates")
    first = candidates[0] if isinstance(candidates, list) and candidates else None
    content = first.get("content") if isinstance(first, dict) else None
    texts = _texts(content.get("parts")) if isinstance(content, dict) else []
    return (f"join('', {path}.candidates[0].content.parts[].text)", "".join(texts)) if texts else None


def _choices(value: Mapping[str, Any], path: str) -> Said:
    """The response of OpenAI's chat completions."""
    choices = value.get("choices")
    messages = [c.get("message") for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
    said = [message.get("content") for message in messages if isinstance(message, dict)]
    return (f"{path}.choices[0].message.content", said[0]) if said and isinstance(said[0], str) else None


def _answers_by_key(value: Mapping[str, Any], path: str) -> Said:
    """SQuAD's answers in the form of the Hugging Face hub: a list for each key."""
    texts = value.get("text")
    return (f"{path}.text[0]", next(iter(texts), None)) if isinstance(texts, list) and "answer_start" in value else None


def _named_choice(value: Mapping[str, Any], path: str) -> Said:
    """The answer to a radio question of Labelbox."""
    is_choice = {"feature_id", "name"} <= value.keys() and not any("answer" in key for key in value)
    return (f"{path}.name", value["name"]) if is_choice else None


def _answers(value: list[dict[str, Any]], path: str) -> Said:
    """SQuAD's answers to a question: the first."""
    is_list = value and all({"text", "answer_start"} <= item.keys() for item in value)
    return (f"{path}[0].text", value[0]["text"]) if is_list else None


def _parts(value: list[dict[str, Any]], path: str) -> Said:
    """Content parts, or items of such parts, of the assistant alone."""
    if not all(str(item.get("type")) in _ITEMS and item.get("role", "assistant") == "assistant" for item in value):
        return None
    inner = [part for item in value if isinstance(parts := item.get("content"), list) for part in parts]
    texts = _texts(inner or value)
    return (f"join('', {path}{'[].content' if inner else ''}[].text)", "".join(texts)) if texts else None


def _texts(parts: Any) -> list[str]:
    said = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return [text for text in said if isinstance(text, str)]


_OBJECTS: tuple[Callable[[Mapping[str, Any], str], Said], ...] = (_candidates, _answers_by_key, _choices, _named_choice)
_LISTS: tuple[Callable[[list[dict[str, Any]], str], Said], ...] = (_answers, _parts)

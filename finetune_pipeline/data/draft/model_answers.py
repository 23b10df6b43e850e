"""Finds the text of an answer in the responses of APIs and in the exports of annotation tools."""

from functools import cache
from typing import Any

from finetune_pipeline.data.fields import EXPRESSION_ERRORS, Getter, compile_expression
from finetune_pipeline.data.formats.messages import REASONING_PARTS, TEXT_PARTS
from finetune_pipeline.data.names import SPEAKERS, TEXTS, WRITTEN

_ITEMS = frozenset((*TEXT_PARTS, *REASONING_PARTS, "message", "redacted_thinking"))
_SCORES = ("score", "overall_score", "rating", "votes", "upvotes")


def answer_in(value: Any, path: str) -> tuple[str, Any] | None:
    """Return (expression, text) of the answer in the value at `path`; None if the value has no known form."""
    if not (form := _form_of_object(value) if isinstance(value, dict) else _form_of_list(value)):
        return None
    try:
        text = _reader(form)(value, "", None)
    except EXPRESSION_ERRORS:
        return None
    return (form.format(path), text) if text or "answer_start" in value else None  # SQuAD has unanswered questions


@cache
def _reader(form: str) -> Getter:
    return compile_expression(form.format("@"))[0]


def _form_of_object(value: dict[str, Any]) -> str:
    """Return the expression of the answer in an object, with {} for its path; empty for any other object."""
    if "candidates" in value:
        return "join('', {}.candidates[0].content.parts[].text)"  # Gemini
    if "choices" in value:
        return "{}.choices[0].message.content"  # OpenAI's chat completions
    if isinstance(value.get("text"), list) and "answer_start" in value:
        return "{}.text[0]"  # SQuAD's answers in the form of the Hugging Face hub
    is_named = {"feature_id", "name"} <= value.keys() and not any("answer" in key for key in value)
    return "{}.name" if is_named else ""  # the answer to a radio question of Labelbox


def _form_of_list(value: Any) -> str:
    """Return the same for a list: SQuAD's answers, content parts of the assistant only, or answers with scores."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return ""
    keys = set(value[0]).intersection(*value)
    if {"text", "answer_start"} <= keys:
        return "{}[0].text"
    if all(str(item.get("type")) in _ITEMS and item.get("role", "assistant") == "assistant" for item in value):
        inner = any(isinstance(item.get("content"), list) for item in value)
        return f"join('', {{}}{'[].content' * inner}[].text)"
    scores = [key for key in _SCORES if key in keys and all(type(item[key]) in (int, float) for item in value)]
    texts = [key for key in (*WRITTEN, *TEXTS) if key in keys and all(isinstance(item[key], str) for item in value)]
    is_answers = scores and texts and keys.isdisjoint(("start", *SPEAKERS[:3]))  # no spans, and no turns
    return f"max_by({{}}, &{scores[0]}).{texts[0]}" if is_answers else ""

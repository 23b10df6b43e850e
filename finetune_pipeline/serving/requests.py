"""Validates requests: OpenAI-style chat completions and feedback. Every error says what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.data.examples import Message
from finetune_pipeline.findings import shortened
from finetune_pipeline.production.log_rows import ROLES, SYSTEM_ROLES, feedback_problems
from finetune_pipeline.spec.model import TaskSpec

MOST_ALTERNATIVES = 20
"""Maximum of `top_logprobs`, as in OpenAI's interface."""
FEEDBACK = ("flag", "score", "correction", "label")
_USED = {
    "messages", "model", "n", "stream", "stream_options", "store", "max_tokens", "max_completion_tokens", "user",
    "response_format", "logprobs", "top_logprobs",
}  # fmt: skip
_IGNORED = {
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prediction",
}  # fmt: skip
"""Settings of sampling, bookkeeping and speed: the answer stays the one of the evaluation."""
_TYPES: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("stream", "store", "logprobs"), (bool, "true or false")),
    "stream_options": (Mapping, "an object"),
    "user": (str, "text"),
}
_DEFAULTS: dict[str, object] = {"modalities": ["text"]}
"""Values that request the default behaviour."""


class BadRequest(ValueError):
    """A request that cannot be answered: HTTP status, the field, and OpenAI's error code."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(shortened(message))
        self.param, self.status, self.code = param and shortened(param), status, code

    def body(self) -> dict[str, object]:
        """Return the error in OpenAI's format."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Chat:
    """A conversation without its system turn.

    max_tokens: the client's limit, or None; store: whether to log it; usage: whether a stream ends with the token counts;
    constrained: whether to decode the answer under the task's JSON schema; alternatives: of each token, for `logprobs`, or None.
    """

    messages: list[Message]
    user: str | None
    stream: bool
    max_tokens: int | None
    store: bool = True
    usage: bool = False
    constrained: bool = False
    alternatives: int | None = None


def parse_chat(
    body: Any, system_prompt: str, model_names: list[str], json_schema: Mapping[str, object] | None = None
) -> Chat:
    """Parse a chat completion request. system_prompt: the one the model was trained with; model_names: accepted names;
    json_schema: of the answers, the only one that `response_format` may name.

    Sampling settings (temperature, top_p, seed, …) are accepted but ignored: answers are greedy, as in the evaluation.
    Raises BadRequest for every other setting, since the answer would ignore it.
    """
    if not isinstance(body, Mapping):
        raise BadRequest("the body is not a JSON object")
    model = body.get("model")
    if model is not None and model not in model_names:
        raise BadRequest(f"there is no model {model!r:.80}; use {model_names[0]!r}", "model", 404, "model_not_found")
    requested_keys = {name for name, value in body.items() if value and value != _DEFAULTS.get(name)}
    if foreign := sorted(requested_keys - _USED - _IGNORED):
        raise BadRequest(f"not supported by this server: {', '.join(map(repr, foreign))}", foreign[0])
    if body.get("n") not in (None, 1):
        raise BadRequest("answers are greedy, so there is only one: omit 'n'", "n")
    for name, (kind, type_name) in _TYPES.items():
        if not isinstance(body.get(name), kind | None):
            raise BadRequest(f"{name!r} must be {type_name}", name)
    limit = None
    for name in ("max_tokens", "max_completion_tokens"):  # clients send null for omitted values
        limit = limit if body.get(name) is None else body[name]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise BadRequest(f"{name!r} must be a positive whole number", name)
    turns, options = _messages(body.get("messages"), system_prompt), body.get("stream_options") or {}
    stored, usage = body.get("store") is not False, bool(options.get("include_usage"))
    constrained = _constrained(body.get("response_format"), json_schema)
    alternatives = _alternatives(body)
    return Chat(
        turns, body.get("user") or None, bool(body.get("stream")), limit, stored, usage, constrained, alternatives
    )


def _alternatives(body: Mapping[str, object]) -> int | None:
    """Return how many alternatives to each token a request asks for; None without `logprobs`. Raises BadRequest."""
    name, number = "top_logprobs", body.get("top_logprobs")
    if number is not None:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MOST_ALTERNATIVES:
            raise BadRequest(f"{name!r} must be a whole number from 0 to {MOST_ALTERNATIVES}", name)
        if number and not body.get("logprobs"):
            raise BadRequest(f"{name!r} needs 'logprobs': true", name)
    return (number or 0) if body.get("logprobs") else None


def _constrained(response_format: Any, json_schema: Mapping[str, object] | None) -> bool:
    """Whether a request asks for JSON. Raises BadRequest for another form than that of the task's answers."""
    place = "response_format"
    if response_format is None or response_format == {"type": "text"}:
        return False
    if not isinstance(response_format, Mapping) or response_format.get("type") not in ("json_object", "json_schema"):
        raise BadRequest(f"{place!r} must have a type: text, json_object or json_schema", place)
    if json_schema is None:
        raise BadRequest(f"the answers of this model are no JSON: omit {place!r}", place)
    if response_format["type"] == "json_schema":
        described = response_format.get("json_schema")
        asked = described.get("schema") if isinstance(described, Mapping) else None
        if asked != json_schema:
            raise BadRequest(
                f"the model was trained for one form of answers, the task's output.json_schema: send that one, or omit {place!r}",
                place,
            )
    return True


def _messages(messages: Any, system_prompt: str) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a non-empty list of turns with role and content", "messages")
    turns: list[Message] = []
    for i, message in enumerate(messages):
        place = f"messages[{i}]"
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise BadRequest(f"{place} must have a role: one of {', '.join(ROLES)}", place)
        if message.get("tool_calls"):
            raise BadRequest(f"{place}.tool_calls is not supported by this server", f"{place}.tool_calls")
        content = message.get("content")
        if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
            texts = [part.get("text") for part in content]
            content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
        if not isinstance(content, str):
            raise BadRequest(f"{place}.content must be text", f"{place}.content")
        if message["role"] in SYSTEM_ROLES:
            if i or content.strip() != system_prompt.strip():
                raise BadRequest(
                    "the model was trained with its own system prompt and gives good answers only with that: "
                    "omit the system turn",
                    place,
                )
            continue
        turns.append({"role": message["role"], "content": content})
    if not turns or turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
        raise BadRequest("the last message must be a user's non-empty text", "messages")
    return turns


def parse_feedback(body: Any, spec: TaskSpec) -> tuple[str, dict[str, object], str | None]:
    """Parse a feedback request to (id, feedback, user). Raises BadRequest with every problem."""
    if not isinstance(body, Mapping):
        raise BadRequest("the body is not a JSON object")
    name, user = body.get("id"), body.get("user")
    if not isinstance(name, str) or not name.strip():
        raise BadRequest("'id' must be the id of an answer", "id")
    if user is not None and not isinstance(user, str):
        raise BadRequest("'user' must be text", "user")
    unknown = sorted(set(body) - {*FEEDBACK, "id", "user"})
    if unknown:
        raise BadRequest(f"unknown: {', '.join(map(repr, unknown))}; known: {', '.join(FEEDBACK)}", unknown[0])
    feedback = {k: body[k] for k in FEEDBACK if body.get(k) is not None}
    if not feedback:
        raise BadRequest(f"no feedback: give one of {', '.join(FEEDBACK)}")
    problems = list(feedback_problems(feedback, "feedback", spec))
    if problems:
        raise BadRequest("; ".join(f"{p.message}: {p.fix}" for p in problems))
    return name, feedback, user or None

"""Requests to ``/classify`` and their responses, in the form of vLLM's server, for a champion that is a classifier.

A client that works here works with vLLM. Two forms that vLLM accepts are refused, since its answers to them are not those of the
evaluation: `input`, which is read without the chat template, and `messages` without `add_generation_prompt`.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.serving.requests import BadRequest, Chat, parse_chat

_KEYS = {"model", "messages", "user", "store"}
"""Keys with the same meaning as in a chat completion."""


def parse_classify(body: Any, system_prompt: str, model_names: list[str]) -> Chat:
    """Parse a request. The arguments are those of :func:`.requests.parse_chat`. Raises BadRequest."""
    if not isinstance(body, Mapping):
        raise BadRequest("the body is not a JSON object")
    if body.get("input") is not None:
        raise BadRequest(
            "send 'messages': 'input' is read without the chat template, with which the model was trained", "input"
        )
    if body.get("add_generation_prompt") is not True:
        raise BadRequest(
            "set 'add_generation_prompt' to true: the model reads the label at the last token of that prompt",
            "add_generation_prompt",
        )
    if body.get("use_activation") not in (None, True):
        raise BadRequest("only probabilities are returned: omit 'use_activation'", "use_activation")
    unknown = sorted(
        {key for key, value in body.items() if value} - _KEYS - {"add_generation_prompt", "use_activation"}
    )
    if unknown:
        raise BadRequest(f"not supported by this server: {', '.join(map(repr, unknown))}", unknown[0])
    return parse_chat({key: value for key, value in body.items() if key in _KEYS}, system_prompt, model_names)


def classification(
    answer_id: str, model: str, answer: Answer, classes: Sequence[str], sure: Mapping[str, object]
) -> dict[str, object]:
    """Return the response with the answer to one conversation. sure: further fields, which say how sure it is."""
    data = {
        "index": 0,
        "label": answer.text,
        "probs": [math.exp(score) for score in answer.label_scores],
        "num_classes": len(classes),
        **sure,
    }
    tokens = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": 0, "total_tokens": answer.prompt_tokens}
    return {
        "id": answer_id,
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [data],
        "usage": tokens,
    }

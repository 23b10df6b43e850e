"""Chat turns as chat templates expect them."""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]


def for_template(message: Message) -> Message:
    """A turn as templates expect it: arguments of tool calls as objects, no keys that are only ours."""
    turn = {k: v for k, v in message.items() if k != "weight"}
    if calls := turn.get("tool_calls"):
        turn["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _object(call["function"]["arguments"])}}
            for call in calls
        ]
    return turn


def _object(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments

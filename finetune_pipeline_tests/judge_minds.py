"""Judging models of known character for a server of tests (openai_server): the name of the model says which one answers."""

import re
from collections.abc import Callable
from typing import Any

Mind = Callable[[str, str, str], str]


def right(reference: str, answer: str) -> bool:
    """Whether an answer has the number of the reference; without one, whether it begins with the reference."""
    number = re.search(r"\d+", reference)
    return number[0] in re.findall(r"\d+", answer) if number else answer.strip().startswith(reference.strip())


def fair(reference: str, first: str, second: str) -> str:
    """Prefers the answer that is right."""
    x, y = right(reference, first), right(reference, second)
    return "same" if x == y else "first" if x else "second"


def likes_long(reference: str, first: str, second: str) -> str:
    """Always the longer one."""
    return "first" if len(first) > len(second) else "second" if len(second) > len(first) else "same"


def likes_first(reference: str, first: str, second: str) -> str:
    """Always the first one."""
    return "First."


def padded(reference: str, first: str, second: str) -> str:
    """Right wherever one answer is right, and in love with length where there is nothing to choose."""
    result = fair(reference, first, second)
    return likes_long(reference, first, second) if result == "same" else result


def chatty(reference: str, first: str, second: str) -> str:
    """Never one of the three words."""
    return "I like both"


MINDS: dict[str, Mind] = {"fair": fair, "long": likes_long, "first": likes_first, "padded": padded, "chatty": chatty}


def judge_mind(body: dict[str, Any], seen: int) -> str | tuple[int, dict[str, str], bytes]:
    """What openai_server.Server asks: the answer of the model named in the request; `broken` fails."""
    if body["model"] == "broken":
        return 500, {}, b"no"
    asked = dict(re.findall(r"<<< ([\w ]+) >>>\n(.*?)\n<<< end of", body["messages"][1]["content"], re.S))
    return MINDS[body["model"]](asked["reference"], asked["first answer"], asked["second answer"])

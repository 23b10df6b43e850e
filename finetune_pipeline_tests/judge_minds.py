"""Fake judge models with known biases, served by :mod:`openai_server`. The requested model's name selects the judge."""

import re
from collections.abc import Callable
from typing import Any

Mind = Callable[[str, str, str], str]


def right(reference: str, answer: str) -> bool:
    """Whether an answer contains the reference's first number; without a number, whether it starts with the reference."""
    number = re.search(r"\d+", reference)
    return number[0] in re.findall(r"\d+", answer) if number else answer.strip().startswith(reference.strip())


def fair(reference: str, first: str, second: str) -> str:
    """Prefers the right answer."""
    first_right, second_right = right(reference, first), right(reference, second)
    return "same" if first_right == second_right else "first" if first_right else "second"


def likes_long(reference: str, first: str, second: str) -> str:
    """Prefers the longer answer."""
    return "first" if len(first) > len(second) else "second" if len(second) > len(first) else "same"


def likes_first(reference: str, first: str, second: str) -> str:
    """Prefers the first answer."""
    return "First."


def padded(reference: str, first: str, second: str) -> str:
    """Prefers the right answer; if both or neither are right, the longer one."""
    result = fair(reference, first, second)
    return likes_long(reference, first, second) if result == "same" else result


def chatty(reference: str, first: str, second: str) -> str:
    """Gives no valid verdict."""
    return "I like both"


def shy(reference: str, first: str, second: str) -> str:
    """Judges no pair whose reference has a number below 100."""
    number = re.search(r"\d+", reference)
    return "I cannot say" if number and int(number[0]) < 100 else fair(reference, first, second)


def leaning(reference: str, first: str, second: str) -> str:
    """Prefers the right answer, but of every fourth reference the one that is `surely`."""
    number = re.search(r"\d+", reference)
    if number and int(number[0]) % 4 == 0 and ("surely" in first) != ("surely" in second):
        return "first" if "surely" in first else "second"
    return fair(reference, first, second)


MINDS: dict[str, Mind] = {
    "shy": shy,
    "fair": fair,
    "long": likes_long,
    "first": likes_first,
    "padded": padded,
    "leaning": leaning,
    "chatty": chatty,
}


def judge_mind(body: dict[str, Any], repeats: int) -> str | tuple[int, dict[str, str], bytes]:
    """Answer a request of :class:`openai_server.Server` with the model it names; `broken` fails with status 500."""
    if body["model"] == "broken":
        return 500, {}, b"no"
    parts = dict(re.findall(r"<<< ([\w ]+) >>>\n(.*?)\n<<< end of", body["messages"][1]["content"], re.S))
    return MINDS[body["model"]](parts["reference"], parts["first answer"], parts["second answer"])

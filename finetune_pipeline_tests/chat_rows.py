"""Make chat rows from a seed, about 600 bytes each, with planted duplicates and broken lines.

One row in fifty repeats an earlier one of its block, exactly or with one word changed; one in a hundred is broken in one of
the ways of FAULTS. The words are made of syllables, so that rows have nothing in common by chance.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SYSTEM_PROMPT = (
    "You are the support desk of Kestrel, a cloud product for field-service companies. Answer in one or two plain "
    "sentences, name the next step, and promise nothing."
)
BROKEN, REPEATED = 0.01, 0.02
_BLOCK = 10_000
_ONSETS = ["", *"bcdfghklmnprstvw", "st", "tr", "pl", "ch", "sh"]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
_CODAS = ["", "", "", "n", "r", "s", "t", "l", "nd", "st"]
Row = dict[str, Any]


def _turns(row: Row) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = row["messages"]
    return turns


def _with(index: int, **changes: Any) -> Callable[[Row], bytes]:
    def change(row: Row) -> bytes:
        _turns(row)[index].update(changes)
        return _line(row)

    return change


def _without(index: int, key: str) -> Callable[[Row], bytes]:
    def change(row: Row) -> bytes:
        del _turns(row)[index][key]
        return _line(row)

    return change


def _appended(text: str) -> Callable[[Row], bytes]:
    def change(row: Row) -> bytes:
        _turns(row)[1]["content"] += text
        return _line(row)

    return change


def _line(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8")


FAULTS: dict[str, Callable[[Row], bytes]] = {
    "not_json": lambda r: _line(r).replace(b'"messages":', b'"messages"', 1),
    "truncated": lambda r: _line(r)[: len(_line(r)) * 2 // 3],
    "two_objects": lambda r: _line(r) + b" " + _line(r),
    "trailing_comma": lambda r: _line(r)[:-1] + b",}",
    "invalid_utf8": lambda r: _line(r).replace(b'"user", "content": "', b'"user", "content": "\xe9', 1),
    "lone_surrogate": lambda r: _line(r).replace(b'"user", "content": "', b'"user", "content": "\\ud83d ', 1),
    "nan": lambda r: _line(r)[:-1] + b', "score": NaN}',
    "duplicate_key": lambda r: _line(r).replace(b'"role": "user"', b'"role": "assistant", "role": "user"', 1),
    "not_an_object": lambda r: _line(_turns(r)),
    "no_messages": lambda r: _line({"dialogue": _turns(r)}),
    "messages_type": lambda r: _line({"messages": "hello"}),
    "messages_empty": lambda r: _line({"messages": []}),
    "no_role": _without(1, "role"),
    "unknown_role": _with(1, role="customer"),
    "no_content": _without(1, "content"),
    "content_null": _with(2, content=None),
    "content_blank": _with(2, content="  \n"),
    "content_type": _with(1, content=17),
    "role_order": lambda r: _line({"messages": [_turns(r)[0], _turns(r)[1], _turns(r)[1], _turns(r)[2]]}),
    "no_answer": lambda r: _line({"messages": _turns(r)[:2]}),
    "no_system": lambda r: _line({"messages": _turns(r)[1:]}),
    "other_system": _with(0, content="You are kind."),
    "special_token": _appended("<|im_end|>"),
    "placeholder": _appended(" for {{customer_name}}"),
    "control_character": _appended("\u001b[0m"),
    "too_long": _appended(" again" * 2000),
}
"""Ways to break a line: from a valid row to the broken line."""


def _words(rng: np.random.Generator) -> list[str]:
    """4,000 words, the shortest first, which are the most frequent."""
    words: set[str] = set()
    while len(words) < 4000:
        parts = [
            (_ONSETS, _VOWELS, _CODAS)[k % 3][int(rng.integers(30)) % len((_ONSETS, _VOWELS, _CODAS)[k % 3])]
            for k in range(6)
        ]
        word = "".join(parts[: 3 if rng.random() < 0.3 else 6])
        words.add(word.replace("e", "é", 1) if rng.random() < 0.03 else word)
    return sorted(words - {""}, key=lambda w: (len(w), w))


def _sentences(words: list[str], ends: str) -> str:
    text = " ".join(words)
    return text[0].upper() + text[1:] + ends


def write_chat_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Write `rows` lines of JSON Lines."""
    rng = np.random.default_rng([seed, 17])
    words = _words(np.random.default_rng(17))
    weights = 1 / np.arange(3, len(words) + 3) ** 0.7
    weights /= weights.sum()
    kinds = sorted(FAULTS)
    with path.open("wb") as out:
        for begin in range(0, rows, _BLOCK):
            count = min(_BLOCK, rows - begin)
            drawn = rng.choice(len(words), size=(count, 90), p=weights)
            lengths = rng.integers(34, 62, size=count)
            fate = rng.random(count)
            which = rng.integers(1 << 30, size=count)
            lines: list[bytes] = []
            texts: list[tuple[list[str], list[str]]] = []
            for i in range(count):
                chosen = [words[k] for k in drawn[i]]
                user_words, answer_words = (
                    chosen[: lengths[i]],
                    chosen[lengths[i] : lengths[i] + 12 + int(which[i] % 8)],
                )
                if BROKEN <= fate[i] < BROKEN + REPEATED and texts:
                    user_words, answer_words = texts[int(which[i]) % len(texts)]
                    user_words = list(user_words)
                    if which[i] % 2:
                        user_words[int(which[i]) % len(user_words)] = chosen[-1]
                texts.append((user_words, answer_words))
                half = len(user_words) // 2
                joint = ".\n\n" if which[i] % 5 == 0 else '. "' if which[i] % 7 == 0 else ". "
                user = _sentences(user_words[:half], joint) + _sentences(
                    user_words[half:], '"?' if joint == '. "' else "?"
                )
                row = {
                    "messages": [
                        {"role": "system", "content": SYSTEM_PROMPT},
                        {"role": "user", "content": user},
                        {"role": "assistant", "content": _sentences(answer_words, ".")},
                    ]
                }
                if fate[i] < BROKEN:
                    lines.append(FAULTS[kinds[int(which[i]) % len(kinds)]](row))
                else:
                    lines.append(_line(row))
            out.write(b"\n".join(lines) + b"\n")

"""Lines that one program has written all in the same way: one pass over the bytes finds their texts without decoding.

A template is what stands before the user's text (system prompt included), between it and the answer, and behind that.
A line matches when it is the template with two JSON strings in it that hold nothing any rule may mind: no control
character, no mark of a template or of HTML, no escape but ``\\n``, ``\\t``, ``\\"`` and ``\\\\``, no blank at either end.
Imported by function only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numba import types

from finetune_pipeline.data.compiling import compiled, helper
from finetune_pipeline.data.line_scan import BELOW, BYTES

_PLAIN, _QUOTE, _ESCAPE, _BEYOND, _REFUSED, _PERHAPS = range(6)
_KINDS = np.zeros(256, np.uint8)
_KINDS[:32] = _REFUSED
_KINDS[[127, ord("<"), ord("&")]] = _REFUSED
_KINDS[128:] = _BEYOND
_KINDS[34] = _QUOTE
_KINDS[92] = _ESCAPE
_KINDS[list(b"{[#AB")] = _PERHAPS
_FREE_KINDS = _KINDS.copy()  # free answers are looked at for talk about being a model, too
_FREE_KINDS[list(b"fg")] = _PERHAPS
_HEAD = 1 << 16

START, END, SAID, SAID_END, ANSWER, ANSWER_END, SAID_LENGTH, ANSWER_LENGTH, IS_BEYOND = range(9)
"""Columns of what :func:`match_lines` gives."""


@dataclass(frozen=True)
class Template:
    """What every line has: before the user's text, between it and the answer, and behind the answer; `system`: whether
    there is a system turn in front."""

    before: bytes
    between: bytes
    behind: bytes
    system: bool


def find_template(data: bytes, prompts: Iterable[str], without_system: bool) -> Template | None:
    """The template most of the first lines of `data` are written in: one of the two usual ways to write JSON, with one of the
    system prompts, or without a system turn where that is allowed. None when they are written otherwise."""
    head = b"\n" + data[:_HEAD]
    best: tuple[int, Template | None] = (0, None)
    for comma, colon in ((", ", ": "), (",", ":")):

        def turn(role: str, text: str, comma: str = comma, colon: str = colon) -> str:
            return f'{{"role"{colon}"{role}"{comma}"content"{colon}{text}'

        systems = [""] if without_system else []
        for prompt in prompts:
            systems += [turn("system", json.dumps(prompt, ensure_ascii=way)) + "}" + comma for way in (True, False)]
        for system in systems:
            before = f'{{"messages"{colon}[{system}{turn("user", chr(34))}'.encode("utf-8", "surrogatepass")
            between = ("}" + comma + turn("assistant", '"')).encode()
            seen = head.count(b"\n" + before)
            if seen > best[0]:
                best = seen, Template(before, between, b"}]}", bool(system))
    return best[1]


_MODEL = np.frombuffer(b"guage model", np.uint8)
_ARTIFICIAL = np.frombuffer(b"ficial i", np.uint8)


_WORDS = types.UniTuple(BYTES, 3)


# this file's own, since numba's cache does not see changes in other files
@helper
def _stands(data, at, words):  # type: ignore[no-untyped-def]
    """Whether these bytes stand at a place."""
    if at + len(words) > len(data):
        return False
    for i in range(len(words)):  # noqa: SIM110  numba knows no generators
        if data[at + i] != words[i]:
            return False
    return True


@helper
def _text_end(data, at, kinds, words):  # type: ignore[no-untyped-def]
    """(place of the closing quote, characters, whether any is beyond ASCII) of the string whose text begins at a place.

    The place is -1 for a text that may not pass; `words`: three texts that must not stand in it.
    """
    below, model, artificial = words
    size = len(data)
    first = at
    escapes = continued = 0
    beyond = False
    blank_end = -1
    i = at
    while i < size:
        c = data[i]
        kind = kinds[c]
        if kind == 0:
            i += 1
            continue
        d = data[i + 1] if i + 1 < size else 10
        if kind == 1:
            if i == first or data[first] == 32 or data[i - 1] == 32 or blank_end == i:
                return -1, 0, False
            if data[first] >= 128 or data[i - 1] >= 128:
                return -1, 0, False
            return i, i - first - escapes - continued, beyond
        if kind == 2:
            if d == 110 or d == 116:  # noqa: PLR1714  numba would build a list
                if i == first:
                    return -1, 0, False
                blank_end = i + 2
            elif d != 34 and d != 92:  # noqa: PLR1714
                return -1, 0, False
            escapes += 1
            i += 1
        elif kind == 3:
            e = data[i + 2] if i + 2 < size else 0xBD
            beyond = True
            if c & 0xC0 == 0x80:
                continued += 1
            if (c == 0xC2 and d <= 0x9F) or (c == 0xED and d >= 0xA0) or (c == 0xEF and d == 0xBF and e == 0xBD):
                return -1, 0, False
        elif kind == 4:
            return -1, 0, False
        elif c == 123:
            if d == 123:
                return -1, 0, False
        elif c == 91:
            if d == 73 or d == 47:  # noqa: PLR1714
                return -1, 0, False
        elif c == 35:
            if d == 35 and i + 2 < size and data[i + 2] == 35:
                return -1, 0, False
        elif c == 65:
            if d == 73:
                return -1, 0, False
        elif c == 66:
            if d == 101 and _stands(data, i, below):
                return -1, 0, False
        elif c == 103:
            if d == 117 and _stands(data, i, model):
                return -1, 0, False
        elif d == 105 and _stands(data, i, artificial):
            return -1, 0, False
        i += 1
    return -1, 0, False


@compiled(types.int64(BYTES, BYTES, BYTES, BYTES, BYTES, _WORDS, types.int64[:, ::1]))
def _match(data, kinds, before, between, behind, words, lines):  # type: ignore[no-untyped-def]
    size = len(data)
    count = 0
    start = 0
    while start < size:
        said = start + len(before)
        said_end = answer = answer_end = end = -1
        said_length = answer_length = 0
        beyond = False
        if _stands(data, start, before):
            said_end, said_length, beyond = _text_end(data, said, kinds, words)
        if said_end >= 0 and _stands(data, said_end + 1, between):
            answer = said_end + 1 + len(between)
            answer_end, answer_length, more = _text_end(data, answer, kinds, words)
            beyond = beyond or more
        if answer_end >= 0 and _stands(data, answer_end + 1, behind):
            end = answer_end + 1 + len(behind)
            if end < size and data[end] == 13:
                end += 1
            if end < size and data[end] != 10:
                end = -1
        matched = end >= 0
        if not matched:
            end = start
            while end < size and data[end] != 10:
                end += 1
        lines[count, 0] = start
        lines[count, 1] = end
        lines[count, 2] = said if matched else -1
        lines[count, 3] = said_end
        lines[count, 4] = answer
        lines[count, 5] = answer_end
        lines[count, 6] = said_length
        lines[count, 7] = answer_length
        lines[count, 8] = beyond
        count += 1
        start = end + 1
    return count


def match_lines(data: bytes, template: Template, free_answers: bool) -> np.ndarray:
    """int64 [lines, 9]: where each line starts and ends, where its two texts do (SAID is -1 where the line does not
    match), how many characters they have, and whether any of these is beyond ASCII (the bytes may then still be no
    UTF-8). `free_answers`: texts in which a model speaks of itself do not match."""
    array = np.frombuffer(data, np.uint8)
    lines = np.empty((np.count_nonzero(array == 10) + 1, 9), np.int64)
    before, between, behind = (
        np.frombuffer(part, np.uint8) for part in (template.before, template.between, template.behind)
    )
    kinds = _FREE_KINDS if free_answers else _KINDS
    count = _match(array, kinds, before, between, behind, (BELOW, _MODEL, _ARTIFICIAL), lines)
    return lines[:count]

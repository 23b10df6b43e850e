"""One pass over the bytes of JSON Lines that tells which lines need a closer look. Imported by function only."""

from __future__ import annotations

import numpy as np
from numba import types

from finetune_pipeline.data.compiling import compiled, helper

CLEAN, OTHER_SCRIPT, DOUBTFUL = 0, 1, 2
"""What a line is: nothing to see, letters beyond ASCII or escaped, anything the rules may mind."""

_NOTHING, _NEWLINE, _COLON, _ESCAPE, _CONTROL, _BEYOND, _OTHER = range(7)
_KINDS = np.zeros(256, np.uint8)
_KINDS[:32] = _CONTROL
_KINDS[127] = _CONTROL
_KINDS[128:] = _BEYOND
_KINDS[10] = _NEWLINE
_KINDS[58] = _COLON
_KINDS[92] = _ESCAPE
_KINDS[list(b"<&{[#AB")] = _OTHER
BELOW = np.frombuffer(b"Below is an i", np.uint8)
BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_OUT = types.uint8[::1]


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
def _hex(data, at):  # type: ignore[no-untyped-def]
    """The number that four hexadecimal digits at a place stand for, -1 when they are none."""
    if at + 4 > len(data):
        return -1
    number = 0
    for i in range(at, at + 4):
        c = data[i]
        if 48 <= c <= 57:
            digit = c - 48
        elif 97 <= c <= 102:
            digit = c - 87
        elif 65 <= c <= 70:
            digit = c - 55
        else:
            return -1
        number = number * 16 + digit
    return number


@compiled(types.void(BYTES, BYTES, BYTES, BYTES, types.int64[::1], _OUT, _OUT))
def _scan(data, kinds, prompt, below, starts, states, keys):  # type: ignore[no-untyped-def]
    size = len(data)
    line, found, state = 0, 0, 0
    starts[0] = 0
    i = 0
    while i < size:
        c = data[i]
        kind = kinds[c]
        if kind == 0:
            i += 1
            continue
        d = data[i + 1] if i + 1 < size else 10
        if kind == 1:  # line end
            states[line] = state
            keys[line] = min(found, 255)
            line += 1
            starts[line] = i + 1
            found, state = 0, 0
        elif kind == 2:  # a colon behind a quote ends a key; a text that reads like that is taken for one too
            j = i - 1
            while j >= 0 and data[j] == 32:
                j -= 1
            if j >= 0 and data[j] == 34:
                found += 1
                j = i + 2 if d == 32 else i + 1
                if len(prompt) and _stands(data, j, prompt):
                    i = j + len(prompt)
                    continue
        elif kind == 3:  # escape
            if d == 117:
                code = _hex(data, i + 2)
                state = max(state, 1)
                if code <= 0x9F or code == 0xFFFD or 0xDC00 <= code <= 0xDFFF:
                    state = 2
                elif 0xD800 <= code <= 0xDBFF:
                    low = _hex(data, i + 8) if i + 12 <= size and data[i + 6] == 92 and data[i + 7] == 117 else -1
                    if 0xDC00 <= low <= 0xDFFF:
                        i += 6
                    else:
                        state = 2
            elif d != 110 and d != 34 and d != 92 and d != 47 and d != 116:  # noqa: PLR1714  numba would build a list
                state = 2
            i += 1 if d != 10 else 0
        elif kind == 4:  # control character, unless the line ends with CR and LF
            if c != 13 or d != 10:
                state = 2
        elif kind == 5:  # beyond ASCII: C1 controls, U+FFFD and surrogates are looked at closely
            e = data[i + 2] if i + 2 < size else 0xBD
            state = max(state, 1)
            if (c == 0xC2 and d <= 0x9F) or (c == 0xED and d >= 0xA0) or (c == 0xEF and d == 0xBF and e == 0xBD):
                state = 2
        elif c == 123:  # {{
            if d == 123:
                state = 2
        elif c == 91:  # [INST], [/INST]
            if d == 73 or d == 47:  # noqa: PLR1714
                state = 2
        elif c == 35:  # ###
            if d == 35 and i + 2 < size and data[i + 2] == 35:
                state = 2
        elif c == 65:  # AI
            if d == 73:
                state = 2
        elif c == 66:
            if d == 101 and _stands(data, i, below):
                state = 2
        else:  # < and &
            state = 2
        i += 1
    states[line] = state
    keys[line] = min(found, 255)


def scan_lines(data: bytes, prompt: bytes = b"") -> tuple[np.ndarray, bytes, bytes]:
    """(byte offset, state, number of keys up to 255) of every line; a text that ends with a line end has one more,
    empty line.

    The number of keys is never too small, and too large only for texts that hold a quote in front of a colon. `prompt`:
    a text as it is written in these lines, quotes included, which is passed over where it is the value of a key.
    """
    array = np.frombuffer(data, np.uint8)
    lines = np.count_nonzero(array == 10) + 1
    starts = np.zeros(lines, np.int64)
    states = np.zeros(lines, np.uint8)
    keys = np.zeros(lines, np.uint8)
    _scan(array, _KINDS, np.frombuffer(prompt, np.uint8), BELOW, starts, states, keys)
    return starts, states.tobytes(), keys.tobytes()

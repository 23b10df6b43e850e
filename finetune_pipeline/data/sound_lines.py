"""Lines that are beyond doubt, sorted out at a microsecond each. Everything else is for the rules to judge.

A line is sound when it holds one chat in the canonical form, or one row of single texts, and nothing in it can set off
any rule. So nothing is said here about what is wrong with a line; a line is only ever doubted, never condemned.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from msgspec import UNSET

from finetune_pipeline.data.answer_rules import has_form
from finetune_pipeline.data.canonical_writer import CanonicalWriter, Row, Turn
from finetune_pipeline.data.chat_turns import clean_text
from finetune_pipeline.data.examples import ORIGINS
from finetune_pipeline.data.fields import mapping_of
from finetune_pipeline.data.flat_rows import FlatRow, as_chat
from finetune_pipeline.data.formats import NO_INPUT
from finetune_pipeline.data.readers.blocks import Block
from finetune_pipeline.data.text_rules import echoes
from finetune_pipeline.spec import TaskSpec

_LONGEST_NO_INPUT = max(map(len, NO_INPUT))
_PIECE = 1 << 18
_HEAD = 1 << 16
_DECODE_CHAT = msgspec.json.Decoder(Row).decode
_DECODE_FLAT = msgspec.json.Decoder(FlatRow).decode


@dataclass
class Sound:
    """What was sorted out: how many lines are sound, by shape too, their labels, their canonical rows; and the doubtful
    lines, each with the number of sound lines before it, its line number, byte offset and bytes."""

    count: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    rows: list[bytes] = field(default_factory=list)
    doubtful: list[tuple[int, int, int, bytes]] = field(default_factory=list)


def sort_out(block: Block, spec: TaskSpec, write: bool = True) -> Sound | None:
    """Tell the sound lines of a block from the doubtful ones; None when the spec asks for another form of rows."""
    wanted = spec.system_prompt.replace("\r\n", "\n").strip()
    prompts = tuple({p: None for p in (wanted, spec.system_prompt) if clean_text(p) == wanted})
    head = block.data[:_HEAD]
    flat = 2 * head.count(b'"messages"') < head.count(b"\n") + 1  # most rows are no chats
    formats = ("text_label", "prompt_completion", "instruction") if flat else ("messages",)
    known = mapping_of(spec) is None and not spec.data.roles and spec.data.format in ("auto", *formats)
    known = known and not has_form(spec.output)
    if not (known and prompts and wanted):
        return None
    sorter = _Sorter(block, spec, prompts, write, flat)
    at, line, data = 0, block.first, block.data
    while at < len(data):  # in pieces that stay in the processor's cache
        end = data.rfind(b"\n", at, at + _PIECE) + 1 or data.find(b"\n", at) + 1 or len(data)
        line += sorter.piece(data[at:end], line, block.start + at)
        at = end
    return sorter.sound


def _as_written(data: bytes, prompts: Iterable[str]) -> bytes:
    """The system prompt as the first lines write it, in quotes; nothing when it does not stand there."""
    head = data[: 1 << 16]
    ways = (
        json.dumps(prompt, ensure_ascii=way).encode("utf-8", "replace") for prompt in prompts for way in (True, False)
    )
    return next((written for written in ways if written in head), b"")


class _Sorter:
    def __init__(self, block: Block, spec: TaskSpec, prompts: tuple[str, ...], write: bool, flat: bool) -> None:
        from finetune_pipeline.data.line_templates import find_template

        self.sound = Sound()
        self._write, self._flat, self._format = write, flat, spec.data.format
        self._has_labels = bool(spec.labels)
        self._labels = {label.encode(): label for label in spec.labels if label.strip() == label}
        self._label_set = frozenset(self._labels.values())
        self._prompts, self._prompt_length = prompts, len(prompts[0])
        self._whole_prompt = len(spec.system_prompt)
        self._max, self._min = spec.data.max_chars, max(spec.data.min_chars, 1)
        self._inject = spec.data.inject
        self._writer = CanonicalWriter(block.file, spec)
        self._template = None if flat else find_template(block.data, prompts, spec.data.inject)
        self._prompt_written = _as_written(block.data, prompts)

    def piece(self, data: bytes, first: int, start: int) -> int:
        """Look at the lines of a piece that begins with line `first` at byte `start`. Returns their number.

        Lines that match the template are settled at once; what the others are is decided after decoding them.
        """
        if self._template is None:
            lines = data.split(b"\n")
            if not lines[-1]:
                lines.pop()
            ends = np.cumsum([len(line) + 1 for line in lines])
            places = [(i, start + int(ends[i]) - len(line) - 1) for i, line in enumerate(lines)]
            self._merge(first, {}, lines, places)
            return len(lines)
        from finetune_pipeline.data.line_templates import END, START, match_lines

        table = match_lines(data, self._template, not self._has_labels)
        good = self._settled(data, table)
        settled: dict[int, bytes] = {}
        if self._write:
            pair = self._writer.pair
            for i, row in zip(np.flatnonzero(good).tolist(), table[good].tolist(), strict=True):
                settled[i] = pair(data[row[2] : row[3]], data[row[4] : row[5]], first + i, bool(row[8]))
        self.sound.count += int(good.sum())
        self.sound.shapes["messages"] += int(good.sum())
        rest = np.flatnonzero(~good).tolist()
        begins, ends = table[:, START], table[:, END]
        lines = [data[begins[i] : ends[i]] for i in rest]
        self._merge(first, settled, lines, [(i, start + int(begins[i])) for i in rest])
        return len(table)

    def _settled(self, data: bytes, table: np.ndarray) -> np.ndarray:
        """Which lines that match the template are sound beyond doubt; their labels are counted."""
        from finetune_pipeline.data.line_templates import ANSWER_LENGTH, IS_BEYOND, SAID, SAID_LENGTH

        said, answer = table[:, SAID_LENGTH], table[:, ANSWER_LENGTH]
        around = self._prompt_length if self._template is not None and self._template.system else 0
        good = (table[:, SAID] >= 0) & (said >= max(self._min, _LONGEST_NO_INPUT + 1))
        good &= said + answer + around <= self._max
        if not self._has_labels:
            good &= (2 * answer < said) | (2 * said < answer)  # then it cannot be an echo
        if (good & (table[:, IS_BEYOND] > 0)).any() and not _is_utf8(data):
            for i in np.flatnonzero(good & (table[:, IS_BEYOND] > 0)).tolist():
                good[i] = _is_utf8(data[table[i, 0] : table[i, 1]])
        if self._has_labels:
            which = np.flatnonzero(good).tolist()
            found = [self._labels.get(data[a:b]) for a, b in table[which, 4:6].tolist()]
            for i, label in zip(which, found, strict=True):
                if label is None:
                    good[i] = False
            self.sound.labels.update(label for label in found if label is not None)
        return good

    def _merge(self, first: int, settled: dict[int, bytes], lines: list[bytes], places: list[tuple[int, int]]) -> None:
        """Add rows and doubtful lines in their order. `settled`: rows by place; `places`: (place, byte offset) of the
        other lines, each of which is decoded and looked at here."""
        from finetune_pipeline.data.line_scan import DOUBTFUL, scan_lines

        sound = self.sound
        if not lines:
            sound.rows += settled.values()
            return
        _, states, keys = scan_lines(b"\n".join(lines), self._prompt_written)
        read = self._flat_row if self._flat else self._chat_row
        doubtful: dict[int, tuple[int, bytes]] = {}
        answers: list[str] = []
        for line, state, found, (i, offset) in zip(lines, states, keys, places, strict=True):
            if state != DOUBTFUL:
                try:
                    told = read(line, found)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    told = None
                if told is not None:
                    shape, row = told
                    sound.count += 1
                    sound.shapes[shape] += 1
                    answers.append(row.messages[-1].content)
                    if self._write:
                        settled[i] = self._writer.written(row, first + i)
                    continue
            doubtful[i] = (offset, line)
        if self._has_labels:
            sound.labels.update(answers)
        for i in sorted({*settled, *doubtful}):
            if i in doubtful:
                sound.doubtful.append((len(sound.rows), first + i, *doubtful[i]))
            else:
                sound.rows.append(settled[i])

    def _chat_row(self, line: bytes, keys: int) -> tuple[str, Row] | None:
        """(shape, row) of a line with so many keys that holds a sound chat; None for another one."""
        row = _DECODE_CHAT(line)  # every key is known if there are as many as expected: all text is decoded
        return ("messages", row) if self._has_sound_keys(row, keys) and self._is_sound_chat(row.messages) else None

    def _flat_row(self, line: bytes, keys: int) -> tuple[str, Row] | None:
        """The same of a row of single texts, which always gets the system prompt."""
        told = as_chat(_DECODE_FLAT(line), keys)
        if told is None:
            return None
        shape, row, subject = told
        sound = self._format in ("auto", shape) and row.group != "" and (not row.origin or row.origin in ORIGINS)
        sound = sound and self._are_sound_turns(row.messages, 0, self._whole_prompt)
        if sound and subject and not self._has_labels:
            sound = not echoes(row.messages[1].content, subject)
        return (shape, row) if sound else None

    def _has_sound_keys(self, row: Row, keys: int) -> bool:
        """Whether a line's keys (it holds `keys` of them) are all known and there once, and hold what they should."""
        others = (row.label, row.group, row.origin, row.id)
        if keys != 1 + 2 * len(row.messages) + sum(other is not UNSET for other in others) or not row.messages:
            return False
        label_is_fine = not self._has_labels or not row.label or row.label == row.messages[-1].content
        return label_is_fine and row.group != "" and (not row.origin or row.origin in ORIGINS)

    @staticmethod
    def _is_answer(content: str, said: str) -> bool:
        """Whether a free answer sets off no rule."""
        return bool(
            content
            and content.strip() == content
            and not echoes(content, said)
            and "language model" not in content
            and "artificial i" not in content
        )

    def _is_sound_chat(self, turns: list[Turn]) -> bool:
        """Whether the turns of a chat break no rule."""
        start = 1 if turns and turns[0].role == "system" else 0
        if (len(turns) - start) % 2 or len(turns) < start + 2:
            return False
        if turns[0].content not in self._prompts if start else not self._inject:
            return False
        return self._are_sound_turns(turns, start, self._prompt_length if start else 0)

    def _are_sound_turns(self, turns: list[Turn], start: int, total: int) -> bool:
        """Whether the turns from `start` on break no rule; `total`: characters of those before."""
        length = -1
        for i in range(start, len(turns), 2):
            user, answer = turns[i], turns[i + 1]
            said, content = user.content, answer.content
            last = i + 2 == len(turns)
            if user.role != "user" or answer.role != "assistant" or not said or said.strip() != said:
                return False
            if len(said) <= _LONGEST_NO_INPUT and said.casefold() in NO_INPUT:
                return False
            if last and self._has_labels:
                if content not in self._label_set:
                    return False
            elif not self._is_answer(content, said if last else ""):
                return False
            length += len(said) + 1
            total += len(said) + len(content)
        return length >= self._min and total <= self._max


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

"""Lines that are beyond doubt, sorted out at a microsecond each. Everything else is for the rules to judge.

A line is sound when it holds one chat in the canonical form, and nothing in it can set off any rule. So nothing is
said here about what is wrong with a line; a line is only ever doubted, never condemned.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from finetune_pipeline.data.examples import ORIGINS
from finetune_pipeline.data.fields import mapping_of
from finetune_pipeline.data.formats import NO_INPUT
from finetune_pipeline.data.raw_files import PRODUCTION_FILE
from finetune_pipeline.data.readers.blocks import Block
from finetune_pipeline.data.text_rules import echoes
from finetune_pipeline.spec import TaskSpec

_LONGEST_NO_INPUT = max(map(len, NO_INPUT))
_PIECE = 1 << 18
_SHOWN_USER, _SHOWN_ASSISTANT = b',{"role":"user","content":', b',{"role":"assistant","content":'
_PLAIN_USER, _PLAIN_ASSISTANT = b',["user",', b',["assistant",'


class Turn(msgspec.Struct, gc=False):
    role: str
    content: str


class Row(msgspec.Struct, gc=False):
    messages: list[Turn]
    label: str | UnsetType | None = UNSET
    group: str | UnsetType | None = UNSET
    origin: str | UnsetType | None = UNSET
    id: str | UnsetType | None = UNSET


@dataclass
class Sound:
    """What was sorted out: how many lines are sound, their labels, their canonical rows; and the doubtful lines, each
    with the number of sound lines before it, its line number, byte offset and bytes."""

    count: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    rows: list[bytes] = field(default_factory=list)
    doubtful: list[tuple[int, int, int, bytes]] = field(default_factory=list)


def sort_out(block: Block, spec: TaskSpec, write: bool = True) -> Sound | None:
    """Tell the sound lines of a block from the doubtful ones; None when the spec asks for another form of rows."""
    from finetune_pipeline.data.line_scan import scan_lines

    if mapping_of(spec) is not None or spec.data.roles or spec.data.format not in ("auto", "messages"):
        return None
    sorter = _Sorter(block.file, spec, write)
    prompt = _as_written(block.data, sorter.prompts)
    at, line, data = 0, block.first, block.data
    while at < len(data):  # in pieces that stay in the processor's cache
        end = data.rfind(b"\n", at, at + _PIECE) + 1 or data.find(b"\n", at) + 1 or len(data)
        piece = data[at:end]
        starts, states, keys = scan_lines(piece, prompt)
        line += sorter.run(piece, line, block.start + at, starts, states, keys)
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
    def __init__(self, file: str, spec: TaskSpec, write: bool) -> None:
        self.sound = Sound()
        self._write = write
        self._has_labels = bool(spec.labels)
        self._labels = frozenset(label for label in spec.labels if label.strip() == label)
        wanted = spec.system_prompt.replace("\r\n", "\n").strip()
        self.prompts = (spec.system_prompt, wanted)
        self._prompt_length = len(wanted)
        self._max, self._min = spec.data.max_chars, max(spec.data.min_chars, 1)
        self._inject = spec.data.inject
        self._writer = CanonicalWriter(file, spec)

    def run(self, data: bytes, first: int, start: int, starts: np.ndarray, states: bytes, keys: bytes) -> int:
        """Look at every line of a piece that begins with line `first` at byte `start`. Returns the number of lines.

        The commonest form, three turns and no other key, is judged here, without a call.
        """
        sound = self.sound
        doubtful, rows = sound.doubtful, sound.rows
        decode = msgspec.json.Decoder(Row).decode
        write, written = self._write, self._writer.written
        prompt, stripped = self.prompts
        labels, has_labels = self._labels, self._has_labels
        shortest = max(self._min, _LONGEST_NO_INPUT + 1)
        longest = self._max - self._prompt_length
        answers: list[str] = []
        kept = answers.append
        count = sound.count
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for i, (line, state, found) in enumerate(zip(lines, states, keys, strict=False)):
            if state != 2:
                try:
                    row = decode(line)  # every key is known if there are as many as expected: all text is decoded
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    doubtful.append((count, first + i, start + int(starts[i]), line))
                    continue
                turns = row.messages
                if found == 7 and len(turns) == 3:
                    system, user, answer = turns
                    said, content = user.content, answer.content
                    is_sound = (
                        user.role == "user"
                        and answer.role == "assistant"
                        and system.role == "system"
                        and system.content in (stripped, prompt)
                        and (content in labels if has_labels else self._is_answer(content, said))
                        and said.strip() == said
                        and shortest <= len(said) <= longest - len(content)
                    ) or self._is_sound_chat(turns)
                else:
                    is_sound = self._has_sound_keys(row, found) and self._is_sound_chat(turns)
                if is_sound:
                    count += 1
                    kept(turns[-1].content)
                    if write:
                        rows.append(written(row, first + i))
                    continue
            doubtful.append((count, first + i, start + int(starts[i]), line))
        sound.count = count
        if has_labels:
            sound.labels.update(answers)
        return len(lines)

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
        if turns[0].content not in self.prompts if start else not self._inject:
            return False
        length, total = -1, self._prompt_length if start else 0
        for i in range(start, len(turns), 2):
            user, answer = turns[i], turns[i + 1]
            said, content = user.content, answer.content
            last = i + 2 == len(turns)
            if user.role != "user" or answer.role != "assistant" or not said or said.strip() != said:
                return False
            if len(said) <= _LONGEST_NO_INPUT and said.casefold() in NO_INPUT:
                return False
            if last and self._has_labels:
                if content not in self._labels:
                    return False
            elif not self._is_answer(content, said if last else ""):
                return False
            length += len(said) + 1
            total += len(said) + len(content)
        return length >= self._min and total <= self._max


class CanonicalWriter:
    """Writes sound rows as canonical JSON Lines, byte for byte as :class:`.examples.Example` would be written."""

    def __init__(self, file: str, spec: TaskSpec) -> None:
        self._encode = msgspec.json.Encoder().encode
        prompt = spec.system_prompt
        self._system = self._encode(prompt)
        # a canonical id is the digest of JSON in which nothing is escaped that need not be, as this encoder writes it
        plain = json.dumps(unicodedata.normalize("NFC", prompt.strip()), ensure_ascii=False)
        self._digest = sha256(b'[["system",' + plain.encode("utf-8", "surrogatepass") + b"]")
        self._begin = b'","messages":[{"role":"system","content":' + self._system + b"}"
        self._has_labels = bool(spec.labels)
        self._origin = "production" if file == PRODUCTION_FILE else "human"
        self._usual = (
            b',"group":null,"origin":' + self._encode(self._origin) + b',"source":{"file":' + self._encode(file)
        )
        self._source = b',"source":{"file":' + self._encode(file)

    def written(self, row: Row, line: int) -> bytes:
        """The canonical line of a row that stands at `line` of the file."""
        encode = self._encode
        turns = row.messages
        plain: list[bytes] = []
        shown = [self._begin]
        written = b"null"
        for turn in turns[1:] if turns[0].role == "system" else turns:
            content = turn.content
            written = encode(content)
            user = turn.role == "user"
            shown += (_SHOWN_USER if user else _SHOWN_ASSISTANT, written, b"}")
            if content.isascii() or unicodedata.is_normalized("NFC", content):
                plain += (_PLAIN_USER if user else _PLAIN_ASSISTANT, written, b"]")
            else:
                normal = encode(unicodedata.normalize("NFC", content))
                plain += (_PLAIN_USER if user else _PLAIN_ASSISTANT, normal, b"]")
        plain.append(b"]")
        digest = self._digest.copy()
        digest.update(b"".join(plain))
        name = digest.hexdigest()[:16]
        label = written if self._has_labels else b"null"
        if row.group or row.origin or row.id:
            rest = self._rest(row, name, line)
        else:
            rest = self._usual + b',"line":%d},"tags":[]}\n' % line
        return b"".join((b'{"id":"', name.encode(), *shown, b'],"label":', label, rest))

    def _rest(self, row: Row, name: str, line: int) -> bytes:
        group = self._encode(row.group or (None if row.group is UNSET else row.group))
        origin = self._encode(row.origin or self._origin)
        own = b',"id":' + self._encode(row.id) if row.id and row.id != name else b""
        return b"".join(
            (b',"group":', group, b',"origin":', origin, self._source, b',"line":%d' % line, own, b'},"tags":[]}\n')
        )

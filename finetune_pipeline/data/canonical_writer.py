"""Sound rows as canonical JSON Lines, byte for byte as :class:`.examples.Example` would be written, without making one."""

from __future__ import annotations

import json
import unicodedata
from hashlib import sha256

import msgspec
from msgspec import UNSET, UnsetType

from finetune_pipeline.data.raw_files import PRODUCTION_FILE
from finetune_pipeline.spec import TaskSpec

_SHOWN_USER, _SHOWN_ASSISTANT = b',{"role":"user","content":', b',{"role":"assistant","content":'
_PLAIN_USER, _PLAIN_ASSISTANT = b',["user",', b',["assistant",'


class Turn(msgspec.Struct, gc=False):
    """A turn of a chat without tools and weights."""

    role: str
    content: str


class Row(msgspec.Struct, gc=False):
    """A raw row that holds one chat, and perhaps some of the other keys."""

    messages: list[Turn]
    label: str | UnsetType | None = UNSET
    group: str | UnsetType | None = UNSET
    origin: str | UnsetType | None = UNSET
    id: str | UnsetType | None = UNSET


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

    def pair(self, said: bytes, answer: bytes, line: int, beyond: bool) -> bytes:
        """The canonical line of a row of one question and its answer, both as JSON strings without their quotes that
        hold no escape but ``\\n``, ``\\t``, ``\\"`` and ``\\\\``; `beyond`: they are not all ASCII."""
        plain = b',["user","' + said + b'"],["assistant","' + answer + b'"]]'
        if beyond and not unicodedata.is_normalized("NFC", plain.decode("utf-8")):
            # not this text is to be normalised: a letter of an escape must not take the accent behind it
            user, assistant = (unicodedata.normalize("NFC", json.loads(b'"' + t + b'"')) for t in (said, answer))
            plain = self._encode([["user", user], ["assistant", assistant]])
            plain = b"," + plain[1:]
        digest = self._digest.copy()
        digest.update(plain)
        return b"".join(
            (
                b'{"id":"',
                digest.hexdigest()[:16].encode(),
                self._begin,
                b',{"role":"user","content":"',
                said,
                b'"},{"role":"assistant","content":"',
                answer,
                b'"}],"label":"' + answer + b'"' if self._has_labels else b'"}],"label":null',
                self._usual,
                b',"line":%d},"tags":[]}\n' % line,
            )
        )

    def _rest(self, row: Row, name: str, line: int) -> bytes:
        group = self._encode(row.group or (None if row.group is UNSET else row.group))
        origin = self._encode(row.origin or self._origin)
        own = b',"id":' + self._encode(row.id) if row.id and row.id != name else b""
        return b"".join(
            (b',"group":', group, b',"origin":', origin, self._source, b',"line":%d' % line, own, b'},"tags":[]}\n')
        )

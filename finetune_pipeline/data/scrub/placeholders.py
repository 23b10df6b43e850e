"""Replaces hits with typed placeholders, the same one for the same value within an example. Samples of replaced values are shown
before (masked) and after, so that a person can see damage that counts do not show."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from finetune_pipeline.data.scrub.find import PLACEHOLDER, Finder, find_spans
from finetune_pipeline.data.scrub.kinds import KINDS, canonical, fingerprint
from finetune_pipeline.spec.teacher import PEOPLE_FILE, TEACHER_GENERATOR

if TYPE_CHECKING:
    from finetune_pipeline.data.examples import Example, Message

# the strings (with the colon of a key) and numbers of a JSON text
_JSON_PART = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"(?P<key>\s*:)?|\Z)|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.S)
SAMPLES, SHOWN = "scrubbed_samples.jsonl", 3
_KEPT_OF_A_KIND = 4 * SHOWN  # more than SHOWN, because samples of the sealed test's rows are not shown
_CONTEXT = 32
_TO_MASK = re.compile(r"[^\s().:/@_>-]")
_BLANKS = re.compile(r"\s+")
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


class Replacement(NamedTuple):
    """A replaced value. masked: a form of the value that is safe to show."""

    kind: str
    placeholder: str
    fingerprint: str
    masked: str


class Scrubbed(NamedTuple):
    """An example without personal data: its turns, hits per kind, and one replacement per value in order of occurrence (none
    without a key)."""

    messages: list[Message]
    counts: dict[str, int]
    replacements: list[Replacement]


class Scrubber:
    """Replaces hits in one example: the same value gets the same placeholder everywhere in it. texts: all texts of the example;
    the numbers of their existing placeholders are not used again."""

    def __init__(self, texts: Iterable[str] = (), key: bytes | None = None, find: Finder = find_spans) -> None:
        self._placeholders: dict[tuple[str, str], str] = {}
        self._last_number: defaultdict[str, int] = defaultdict(int)
        self._key = key
        self._find = find
        for text in texts:
            for kind, number in PLACEHOLDER.findall(text) if "[" in text else ():
                self._last_number[kind.lower()] = max(self._last_number[kind.lower()], int(number))
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.replacements: list[Replacement] = []

    def scrub(self, text: str, lead: str = "") -> str:
        """Replace hits until nothing is found any more, and count every replacement in `counts`. Hits depend on the words
        before them: `lead` is read as if it preceded the text."""
        while spans := [s for s in self._find(lead + text) if s.end > len(lead)]:
            parts, at = [], 0
            for span in spans:
                start, end = max(0, span.start - len(lead)), span.end - len(lead)
                parts += [text[at:start], self._placeholder(span.kind, text[start:end])]
                at = end
                self.counts[span.kind] += 1
            text = "".join([*parts, text[at:]])
        return text

    def scrub_json(self, text: str) -> str:
        """Scrub the strings of a JSON text, which stays valid. A value is read together with its key (``"phone":
        "5550142000"``). A number that is a hit becomes a string. Keys stay. A text that is not JSON is scrubbed as plain
        text."""
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return self.scrub(text)
        key = ""
        parts, at = [], 0
        for hit in _JSON_PART.finditer(text):
            if hit["key"] is not None:
                key = json.loads(text[hit.start() : hit.start("key")])
                continue
            value = json.loads(hit[0])
            original = value if isinstance(value, str) else hit[0]
            scrubbed = self.scrub(original, lead=f"{key}: " if key else "")
            if scrubbed != original:
                parts += [text[at : hit.start()], json.dumps(scrubbed, ensure_ascii=False)]
                at = hit.end()
        return "".join([*parts, text[at:]])

    def _placeholder(self, kind: str, value: str) -> str:
        identity = (kind, canonical(kind, value))
        if identity not in self._placeholders:
            self._last_number[kind] += 1
            self._placeholders[identity] = f"[{kind.upper()}_{self._last_number[kind]}]"
            if self._key is not None:
                digest = fingerprint(self._key, kind, value)
                self.replacements.append(Replacement(kind, self._placeholders[identity], digest, masked(value)))
        return self._placeholders[identity]


def scrub_turns(
    messages: Sequence[Message], keep: Sequence[int] = (), key: bytes | None = None, find: Finder = find_spans
) -> Scrubbed:
    """Scrub contents and arguments of tool calls. System turns (the spec's own words) and the turns in `keep` stay. With a
    key, the result lists the replacements."""
    scrubber = Scrubber((m["content"] for m in messages), key, find)
    turns: list[Message] = []
    for i, message in enumerate(messages):
        turn = message.copy()
        if message["role"] != "system" and i not in keep:
            turn["content"] = scrubber.scrub(message["content"])
            if calls := message.get("tool_calls"):
                turn["tool_calls"] = [{**call, "function": call["function"].copy()} for call in calls]
                for function in (call["function"] for call in turn["tool_calls"]):
                    function["arguments"] = scrubber.scrub_json(function["arguments"])
        turns.append(turn)
    counts = {kind: scrubber.counts[kind] for kind in KINDS if kind in scrubber.counts} if scrubber.counts else {}
    return Scrubbed(turns, counts, scrubber.replacements)


def scrub_text(text: str, find: Finder = find_spans) -> str:
    return Scrubber([text], find=find).scrub(text)


def scrub_example(
    example: Example, labels: Sequence[str] = (), key: bytes | None = None, find: Finder = find_spans
) -> tuple[Example, dict[str, int], list[Replacement]]:
    """Scrub an example. Returns (the example with placeholders, hits per kind, replacements; none without a key). System turns
    and tool definitions are the task's own words and stay, and so does the answer of a task with labels."""
    scrubbed = scrub_turns(example.messages, _unscrubbed(example, labels), key, find)
    if not scrubbed.counts:
        return example, {}, []
    return replace(example, messages=scrubbed.messages), scrubbed.counts, scrubbed.replacements


def scrub_keys(example: Example, key: bytes, find: Finder = find_spans) -> Example:
    """Replace those keys of an example (see :func:`_keys`) that hold personal data or secrets by keyed fingerprints in letters.
    They are only compared, and numbered placeholders would join the groups of different people."""
    keys = [(text, find(text)) for text in _keys(example)]
    new = {text: fingerprint(key, spans[0].kind, text).translate(_LETTERS) for text, spans in keys if spans}
    if not new:
        return example
    group, generator = (new.get(value or "", value) for value in (example.group, example.generator))
    source = {name: new.get(value, value) for name, value in example.source.items()}
    tags = [new.get(tag, tag) for tag in example.tags]
    return replace(example, group=group, generator=generator, source=source, tags=tags)


def _keys(example: Example) -> list[str]:
    """Return group, id in the raw file, generator and tags, but not the ids of log rows that people
    corrected or answered, or a teacher answered: they name these rows."""
    is_logged = example.origin == "production" or (example.generator or "").startswith(TEACHER_GENERATOR)
    is_logged |= example.source.get("file") == PEOPLE_FILE
    tags = [tag for tag in example.tags if not (is_logged and tag.startswith("log:"))]
    return [text for text in (example.group, example.source.get("id"), example.generator, *tags) if text]


def kinds_left(example: Example, labels: Sequence[str] = (), find: Finder = find_spans) -> list[str]:
    """Return the kinds of all remaining hits in the texts and keys that are scrubbed."""
    counts = scrub_turns(example.messages, _unscrubbed(example, labels), None, find).counts
    return [*Counter(counts).elements(), *(span.kind for text in _keys(example) for span in find(text))]


def _unscrubbed(example: Example, labels: Sequence[str]) -> tuple[int, ...]:
    return (len(example.messages) - 1,) if labels else ()


@dataclass(frozen=True)
class Sample:
    """A hit shown to people. before: the text around it, with the value masked. after: the same with the placeholder."""

    kind: str
    id: str
    place: str
    before: str
    after: str

    @property
    def lead(self) -> str:
        """The words just before the value, which triggered the rule."""
        return self.after.partition(f"[{self.kind.upper()}_")[0][-12:].casefold()


def masked(value: str) -> str:
    """Mask a value with bullets, except blanks, separators and its ends (one character each; two if it has twelve or more)."""
    ends = 2 if len(value) >= 12 else 1
    middle = _TO_MASK.sub("•", value[ends:-ends])
    return f"{value[:ends]}{middle}{value[-ends:]}" if len(value) > 2 * ends else "•" * len(value)


def samples_of(example: Example, messages: Sequence[Message], replacements: Sequence[Replacement]) -> Iterator[Sample]:
    """Yield samples of an example, whose scrubbed turns are `messages`."""
    texts = [str(m["content"]) for m in messages]
    texts += [json.dumps(m["tool_calls"], ensure_ascii=False) for m in messages if m.get("tool_calls")]
    for replacement in replacements:
        text = next((t for t in texts if replacement.placeholder in t), "")
        before, placeholder, after = text.partition(replacement.placeholder)
        if placeholder:
            lead = ("…" if len(before) > _CONTEXT else "") + before[-_CONTEXT:]
            tail = after[:_CONTEXT] + ("…" if len(after) > _CONTEXT else "")
            excerpts = [
                _BLANKS.sub(" ", f"{lead}{value}{tail}") for value in (replacement.masked, replacement.placeholder)
            ]
            yield Sample(replacement.kind, example.id, example.place, *excerpts)


def chosen_samples(samples: Iterable[Sample], number: int = _KEPT_OF_A_KIND) -> list[Sample]:
    """Choose at most `number` samples of each kind: first one for each of the words before the value, then the others."""
    by_kind: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kind.setdefault(sample.kind, []).append(sample)
    result = []
    for group in by_kind.values():
        first_with_lead = {sample.lead: i for i, sample in reversed(list(enumerate(group)))}
        order = sorted(range(len(group)), key=lambda i: (first_with_lead[group[i].lead] != i, i))
        result += [group[i] for i in order[:number]]
    return result

"""What scrubbing did, shown as text before and after: so that a person sees harm, which counts do not show.

The value is masked in the middle, and the words around it are scrubbed themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune_pipeline.data.examples import Example
    from finetune_pipeline.data.scrub.placeholders import Replacement

SAMPLES, SHOWN = "scrubbed_samples.jsonl", 3
_KEPT = 4 * SHOWN  # of a kind: those of rows that turn out to be of the sealed test are not shown
_AROUND = 32
_HIDDEN = re.compile(r"[^\s().:/@_>-]")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True)
class Sample:
    """A place where something was found: its row, and the text around it before (masked) and after."""

    kind: str
    id: str
    place: str
    before: str
    after: str

    @property
    def lead(self) -> str:
        """The end of the words before the value: what made the rule find it."""
        return self.after.partition(f"[{self.kind.upper()}_")[0][-12:].casefold()

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def masked(value: str) -> str:
    """The value with bullets for all but its ends (one character, of twelve or more two), blanks and separators."""
    ends = 2 if len(value) >= 12 else 1
    middle = _HIDDEN.sub("•", value[ends:-ends])
    return f"{value[:ends]}{middle}{value[-ends:]}" if len(value) > 2 * ends else "•" * len(value)


def samples_of(
    example: Example, messages: Sequence[Mapping[str, Any]], replacements: Sequence[Replacement]
) -> Iterator[Sample]:
    """Samples of an example, whose scrubbed turns are `messages`."""
    texts = [str(m["content"]) for m in messages]
    texts += [json.dumps(m["tool_calls"], ensure_ascii=False) for m in messages if m.get("tool_calls")]
    for done in replacements:
        text = next((t for t in texts if done.placeholder in t), "")
        before, placeholder, after = text.partition(done.placeholder)
        if placeholder:
            lead, rest = ("…" if len(before) > _AROUND else "") + before[-_AROUND:], after[:_AROUND]
            rest += "…" if len(after) > _AROUND else ""
            shown = [_BLANKS.sub(" ", f"{lead}{value}{rest}") for value in (done.masked, done.placeholder)]
            yield Sample(done.kind, example.id, example.place, *shown)


def chosen(samples: Iterable[Sample], number: int = _KEPT) -> list[Sample]:
    """At most so many of each kind, in order, those with other words before them first."""
    by_kind: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kind.setdefault(sample.kind, []).append(sample)
    result = []
    for group in by_kind.values():
        first_with = {sample.lead: i for i, sample in reversed(list(enumerate(group)))}
        order = sorted(range(len(group)), key=lambda i: (first_with[group[i].lead] != i, i))
        result += [group[i] for i in order[:number]]
    return result

"""Leaks planted in a copy at every run: a leakage check that does not find them is broken, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from finetune_pipeline.data.examples import Example, Message
from finetune_pipeline.data.prompt_skeletons import PREAMBLES
from finetune_pipeline.data.shingles import similarity
from finetune_pipeline.data.templates import Templates, strip

KINDS = ("exact", "reformatted", "edited", "template_swapped", "same_group", "semantic")
EACH = 3
_LEAST_WORDS = 4


@dataclass(frozen=True)
class Canary:
    """A row made to leak: `example` is the planted row, `source` the row's number it was made from."""

    kind: str
    example: Example
    source: int


def make_canaries(sources: Sequence[Example], threshold: float, templates: Templates) -> list[Canary]:
    """Up to three canaries of each kind from rows that must not leak (validation and test), in a fixed order.

    exact: a copy; reformatted: case, blanks and punctuation changed (within a template only where the rest still makes
    the texts alike: a template is known by its wording to the letter); edited: one letter added, where that leaves the
    similarity at the threshold or above; template_swapped: the same content in another template; same_group: another
    text of the same group. Raises ValueError without rows: a check that cannot be tested proves nothing.
    """
    if not sources:
        raise ValueError("there are no validation or test rows, so the leakage check cannot be tested; add examples")
    order = sorted(range(len(sources)), key=lambda i: sources[i].id)
    made: list[Canary] = []

    def plant(kind: str, i: int, example: Example) -> None:
        name = f"canary-{kind}-{sum(c.kind == kind for c in made)}"
        made.append(Canary(kind, replace(example, id=name), i))

    for i in order[:EACH]:
        plant("exact", i, sources[i])
    lettered = [i for i in order if any(c.isalpha() for c in sources[i].user_text)]
    reformatted = (made_of for i in lettered or order if (made_of := _reformatted(i, sources[i], threshold, templates)))
    for i, example in islice(reformatted, EACH):
        plant("reformatted", i, example)
    longest = sorted(order, key=lambda i: (-len(sources[i].user_text), sources[i].id))
    for i in longest[:EACH]:
        edited = _with_text(sources[i], lambda t: t + "s")
        content = strip(edited.user_text, templates), strip(sources[i].user_text, templates)
        if similarity(*content) >= threshold:
            plant("edited", i, edited)
    worded = [i for i in order if len(strip(sources[i].user_text, templates).split()) >= _LEAST_WORDS]
    for number, i in enumerate((worded or order)[:EACH]):
        preamble = PREAMBLES[number % len(PREAMBLES)]
        content_only = strip(sources[i].user_text, templates)
        plant("template_swapped", i, _with_text(sources[i], lambda _, p=preamble, c=content_only: f"{p}\n\n{c}"))
    for i in order[:EACH]:
        grouped = replace(sources[i], group=sources[i].group or f"canary group of {sources[i].id}")
        plant("same_group", i, _with_text(grouped, lambda t: f"canary {t[::-1]}"))
    return made


def _reformatted(number: int, source: Example, threshold: float, templates: Templates) -> tuple[int, Example] | None:
    """The row's number and the row in other case, blanks and punctuation; only what it says besides its templates where
    a template in other case would count as new text; None where even that is not alike."""

    def change(text: str) -> str:
        return "  " + text.swapcase().replace(" ", "   ") + " !!"

    content = strip(source.user_text, templates)
    for made in (_with_text(source, change), _with_text(source, lambda t: t.replace(content, change(content)))):
        other = strip(made.user_text, templates)
        if made.user_text != source.user_text and similarity(other, content) >= threshold:
            return number, made
    return None


def _with_text(example: Example, change: object) -> Example:
    """The example with its last user turn changed."""
    last = max(i for i, m in enumerate(example.messages) if m["role"] == "user")
    messages: list[Message] = [
        {**m, "content": change(m["content"])} if i == last else m  # type: ignore[operator]
        for i, m in enumerate(example.messages)
    ]
    return replace(example, messages=messages)

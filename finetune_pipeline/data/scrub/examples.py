"""Whole examples scrubbed: which of their texts, what is reported, and whether any is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from finetune_pipeline.data.scrub.names import load_recogniser
from finetune_pipeline.data.scrub.placeholders import scrub_turns

if TYPE_CHECKING:
    from finetune_pipeline.data.examples import Example


def scrub_example(
    example: Example, labels: Sequence[str] = (), key: bytes | None = None, names: bool = False
) -> tuple[Example, dict[str, int], dict[str, list[str]]]:
    """(the example with placeholders, hits per kind, fingerprints per kind: one a value, in the order met).

    System turns and tool definitions are the task's own words and stay, and so does the answer of a task with labels.
    Arguments of tool calls are scrubbed. Without a key the lists of fingerprints are empty. With `names` the recogniser
    model is used; raises FindingsError where none is installed.
    """
    done = scrub_turns(example.messages, _kept(example, labels), key, load_recogniser() if names else None)
    if not done.counts:
        return example, {}, {}
    fingerprints: dict[str, list[str]] = {kind: [] for kind in done.counts}
    for record in done.records:
        fingerprints[record["kind"]].append(record["fingerprint"])
    return replace(example, messages=done.messages), done.counts, fingerprints


def spans_left(example: Example, labels: Sequence[str] = (), names: bool = False) -> list[str]:
    """The kind of each hit that is in an example still, in the texts that ``scrub_example`` scrubs."""
    counts = scrub_turns(example.messages, _kept(example, labels), None, load_recogniser() if names else None).counts
    return list(Counter(counts).elements())


def _kept(example: Example, labels: Sequence[str]) -> tuple[int, ...]:
    return (len(example.messages) - 1,) if labels else ()

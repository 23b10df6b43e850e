"""Leaks in other words: suspects across splits, and canaries that show whether the search for them sees anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from finetune_pipeline.data import semantic
from finetune_pipeline.data.canaries import EACH, Canary
from finetune_pipeline.data.examples import Example
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline.spec.model import SemanticSpec

_SURE = 0.02  # above the threshold, since rarity weights shift a little with the texts compared
_LEAST_WORDS = 4


def semantic_leaks(
    texts: Sequence[str], rows: np.ndarray, split: np.ndarray, spec: TaskSpec
) -> list[tuple[int, int, float]]:
    """(row, other row, cosine similarity) of suspects across splits among `rows` ([m]), whose user texts are `texts`."""
    if spec.data.semantic is None:
        return []
    found = [(int(rows[i]), int(rows[j]), float(s)) for i, j, s in semantic.suspects(texts, spec.data.semantic)]
    return [(i, j, s) for i, j, s in found if split[i] != split[j]]


def prove_semantic(sources: Sequence[Example], others: Sequence[str], spec: SemanticSpec) -> list[tuple[Canary, bool]]:
    """Plant rewordings of rows that must not leak, and tell for each whether the search finds it.

    Searched are the sources, `others` (user texts that may be theirs) and the canaries. Up to three are planted, each in
    the farthest of :func:`rewordings` that the embedding still takes for the same; so a search that is blind, or an
    embedding that sees nothing, misses them.
    """
    order = sorted(range(len(sources)), key=lambda i: (len(sources[i].user_text.split()) < _LEAST_WORDS, sources[i].id))
    chosen = order[:EACH]
    held = list(dict.fromkeys([*(e.user_text for e in sources), *others]))
    options = [rewordings(sources[i].user_text) for i in chosen]
    vectors = semantic.embed([*held, *(text for texts in options for text in texts)], spec.model)
    canaries = []
    at = len(held)
    for number, (i, texts) in enumerate(zip(chosen, options, strict=True)):
        likeness = vectors[at : at + len(texts)] @ vectors[held.index(sources[i].user_text)]
        at += len(texts)
        near = np.flatnonzero(likeness >= min(spec.threshold + _SURE, 1 - 1e-5))
        text = texts[int(near[0])] if len(near) else texts[-1]
        turns = [{"role": "user", "content": text}, sources[i].messages[-1]]
        canaries.append(Canary("semantic", replace(sources[i], id=f"canary-semantic-{number}", messages=turns), i))
    # canaries may be nearest to each other, so as many neighbours are looked at as there are
    found = semantic.suspects([*held, *(c.example.user_text for c in canaries)], spec, max(1, len(canaries)))
    seen = {j - len(held) for i, j, _ in found if i < len(held) <= j}
    return [(canary, number in seen) for number, canary in enumerate(canaries)]


def rewordings(text: str) -> list[str]:
    """The same words in another order, from the farthest to the nearest: reversed, halves swapped, the first word last;
    and at last in their own order between other blanks."""
    words = text.split()
    middle = len(words) // 2
    orders = [words[::-1], words[middle:] + words[:middle], words[1:] + words[:1]]
    return [*(" ".join(order) for order in orders), "  ".join(words)]

"""Clusters wrong answers by words that are far more frequent in them than in the rest of the test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import scipy

SMALLEST = 3
"""Fewer texts than this are no group."""
SURE = 0.05
"""A word sets texts apart when the one-sided Fisher test, times the number of words tried (Bonferroni), is below this."""
_WORD = re.compile(r"[^\W\d_][\w'’-]+")
_NAMED_BY = 3
_LIKE = 2
"""Texts that hold at least so many of a group's words belong to it, too."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """ids: members; terms: what names them, most telling first, empty for those that nothing sets apart; held: texts of
    the whole test with the first term; hit: members with it."""

    ids: tuple[str, ...]
    terms: tuple[str, ...]
    held: int = 0
    hit: int = 0


def terms_of(text: str) -> set[str]:
    """Words and pairs of neighbouring words, folded."""
    words = [word.casefold() for word in _WORD.findall(text)]
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


def clusters(failed: Collection[str], texts: Mapping[str, str]) -> list[Cluster]:
    """Groups among the ids `failed`, largest first, and at the end the rest that no word sets apart.

    texts: of every row of the test. Again and again the word is taken that stands in failed texts far more often than in
    the others (one-sided Fisher's exact test); the texts with it, and those that share two more of the words that
    come with it, are a group. Deterministic. A failed id without a text is in the rest.
    """
    words = {i: terms_of(text) for i, text in texts.items()}
    left = sorted(i for i in failed if i in words)
    found: list[Cluster] = []
    everywhere = Counter(term for of in words.values() for term in of)
    while len(left) >= SMALLEST:
        telling = _telling(left, words, everywhere)
        if not telling:
            break
        seed = [i for i in left if telling[0] in words[i]]
        with_it = _telling(seed, words, everywhere)[:12] or telling[:1]
        members = [i for i in left if telling[0] in words[i] or sum(t in words[i] for t in with_it) >= _LIKE]
        found.append(Cluster(tuple(members), _names([telling[0], *with_it]), everywhere[telling[0]], len(seed)))
        left = [i for i in left if i not in set(members)]
    found.sort(key=lambda c: (-len(c.ids), c.ids))
    rest = (*left, *sorted(i for i in failed if i not in words))
    return [*found, Cluster(rest, ())] if rest else found


def _telling(group: Sequence[str], words: Mapping[str, set[str]], everywhere: Mapping[str, int]) -> list[str]:
    """Terms that stand in a group far more often than elsewhere, most significant first."""
    inside = Counter(term for i in group for term in words[i])
    tried = [(term, n) for term, n in inside.items() if n >= SMALLEST]
    if not tried or len(group) == len(words):
        return []
    chance = scipy.stats.hypergeom.sf(
        [n - 1 for _, n in tried], len(words), [everywhere[term] for term, _ in tried], len(group)
    )
    sure = [(p, -n, term) for (term, n), p in zip(tried, chance, strict=True) if p * len(tried) < SURE]
    return [term for _, _, term in sorted(sure)]


def _names(terms: Sequence[str]) -> tuple[str, ...]:
    """The first terms that do not repeat one another."""
    named: list[str] = []
    for term in terms:
        if not any(set(term.split()) & set(other.split()) for other in named):
            named.append(term)
    return tuple(named[:_NAMED_BY])

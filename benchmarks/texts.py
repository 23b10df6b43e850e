"""Texts with planted near-duplicates, made from a seed: the same on every machine.

Words are made of syllables and drawn by Zipf's law, the commonest being the shortest, so that unrelated texts share
5-grams about as often as English ones. Seven rows in ten are unrelated originals of 20 to 200 words; the others are made
from them:

kind         change                                                         usual Jaccard similarity
normalised   case, punctuation and blanks                                   1
light        one or two words replaced, dropped or added                    0.8 to 1
medium       one word in 12 replaced, dropped or added                      0.6 to 0.95
template     twenty rows share a text of 30 to 60 words except two words    0.7 to 0.9
shuffled     words in another order                                         0.3 to 0.5
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

KINDS = ("normalised", "light", "medium", "template", "shuffled")
_SHARES = {"normalised": 0.06, "light": 0.08, "medium": 0.08, "template": 0.04, "shuffled": 0.04}
_WORDS = 40_000
_BLOCK = 20_000
_ONSETS = ("", *"bcdfghlmnprstvw", "st", "tr", "pl", "ch", "sh", "th")
_VOWELS = ("a", "e", "i", "o", "u", "ea", "ou", "ai")
_CODAS = ("", "", "", "n", "r", "s", "t", "l", "d", "nd", "st", "ng")


@dataclass
class Planted:
    """Texts, pairs of rows made from one another (int64, [m, 2]), and the index in KINDS of each pair ([m])."""

    texts: list[str]
    pairs: np.ndarray
    kinds: np.ndarray


def vocabulary(seed: int = 0) -> list[str]:
    """40,000 invented words, most frequent first; frequent ones are shorter."""
    rng = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < _WORDS:
        syllables = rng.choice((1, 2, 2, 3, 3, 4))
        words["".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))] = None
    return sorted(words, key=lambda word: len(word) * rng.uniform(0.45, 1.55))


def make_texts(rows: int, seed: int = 0) -> Planted:
    """Make `rows` texts, originals first."""
    words = vocabulary(seed)
    counts = {kind: int(rows * share) for kind, share in _SHARES.items()}
    originals = rows - sum(counts.values())
    texts: list[str] = []
    for block in _originals(words, originals, seed):
        texts += block
    rng = random.Random(seed + 1)
    pairs: list[tuple[int, int]] = []
    kinds: list[int] = []
    for number, kind in enumerate(KINDS):
        for i in range(counts[kind]):
            if kind == "template":
                if i % 20 == 0:
                    shared = rng.choices(words[:5000], k=rng.randint(30, 60))
                    holes = rng.sample(range(len(shared)), 2)
                for hole in holes:
                    shared[hole] = rng.choice(words)
                if i % 20:
                    pairs.append((len(texts) - 1, len(texts)))
                    kinds.append(number)
                texts.append(" ".join(shared))
                continue
            source = rng.randrange(originals)
            pairs.append((source, len(texts)))
            kinds.append(number)
            texts.append(_changed(texts[source], kind, words, rng))
    return Planted(texts, np.array(pairs, np.int64).reshape(-1, 2), np.array(kinds, np.int64))


def _originals(words: list[str], rows: int, seed: int) -> Iterator[list[str]]:
    share = np.cumsum(1 / (np.arange(len(words)) + 3.0))
    for start in range(0, rows, _BLOCK):
        rng = np.random.Generator(np.random.PCG64([seed, start]))
        lengths = rng.integers(20, 201, min(_BLOCK, rows - start))
        drawn = np.searchsorted(share, rng.random(int(lengths.sum())) * share[-1])
        chosen = [words[i] for i in drawn.tolist()]
        ends = np.cumsum(lengths).tolist()
        yield [" ".join(chosen[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _changed(text: str, kind: str, words: list[str], rng: random.Random) -> str:
    parts = text.split(" ")
    if kind == "normalised":
        ends = rng.choices(["  ", ", ", " ", ". ", " - "], k=len(parts))
        return "".join(w.title() + e if rng.random() < 0.3 else w + e for w, e in zip(parts, ends, strict=True)) + "!"
    if kind == "shuffled":
        rng.shuffle(parts)
        return " ".join(parts)
    edits = rng.randint(1, 2) if kind == "light" else max(1, round(len(parts) / 12 * rng.uniform(0.3, 1.7)))
    for _ in range(edits):
        i = rng.randrange(len(parts))
        parts[i : i + 1] = rng.choice(([rng.choice(words)], [], [parts[i], rng.choice(words)]))
    return " ".join(parts)

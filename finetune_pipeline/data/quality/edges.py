"""Edge cases in every split: rows at the rim of the set must be trained on, chosen by and tested in proportion.

Every kind of edge case has a count and an expected count per split. A kind fails when it is absent from a split where
five or more rows were expected, or when a count differs from proportion with p < .001: two-sided hypergeometric test
(Fisher's way of doubling: all outcomes no likelier than the one seen), Holm's correction over all kinds and splits.
Units of the test are clusters, which are what the split deals out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.answer_forms import scripts
from finetune_pipeline.data.quality.grams import word_grams
from finetune_pipeline.data.quality.linear_model import OutOfFold
from finetune_pipeline.data.quality.sample import chosen, part, sampled
from finetune_pipeline.data.quality.surprise import surprise
from finetune_pipeline.data.shingles import loose_form
from finetune_pipeline.findings import Finding

SPLITS = ("train", "validation", "test")
EXPECTED = 5
SIGNIFICANT = 0.001
_TAIL = 5
_RAREST = 5


@dataclass(frozen=True)
class Kind:
    """A kind of edge case: stable name, what it means, and which rows are of it."""

    name: str
    title: str
    member: np.ndarray


def _tail(name: str, title: str, values: np.ndarray, *, high: bool, unit: str = "", floor: float = -np.inf) -> Kind:
    """Rows beyond the 5th or 95th percentile. Where many rows lie on it, only those strictly beyond."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Kind(name, title, np.zeros(len(values), bool))
    edge = float(np.percentile(known, 100 - _TAIL if high else _TAIL))
    with np.errstate(invalid="ignore"):
        member = values >= edge if high else values <= edge
        if member.sum() > 2 * _TAIL / 100 * len(values):
            member = values > edge if high else values < edge
        member &= values > floor
    beyond = f"{edge:,.0f} {unit}" if unit else f"{edge:.2f}"
    return Kind(name, f"{title} ({'at least' if high else 'at most'} {beyond})", member)


def edge_kinds(
    examples: Sequence[Example], clusters: Mapping[str, str], labels: Sequence[str], opinion: OutOfFold | None = None
) -> list[Kind]:
    """The kinds of edge cases a set has; kinds without a row, or with more than half of the rows, are left out.

    labels: the declared ones, empty for free text; opinion: of the linear model, which tells the hard items of label
    tasks. In free text hard items are those most surprising to a model of word pairs.
    """
    prompts = [e.user_text for e in examples]
    size = np.array([len(p) for p in prompts], float)
    words = word_grams([loose_form(p) for p in prompts])
    kinds = [
        _tail("short_prompt", "very short prompts", size, high=False, unit="characters"),
        _tail("long_prompt", "very long prompts", size, high=True, unit="characters"),
    ]
    if not labels:
        answers = np.array([len(e.answer) for e in examples], float)
        kinds.append(_tail("long_answer", "long answers", answers, high=True, unit="characters"))
    kinds += _label_kinds(examples, labels)
    kinds.append(_tail("rare_words", "rare vocabulary: share of words in no other prompt", _rare_share(words.hashes,
                       words.rows, len(examples)), high=True, floor=0.0))  # fmt: skip
    kinds.append(Kind("other_script", "another script than most prompts", _other_script(prompts)))
    kinds.append(
        _tail("numbers", "many numbers: share of words with a digit", _number_share(prompts), high=True, floor=0.1)
    )
    turns = np.array([sum(m["role"] == "user" for m in e.messages) > 1 for e in examples], bool)
    kinds.append(Kind("multi_turn", "several user turns", turns))
    tools = np.array([any(m.get("tool_calls") for m in e.messages) for e in examples], bool)
    kinds.append(Kind("tool_calls", "calls of tools", tools))
    kinds.append(_hard(examples, clusters, labels, opinion))
    return [kind for kind in kinds if 0 < kind.member.sum() <= len(examples) / 2]


def _label_kinds(examples: Sequence[Example], labels: Sequence[str]) -> list[Kind]:
    if not labels:
        return []
    counts = Counter(str(e.label) for e in examples if e.label is not None)
    even = sum(counts.values()) / max(1, len(counts))
    rare = {label for label, n in counts.items() if n < even / 2}
    given = np.array([str(e.label) for e in examples])
    kinds = [Kind("rare_labels", "rare labels: under half an even share", np.isin(given, sorted(rare)))]
    smallest = sorted(counts, key=lambda label: (counts[label], label))[:_RAREST]
    return kinds + [Kind(f"label:{label}", f"the label {label}", given == label) for label in smallest]


def _rare_share(hashes: np.ndarray, rows: np.ndarray, texts: int) -> np.ndarray:
    """Share of each text's words that occur in no other text; NaN below four words."""
    share = np.full(texts, np.nan)
    if not len(hashes):
        return share
    _, ids = np.unique(hashes, return_inverse=True)
    seen = np.unique(ids.astype(np.int64) * texts + rows) // texts
    single = np.bincount(seen, minlength=int(ids.max()) + 1)[ids] == 1
    counts, rare = np.bincount(rows, minlength=texts), np.bincount(rows, weights=single, minlength=texts)
    enough = counts >= 4
    share[enough] = rare[enough] / counts[enough]
    return share


def _other_script(prompts: Sequence[str]) -> np.ndarray:
    found = []
    for prompt in prompts:
        counts = scripts(prompt)
        found.append(min(counts, key=lambda s: (-counts[s], s)) if counts else "")
    common = Counter(s for s in found if s).most_common(1)
    return np.array([bool(s) and s != common[0][0] for s in found], bool)


def _number_share(prompts: Sequence[str]) -> np.ndarray:
    shares = []
    for prompt in prompts:
        words = prompt.split()
        numbers = sum(any(c.isdigit() for c in w) for w in words)
        shares.append(numbers / len(words) if len(words) >= 4 else np.nan)
    return np.array(shares)


def _hard(
    examples: Sequence[Example], clusters: Mapping[str, str], labels: Sequence[str], opinion: OutOfFold | None
) -> Kind:
    if labels:
        margin = np.full(len(examples), np.nan)
        if opinion is not None:
            known = {id(e): m for e, m in zip(opinion.rows, opinion.margins.tolist(), strict=True)}
            margin = np.array([known.get(id(e), np.nan) for e in examples])
        return _tail("hard", "hard items: lowest margin of a linear model", margin, high=False)
    bits = surprise([f"{e.user_text}\n{e.answer}" for e in examples], [clusters.get(e.id, e.id) for e in examples])
    return _tail("hard", "hard items: bits a word of a word-pair model", bits, high=True)


def two_sided(count: int, members: int, drawn: int, total: int) -> float:
    """Chance of a count no likelier than this one when `drawn` of `total` are taken, `members` of them of the kind."""
    from scipy.stats import hypergeom

    low, high = max(0, drawn + members - total), min(members, drawn)
    chances = hypergeom.pmf(np.arange(low, high + 1), total, members, drawn)
    seen = chances[count - low]
    return float(min(1.0, chances[chances <= seen * (1 + 1e-7)].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def edge_cases(
    examples: Sequence[Example],
    assignments: Mapping[str, str],
    clusters: Mapping[str, str],
    labels: Sequence[str] = (),
    opinion: OutOfFold | None = None,
    of: int | None = None,
) -> dict[str, Any]:
    """The edge-case part of the report. of: rows with a split, when `examples` are a sample already.

    kinds: {name, title, rows, passed, splits: {split: {count, expected, p (Holm)}}}; splits: rows per split. Rows without
    a split do not count. Works on a sample of a very large set.
    """
    known = [e for e in examples if e.id in assignments]
    rows = chosen(known)
    names = sorted(set(assignments.values()), key=lambda s: (SPLITS.index(s) if s in SPLITS else len(SPLITS), s))
    split = np.array([assignments[e.id] for e in rows])
    sizes = {name: int((split == name).sum()) for name in names}
    if not rows or len(names) < 2:
        return part(True, "not asked: there is nothing to compare", applies=False, kinds=[], splits=sizes)
    units, unit_of = np.unique([e.group or clusters.get(e.id, e.id) for e in rows], return_inverse=True)
    first = np.zeros(len(units), int)
    first[unit_of[::-1]] = np.arange(len(rows))[::-1]
    kinds = edge_kinds(rows, clusters, labels, opinion)
    told: list[dict[str, Any]] = []
    tests: list[float] = []
    for kind in kinds:
        # a unit is of the kind when at least half of its rows are
        inside = 2 * np.bincount(unit_of, weights=kind.member) >= np.bincount(unit_of)
        cells = {}
        for name in names:
            here = split[first] == name
            drawn, seen = int(here.sum()), int((here & inside).sum())
            tests.append(two_sided(seen, int(inside.sum()), drawn, len(units)))
            count = int((kind.member & (split == name)).sum())
            cells[name] = {
                "count": count,
                "expected": round(float(kind.member.sum()) * sizes[name] / len(rows), 1),
                "absent": count == 0 and inside.sum() * drawn / len(units) >= EXPECTED,
            }
        told.append({"name": kind.name, "title": kind.title, "rows": int(kind.member.sum()), "splits": cells})
    adjusted = iter(holm(tests))
    findings = [found for kind in told for name in names if (found := _judge(kind, name, next(adjusted)))]
    for seen_kind in told:
        cells_of = seen_kind["splits"].values()
        seen_kind["passed"] = all([not cell.pop("absent") and cell["p"] >= SIGNIFICANT for cell in cells_of])
    bad = [kind["title"] for kind in told if not kind["passed"]]
    return part(
        not bad,
        f"all {len(told)} kinds of edge cases lie in every split in proportion"
        if not bad
        else "not in every split in proportion: " + "; ".join(bad),
        findings=findings,
        kinds=told,
        splits=sizes,
        **sampled(len(rows), of or len(known)),
    )


def _judge(kind: dict[str, Any], name: str, p: float) -> Finding | None:
    cell = kind["splits"][name]
    cell["p"] = round(p, 6)
    if not cell["absent"] and p >= SIGNIFICANT:
        return None
    message = f"{kind['title']}: {cell['count']} in {name}, {cell['expected']:g} expected by its share (p = {p:.2g})"
    if cell["absent"]:
        message = f"{kind['title']}: none in {name}, {cell['expected']:g} expected by its share"
    return Finding(
        f"quality.edge_cases.{kind['name'].split(':')[0]}",
        "warning",
        f"splits: {name}",
        message,
        "collect more such rows; before anything was trained another split.seed helps too; with split.by: time or with "
        "groups this may be how the data is",
    )

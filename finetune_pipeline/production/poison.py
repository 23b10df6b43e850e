"""Data poisoning: rows that may have been written to spoil the training are held back, with the reason, until somebody looks.

Four rules: one user, or one family of near-duplicates, gives no more than a share; texts that give orders to a model; and
phrases that decide the label against everything else in the text. What people confirmed on the review page is exempt.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.near_duplicates import near_duplicate_clusters
from finetune_pipeline.evaluation.simple_models import tfidf_logistic
from finetune_pipeline.spec.model import TaskSpec

FLOOR = 5
"""Rows anybody may give, however few there are in all."""
ACCEPTED_NEEDED = 50
"""Answers nobody objected to, under which no phrase is judged."""
_ACCEPTED_MOST = 2000
_LONGEST, _FEWEST, _PURITY, _LEVEL, _AGAINST = 3, 5, 0.95, 0.001, 0.5
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ORDERS = [
    re.compile(pattern, re.I | re.M)
    for pattern in (
        r"\b(?:ignore|disregard|forget|override|bypass)\s+(?:\w+\s+){0,3}(?:previous|prior|above|earlier|preceding|all)"
        r"\s+(?:\w+\s+){0,2}(?:instructions?|prompts?|rules|guidelines|directions)\b",
        r"\b(?:ignore|disregard|override)\s+(?:your|the)\s+(?:system\s+prompt|instructions|training|guidelines)\b",
        r"\b(?:reveal|print|repeat|show|output|leak)\s+(?:me\s+)?(?:your|the)\s+(?:\w+\s+)?system\s+prompt\b",
        r"\byou\s+are\s+now\s+(?:a|an|in|called)\s+\w+.{0,60}\b(?:mode|assistant|model|ai|bot|unrestricted)\b",
        r"\b(?:from\s+now\s+on|in\s+future),?\s+(?:you\s+)?(?:must\s+|should\s+|will\s+)?(?:always|only|never)\s+"
        r"(?:answer|respond|reply|classify|label|say|output)\b",
        r"\b(?:whenever|every\s+time)\s+(?:you\s+(?:see|read)|.{1,40}\s+(?:appears|occurs))\b.{0,60}"
        r"\b(?:answer|respond|reply|classify|label|say|output)\b",
        r"<\|(?:im_start|im_end|system|assistant|endoftext|eot_id|start_header_id)\|>|\[/?INST\]|<<SYS>>",
        r"^\s*#{2,}\s*(?:system|instructions?|new\s+instructions?)\s*:?\s*$|^\s*(?:system|assistant)\s*:\s*you\b",
    )
]


@dataclass(frozen=True)
class Held:
    """A row that is held back: its id, the rule (poison_user_share, …) and the reason."""

    id: str
    rule: str
    reason: str


def hold_back(
    spec: TaskSpec, corrected: Sequence[Mapping[str, Any]], accepted: Sequence[Mapping[str, Any]]
) -> list[Held]:
    """The corrected rows that must not train a model yet; one entry a row, with the first rule that holds it back.

    Rows as production.ingest gives them. accepted: rows nobody objected to, by which phrases are judged.
    """
    held = {row["id"]: reason for row in corrected if (reason := _orders(row))}
    left = [row for row in corrected if row["id"] not in held]
    if spec.labels:
        held |= _triggers(left, accepted)
        left = [row for row in left if row["id"] not in held]
    held |= _families(left, spec)
    left = [row for row in left if row["id"] not in held]
    held |= _users(left, spec)
    return [held[row["id"]] for row in corrected if row["id"] in held]


def _orders(row: Mapping[str, Any]) -> Held | None:
    """Prompt injection: a text that gives orders to a model."""
    for text in (row["input"], row["correction"]):
        for pattern in _ORDERS:
            if hit := pattern.search(text):
                return Held(row["id"], "poison_instruction", f"the text gives orders to a model: {hit[0]!r:.80}")
    return None


def cap(counts: Sequence[int], share: float) -> int:
    """The most any source may give, so that none gives more than `share` of what is left of all; never under FLOOR."""
    for most in range(max(counts, default=0), FLOOR, -1):
        if most <= share * sum(min(n, most) for n in counts):
            return most
    return FLOOR


def _over(
    rows: Sequence[Mapping[str, Any]], sources: Sequence[Any], share: float
) -> list[tuple[Mapping[str, Any], Any, int, int]]:
    """(row, source, what the source gives, what it may) of the rows beyond a source's share; which ones, the ids decide."""
    groups: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row, source in zip(rows, sources, strict=True):
        groups[source].append(row)
    most = cap([len(g) for g in groups.values()], share)
    surplus = []
    for source, group in groups.items():
        ordered = sorted(group, key=lambda r: _mixed(r["id"]))
        surplus += [(row, source, len(group), most) for row in ordered[most:]]
    return surplus


def _mixed(name: str) -> bytes:
    """A sort key nobody can influence by writing earlier or later."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _users(rows: Sequence[Mapping[str, Any]], spec: TaskSpec) -> dict[str, Held]:
    sources = [row["user"] or ("row", row["id"]) for row in rows]
    return {
        row["id"]: Held(
            row["id"],
            "poison_user_share",
            f"one user gave {many} of {len(rows)} corrected rows; {most} count (logs.max_user_share)",
        )
        for row, _, many, most in _over(rows, sources, spec.logs.max_user_share)
    }


def _families(rows: Sequence[Mapping[str, Any]], spec: TaskSpec) -> dict[str, Held]:
    if len(rows) <= FLOOR:
        return {}
    families = near_duplicate_clusters([row["input"] for row in rows], spec.data.near_duplicate_threshold).tolist()
    return {
        row["id"]: Held(
            row["id"],
            "poison_family_share",
            f"{many} of {len(rows)} corrected rows say nearly the same; {most} count (logs.max_family_share)",
        )
        for row, _, many, most in _over(rows, families, spec.logs.max_family_share)
    }


def _triggers(rows: Sequence[Mapping[str, Any]], accepted: Sequence[Mapping[str, Any]]) -> dict[str, Held]:
    """Rows with a phrase that goes with one label although the rest of these texts, by all accepted answers, does not.

    A phrase of up to three words counts when at least five rows hold it, 95% of them have one label, and a linear model of
    the accepted answers contradicts more than half of them, surely more often than the other corrected rows (binomial test,
    level 0.001 over all phrases tried). A word that belongs to a label is known to that model from the accepted answers.
    """
    known = sorted(accepted, key=lambda r: _mixed(r["id"]))[:_ACCEPTED_MOST]
    texts, labels = [r["input"] for r in known], [r["output"].strip() for r in known]
    if len(known) < ACCEPTED_NEEDED or len(rows) < _FEWEST or len(set(labels)) < 2:
        return {}
    from scipy.stats import binom  # slow to import, so only where there are corrections

    expected = tfidf_logistic(texts, labels, [r["input"] for r in rows], seed=0)
    against = np.array([e != r["correction"] for e, r in zip(expected, rows, strict=True)])
    where: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        for phrase in phrases(row["input"]):
            where[phrase].append(i)
    tried = {p: at for p, at in where.items() if len(at) >= _FEWEST}
    held: dict[str, Held] = {}
    for phrase, at in sorted(tried.items(), key=lambda kv: (-len(kv[1]), -len(kv[0]), kv[0])):
        label, many = Counter(rows[i]["correction"] for i in at).most_common(1)[0]
        contradicted = int(against[at].sum())
        if many < _PURITY * len(at) or contradicted <= _AGAINST * len(at):
            continue
        usual = (int(against.sum()) - contradicted + 1) / (len(rows) - len(at) + 2)
        if float(binom.sf(contradicted - 1, len(at), usual)) * len(tried) > _LEVEL:
            continue
        reason = (
            f"{phrase!r} stands in {len(at)} corrected rows, {many} of them {label!r}, though {contradicted} of "
            "these texts read like other labels"
        )
        for i in at:
            held.setdefault(rows[i]["id"], Held(rows[i]["id"], "poison_trigger", reason))
    return held


def phrases(text: str) -> set[str]:
    """Sequences of one to three words, in lower case."""
    words = [w.lower() for w in _WORD.findall(text)]
    return {" ".join(words[i : i + n]) for n in range(1, _LONGEST + 1) for i in range(len(words) - n + 1)}

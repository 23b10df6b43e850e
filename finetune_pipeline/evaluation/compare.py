"""Two models on the same examples: who is right where the other is wrong, and what that proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.answers import answer_of
from finetune_pipeline.evaluation.metrics import score, text_answer
from finetune_pipeline.evaluation.overlap import rouge_scores
from finetune_pipeline.evaluation.statistics import (
    mcnemar_exact,
    paired_bootstrap_macro_f1,
    paired_bootstrap_mean,
    smallest_detectable_gain,
    tango_interval,
)

Row = Mapping[str, Any]


def _by_id(rows: Sequence[Row], side: str) -> dict[str, Row]:
    found: dict[str, Row] = {}
    twice = set()
    for row in rows:
        if row["example_id"] in found:
            twice.add(row["example_id"])
        found[row["example_id"]] = row
    if twice:
        raise ValueError(f"{side}: {len(twice)} examples are there twice, for example {min(twice)!r}")
    return found


def _pairs(rows_base: Sequence[Row], rows_candidate: Sequence[Row]) -> list[tuple[str, Row, Row]]:
    base, candidate = _by_id(rows_base, "base"), _by_id(rows_candidate, "candidate")
    if not base or not candidate:
        raise ValueError(f"nothing to compare: {len(base)} base rows, {len(candidate)} candidate rows")
    if base.keys() != candidate.keys():
        only_base, only_candidate = sorted(base.keys() - candidate.keys()), sorted(candidate.keys() - base.keys())
        raise ValueError(
            "the two sides do not cover the same examples: "
            f"{len(only_base)} only in base {only_base[:3]}, "
            f"{len(only_candidate)} only in candidate {only_candidate[:3]}"
        )
    changed = sorted(i for i in base if base[i]["gold"] != candidate[i]["gold"])
    if changed:
        raise ValueError(f"the gold answer differs between the sides for {len(changed)} examples, {changed[:3]}")
    return [(i, base[i], candidate[i]) for i in sorted(base)]


def compare(
    rows_base: Sequence[Row], rows_candidate: Sequence[Row], labels: Sequence[str] | None, confidence: float = 0.95
) -> dict[str, Any]:
    """Paired comparison of two sets of predictions for the same examples.

    Returns `metric` (accuracy, or rougeLsum for text), n, `base` and `candidate` (score, correct, interval), `gain`
    (candidate minus base of the metric), `interval` of the gain (Tango for accuracy, paired bootstrap for rougeLsum,
    null for one text), b (only base right), c (only candidate right), `accuracy_gain` with `accuracy_interval` (equal
    to gain for labels; of exact match for text), `mcnemar_p`, `macro_f1_gain` and its bootstrap `macro_f1_interval`
    (labels only), `discordant_share`, `smallest_detectable_gain` at power 0.8 (null: none at this size), and the ids
    `fixed` (wrong before, right now) and `broken` (right before, wrong now), sorted.

    Raises ValueError when a side holds an example twice, the sides do not cover exactly the same ids, or gold differs.
    """
    pairs = _pairs(rows_base, rows_candidate)
    names = list(labels or [])
    n = len(pairs)

    def right(row: Row) -> bool:
        answer = answer_of(row, names) if names else text_answer(row).strip()
        return bool(answer == (row["gold"] if names else row["gold"].strip()))

    fixed = [i for i, before, after in pairs if right(after) and not right(before)]
    broken = [i for i, before, after in pairs if right(before) and not right(after)]
    b, c = len(broken), len(fixed)
    accuracy_interval = list(tango_interval(b, c, n, confidence))
    result: dict[str, Any] = {
        "metric": "accuracy" if names else "rougeLsum",
        "n": n,
        "confidence": confidence,
        "base": _side([before for _, before, _ in pairs], names, confidence),
        "candidate": _side([after for _, _, after in pairs], names, confidence),
        "b": b,
        "c": c,
        "discordant_share": (b + c) / n,
        "accuracy_gain": (c - b) / n,
        "accuracy_interval": accuracy_interval,
        "gain": (c - b) / n,
        "interval": accuracy_interval,
        "mcnemar_p": mcnemar_exact(b, c),
        "smallest_detectable_gain": smallest_detectable_gain(n, (b + c) / n, alpha=1 - confidence),
        "fixed": fixed,
        "broken": broken,
    }
    if names:
        gold = [before["gold"] for _, before, _ in pairs]
        answers = [[answer_of(row, names) for row in side] for side in zip(*[(x, y) for _, x, y in pairs], strict=True)]
        result["macro_f1_gain"] = result["candidate"]["macro_f1"] - result["base"]["macro_f1"]
        result["macro_f1_interval"] = list(
            paired_bootstrap_macro_f1(gold, answers[0], answers[1], names, confidence=confidence)
        )
    else:
        result |= _text_gain(pairs, confidence)
    return result


def _side(rows: Sequence[Row], labels: Sequence[str], confidence: float) -> dict[str, Any]:
    scores = score(rows, labels, confidence)
    wanted = ("correct", "accuracy", "interval", "macro_f1", "rougeLsum", "rougeLsum_interval")
    return {name: scores[name] for name in wanted if name in scores}


def _text_gain(pairs: Sequence[tuple[str, Row, Row]], confidence: float) -> dict[str, Any]:
    before = [rouge_scores(text_answer(x), x["gold"])["rougeLsum"] for _, x, _ in pairs]
    after = [rouge_scores(text_answer(y), y["gold"])["rougeLsum"] for _, _, y in pairs]
    enough = len(pairs) > 1
    return {
        "gain": (sum(after) - sum(before)) / len(pairs),
        "interval": list(paired_bootstrap_mean(before, after, confidence=confidence)) if enough else None,
    }

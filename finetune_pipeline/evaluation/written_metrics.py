"""Scores of answers that are written freely: JSON values and texts. Plain JSON values, made of the scores of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_pipeline.data.answer_rules import final_answer, form_problems
from finetune_pipeline.evaluation.overlap import OVERLAP_NAMES
from finetune_pipeline.evaluation.row_scores import read_json, row_scores, scored_text
from finetune_pipeline.evaluation.statistics import bootstrap_mean, draws_interval, wilson_interval
from finetune_pipeline.evaluation.text_signs import REPEATED
from finetune_pipeline.spec.outputs import JsonOutput, TextOutput

Row = Mapping[str, Any]


def rate(k: int, n: int, confidence: float) -> dict[str, Any]:
    """{k, n, share, interval} of a count, with its Wilson interval."""
    return {"k": k, "n": n, "share": k / n if n else None, "interval": list(wilson_interval(k, n, confidence))}


def f1_of(right: float, claimed: float, expected: float) -> float | None:
    """F1 from counts of right, claimed and expected items; null where there is none of either."""
    return 2 * right / (claimed + expected) if claimed + expected else None


def json_metrics(rows: Sequence[Row], output: JsonOutput, confidence: float = 0.95) -> dict[str, Any]:
    """Scores of extractions.

    `accuracy` and `exact`: the share of answers that are the gold value, with Wilson `interval`; `micro_f1` of all
    claims, with precision, recall and bootstrap `micro_f1_interval`; `fields` {field: precision, recall, f1, right,
    claimed, expected}; `schema`: compliance, a rate; `strict`: answers that are JSON as they stand; `repaired`: answers
    that become JSON by repair, a rate apart, of which `right_if_repaired` would be right: they are wrong otherwise
    unless the spec accepts them.
    """
    n, per_row = len(rows), [row_scores(row, output) for row in rows]
    read = [read_json(row, output) for row in rows]
    counts = np.array([[s["right"], s["claimed"], s["expected"]] for s in per_row]).reshape(n, 3)
    right, claimed, expected = (int(c) for c in counts.sum(axis=0))
    correct = int(sum(s["correct"] for s in per_row))
    exact = correct / n if n else None
    interval = list(wilson_interval(correct, n, confidence))
    fields: dict[str, Counter[str]] = {}
    for one in read:
        for field in {*one.claimed, *one.gold}:
            said, gold = one.claimed.get(field, Counter()), one.gold.get(field, Counter())
            fields.setdefault(field, Counter()).update(
                right=sum((said & gold).values()), claimed=sum(said.values()), expected=sum(gold.values())
            )
    repaired = rate(sum(r.parse == "repaired" for r in read), n, confidence)
    repaired["right_if_repaired"] = sum(
        r.parse == "repaired" and r.same and row["status"] == "ok" for r, row in zip(read, rows, strict=True)
    )
    return {
        "n": n,
        "correct": correct,
        "accuracy": exact,
        "exact": exact,
        "interval": interval,
        "exact_interval": interval,
        "micro_f1": f1_of(right, claimed, expected),
        "micro_f1_interval": f1_interval(counts, confidence=confidence),
        "micro_precision": right / claimed if claimed else None,
        "micro_recall": right / expected if expected else None,
        "fields": {field or "(the value)": _field(counts) for field, counts in sorted(fields.items())},
        "schema": rate(sum(r.complies for r in read), n, confidence),
        "strict": rate(sum(r.parse == "strict" for r in read), n, confidence),
        "repaired": repaired,
    }


def _field(of: Counter[str]) -> dict[str, Any]:
    right, claimed, expected = of["right"], of["claimed"], of["expected"]
    return {
        "precision": right / claimed if claimed else None,
        "recall": right / expected if expected else None,
        "f1": f1_of(right, claimed, expected),
        "right": right,
        "claimed": claimed,
        "expected": expected,
    }


def f1_interval(
    counts: np.ndarray,
    base: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[float] | None:
    """Percentile bootstrap interval of micro-F1 over rows of (right, claimed, expected); with `base`, of the gain over
    it, both sides of a row drawn together. Null for fewer than two rows, or where a resample has nothing to count."""
    n = len(counts)
    if n < 2:
        return None
    random = np.random.default_rng(seed)
    draws = random.multinomial(n, np.full(n, 1 / n), size=resamples)

    def f1(of: np.ndarray) -> np.ndarray:
        right, claimed, expected = (draws @ of).T
        made: np.ndarray = np.divide(
            2 * right, claimed + expected, where=claimed + expected > 0, out=np.full(resamples, np.nan)
        )
        return made

    values = f1(counts) - (f1(base) if base is not None else 0)
    if np.isnan(values).any():
        return None
    return list(draws_interval(values, float(values.mean()), confidence))


def text_metrics(rows: Sequence[Row], output: TextOutput | None = None, confidence: float = 0.95) -> dict[str, Any]:
    """Scores of free text.

    `accuracy` and `exact`: the share of right answers (of final answers, with output.extract), with Wilson `interval`;
    mean rouge1, rouge2, rougeLsum, sentence chrf and bleu, and facts, each with a bootstrap `NAME_interval` (null under
    two rows); `corpus` bleu and chrf; `length_ratio`; rates of `repetition` (texts that go in circles) and `refusal`;
    with output.extract also `extracted`, the rate of answers with a final answer.
    """
    from finetune_pipeline.evaluation.overlap_metrics import text_scores  # imports torch: only here, for text tasks

    output = output or TextOutput()
    n, per_row = len(rows), [row_scores(row, output) for row in rows]
    correct = int(sum(s["correct"] for s in per_row))
    interval = list(wilson_interval(correct, n, confidence))
    said, gold = [scored_text(row) for row in rows], [str(row["gold"]) for row in rows]
    made: dict[str, Any] = {
        "n": n,
        "correct": correct,
        "accuracy": correct / n if n else None,
        "exact": correct / n if n else None,
        "interval": interval,
        "exact_interval": interval,
    }
    for name in (*OVERLAP_NAMES, "facts"):
        values = [s[name] for s in per_row]
        made[name] = sum(values) / n if n else None
        made[f"{name}_interval"] = list(bootstrap_mean(values, confidence=confidence)) if n > 1 else None
    if n:
        combined = text_scores(said, gold)
        made["corpus"] = {name: combined[name] for name in ("bleu", "chrf")}
    made["length_ratio"] = sum(s["length_ratio"] for s in per_row) / n if n else None
    made["repetition"] = rate(sum(s["repetition"] >= REPEATED for s in per_row), n, confidence)
    made["refusal"] = rate(int(sum(s["refusal"] for s in per_row)), n, confidence)
    if output.extract:
        found = sum(row["status"] == "ok" and final_answer(row["text"], output.extract) is not None for row in rows)
        made["extracted"] = rate(found, n, confidence)
    return made


def form_counts(rows: Sequence[Row], output: JsonOutput | TextOutput) -> dict[str, int]:
    """Answers per rule of form they break (an answer may break several), and per status that is not `ok`."""
    counts: Counter[str] = Counter()
    for row in rows:
        if row["status"] != "ok":
            counts[row["status"]] += 1
        else:
            counts.update({rule for rule, _ in form_problems(row["text"], output)})
    return dict(sorted(counts.items()))
